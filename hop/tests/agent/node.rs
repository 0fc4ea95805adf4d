//! An upstream as the agent sees it: TLS, one request a connection, and a reply that the test chooses.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::ServerConfig;
use support::mutant::Dice;
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::zoo::{Authority, Wanted};

/// What a node does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    /// Answers 200 and hands the connection to the test.
    Open,
    /// Answers 200 and sends back what it gets.
    Echo,
    /// Sends these bytes and ends the connection.
    Say(String),
    /// Ends the connection without a reply.
    End,
    /// Resets it without a reply.
    Reset,
    /// Says nothing.
    Silent,
    /// Ends each connection this long after its handshake unless a request has come; then as Echo.
    Impatient(Duration),
    /// Echo, but ends each idle connection at an age that differs: in order, by a reset, or when its request comes, as if
    /// both had crossed on the way.
    Fickle {
        youngest: Duration,
        oldest: Duration,
    },
    /// Answers 200 only after this time; then as Echo.
    Slow(Duration),
}

/// A running node. Dropped, it resets everything.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) requests: UnboundedReceiver<Request>,
    manner: Arc<Mutex<Manner>>,
    handshakes: Arc<AtomicUsize>,
    /// Connections from an earlier age end without a reply.
    age: Arc<AtomicUsize>,
    /// How many connections a fickle node has ended: in order, by a reset, on their request.
    ended: Arc<[AtomicUsize; 3]>,
    serving: JoinSet<()>,
}

/// A request, and the connection if the node is Open.
pub(crate) struct Request {
    pub(crate) head: String,
    /// The bytes that arrived with the head.
    pub(crate) first: Vec<u8>,
    pub(crate) stream: Option<TlsStream<TcpStream>>,
}

impl Node {
    pub(crate) async fn start(authority: &Authority, manner: Manner) -> Node {
        Node::start_at("127.0.0.1:0", authority, manner).await
    }

    pub(crate) async fn start_at(at: &str, authority: &Authority, manner: Manner) -> Node {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        Node::start_on(listener, address, authority, manner)
    }

    /// A node on this socket, which clients reach at this address.
    pub(crate) fn start_on(
        listener: TcpListener,
        address: SocketAddr,
        authority: &Authority,
        manner: Manner,
    ) -> Node {
        let own = authority.issue(&Wanted {
            names: vec![
                SanType::IpAddress(address.ip()),
                SanType::DnsName("localhost".try_into().unwrap()),
            ],
            purpose: ExtendedKeyUsagePurpose::ServerAuth,
            ..Wanted::client(9)
        });
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(own.chain.clone(), own.key())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (request, requests) = unbounded_channel();
        let manner = Arc::new(Mutex::new(manner));
        let handshakes = Arc::new(AtomicUsize::new(0));
        let age = Arc::new(AtomicUsize::new(0));
        let ended = Arc::new([const { AtomicUsize::new(0) }; 3]);
        let shared = (
            Arc::clone(&manner),
            Arc::clone(&handshakes),
            Arc::clone(&age),
            Arc::clone(&ended),
        );
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            // Its connections end with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, request, shared) =
                    (acceptor.clone(), request.clone(), shared.clone());
                connections.spawn(async move {
                    stream.set_nodelay(true).unwrap();
                    reset_on_close(&stream);
                    if let Ok(tls) = acceptor.accept(stream).await {
                        let number = shared.1.fetch_add(1, Ordering::Relaxed);
                        let born = shared.2.load(Ordering::Relaxed);
                        let mood = Mood::of(&shared.0, number, &shared.3);
                        let is_old = || shared.2.load(Ordering::Relaxed) != born || mood.is_over();
                        let _ended = serve(tls, (&shared.0, &mood), &request, is_old).await;
                    }
                });
            }
        });
        Node {
            address,
            requests,
            manner,
            handshakes,
            age,
            ended,
            serving,
        }
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// Ends each connection of this moment as soon as its request comes, as if both had crossed on the way.
    pub(crate) fn begin_an_age(&self) {
        self.age.fetch_add(1, Ordering::Relaxed);
    }

    /// How many handshakes it has finished.
    pub(crate) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// How many connections it has ended as [`Manner::Fickle`]: in order, by a reset, on their request.
    pub(crate) fn ended(&self) -> [usize; 3] {
        [0, 1, 2].map(|way: usize| self.ended[way].load(Ordering::Relaxed))
    }

    /// Resets every connection and closes the port, as a killed process.
    pub(crate) async fn kill(mut self) -> SocketAddr {
        self.serving.shutdown().await;
        self.address
    }

    /// The URL of the node.
    pub(crate) fn url(&self) -> String {
        format!("https://alice:s3cret@{}", self.address)
    }

    /// The next request.
    pub(crate) async fn request(&mut self) -> Request {
        soon("a request", self.requests.recv()).await.unwrap()
    }

    /// The requests that have come so far.
    pub(crate) fn so_far(&mut self) -> usize {
        std::iter::from_fn(|| self.requests.try_recv().ok()).count()
    }
}

/// When and how one connection of a fickle node ends; of another node it does not.
struct Mood<'a> {
    born: Instant,
    life: Duration,
    way: usize,
    ended: &'a [AtomicUsize; 3],
}

impl<'a> Mood<'a> {
    fn of(manner: &Mutex<Manner>, number: usize, ended: &'a [AtomicUsize; 3]) -> Mood<'a> {
        let mut dice = Dice::new(number as u64);
        let life = match *manner.lock().unwrap() {
            Manner::Fickle { youngest, oldest } => {
                let span = usize::try_from((oldest - youngest).as_millis()).unwrap();
                youngest + Duration::from_millis(dice.below(span) as u64)
            }
            _ => FOREVER,
        };
        Mood {
            born: Instant::now(),
            life,
            way: number % 3,
            ended,
        }
    }

    /// Whether its end and the request that has come cross.
    fn is_over(&self) -> bool {
        let is_over = self.way == 2 && self.born.elapsed() > self.life;
        if is_over {
            self.count();
        }
        is_over
    }

    fn count(&self) {
        self.ended[self.way].fetch_add(1, Ordering::Relaxed);
    }

    /// How long an idle connection stays.
    fn patience(&self, manner: &Mutex<Manner>) -> Duration {
        match *manner.lock().unwrap() {
            Manner::Impatient(patience) => patience,
            Manner::Fickle { .. } if self.way < 2 => self.life.saturating_sub(self.born.elapsed()),
            _ => FOREVER,
        }
    }
}

async fn serve(
    mut tls: TlsStream<TcpStream>,
    (manner, mood): (&Mutex<Manner>, &Mood<'_>),
    requests: &UnboundedSender<Request>,
    is_old: impl Fn() -> bool,
) -> std::io::Result<()> {
    let Some((head, first)) = head(&mut tls, manner, mood).await? else {
        return Ok(());
    };
    if is_old() {
        end_in_order(tls.get_ref().0);
        return tls.shutdown().await;
    }
    let manner = manner.lock().unwrap().clone();
    let mut request = Request {
        head,
        first: first.clone(),
        stream: None,
    };
    if let Manner::Open = manner {
        tls.write_all(OK).await?;
        tls.flush().await?;
        request.stream = Some(tls);
        let _test_over = requests.send(request);
        return Ok(());
    }
    let _test_over = requests.send(request);
    match manner {
        Manner::Open => {}
        Manner::Echo | Manner::Impatient(_) | Manner::Fickle { .. } | Manner::Slow(_) => {
            if let Manner::Slow(time) = manner {
                tokio::time::sleep(time).await;
            }
            tls.write_all(OK).await?;
            tls.write_all(&first).await?;
            let mut bytes = Vec::with_capacity(4_096);
            while tls.read_buf(&mut bytes).await? > 0 {
                tls.write_all(&bytes).await?;
                tls.flush().await?;
                bytes.clear();
            }
            tls.shutdown().await?;
            end_in_order(tls.get_ref().0);
        }
        Manner::Say(reply) => {
            tls.write_all(reply.as_bytes()).await?;
            tls.shutdown().await?;
            end_in_order(tls.get_ref().0);
        }
        Manner::End => {
            tls.shutdown().await?;
            end_in_order(tls.get_ref().0);
        }
        Manner::Reset => {}
        Manner::Silent => std::future::pending().await,
    }
    Ok(())
}

/// The head of a request and the bytes after it; None: the connection has ended.
async fn head(
    tls: &mut TlsStream<TcpStream>,
    manner: &Mutex<Manner>,
    mood: &Mood<'_>,
) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    loop {
        let patience = match bytes.is_empty() {
            true => mood.patience(manner),
            false => FOREVER,
        };
        let read = tokio::time::timeout(patience, tls.read_buf(&mut bytes)).await;
        match read {
            Ok(Ok(1..)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) if mood.life < FOREVER && mood.way == 1 => {
                mood.count();
                return Ok(None);
            }
            // A FIN, not a reset.
            _ => {
                if read.is_err() && mood.life < FOREVER {
                    mood.count();
                }
                end_in_order(tls.get_ref().0);
                tls.shutdown().await?;
                return Ok(None);
            }
        }
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let first = bytes.split_off(end + 4);
            return Ok(Some((String::from_utf8(bytes).unwrap(), first)));
        }
    }
}

pub(crate) fn reset_on_close(stream: &TcpStream) {
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

fn end_in_order(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(None).unwrap();
}

const FOREVER: Duration = Duration::from_secs(3600);
const OK: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The reply of a daemon that refuses with this status and code.
pub(crate) fn refusal(status: u16, code: &str) -> String {
    format!(
        "HTTP/1.1 {status} Some Phrase ({code})\r\nContent-Length: {}\r\nX-Odd:  two  spaces \r\n\r\n{code}\n",
        code.len() + 1
    )
}
