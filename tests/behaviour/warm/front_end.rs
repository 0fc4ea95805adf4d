//! A provider's front end that closes silent connections, or does worse, and notes each connection.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::hello::Recorded;
use support::raw::reset;
use support::{soon, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a front end does with one connection.
#[derive(Clone, Copy, Debug)]
pub enum Conduct {
    /// Answers the hello and echoes what follows.
    Serve,
    /// The same, unless the connection is silent for so long: then it closes it.
    CloseAfter(Duration),
    /// The same with a reset.
    ResetAfter(Duration),
    /// Answers the hello, unless the front end is freed before ([`FrontEnd::free`]): then it closes, or resets.
    CloseWhenTold,
    ResetWhenTold,
    /// The same, but it only ends its side and reads on, or it sends a byte before it closes.
    HalfCloseWhenTold,
    SpeakWhenTold,
    /// Reads the hello, never answers, and closes with a reset when the client has ended its side.
    StayMute,
    /// Sends a byte before the hello.
    SpeakFirst,
    /// Reads the hello and closes.
    CloseOnHello,
    /// Closes with a reset at the first byte of the hello.
    ResetOnHello,
    /// Sends the first bytes of the answer and closes with a reset.
    AnswerInPart,
    /// The same as `CloseAfter` or `ResetAfter` while the front end is free. While it is held ([`FrontEnd::hold`]) it ends no silent
    /// connection, because that of a tunnel may be among them; one that is `crossing` and older ends as its hello comes.
    Fickle {
        silence: Duration,
        crossing: bool,
        by_reset: bool,
    },
}

/// What a connection has come to.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    pub peer: Option<SocketAddr>,
    pub bytes: Vec<u8>,
    pub is_over: bool,
    pub was_reset: bool,
    /// It was ended as its hello came, after it had waited.
    pub was_crossed: bool,
}

/// A running front end.
pub struct FrontEnd {
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<Connection>>>,
    held: watch::Sender<Held>,
}

/// Since when a front end ends no silent connection; None: it does.
type Held = Option<Instant>;

impl FrontEnd {
    /// Listens; the nth connection, from 0, gets the conduct that `conduct` says.
    pub async fn start(
        address: &str,
        conduct: impl Fn(usize) -> Conduct + Send + 'static,
    ) -> FrontEnd {
        let listener = TcpListener::bind(address).await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::<Mutex<Vec<Connection>>>::default();
        let noted = Arc::clone(&connections);
        let (held, listens) = watch::channel(Some(Instant::now()));
        tokio::spawn(async move {
            for nth in 0.. {
                let Ok((stream, peer)) = listener.accept().await else {
                    return;
                };
                noted.lock().expect("unpoisoned").push(Connection {
                    peer: Some(peer),
                    ..Connection::default()
                });
                let conduct = conduct(nth);
                let silence = Silence::of(conduct, listens.clone());
                tokio::spawn(attend(stream, conduct, silence, (nth, Arc::clone(&noted))));
            }
        });
        FrontEnd {
            address,
            connections,
            held,
        }
    }

    /// Lets it end silent connections. At the start it is held.
    pub fn free(&self) {
        self.held.send_replace(None);
    }

    /// From now on connections may be those of tunnels.
    pub fn hold(&self) {
        self.held.send_replace(Some(Instant::now()));
    }

    /// All connections so far, in the order of their accepts.
    pub fn connections(&self) -> Vec<Connection> {
        self.connections.lock().expect("unpoisoned").clone()
    }

    pub fn accepted(&self) -> usize {
        self.connections.lock().expect("unpoisoned").len()
    }

    /// Waits until so many connections were accepted.
    pub async fn until_accepted(&self, number: usize) {
        let what = format!("{number} connections");
        wait_until(&what, async || self.accepted() >= number).await;
    }

    /// Connections that have received a byte.
    pub fn spoken_to(&self) -> usize {
        let connections = self.connections();
        connections
            .iter()
            .filter(|one| !one.bytes.is_empty())
            .count()
    }

    /// Waits until exactly so many connections are over.
    pub async fn until_over(&self, number: usize) {
        let what = format!("the end of {number} connections");
        let over = || self.connections().iter().filter(|one| one.is_over).count();
        wait_until(&what, async || over() == number).await;
    }

    /// Waits until every connection is over.
    pub async fn until_all_are_over(&self) {
        wait_until("the end of all connections", async || {
            self.connections().iter().all(|one| one.is_over)
        })
        .await;
    }
}

/// When a silent connection ends.
struct Silence {
    /// None: never.
    limit: Option<Duration>,
    /// Whether it waits until the front end is free.
    waits: bool,
    opened: Instant,
    held: watch::Receiver<Held>,
}

impl Silence {
    fn of(conduct: Conduct, held: watch::Receiver<Held>) -> Silence {
        let (limit, waits) = match conduct {
            Conduct::CloseAfter(limit) | Conduct::ResetAfter(limit) => (Some(limit), false),
            Conduct::Fickle { silence, .. } => (Some(silence), true),
            Conduct::CloseWhenTold
            | Conduct::ResetWhenTold
            | Conduct::HalfCloseWhenTold
            | Conduct::SpeakWhenTold => (Some(Duration::ZERO), true),
            _ => (None, false),
        };
        Silence {
            limit,
            waits,
            opened: Instant::now(),
            held,
        }
    }

    async fn ends(&mut self) {
        match self.limit {
            None => std::future::pending().await,
            Some(limit) => tokio::time::sleep_until((self.opened + limit).into()).await,
        }
        if self.waits {
            // Fails when the test has ended.
            drop(self.held.wait_for(Option::is_none).await);
        }
    }

    /// Whether the connection was there before the tunnels that come now.
    fn is_older(&self) -> bool {
        self.held.borrow().is_some_and(|since| self.opened < since)
    }
}

async fn attend(
    mut stream: TcpStream,
    conduct: Conduct,
    mut silence: Silence,
    (nth, noted): (usize, Arc<Mutex<Vec<Connection>>>),
) {
    let note = |change: &dyn Fn(&mut Connection)| {
        change(&mut noted.lock().expect("unpoisoned")[nth]);
    };
    let over = || note(&|one| one.is_over = true);
    stream.set_nodelay(true).expect("nodelay");
    if let Conduct::SpeakFirst = conduct {
        stream.write_all(b"x").await.expect("a byte");
    }
    let (recorded, mut answered) = (Recorded::named("curl-openssl"), false);
    let mut buffer = vec![0; 65_536];
    loop {
        let read = tokio::select! {
            biased;
            read = stream.read(&mut buffer) => read,
            () = silence.ends(), if !answered => {
                let half = conduct.ends_silence(stream).await;
                over();
                match half {
                    Some(half) => stream = half,
                    None => return,
                }
                silence.limit = None;
                continue;
            }
        };
        let read = match read {
            Ok(0) => {
                if let Conduct::StayMute = conduct {
                    reset(stream);
                }
                return over();
            }
            Ok(read) => read,
            Err(_) => return note(&|one| (one.is_over, one.was_reset) = (true, true)),
        };
        let bytes = buffer[..read].to_vec();
        note(&|one| one.bytes.extend_from_slice(&bytes));
        if answered {
            // Fails if the client has gone.
            let _gone = stream.write_all(&bytes).await;
            continue;
        }
        let received = noted.lock().expect("unpoisoned")[nth].bytes.len();
        match conduct.on_bytes(received >= recorded.bytes.len(), silence.is_older()) {
            Step::Wait => continue,
            Step::Answer => answered = true,
            Step::End { crosses } => {
                note(&|one| (one.is_over, one.was_crossed) = (true, crosses));
                return conduct.ends(stream);
            }
        }
        if let Conduct::AnswerInPart = conduct {
            over();
            return answer_in_part(stream, &recorded.server_hello()).await;
        }
        // Fails if the client has gone.
        let _gone = stream.write_all(&recorded.server_hello()).await;
    }
}

/// What the client's bytes cause before the answer.
enum Step {
    Wait,
    Answer,
    End { crosses: bool },
}

impl Conduct {
    fn on_bytes(self, is_whole: bool, is_older: bool) -> Step {
        match self {
            Conduct::Fickle { crossing: true, .. } if is_older => Step::End { crosses: true },
            Conduct::ResetOnHello => Step::End { crosses: false },
            Conduct::StayMute => Step::Wait,
            _ if !is_whole => Step::Wait,
            Conduct::CloseOnHello => Step::End { crosses: false },
            _ => Step::Answer,
        }
    }

    /// Ends a silent connection; what it still reads from, if it ends its own side only.
    async fn ends_silence(self, mut stream: TcpStream) -> Option<TcpStream> {
        match self {
            Conduct::HalfCloseWhenTold => {
                stream.shutdown().await.expect("end this side");
                return Some(stream);
            }
            Conduct::SpeakWhenTold => stream.write_all(b"x").await.expect("a byte"),
            _ => self.ends(stream),
        }
        None
    }

    /// Closes, or resets.
    fn ends(self, stream: TcpStream) {
        if let Conduct::ResetAfter(_)
        | Conduct::ResetWhenTold
        | Conduct::ResetOnHello
        | Conduct::Fickle { by_reset: true, .. } = self
        {
            reset(stream);
        }
    }
}

/// The daemon has the bytes before the reset.
async fn answer_in_part(mut stream: TcpStream, answer: &[u8]) {
    stream.write_all(&answer[..5]).await.expect("send");
    let read = stream.read_u8();
    let _gone = tokio::time::timeout(Duration::from_millis(200), read).await;
    reset(stream);
}

/// Sends the recorded hello through an open tunnel; the answer, or None if the tunnel ended.
pub async fn greet(client: &mut TcpStream) -> Option<()> {
    let recorded = Recorded::named("curl-openssl");
    client.write_all(&recorded.bytes).await.ok()?;
    let mut answer = recorded.server_hello();
    let read = soon("the answer", client.read_exact(&mut answer)).await;
    read.ok()?;
    (answer == recorded.server_hello()).then_some(())
}
