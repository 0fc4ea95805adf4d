//! Attacks on the evidence: strangers must not fill the audit queue, and removed records must be noticed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::command::sealway;
use crate::made_hello::MadeHello;
use crate::records::{count_of, records};
use crate::support::client::{connect, connect_head};
use crate::support::config::Config;
use crate::support::daemon::Daemon;
use crate::support::raw::RawUpstream;
use crate::support::within;

/// Strangers from a thousand addresses, each with the longest host that there is; then `kill -9`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refusals_denies_nobody_else_and_kill_loses_a_second() {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let file = directory.path().join("audit.jsonl");
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).audit_file("audit.jsonl", "");
    let mut daemon = Daemon::start_in(directory, &config).await;
    // Its other half must go somewhere.
    let (port, served) = (
        upstream.authority(),
        tokio::spawn(async move {
            loop {
                drop(upstream.accept_whenever().await)
            }
        }),
    );
    let flood = Flood::start(daemon.proxy_addr(), 1_000, &longest(&port));
    let (started, mut denied) = (Instant::now(), vec![]);
    while started.elapsed() < Duration::from_secs(5) {
        let status = connect(daemon.proxy_addr(), &port, &[]).await.status();
        assert_eq!(status, 200, "a good client in the flood, after {:?}", started.elapsed());
        let count = daemon.metric("sealway_tunnels_denied_total{code=\"sni_mismatch\"}").await.unwrap_or(0.0);
        denied.push((Instant::now(), count as u64));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.signal("KILL");
    let killed = Instant::now();
    flood.stop().await;
    served.abort();
    assert!(!daemon.exit_status().await.success());
    // A second, and what the scrape itself took.
    let before = |&&(at, _): &&(Instant, u64)| killed.duration_since(at) > Duration::from_millis(1_200);
    let (at, known) = *denied.iter().rev().find(before).unwrap();
    let (last, recorded) = (denied.last().unwrap().1, counted(&file, "sni_mismatch"));
    println!("{last} refused, {recorded} recorded, {known} were refused {:?} before the end", killed - at);
    assert!(last > 2_000, "{last} refusals are no flood");
    assert!(recorded >= known, "{recorded} recorded, {known} refused {:?} before the end", killed - at);
    proves(&file).await;
}

/// The attempts with this code that the records of a file account for.
fn counted(file: &Path, code: &str) -> u64 {
    let found = records(file);
    let with_code = found.iter().filter(|record| record["code"] == code);
    with_code.map(|record| count_of(record) as u64).sum()
}

/// An attempt that is refused with the longest record: the SNI differs from the host, and every protocol has to be escaped.
fn longest(authority: &str) -> Vec<u8> {
    let protocol: Vec<u8> = [&[64], [0xff; 64].as_slice()].concat();
    let list = protocol.repeat(8);
    let alpn = [&(list.len() as u16).to_be_bytes(), list.as_slice()].concat();
    let hello = MadeHello::naming(&"x".repeat(250)).extension(16, &alpn);
    [connect_head(authority, &[]).as_bytes(), &hello.bytes()].concat()
}

async fn proves(file: &Path) {
    let ended = sealway(&["audit", "verify", file.to_str().unwrap()]).await;
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{ended:?}");
}

/// Refused attempts from many addresses of 127.0.0.0/8, as fast as this machine makes them.
struct Flood {
    clients: JoinSet<()>,
    stopped: Arc<AtomicBool>,
}

impl Flood {
    fn start(proxy: SocketAddr, addresses: usize, words: &[u8]) -> Flood {
        let (mut clients, stopped) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        let (next, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::<[u8]>::from(words));
        for _ in 0..64 {
            let (next, stopped, bytes) = (Arc::clone(&next), Arc::clone(&stopped), Arc::clone(&bytes));
            clients.spawn(async move {
                while !stopped.load(Ordering::SeqCst) {
                    let number = next.fetch_add(1, Ordering::SeqCst) % addresses;
                    let from = Ipv4Addr::new(127, 1, (number / 250) as u8, (number % 250) as u8 + 1);
                    attempt(proxy, from, &bytes).await;
                }
            });
        }
        Flood { clients, stopped }
    }

    async fn stop(self) {
        self.stopped.store(true, Ordering::SeqCst);
        within(Duration::from_secs(30), "the end of the flood", self.clients.join_all()).await;
    }
}

/// What a daemon that is killed meanwhile makes of it is no concern of the flood.
async fn attempt(proxy: SocketAddr, from: Ipv4Addr, bytes: &[u8]) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let Ok(mut stream) = socket.connect(proxy).await else { return };
    let mut answer = Vec::new();
    if stream.write_all(bytes).await.is_ok() {
        let _gone = stream.read_to_end(&mut answer).await;
    }
}
