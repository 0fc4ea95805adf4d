//! A storm: ten thousand connections that never finish their request and five thousand silent
//! tunnels, while two hundred clients work. The clients are served, and nothing of the storm
//! remains.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use support::client::{connect_head, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::raw::RawUpstream;
use support::wait_within;
use support::{payload, raise_descriptor_limit, soon, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_clients_are_served_in_a_storm_and_it_leaves_nothing_behind() {
    let _alone = support::alone().await;
    raise_descriptor_limit();
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).section("[timeouts]\nrequest = \"5m\"");
    let daemon = Arc::new(Daemon::start(&config).await);
    let authority: Arc<str> = upstream.authority().into();
    let echo = tokio::spawn(serve_echo(upstream));
    let calm = good_clients(&daemon, &authority).await;
    daemon.metric_until(ACTIVE, |active| active == 0.0).await;
    let descriptors = daemon.open_descriptors().await;
    let size = size_of_storm(&daemon).await;
    let silent = size / 3;
    let mut resident = Vec::new();
    for storm in 1..=2 {
        let held = within(LONG, "the storm", storm_of(size, &daemon, &authority)).await;
        daemon
            .metric_until(ACTIVE, |active| active == silent as f64)
            .await;
        let times = good_clients(&daemon, &authority).await;
        eprintln!(
            "storm {storm}: set-up and exchange, median and worst of {GOOD}: {times:?}, without a storm {calm:?}"
        );
        // Waiting for one of the storm's deadlines would take minutes.
        assert!(times.1 < Duration::from_secs(5), "{times:?}");
        drop(held);
        daemon.metric_until(ACTIVE, |active| active == 0.0).await;
        wait_within(LONG, "the descriptors of the storm", async || {
            daemon.open_descriptors().await <= descriptors + PIPES_KEPT
        })
        .await;
        resident.push(daemon.resident_kib());
        let left = daemon.open_descriptors().await;
        eprintln!(
            "of {size} connections {left} descriptors are left, {descriptors} before; KiB resident {resident:?}"
        );
    }
    assert!(
        resident[1] <= resident[0] + resident[0] / 10,
        "the second storm has left memory behind: {resident:?} KiB"
    );
    echo.abort();
}

/// Regular clients; the median and the worst time of one.
async fn good_clients(daemon: &Arc<Daemon>, authority: &Arc<str>) -> (Duration, Duration) {
    let gate = Arc::new(Semaphore::new(AT_A_TIME));
    let mut running = JoinSet::new();
    for number in 0..GOOD {
        let (gate, proxy, authority) = (
            Arc::clone(&gate),
            daemon.proxy_addr(),
            Arc::clone(authority),
        );
        running.spawn(async move {
            let _turn = gate.acquire().await.unwrap();
            let started = Instant::now();
            let mut tunnel = open("127.0.0.1", proxy, &authority).await;
            let sent = payload::bytes(number as u64, 4_096);
            let mut echoed = vec![0; sent.len()];
            tunnel.write_all(&sent).await.unwrap();
            soon("the echo", tunnel.read_exact(&mut echoed))
                .await
                .unwrap();
            assert!(echoed == sent, "bytes arrived changed");
            started.elapsed()
        });
    }
    let mut times = within(LONG, "the good clients", running.join_all()).await;
    times.sort_unstable();
    (times[GOOD / 2], times[GOOD - 1])
}

/// The number of connections in the storm: fifteen thousand, or as many as the limit on open files
/// allows the daemon and this process, which holds both ends of every third one.
async fn size_of_storm(daemon: &Daemon) -> usize {
    let carried = daemon.metric("sealway_tunnels_max").await.unwrap() as usize - 2 * AT_A_TIME;
    let held = (getrlimit(Resource::RLIMIT_NOFILE).unwrap().0 as usize - 1_000) * 3 / 4;
    let size = STORM.min(carried).min(held) / 3 * 3;
    if size < STORM {
        let smaller =
            format!("the limit on open files allows a storm of {size} connections, not of {STORM}");
        assert!(std::env::var_os(IN_FULL).is_none(), "{smaller}");
        eprintln!("{smaller}: tests/storm/run has a machine for it");
    }
    size
}

/// Everything that the storm holds, from fifteen addresses: two unfinished requests for each silent
/// tunnel.
async fn storm_of(size: usize, daemon: &Arc<Daemon>, authority: &Arc<str>) -> Vec<TcpStream> {
    let gate = Arc::new(Semaphore::new(64));
    let mut running = JoinSet::new();
    for number in 0..size {
        let (gate, proxy, authority) = (
            Arc::clone(&gate),
            daemon.proxy_addr(),
            Arc::clone(authority),
        );
        running.spawn(async move {
            let _turn = gate.acquire().await.unwrap();
            let from = format!("127.0.1.{}", 1 + number % 15);
            if number % 3 == 2 {
                return open(&from, proxy, &authority).await;
            }
            let mut stream = dial_from(&from, proxy).await;
            stream
                .write_all(b"CONNECT generativelanguage.googleapis.com:443 HTTP/1.1\r\nX-Slow: ")
                .await
                .unwrap();
            stream
        });
    }
    running.join_all().await
}

/// A tunnel after both greetings.
async fn open(from: &str, proxy: SocketAddr, authority: &str) -> TcpStream {
    let mut stream = dial_from(from, proxy).await;
    stream
        .write_all(connect_head(authority, &[]).as_bytes())
        .await
        .unwrap();
    let mut tunnel = read_reply(stream).await.established();
    tunnel.write_all(&RECORDED.bytes).await.unwrap();
    let mut answer = vec![0; RECORDED.server_hello().len()];
    soon("the ServerHello", tunnel.read_exact(&mut answer))
        .await
        .unwrap();
    tunnel
}

async fn dial_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind((from.parse::<IpAddr>().unwrap(), 0).into())
        .unwrap();
    soon("a connection", socket.connect(to)).await.unwrap()
}

/// Answers each hello and then echoes.
async fn serve_echo(upstream: RawUpstream) {
    loop {
        let mut stream = upstream.accept_whenever().await;
        tokio::spawn(async move {
            let mut hello = vec![0; RECORDED.bytes.len()];
            let greeted = stream.read_exact(&mut hello).await.is_ok();
            if greeted && stream.write_all(&RECORDED.server_hello()).await.is_ok() {
                let (mut reader, mut writer) = stream.split();
                // A client that left with the storm has reset its tunnel.
                let _reset = tokio::io::copy(&mut reader, &mut writer).await;
            }
        });
    }
}

/// Read once: reading it fifteen thousand times used most of the test's time.
static RECORDED: LazyLock<Recorded> = LazyLock::new(|| Recorded::named("curl-openssl"));
const STORM: usize = 15_000;
/// `tests/storm/run` requires at least this size.
const IN_FULL: &str = "STORM_IN_FULL";
const AT_A_TIME: usize = 20;
const GOOD: usize = 200;
const LONG: Duration = Duration::from_secs(120);
const ACTIVE: &str = "sealway_tunnels_active";
/// Pipes that the daemon keeps for later, two descriptors each.
const PIPES_KEPT: usize = 140;
