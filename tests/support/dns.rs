//! A DNS server on loopback that answers as the test says (RFC 1035), and remembers what it was asked.

#![allow(dead_code)] // each test binary uses its own part

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

/// What it says to every question.
#[derive(Clone)]
pub enum Say {
    /// Those of these addresses that are of the family asked for, with this TTL in seconds.
    Addresses(Vec<IpAddr>, u32),
    /// There is no such name.
    NoSuchName,
    /// SERVFAIL.
    Failure,
    /// Nothing.
    Nothing,
    /// Nothing to questions for this type of record, and the other to all else.
    NothingTo(u16, Box<Say>),
}

/// A running server; dropped, it stops.
pub struct Dns {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    say: Say,
    asked: Vec<(String, u16)>,
}

impl Dns {
    pub async fn start(say: Say) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind the DNS server");
        let address = socket.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State { say, asked: Vec::new() }));
        let task = tokio::spawn(serve(socket, Arc::clone(&state)));
        Dns { address, state, task }
    }

    /// `[dns]` with this server.
    pub fn section(&self, timeout: &str) -> String {
        format!("[dns]\nservers = [\"{}\"]\ntimeout = \"{timeout}\"", self.address)
    }

    /// From now on.
    pub fn say(&self, say: Say) {
        self.state.lock().expect("the state").say = say;
    }

    /// The names and record types that were asked for, in order.
    pub fn asked(&self) -> Vec<(String, u16)> {
        self.state.lock().expect("the state").asked.clone()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Say {
    /// The same, but no answer at all to questions for this type of record.
    pub fn but_nothing_to(self, kind: u16) -> Say {
        Say::NothingTo(kind, Box::new(self))
    }

    pub fn addresses(addresses: &[&str], ttl: u32) -> Say {
        Say::Addresses(addresses.iter().map(|address| address.parse().expect("an address")).collect(), ttl)
    }
}

async fn serve(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut query = [0; 1500];
    loop {
        let (length, client) = socket.recv_from(&mut query).await.expect("receive");
        let answer = state.lock().expect("the state").answer(&query[..length]);
        if let Some(answer) = answer {
            socket.send_to(&answer, client).await.expect("send");
        }
    }
}

impl State {
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let (name, kind, end) = question(query);
        self.asked.push((name, kind));
        let say = match &self.say {
            Say::NothingTo(silent, _) if *silent == kind => return None,
            Say::NothingTo(_, say) => say,
            say => say,
        };
        let (code, records) = match say {
            Say::Nothing | Say::NothingTo(..) => return None,
            Say::Failure => (2, Vec::new()),
            Say::NoSuchName => (3, Vec::new()),
            Say::Addresses(addresses, ttl) => {
                (0, addresses.iter().filter_map(|address| record(*address, kind, *ttl)).collect())
            }
        };
        let count = u8::try_from(records.len()).expect("few records");
        // The same id; a response, recursion desired and available; one question.
        let header = [query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
        Some([&header, &query[12..end], &records.concat()].concat())
    }
}

/// The name, the type, and where the question ends.
fn question(query: &[u8]) -> (String, u16, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]), at + 5)
}

/// A record that points back to the name in the question, of class IN.
fn record(address: IpAddr, kind: u16, ttl: u32) -> Option<Vec<u8>> {
    let data = match address {
        IpAddr::V4(v4) if kind == A => v4.octets().to_vec(),
        IpAddr::V6(v6) if kind == AAAA => v6.octets().to_vec(),
        _ => return None,
    };
    let head = [0xc0, 12, 0, u8::try_from(kind).expect("A or AAAA"), 0, 1];
    let length = u8::try_from(data.len()).expect("an address");
    Some([&head[..], &ttl.to_be_bytes(), &[0, length], &data].concat())
}

/// Record types.
pub const A: u16 = 1;
pub const AAAA: u16 = 28;
