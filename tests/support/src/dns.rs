//! A DNS server on loopback with the test's answers (RFC 1035); it remembers its queries.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};

/// Its answer to every query.
#[derive(Clone)]
pub enum Say {
    /// Those of these addresses that are of the queried family, with this TTL in seconds.
    Addresses(Vec<IpAddr>, u32),
    /// There is no such name.
    NoSuchName,
    /// SERVFAIL.
    Failure,
    /// Nothing.
    Nothing,
    /// Nothing to queries for this type of record, and the other to all else.
    NothingTo(u16, Box<Say>),
    /// Nothing to queries with EDNS, and the other to all else.
    NothingToEdns(Box<Say>),
    /// The function's answer for this name and type.
    ByName(ForName),
    /// The bytes that the function makes from the query.
    Raw(ForQuery),
}

type ForName = Arc<dyn Fn(&str, u16) -> Say + Send + Sync>;
type ForQuery = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// A running server; dropped, it stops. Clients repeat a query over TCP if the answer does not fit
/// into a datagram.
pub struct Dns {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    tasks: [JoinHandle<()>; 2],
}

struct State {
    say: Say,
    asked: Vec<(String, u16)>,
    /// Over TCP one byte is sent in this time; None: all at once.
    pace: Option<Duration>,
}

impl Dns {
    pub async fn start(say: Say) -> Dns {
        let (udp, tcp) = sockets().await;
        Dns::on(udp, tcp, say)
    }

    /// The same at this address and port.
    pub async fn start_at(address: SocketAddr, say: Say) -> Dns {
        let udp = UdpSocket::bind(address).await.expect("bind over UDP");
        let tcp = TcpListener::bind(address).await.expect("bind over TCP");
        Dns::on(udp, tcp, say)
    }

    /// The same over TCP alone.
    pub async fn start_over_tcp(address: SocketAddr, say: Say) -> Dns {
        let udp = UdpSocket::bind("127.0.0.1:0").await.expect("bind over UDP");
        let tcp = TcpListener::bind(address).await.expect("bind over TCP");
        Dns::on(udp, tcp, say)
    }

    fn on(udp: UdpSocket, tcp: TcpListener, say: Say) -> Dns {
        let address = udp.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State {
            say,
            asked: Vec::new(),
            pace: None,
        }));
        let tasks = [
            tokio::spawn(serve(udp, Arc::clone(&state))),
            tokio::spawn(serve_connections(tcp, Arc::clone(&state))),
        ];
        Dns {
            address,
            state,
            tasks,
        }
    }

    /// `[dns]` with this server.
    pub fn section(&self, timeout: &str) -> String {
        format!(
            "[dns]\nservers = [\"{}\"]\ntimeout = \"{timeout}\"",
            self.address
        )
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Changes the answer.
    pub fn say(&self, say: Say) {
        self.state.lock().expect("the state").say = say;
    }

    /// Sends one byte in this time over TCP from now on.
    pub fn trickle(&self, pace: Duration) {
        self.state.lock().expect("the state").pace = Some(pace);
    }

    /// The queried names and record types, in order.
    pub fn asked(&self) -> Vec<(String, u16)> {
        self.state.lock().expect("the state").asked.clone()
    }

    /// Waits until the queries satisfy the condition.
    pub async fn until(&self, reached: impl Fn(&[(String, u16)]) -> bool) {
        while !reached(&self.asked()) {
            tokio::time::sleep(TICK).await;
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Say {
    /// The same, but no answer to queries for this type of record.
    pub fn but_nothing_to(self, kind: u16) -> Say {
        Say::NothingTo(kind, Box::new(self))
    }

    pub fn addresses(addresses: &[&str], ttl: u32) -> Say {
        Say::Addresses(
            addresses
                .iter()
                .map(|address| address.parse().expect("an address"))
                .collect(),
            ttl,
        )
    }

    /// The same, but no answer to queries with EDNS: those that have an additional record.
    pub fn without_edns(self) -> Say {
        Say::NothingToEdns(Box::new(self))
    }

    /// The function's answer for a name.
    pub fn by_name(say: impl Fn(&str) -> Say + Send + Sync + 'static) -> Say {
        Say::ByName(Arc::new(move |name, _| say(name)))
    }

    /// This many distinct addresses of 127.0.0.0/8.
    pub fn many(count: u32, ttl: u32) -> Say {
        let first = u32::from(std::net::Ipv4Addr::new(127, 1, 0, 1));
        Say::Addresses(
            (first..first + count)
                .map(|bits| IpAddr::V4(bits.into()))
                .collect(),
            ttl,
        )
    }
}

/// Both on the same port.
async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0")
            .await
            .expect("bind the DNS server");
        // Another process may hold the port over TCP.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("an address")).await {
            return (udp, tcp);
        }
    }
}

async fn serve(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut query = [0; 1500];
    loop {
        let (length, client) = socket.recv_from(&mut query).await.expect("receive");
        let answer = state.lock().expect("the state").answer(&query[..length]);
        if let Some(mut answer) = answer {
            if answer.len() > DATAGRAM_MAX {
                // Truncated: the question alone.
                answer.truncate(question(&query[..length]).2);
                answer[2] |= 2;
                answer[6..12].fill(0);
            }
            // A client that has left needs no answer.
            let _gone = socket.send_to(&answer, client).await;
        }
    }
}

async fn serve_connections(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Dropped with this task, so all of them end with the server.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        connections.spawn(serve_connection(stream, Arc::clone(&state)));
    }
}

async fn serve_connection(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; length.into()];
        if stream.read_exact(&mut query).await.is_err() {
            return;
        }
        let (answer, pace) = {
            let mut state = state.lock().expect("the state");
            (state.answer(&query), state.pace)
        };
        let Some(answer) = answer else { continue };
        let length = u16::try_from(answer.len()).expect("at most 64 KiB");
        let bytes = [&length.to_be_bytes()[..], &answer].concat();
        for chunk in bytes.chunks(if pace.is_some() { 1 } else { bytes.len() }) {
            if stream.write_all(chunk).await.is_err() {
                return;
            }
            if let Some(pace) = pace {
                tokio::time::sleep(pace).await;
            }
        }
    }
}

impl State {
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let (name, kind, end) = question(query);
        self.asked.push((name.clone(), kind));
        let mut say = self.say.clone();
        let (code, records) = loop {
            say = match say {
                Say::NothingTo(silent, _) if silent == kind => return None,
                Say::NothingTo(_, say) => *say,
                Say::NothingToEdns(_) if query[11] != 0 => return None,
                Say::NothingToEdns(say) => *say,
                Say::ByName(choose) => choose(&name, kind),
                Say::Raw(make) => return Some(make(query)),
                Say::Nothing => return None,
                Say::Failure => break (2, Vec::new()),
                Say::NoSuchName => break (3, Vec::new()),
                Say::Addresses(addresses, ttl) => {
                    break (
                        0,
                        addresses
                            .iter()
                            .filter_map(|address| record(*address, kind, ttl))
                            .collect(),
                    );
                }
            };
        };
        let count = u16::try_from(records.len()).expect("few records");
        Some(
            [
                &header(query, code, [count, 0, 0]),
                &query[12..end],
                &records.concat(),
            ]
            .concat(),
        )
    }
}

/// The header of an answer: the same id; a response, recursion desired and available; one question;
/// and this many answers, authorities and additional records.
pub fn header(query: &[u8], code: u8, [answers, authorities, additional]: [u16; 3]) -> [u8; 12] {
    let mut header = [
        query[0],
        query[1],
        0x81,
        0x80 | code,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    for (at, count) in [(6, answers), (8, authorities), (10, additional)] {
        header[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
    header
}

/// The name, the type, and the end of the question.
pub fn question(query: &[u8]) -> (String, u16, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    (
        labels.join("."),
        u16::from_be_bytes([query[at + 1], query[at + 2]]),
        at + 5,
    )
}

/// A record that points back to the name in the question, of class IN.
pub fn record(address: IpAddr, kind: u16, ttl: u32) -> Option<Vec<u8>> {
    let data = match address {
        IpAddr::V4(v4) if kind == A => v4.octets().to_vec(),
        IpAddr::V6(v6) if kind == AAAA => v6.octets().to_vec(),
        _ => return None,
    };
    let head = [0xc0, 12, 0, u8::try_from(kind).expect("A or AAAA"), 0, 1];
    let length = u8::try_from(data.len()).expect("an address");
    Some([&head[..], &ttl.to_be_bytes(), &[0, length], &data].concat())
}

/// The size that most servers may send with EDNS (DNS flag day 2020).
const DATAGRAM_MAX: usize = 1_232;
const TICK: Duration = Duration::from_millis(5);

/// Record types.
pub const A: u16 = 1;
pub const AAAA: u16 = 28;
