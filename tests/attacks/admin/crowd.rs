//! A bounded number of strangers at the admin listener, and a watcher who requests its pages
//! meanwhile.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// An attack that continues until it is dispersed.
pub struct Crowd {
    tasks: JoinSet<()>,
    connections: Arc<AtomicUsize>,
}

impl Crowd {
    /// 640 silent connections at once, then 160 a second that send a request and never read, and
    /// eight that request `/metrics` again and again, half of them with the token if there is one.
    pub async fn gather(admin: SocketAddr, from: IpAddr, token: Option<&'static str>) -> Crowd {
        let connections = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            silent.extend(open(admin, from).await);
        }
        connections.fetch_add(silent.len(), Ordering::Relaxed);
        let count = Arc::clone(&connections);
        tasks.spawn(async move {
            let mut held = silent;
            for turn in 0_usize.. {
                let path = ["/metrics", "/healthz", "/readyz", "/status"][turn % 4];
                if let Some(mut stream) = open(admin, from).await {
                    // An immediate refusal is an end too.
                    let _refused = stream
                        .write_all(request(admin, path, None, true).as_bytes())
                        .await;
                    held.push(stream);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                if held.len() > HELD_MAX {
                    held.remove(0);
                }
                sleep(Duration::from_millis(1_000 / UNREAD_PER_SECOND)).await;
            }
        });
        for number in 0..FLOODING {
            let (count, token) = (Arc::clone(&connections), token.filter(|_| number % 2 == 0));
            tasks.spawn(async move {
                loop {
                    let _answer =
                        timeout(Duration::from_secs(5), get(admin, from, "/metrics", token)).await;
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
        }
        Crowd { tasks, connections }
    }

    /// Ends the attack; returns the number of its connections.
    pub fn disperse(mut self) -> usize {
        self.tasks.abort_all();
        self.connections.load(Ordering::Relaxed)
    }
}

/// A watcher with a right to an answer.
pub struct Prober {
    pub from: IpAddr,
    pub admin: SocketAddr,
    pub token: Option<&'static str>,
}

impl Prober {
    /// Requests each page this many times; returns the time of the slowest answer and how many
    /// arrived later than `bound`.
    pub async fn ask_each(&self, times: usize, bound: Duration) -> (Duration, usize) {
        let (mut worst, mut missed) = (Duration::ZERO, 0);
        for _ in 0..times {
            for path in ["/healthz", "/readyz", "/metrics"] {
                let started = Instant::now();
                let token = self.token.filter(|_| path == "/metrics");
                let answer = timeout(bound * 3, get(self.admin, self.from, path, token)).await;
                let is_whole = matches!(&answer, Ok(Some(text)) if is_whole(path, text));
                worst = worst.max(started.elapsed());
                if !is_whole || started.elapsed() > bound {
                    missed += 1;
                }
            }
            if missed > MISSED_MAX {
                break;
            }
        }
        (worst, missed)
    }
}

fn is_whole(path: &str, answer: &str) -> bool {
    let last = if path == "/metrics" {
        "user-499"
    } else {
        "\r\n\r\n"
    };
    answer.starts_with("HTTP/1.1 200 ") && answer.contains(last)
}

/// The whole answer; None if the connection ends early.
pub async fn get(
    admin: SocketAddr,
    from: IpAddr,
    path: &str,
    token: Option<&str>,
) -> Option<String> {
    let mut stream = open(admin, from).await?;
    stream
        .write_all(request(admin, path, token, false).as_bytes())
        .await
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

pub fn request(admin: SocketAddr, path: &str, token: Option<&str>, keep_alive: bool) -> String {
    let token = token.map_or(String::new(), |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let connection = if keep_alive { "keep-alive" } else { "close" };
    format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\n{token}Connection: {connection}\r\n\r\n")
}

/// A connection from this address; None if it is not accepted within three seconds.
pub async fn open(admin: SocketAddr, from: IpAddr) -> Option<TcpStream> {
    let socket = if from.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .expect("a socket");
    socket
        .bind(SocketAddr::new(from, 0))
        .expect("an address of this network");
    timeout(Duration::from_secs(3), socket.connect(admin))
        .await
        .ok()?
        .ok()
}

const SILENT: usize = 640;
const UNREAD_PER_SECOND: u64 = 160;
const FLOODING: usize = 8;
/// The connections that the crowd holds at once.
const HELD_MAX: usize = 1_500;
/// After this many a test has failed long ago.
const MISSED_MAX: usize = 3;
