//! A provider's front end that closes silent connections, or does worse, and notes each connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::hello::Recorded;
use support::raw::reset;
use support::{soon, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a front end does with one connection.
#[derive(Clone, Copy, Debug)]
pub enum Conduct {
    /// Answers the hello and echoes what follows.
    Serve,
    /// The same, unless the connection is silent for so long: then it closes it.
    CloseAfter(Duration),
    /// The same with a reset.
    ResetAfter(Duration),
    /// Sends a byte before the hello.
    SpeakFirst,
    /// Reads the hello and closes.
    CloseOnHello,
    /// Closes with a reset at the first byte of the hello.
    ResetOnHello,
    /// Sends the first bytes of the answer and closes with a reset.
    AnswerInPart,
}

/// What a connection has come to.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    pub peer: Option<IpAddr>,
    pub bytes: Vec<u8>,
    pub is_over: bool,
    pub was_reset: bool,
}

/// A running front end.
pub struct FrontEnd {
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<Connection>>>,
}

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
        tokio::spawn(async move {
            for nth in 0.. {
                let Ok((stream, peer)) = listener.accept().await else {
                    return;
                };
                noted.lock().expect("unpoisoned").push(Connection {
                    peer: Some(peer.ip()),
                    ..Connection::default()
                });
                tokio::spawn(attend(stream, conduct(nth), nth, Arc::clone(&noted)));
            }
        });
        FrontEnd {
            address,
            connections,
        }
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

async fn attend(
    mut stream: TcpStream,
    conduct: Conduct,
    nth: usize,
    noted: Arc<Mutex<Vec<Connection>>>,
) {
    let note = |change: &dyn Fn(&mut Connection)| {
        change(&mut noted.lock().expect("unpoisoned")[nth]);
    };
    stream.set_nodelay(true).expect("nodelay");
    if let Conduct::SpeakFirst = conduct {
        stream.write_all(b"x").await.expect("a byte");
    }
    let silence = match conduct {
        Conduct::CloseAfter(silence) | Conduct::ResetAfter(silence) => silence,
        _ => Duration::from_secs(3_600),
    };
    let (recorded, mut answered) = (Recorded::named("curl-openssl"), false);
    let mut buffer = vec![0; 65_536];
    loop {
        let limit = if answered {
            Duration::from_secs(3_600)
        } else {
            silence
        };
        let Ok(read) = tokio::time::timeout(limit, stream.read(&mut buffer)).await else {
            if let Conduct::ResetAfter(_) = conduct {
                reset(stream);
            }
            return note(&|one| one.is_over = true);
        };
        let read = match read {
            Ok(0) => return note(&|one| one.is_over = true),
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
        if let Conduct::ResetOnHello = conduct {
            note(&|one| one.is_over = true);
            return reset(stream);
        }
        let received = noted.lock().expect("unpoisoned")[nth].bytes.len();
        if received < recorded.bytes.len() {
            continue;
        }
        answered = true;
        match conduct {
            Conduct::CloseOnHello => return note(&|one| one.is_over = true),
            Conduct::AnswerInPart => {
                note(&|one| one.is_over = true);
                return answer_in_part(stream, &recorded.server_hello()).await;
            }
            _ => stream
                .write_all(&recorded.server_hello())
                .await
                .unwrap_or(()),
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
