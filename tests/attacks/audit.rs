//! Attacks on the evidence: strangers must not fill the audit queue, and removed records must be
//! noticed.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
mod site;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use support::client::{connect, connect_head, http_get};
use support::command::sealway;
use support::config::Config;
use support::daemon::Daemon;
use support::made_hello::MadeHello;
use support::namespace::{in_own_network, run};
use support::raw::RawUpstream;
use support::records::{count_of, record, records};
use support::users::{user, with_users, write as write_users};
use support::{DEADLINE, within};

/// Strangers from a thousand addresses, each with the longest possible host; then `kill -9`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refusals_denies_nobody_else_and_kill_loses_a_second() {
    let directory = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let file = directory.path().join("audit.jsonl");
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).audit_file("audit.jsonl", "");
    let mut daemon = Daemon::start_in(directory, &config).await;
    // The other end of the stream needs a reader.
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
    while started.elapsed() < Duration::from_secs(3)
        || denied.last().is_none_or(|&(_, count)| count < 2_000)
    {
        assert!(started.elapsed() < DEADLINE, "{denied:?} is no flood");
        let status = connect(daemon.proxy_addr(), &port, &[]).await.status();
        assert_eq!(
            status,
            200,
            "a good client in the flood, after {:?}",
            started.elapsed()
        );
        let count = daemon
            .metric("sealway_tunnels_denied_total{code=\"sni_mismatch\"}")
            .await
            .unwrap_or(0.0);
        denied.push((Instant::now(), count as u64));
        if denied.len() % 5 == 0 {
            a_kill_would_lose_little(&file, &denied);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.signal("KILL");
    let killed = Instant::now();
    flood.stop().await;
    served.abort();
    assert!(!daemon.exit_status().await.success());
    // A second, and the duration of the scrape itself.
    let before =
        |&&(at, _): &&(Instant, u64)| killed.duration_since(at) > Duration::from_millis(1_200);
    let (at, known) = *denied.iter().rev().find(before).unwrap();
    let (last, recorded) = (denied.last().unwrap().1, counted(&file, "sni_mismatch"));
    println!(
        "{last} refused, {recorded} recorded, {known} were refused {:?} before the end",
        killed - at
    );
    assert!(
        recorded >= known,
        "{recorded} recorded, {known} refused {:?} before the end",
        killed - at
    );
    proves(&file).await;
}

/// The contents of the file now are those that a kill would leave. The test checks repeatedly,
/// because the sums are written at an even pace and a single kill could follow right after one.
fn a_kill_would_lose_little(file: &Path, denied: &[(Instant, u64)]) {
    let old = |&&(at, _): &&(Instant, u64)| at.elapsed() > Duration::from_millis(1_500);
    if let Some(&(at, known)) = denied.iter().rev().find(old) {
        let recorded = counted(file, "sni_mismatch");
        let before = at.elapsed();
        assert!(
            recorded >= known,
            "{recorded} recorded, {known} refused {before:?} before"
        );
    }
}

/// Four clients without credentials, refused for two reasons. Every attempt is in a count, and the
/// file grows within the bound of the reference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn the_audit_file_has_a_bound_in_a_flood_and_counts_add_up() {
    let config = with_users(Config::closed().audit_file("audit.jsonl", ""), "");
    let directory = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    write_users(
        &directory.path().join("users.toml"),
        &[user("ann", "1", "")].concat(),
    );
    let mut daemon = Daemon::start_in(directory, &config).await;
    let file = daemon.path("audit.jsonl");
    let head = |host: &str| connect_head(&format!("{host}:443"), &[]).into_bytes();
    let long = format!("{0}.{0}.{0}.evil", "x".repeat(62));
    let floods = [head(&long), b"GET / HTTP/1.1\r\n\r\n".to_vec()]
        .map(|words| Flood::start(daemon.proxy_addr(), 4, &words));
    let started = Instant::now();
    while counted(&file, "auth_required").min(counted(&file, "method_not_allowed")) < 500 {
        assert!(
            started.elapsed() < DEADLINE,
            "{} refusals recorded",
            counted(&file, "auth_required")
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for flood in floods {
        flood.stop().await;
    }
    let seconds = started.elapsed().as_secs() + 1;
    let denied = async |code: &str| {
        daemon
            .metric(&format!("sealway_tunnels_denied_total{{code=\"{code}\"}}"))
            .await
            .unwrap()
    };
    let refused = [
        denied("auth_required").await as u64,
        denied("method_not_allowed").await as u64,
    ];
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    assert_eq!(
        [
            counted(&file, "auth_required"),
            counted(&file, "method_not_allowed")
        ],
        refused,
        "each is counted once"
    );
    let all = records(&file);
    let sums_and_others = all
        .iter()
        .filter(|record| record["event"] == "tunnel")
        .count() as u64;
    // Two sums and one record a second for each of four clients, after the first sixty.
    let most = 4 * (60 + 5 * seconds) + 2 * 2 * seconds;
    assert!(
        sums_and_others <= most,
        "{sums_and_others} records in {seconds} s, {most} at most"
    );
    let bytes = std::fs::metadata(&file).unwrap().len();
    assert!(bytes <= (most + 10) * 2_304, "{bytes} bytes");
    assert_eq!(all.last().unwrap()["event"], "stop", "sums come before it");
    proves(&file).await;
}

/// Nobody reads the log stream, so nothing can be written and nothing fails: strangers take no
/// tunnel's room in the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_while_the_log_stream_is_blocked_denies_nobody() {
    let upstream = RawUpstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let (config, fifo) = (
        directory.path().join("sealway.toml"),
        directory.path().join("log"),
    );
    std::fs::write(&config, Config::to(upstream.addr()).to_toml()).unwrap();
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Open at both ends: it never fails, and it is full after 64 KiB.
    let both = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&fifo)
        .unwrap();
    let mut log = BufReader::new(both.try_clone().unwrap());
    let mut command = tokio::process::Command::new(support::sealway());
    command
        .arg("run")
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stderr(both)
        .kill_on_drop(true);
    let mut daemon = command.spawn().unwrap();
    let start = tokio::task::spawn_blocking(move || start_record(&mut log))
        .await
        .unwrap();
    let [proxy, admin] =
        [&start["listeners"][0], &start["admin"]].map(|at| at.as_str().unwrap().parse().unwrap());
    let flood = Flood::start(
        proxy,
        1_000,
        connect_head(&format!("{}.evil:443", "x".repeat(60)), &[]).as_bytes(),
    );
    // More than fit into the queue and the stream.
    let metric = "sealway_tunnels_denied_total{code=\"host_denied\"} ";
    let refused = async {
        loop {
            let (_, page) = http_get(admin, "/metrics").await;
            let value = page
                .lines()
                .find_map(|line| line.strip_prefix(metric))
                .map_or(0.0, |it| it.parse().unwrap());
            assert_eq!(
                connect(proxy, &upstream.authority(), &[]).await.status(),
                200,
                "after {value} refusals"
            );
            if value >= 6_000.0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(DEADLINE, "6,000 refusals", refused).await;
    assert_eq!(
        http_get(admin, "/readyz").await,
        (200, "ready\n".to_owned())
    );
    flood.stop().await;
    daemon.start_kill().unwrap();
}

/// The disk is full during a flood and has room again: every refusal is in a count, whichever
/// writes failed.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_flood_on_a_full_disk_is_counted_once_there_is_room() {
    in_own_network(
        "a_flood_on_a_full_disk_is_counted_once_there_is_room",
        async {
            let disk = tempfile::tempdir().unwrap();
            run(&format!(
                "mount -t tmpfs -o size=128k tmpfs {}",
                disk.path().display()
            ));
            let (other, file) = (disk.path().join("other"), disk.path().join("audit.jsonl"));
            std::fs::write(&other, vec![0; 112 * 1024]).unwrap();
            let mut daemon =
                Daemon::start(&Config::closed().audit_file(file.to_str().unwrap(), "")).await;
            let flood = Flood::start(
                daemon.proxy_addr(),
                40,
                connect_head("evil.example:443", &[]).as_bytes(),
            );
            daemon
                .metric_until("sealway_audit_failures_total", |failures| failures >= 1.0)
                .await;
            assert_eq!(
                daemon.admin_get("/readyz").await,
                (503, "audit unavailable\n".to_owned())
            );
            daemon
                .metric_until(
                    "sealway_tunnels_denied_total{code=\"audit_unavailable\"}",
                    |denied| denied >= 500.0,
                )
                .await;
            flood.stop().await;
            std::fs::remove_file(&other).unwrap();
            let ready = async {
                while daemon.admin_get("/readyz").await.0 != 200 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            within(DEADLINE, "/readyz", ready).await;
            let denied = async |code: &str| {
                daemon
                    .metric(&format!("sealway_tunnels_denied_total{{code=\"{code}\"}}"))
                    .await
            };
            let refused = [
                denied("host_denied").await,
                denied("audit_unavailable").await,
            ];
            daemon.signal("TERM");
            assert!(daemon.exit_status().await.success());
            let found =
                ["host_denied", "audit_unavailable"].map(|code| Some(counted(&file, code) as f64));
            assert_eq!(found, refused);
            proves(&file).await;
            run(&format!("umount -l {}", disk.path().display()));
        },
    );
}

/// The file is rotated again and again during a flood: each sum is in one of the files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_while_the_file_is_rotated_is_counted() {
    let mut daemon = Daemon::start(&Config::closed().audit_file("audit.jsonl", "")).await;
    let file = daemon.path("audit.jsonl");
    let flood = Flood::start(
        daemon.proxy_addr(),
        300,
        connect_head("evil.example:443", &[]).as_bytes(),
    );
    let mut files = vec![];
    for number in 1..=3 {
        files.push(daemon.path(&format!("audit.jsonl-{number}")));
        std::fs::rename(&file, files.last().unwrap()).unwrap();
        daemon.signal("HUP");
        record(&file, "audit_file").await;
    }
    flood.stop().await;
    let refused = daemon
        .metric("sealway_tunnels_denied_total{code=\"host_denied\"}")
        .await
        .unwrap();
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    files.push(file);
    let found: u64 = files.iter().map(|file| counted(file, "host_denied")).sum();
    assert_eq!(found, refused as u64);
    let names = files.iter().map(|file| file.to_str().unwrap());
    let ended = sealway(
        &["audit", "verify"]
            .into_iter()
            .chain(names)
            .collect::<Vec<_>>(),
    )
    .await;
    assert_eq!(ended.status, 0, "{ended:?}");
}

/// The record of the start, which follows some lines of the log.
fn start_record(log: &mut BufReader<std::fs::File>) -> Value {
    loop {
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        match serde_json::from_str::<Value>(&line) {
            Ok(found) if found["event"] == "start" => return found,
            _ => {}
        }
    }
}

/// The number of attempts with this code in the records of a file.
fn counted(file: &Path, code: &str) -> u64 {
    let found = records(file);
    let with_code = found.iter().filter(|record| record["code"] == code);
    with_code.map(|record| count_of(record) as u64).sum()
}

/// A refused attempt with the longest record: the SNI differs from the host, and every protocol has
/// to be escaped.
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

/// Refused attempts from many addresses of 127.0.0.0/8, as fast as this machine can.
struct Flood {
    clients: JoinSet<()>,
    stopped: Arc<AtomicBool>,
}

impl Flood {
    fn start(proxy: SocketAddr, addresses: usize, words: &[u8]) -> Flood {
        let (mut clients, stopped) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        let (next, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::<[u8]>::from(words));
        for _ in 0..64 {
            let (next, stopped, bytes) =
                (Arc::clone(&next), Arc::clone(&stopped), Arc::clone(&bytes));
            clients.spawn(async move {
                while !stopped.load(Ordering::SeqCst) {
                    let number = next.fetch_add(1, Ordering::SeqCst) % addresses;
                    let from =
                        Ipv4Addr::new(127, 1, (number / 250) as u8, (number % 250) as u8 + 1);
                    attempt(proxy, from, &bytes).await;
                }
            });
        }
        Flood { clients, stopped }
    }

    async fn stop(self) {
        self.stopped.store(true, Ordering::SeqCst);
        within(
            Duration::from_secs(30),
            "the end of the flood",
            self.clients.join_all(),
        )
        .await;
    }
}

/// A killed daemon may answer with anything; the flood ignores it.
async fn attempt(proxy: SocketAddr, from: Ipv4Addr, bytes: &[u8]) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let Ok(mut stream) = socket.connect(proxy).await else {
        return;
    };
    let mut answer = Vec::new();
    if stream.write_all(bytes).await.is_ok() {
        let _gone = stream.read_to_end(&mut answer).await;
    }
}
