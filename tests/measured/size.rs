//! As many tunnels as the limit on open files allows, a hundred thousand under `tests/size/run`:
//! what one takes in memory, what the others do to a chunk, and how long a page, a reload, a user's
//! revocation and the end of all take.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use support::client::{connect_head, http_get};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::raw::RawUpstream;
use support::users::{basic, start_with_users, user, write};
use support::{raise_descriptor_limit, sealway, wait_within, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_cost_memory_and_no_time_of_the_others() {
    let _alone = support::alone().await;
    raise_descriptor_limit();
    let upstream = RawUpstream::start().await;
    let authority: Arc<str> = upstream.authority().into();
    let users = [user("few", "one", ""), user("many", "two", "")].concat();
    let daemon = start_with_users(config(&upstream), &users, "").await;
    let echo = tokio::spawn(serve_echo(upstream));
    let many = number_of_tunnels(&daemon).await;
    let few = many.min(4_000) / 4;
    let clients = Clients::new(&daemon, &authority);

    let mut kept = clients.open(0..few, "few", "one").await;
    until_active(&daemon, few).await;
    let (base, slab) = (daemon.resident_kib(), kernel_slab_kib());
    let alone = percentile_99(&mut kept).await;
    kept.extend(clients.open(few..many / 2, "few", "one").await);
    let mut revoked = clients.open(many / 2..many, "many", "two").await;
    until_active(&daemon, many).await;
    let added = (many - few) as f64;
    let each = (daemon.resident_kib() as f64 - base as f64) / added;
    // That of the whole machine, which other programs lower too.
    let kernel = (kernel_slab_kib() as f64 - slab as f64) / added;
    println!(
        "{each:.2} KiB of the daemon for each of {many} tunnels, and {kernel:.1} of the kernel for its four sockets"
    );
    let among = percentile_99(&mut kept).await;
    println!("p99 of a chunk, each round: with {few} {alone:?}, with {many} {among:?}");
    pages(&daemon, many).await;
    reload(&daemon).await;
    revoke(&daemon, &mut kept, many).await;
    all_are_reset(&mut revoked).await;
    drop(revoked);
    end_all(&daemon, kept, many).await;
    echo.abort();

    assert!(each <= kib_each_max(), "{each} KiB for a tunnel");
    if in_full().is_some() {
        // The machine has just booted: something else runs in some rounds.
        let (alone, among) = (alone.iter().min(), among.iter().min());
        let (alone, among) = (*alone.unwrap(), *among.unwrap());
        assert!(among <= alone.mul_f64(1.2), "{among:?} and {alone:?}");
    }
}

fn config(upstream: &RawUpstream) -> Config {
    let many = in_full().unwrap_or(FEW);
    let limits = format!(
        "[limits]\ntunnels = {many}\ntunnels_per_user = {many}\ntunnels_per_client = 0\n\
         accept_rate = 0\nconnect_rate = 0\n[timeouts]\nrequest = \"5m\"\nconnect = \"2m\"\n\
         client_hello = \"5m\"\nserver_hello = \"5m\"\ndrain = \"1s\""
    );
    Config::to(upstream.addr())
        .egress(&EGRESS)
        .audit_file(AUDIT, "")
        .section(&limits)
}

/// The number that `tests/size/run` asks for.
fn in_full() -> Option<usize> {
    let number = std::env::var("SIZE_TUNNELS").ok()?;
    Some(number.parse().expect("SIZE_TUNNELS is a number"))
}

/// The number asked for, which the limits on open files must allow; without one, what a test may
/// take.
async fn number_of_tunnels(daemon: &Daemon) -> usize {
    let carried = daemon.metric("sealway_tunnels_max").await.unwrap() as usize;
    // This process holds both ends of each.
    let held = (getrlimit(Resource::RLIMIT_NOFILE).unwrap().0 as usize).saturating_sub(1_000) / 2;
    let allowed = carried.min(held);
    if let Some(number) = in_full() {
        assert!(
            number <= allowed,
            "the limit on open files allows {allowed}"
        );
        return number;
    }
    allowed.min(FEW)
}

/// Waits until this many tunnels are open.
async fn until_active(daemon: &Daemon, wanted: usize) {
    wait_within(LONG, ACTIVE, async || {
        daemon.metric(ACTIVE).await == Some(wanted as f64)
    })
    .await;
}

struct Clients {
    proxy: std::net::SocketAddr,
    authority: Arc<str>,
    gate: Arc<Semaphore>,
}

impl Clients {
    fn new(daemon: &Daemon, authority: &Arc<str>) -> Clients {
        Clients {
            proxy: daemon.proxy_addr(),
            authority: Arc::clone(authority),
            gate: Arc::new(Semaphore::new(64)),
        }
    }

    /// Opens tunnels from several addresses, a bounded number at a time.
    async fn open(&self, numbers: Range<usize>, name: &str, secret: &str) -> Vec<TcpStream> {
        let (mut started, first, last) = (Instant::now(), numbers.start, numbers.end);
        let credentials = basic(name, secret);
        let head = connect_head(&self.authority, &[("Proxy-Authorization", &credentials)]);
        let (head, proxy, mut opening) = (Arc::<str>::from(head), self.proxy, JoinSet::new());
        for number in numbers {
            let (head, gate) = (Arc::clone(&head), Arc::clone(&self.gate));
            opening.spawn(async move {
                let _turn = gate.acquire().await.unwrap();
                open_one(number, proxy, &head).await
            });
        }
        let mut opened = Vec::with_capacity(last - first);
        while let Some(tunnel) = within(LONG, "a tunnel", opening.join_next()).await {
            opened.push(tunnel.expect("a tunnel"));
            if opened.len() % 5_000 == 0 {
                let took = started.elapsed();
                println!("{} open, the last 5000 in {took:?}", first + opened.len());
                started = Instant::now();
            }
        }
        opened
    }
}

async fn open_one(number: usize, proxy: std::net::SocketAddr, head: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from: IpAddr = CLIENTS[number % CLIENTS.len()].parse().unwrap();
    // A port that bind(2) chooses is lost to every source of this machine.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).unwrap();
    socket.bind((from, 0).into()).unwrap();
    let connecting = within(LONG, "a connection", socket.connect(proxy));
    let mut stream = connecting.await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = [0; ESTABLISHED.len()];
    let read = within(LONG, "the 200", stream.read_exact(&mut reply));
    read.await.unwrap();
    assert_eq!(reply, *ESTABLISHED, "{}", String::from_utf8_lossy(&reply));
    within(LONG, "the ServerHello", RECORDED.greet(&mut stream)).await;
    stream
}

/// The time of a chunk there and back that 99 of a hundred keep, on a few tunnels far apart: each
/// round's.
async fn percentile_99(tunnels: &mut [TcpStream]) -> Vec<Duration> {
    let apart = tunnels.len() / BUSY;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut times = Vec::new();
        for chunk in 0..CHUNKS {
            times.push(round_trip(&mut tunnels[chunk % BUSY * apart]).await);
        }
        times.sort_unstable();
        rounds.push(times[CHUNKS * 99 / 100]);
    }
    rounds
}

fn median(mut rounds: Vec<Duration>) -> Duration {
    rounds.sort_unstable();
    rounds[rounds.len() / 2]
}

async fn round_trip(client: &mut TcpStream) -> Duration {
    let (sent, mut echoed) = ([9; CHUNK], [0; CHUNK]);
    let started = Instant::now();
    client.write_all(&sent).await.unwrap();
    let echo = within(LONG, "the echo", client.read_exact(&mut echoed));
    echo.await.unwrap();
    started.elapsed()
}

async fn pages(daemon: &Daemon, many: usize) {
    for path in ["/metrics", "/status", "/tunnels"] {
        let mut times = Vec::new();
        let mut kib = 0;
        for _ in 0..3 {
            let started = Instant::now();
            let (status, page) = within(LONG, path, http_get(daemon.admin_addr(), path)).await;
            times.push(started.elapsed());
            kib = page.len() / 1_024;
            assert_eq!(status, 200, "{path}");
            if path == "/tunnels" {
                assert_eq!(page.matches("\"relaying\"").count(), many);
            } else {
                assert!(page.contains(&many.to_string()), "{path}");
            }
        }
        println!("{path}: {times:?}, {kib} KiB");
        if path == "/metrics" && in_full().is_some() {
            assert!(median(times) <= ANSWER_MAX, "{path}");
        }
    }
}

/// From the signal to the log line.
async fn reload(daemon: &Daemon) {
    let mut times = Vec::new();
    for nth in 1..=3 {
        times.push(reload_once(daemon, nth).await);
    }
    println!("reload: {times:?}");
    if in_full().is_some() {
        assert!(median(times) <= ANSWER_MAX);
    }
}

async fn reload_once(daemon: &Daemon, nth: usize) -> Duration {
    let started = Instant::now();
    daemon.signal("HUP");
    let reloads = || daemon.log_text().matches("configuration reloaded").count();
    wait_within(LONG, "the reload", async || reloads() == nth).await;
    started.elapsed()
}

/// Removes the user who has half of the tunnels. Meanwhile the others move bytes.
async fn revoke(daemon: &Daemon, others: &mut [TcpStream], many: usize) {
    write(&daemon.path("users.toml"), &user("few", "one", ""));
    let took = reload_once(daemon, 4).await;
    let (started, ended) = (Instant::now(), AtomicBool::new(false));
    let moving = async {
        let mut times = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            times.push(round_trip(&mut others[times.len() % BUSY]).await);
        }
        times.sort_unstable();
        times
    };
    let ending = async {
        until_active(daemon, many - many / 2).await;
        ended.store(true, Ordering::Relaxed);
        started.elapsed()
    };
    let (times, all) = tokio::join!(moving, ending);
    let (p99, worst) = (times[times.len() * 99 / 100], times[times.len() - 1]);
    println!(
        "a user with {} tunnels is removed: reload {took:?}, all ended {all:?} after it; meanwhile \
         {} chunks of others, p99 {p99:?}, worst {worst:?}",
        many / 2,
        times.len()
    );
    if in_full().is_some() {
        assert!(worst <= ANSWER_MAX, "{worst:?}");
    }
}

async fn all_are_reset(tunnels: &mut [TcpStream]) {
    for tunnel in tunnels {
        let end = within(LONG, "a reset", tunnel.read(&mut [0; 1])).await;
        assert!(end.is_err(), "{end:?}");
    }
}

/// Ends the rest; then each tunnel has one record, and the file proves to be whole.
async fn end_all(daemon: &Daemon, rest: Vec<TcpStream>, many: usize) {
    let (audit, started) = (daemon.path(AUDIT), Instant::now());
    let number = rest.len();
    drop(rest);
    until_active(daemon, 0).await;
    wait_within(LONG, "all records", async || ends_in(&audit).0 >= many).await;
    println!("{number} ends recorded in {:?}", started.elapsed());
    let (records, identifiers) = ends_in(&audit);
    assert_eq!((records, identifiers), (many, many), "one record each");
    let started = Instant::now();
    let mut verify = std::process::Command::new(sealway());
    let verified = verify.args(["audit", "verify"]).arg(&audit).output();
    let verified = verified.unwrap();
    assert!(verified.status.success(), "{verified:?}");
    println!("verified in {:?}", started.elapsed());
    let refused = daemon.metric("sealway_audit_failures_total").await;
    assert_eq!(refused, Some(0.0));
}

/// Records of ended tunnels in the file, and how many identifiers they have.
fn ends_in(audit: &Path) -> (usize, usize) {
    let text = std::fs::read_to_string(audit).unwrap_or_default();
    let mut identifiers = HashSet::new();
    let mut records = 0;
    for line in text
        .lines()
        .filter(|line| line.contains("\"event\":\"tunnel\""))
    {
        records += 1;
        let identifier = line.split_once("\"id\":\"").map(|(_, rest)| rest);
        identifiers.insert(identifier.and_then(|rest| rest.split('"').next()));
    }
    (records, identifiers.len())
}

/// All memory of the kernel's objects; most of what a socket takes.
fn kernel_slab_kib() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    let value = line.unwrap().trim().trim_end_matches(" kB");
    value.parse().unwrap()
}

/// A release build takes less than 1; a debug build adds a tenth.
fn kib_each_max() -> f64 {
    if in_full().is_some() { 1.0 } else { 1.25 }
}

/// Answers each hello and then echoes.
async fn serve_echo(upstream: RawUpstream) {
    loop {
        let mut stream = upstream.accept_whenever().await;
        tokio::spawn(async move {
            let mut hello = vec![0; RECORDED.bytes.len()];
            stream.read_exact(&mut hello).await.unwrap();
            drop(hello);
            stream.write_all(&RECORDED.server_hello()).await.unwrap();
            let mut chunk = [0; CHUNK];
            // A client that is gone has reset its tunnel.
            while stream.read_exact(&mut chunk).await.is_ok() {
                if stream.write_all(&chunk).await.is_err() {
                    break;
                }
            }
        });
    }
}

static RECORDED: LazyLock<Recorded> = LazyLock::new(|| Recorded::named("curl-openssl"));
/// What `cargo test` opens.
const FEW: usize = 4_000;
/// Each has 28,232 ports towards the upstream, and uses more than half of them.
const EGRESS: [&str; 5] = [
    "127.0.1.1",
    "127.0.1.2",
    "127.0.1.3",
    "127.0.1.4",
    "127.0.1.5",
];
/// Each uses less than half of its ports towards the listener, because the kernel searches long for
/// one of the others.
const CLIENTS: [&str; 8] = [
    "127.0.2.1",
    "127.0.2.2",
    "127.0.2.3",
    "127.0.2.4",
    "127.0.2.5",
    "127.0.2.6",
    "127.0.2.7",
    "127.0.2.8",
];
/// Tunnels that move bytes among the silent ones.
const BUSY: usize = 50;
const CHUNK: usize = 1_024;
const CHUNKS: usize = 1_000;
const ROUNDS: usize = 5;
const ANSWER_MAX: Duration = Duration::from_millis(100);
const AUDIT: &str = "audit.jsonl";
const ACTIVE: &str = "sealway_tunnels_active";
const ESTABLISHED: &[u8; 39] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// The host may give the virtual machine little time, and 100,000 tunnels end in a minute of it.
const LONG: Duration = Duration::from_secs(600);
