//! Monitoring does not delay the tunnels: with as many tunnels as the limit on open files allows,
//! up to ten thousand, `/metrics` and `/status` take milliseconds of CPU and wake no worker, and a
//! tunnel's bytes do not wait for them. The test prints times and asserts on CPU, wakes and order,
//! because other programs may use the cores.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use support::client::{connect, http_get};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::raw::RawUpstream;
use support::workers::worker_sleeps;
use support::{raise_descriptor_limit, soon, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_does_not_disturb_ten_thousand_tunnels() {
    let _alone = support::alone().await;
    raise_descriptor_limit();
    let upstream = RawUpstream::start().await;
    let limits = "[limits]\ntunnels_per_client = 0\naccept_rate = 0\nconnect_rate = 0";
    let daemon = Daemon::start(&Config::to(upstream.addr()).section(limits)).await;
    let carried = daemon.metric("sealway_tunnels_max").await.unwrap() as usize;
    // This process holds both ends of each tunnel.
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let tunnels = carried
        .min(usize::try_from(descriptors).unwrap().saturating_sub(1_000) / 2)
        .min(10_000);
    let authority = upstream.authority();
    let echo = tokio::spawn(serve_echo(upstream));
    let mut clients = within(LONG, "the tunnels", open_all(&daemon, authority, tunnels)).await;
    daemon
        .metric_until("sealway_tunnels_active", |active| active == tunnels as f64)
        .await;

    let mut alone = Vec::new();
    for _ in 0..2_000 {
        alone.push(round_trip(&mut clients[0]).await);
    }
    let admin = daemon.admin_addr();
    // While no tunnel moves a byte.
    let (spent, woken) = (daemon.cpu_ms(), wakes(&daemon));
    let [metrics, status] = watch(admin, tunnels, SCRAPES).await.map(Times::of);
    let (spent, woken) = (daemon.cpu_ms() - spent, wakes(&daemon) - woken);
    let mut rounds = Vec::new();
    let mut watched = Vec::new();
    for _ in 0..ROUNDS {
        let watching = tokio::spawn(watch(admin, tunnels, SCRAPES / ROUNDS));
        let before = watched.len();
        while !watching.is_finished() {
            watched.push(round_trip(&mut clients[0]).await);
        }
        watching.await.unwrap();
        rounds.push(watched.len() - before);
    }
    let (alone, watched) = (Times::of(alone), Times::of(watched));
    println!("{descriptors} descriptors, {tunnels} tunnels");
    println!("/metrics {metrics:?}\n/status {status:?}\n{spent} ms of CPU, {woken} wakes");
    println!(
        "round trips alone {alone:?}\nround trips watched {watched:?}, in each round {rounds:?}"
    );
    assert!(spent < CPU_MS * 2 * SCRAPES as u64, "{spent} ms of CPU");
    // A page that asked the workers would wake one of them each time.
    assert!(woken < SCRAPES as u64, "{woken} wakes");
    // A tunnel that waited for pages would make one round trip for each of them in every round: some
    // client always requests one here.
    let pages = 2 * SCRAPES / ROUNDS;
    assert!(rounds.iter().any(|trips| *trips > 2 * pages), "{rounds:?}");
    echo.abort();
}

#[derive(Debug)]
#[allow(dead_code)] // printed
struct Times {
    count: usize,
    median: Duration,
    of_a_hundred_99: Duration,
    worst: Duration,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 100];
        Times {
            count: times.len(),
            median: at(50),
            of_a_hundred_99: at(99),
            worst: at(100),
        }
    }
}

/// Requests both pages this many times, one after the other, and returns how long each took.
async fn watch(admin: SocketAddr, tunnels: usize, times: usize) -> [Vec<Duration>; 2] {
    let mut took = [const { Vec::new() }; 2];
    for _ in 0..times {
        for (path, took) in ["/metrics", "/status"].iter().zip(&mut took) {
            let started = Instant::now();
            let (status, page) = soon(path, http_get(admin, path)).await;
            took.push(started.elapsed());
            assert!(
                status == 200 && page.contains(&tunnels.to_string()),
                "{page}"
            );
        }
    }
    took
}

/// How often all workers together were woken.
fn wakes(daemon: &Daemon) -> u64 {
    worker_sleeps(daemon).iter().sum()
}

/// A kilobyte there and back.
async fn round_trip(client: &mut TcpStream) -> Duration {
    let (sent, mut echoed) = ([9; 1_024], [0; 1_024]);
    let started = Instant::now();
    client.write_all(&sent).await.expect("send");
    soon("the echo", client.read_exact(&mut echoed))
        .await
        .expect("receive");
    started.elapsed()
}

/// Opens this many tunnels, a bounded number at a time, and keeps them open.
async fn open_all(daemon: &Daemon, authority: String, tunnels: usize) -> Vec<TcpStream> {
    let (proxy, authority, gate) = (
        daemon.proxy_addr(),
        Arc::new(authority),
        Arc::new(Semaphore::new(64)),
    );
    let recorded = Arc::new(Recorded::named("curl-openssl"));
    let mut opening = JoinSet::new();
    for _ in 0..tunnels {
        let (authority, gate, recorded) = (
            Arc::clone(&authority),
            Arc::clone(&gate),
            Arc::clone(&recorded),
        );
        opening.spawn(async move {
            let _turn = gate.acquire_owned().await.expect("the gate stays open");
            let mut client = connect(proxy, &authority, &[]).await.established();
            recorded.greet(&mut client).await;
            client
        });
    }
    opening.join_all().await
}

/// Answers the recorded hello on each connection, then echoes.
async fn serve_echo(upstream: RawUpstream) {
    let recorded = Arc::new(Recorded::named("curl-openssl"));
    loop {
        let mut stream = upstream.accept_whenever().await;
        let recorded = Arc::clone(&recorded);
        tokio::spawn(async move {
            let mut hello = vec![0; recorded.bytes.len()];
            stream.read_exact(&mut hello).await.expect("read the hello");
            stream
                .write_all(&recorded.server_hello())
                .await
                .expect("answer the hello");
            let (mut reader, mut writer) = stream.split();
            // Ends with the test.
            let _ended = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
}

const SCRAPES: usize = 100;
const ROUNDS: usize = 10;
/// The limit for the mean CPU of a page in a debug build, in milliseconds.
const CPU_MS: u64 = 20;
const LONG: Duration = Duration::from_secs(240);
