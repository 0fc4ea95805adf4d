//! The audit file under load when things fail: the daemon is killed, the file is rotated, the disk
//! is full in both modes. Answered attempts are recorded, and the chain holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::version::TLS13;
use support::client::connect;
use support::command::sealway;
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, run};
use support::raw::{RawUpstream, Tunnel};
use support::records::{attempts, count_of, record, records, refused};
use support::refusal::Refusal;
use support::tls::TlsUpstream;
use support::wait_until;
use support::wait_within;
use support::{soon, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// Kills the daemon three times during its work and starts it again on the remaining file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_under_load_keeps_the_records_older_than_a_second() {
    // In memory if possible: while a slow disk syncs, no record is written.
    let mut directory = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let file = directory.path().join("audit.jsonl");
    for killed in 1..=3 {
        let daemon = Arc::new(
            Daemon::start_in(directory, &Config::closed().audit_file("audit.jsonl", "")).await,
        );
        let before = refused(&[&file]);
        let (load, answered) = load(&daemon);
        answered_at_least(&answered, 300).await;
        let second_ago = answered.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        daemon.signal("KILL");
        stop(load).await;
        let mut daemon = Arc::into_inner(daemon).unwrap();
        assert!(!daemon.exit_status().await.success());
        let recorded = refused(&[&file]) - before;
        assert!(
            recorded >= second_ago,
            "{recorded} records of {second_ago} answers, kill {killed}"
        );
        directory = daemon.into_directory();
        proves(&[&file]).await;
    }
    let mut daemon =
        Daemon::start_in(directory, &Config::closed().audit_file("audit.jsonl", "")).await;
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    proves(&[&file]).await;
    assert_eq!(
        records(&file)
            .iter()
            .filter(|record| record["event"] == "start")
            .count(),
        4
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_load_loses_nothing() {
    let daemon = Arc::new(Daemon::start(&Config::closed().audit_file("audit.jsonl", "")).await);
    let file = daemon.path("audit.jsonl");
    let (load, answered) = load(&daemon);
    let mut files: Vec<PathBuf> = Vec::new();
    for rotation in 1..=5 {
        answered_at_least(&answered, rotation * 300).await;
        files.push(daemon.path(&format!("audit.jsonl-{rotation}")));
        fs::rename(&file, files.last().unwrap()).unwrap();
        if rotation % 2 == 0 {
            daemon.signal("HUP");
        }
        wait_until("the new file", async || file.exists()).await;
    }
    answered_at_least(&answered, 1_800).await;
    stop(load).await;
    let mut daemon = Arc::into_inner(daemon).unwrap();
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    files.push(file);
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    assert_eq!(refused(&files), answered.load(Ordering::SeqCst));
    proves(&files).await;
}

/// A power cut loses at most the records of one second.
#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn records_are_synced_once_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let config = Config::closed().audit_file("audit.jsonl", "");
    let mut daemon = Daemon::start_tracing(&config, "trace=fdatasync", &trace).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2_300) {
        attempts(&daemon, 1).await;
    }
    let unix_now = || {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64()
    };
    let calls = || -> Vec<String> {
        let text = fs::read_to_string(&trace).unwrap();
        let calls = text.lines().filter(|line| line.contains("fdatasync("));
        calls.map(str::to_owned).collect()
    };
    let synced = || -> Vec<f64> {
        // The audit file and FILE.chain are synced in turn.
        calls()
            .iter()
            .step_by(2)
            .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
            .collect()
    };
    let last = unix_now();
    attempts(&daemon, 1).await;
    wait_until("the last record on the disk", async || {
        synced().last().is_some_and(|time| *time >= last)
    })
    .await;
    let times = synced();
    assert!(times.len() >= 2, "{times:?} in {:?}", started.elapsed());
    // One of them may be noticed late.
    assert!(
        times.windows(2).all(|pair| pair[1] - pair[0] > 0.5),
        "{times:?}"
    );
    assert!(
        (times[times.len() - 1] - times[0]) / (times.len() - 1) as f64 > 0.9,
        "{times:?}"
    );
    assert!(
        times.windows(2).all(|pair| pair[1] - pair[0] < 5.0),
        "{times:?}"
    );
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    let file = |call: &str| call.split("fdatasync(").nth(1).unwrap()[..2].to_owned();
    let files: Vec<String> = calls().iter().map(|call| file(call)).collect();
    assert!(
        files.len().is_multiple_of(2) && files.chunks(2).all(|pair| pair[0] != pair[1]),
        "two files in turn: {files:?}"
    );
}

/// A power cut between the two must not lose the bytes.
#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn a_torn_line_is_on_the_disk_beside_before_it_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, file) = (
        folder.path().join("trace"),
        folder.path().join("audit.jsonl"),
    );
    fs::write(&file, "{\"seq\":1,\"prev\":\"00").unwrap();
    let config = Config::closed().audit_file(file.to_str().unwrap(), "");
    let traced = "trace=openat,fsync,ftruncate";
    let mut daemon = Daemon::start_tracing(&config, traced, &trace).await;
    record(&file, "audit_torn").await;
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    let text = fs::read_to_string(&trace).unwrap();
    let copied = text.lines().find(|line| line.contains(".torn-")).unwrap();
    let thread = copied.split_whitespace().next().unwrap();
    let of_thread = text.lines().filter(|line| line.starts_with(thread));
    let calls: Vec<_> = of_thread.skip_while(|line| *line != copied).collect();
    let first = |call: &str| calls.iter().position(|line| line.contains(call)).unwrap();
    assert!(first("fsync(") < first("ftruncate("), "{calls:#?}");
}

/// write(2) succeeds and fdatasync(2) does not: what is written may be gone after a power cut.
#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn a_disk_that_takes_records_and_keeps_none_denies_tunnels_all_the_time() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).audit_file("audit.jsonl", "");
    let daemon = Daemon::start_with_failing(&config, "fdatasync:error=EIO").await;
    soon("the first failure", async {
        while daemon.admin_get("/readyz").await.0 == 200 {
            support::tick().await;
        }
    })
    .await;
    // Its refusals are written twice a second, and fdatasync(2) is called once a second.
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2_500) {
        let mut reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
        Refusal::of("audit_unavailable")
            .is_told_by(&mut reply)
            .await;
        support::tick().await;
    }
    assert!(daemon.injected() > 1);
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_full_disk_denies_tunnels_until_there_is_room_again() {
    in_own_network(
        "a_full_disk_denies_tunnels_until_there_is_room_again",
        async {
            let upstream = RawUpstream::start().await;
            let disk = Disk::new();
            let mut daemon =
                Daemon::start(&Config::to(upstream.addr()).audit_file(&disk.file(), "")).await;
            let mut live = Tunnel::open(&daemon, &upstream).await;
            disk.fill(&daemon).await;
            let reason = daemon
                .line("the cause", |line| {
                    line["message"].as_str().is_some_and(|m| m.contains(CANNOT))
                })
                .await;
            assert!(
                reason["reason"]
                    .as_str()
                    .unwrap()
                    .contains("No space left on device"),
                "{reason}"
            );
            assert_eq!(
                daemon.admin_get("/readyz").await,
                (503, "audit unavailable\n".into())
            );
            let mut reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
            Refusal::of("audit_unavailable")
                .is_told_by(&mut reply)
                .await;
            // Each retry writes part of a line for a moment.
            wait_until("whole lines only", async || {
                fs::read(disk.path()).unwrap().ends_with(b"\n")
            })
            .await;
            live.exchange(1).await;

            disk.make_room();
            soon("/readyz", async {
                while daemon.admin_get("/readyz").await.0 != 200 {}
            })
            .await;
            daemon
                .line("recovery", |line| {
                    line["message"] == "audit records can be written again"
                })
                .await;
            Tunnel::open(&daemon, &upstream).await.close().await;
            live.close().await;
            daemon.signal("TERM");
            assert!(daemon.exit_status().await.success());
            let found = records(&disk.path());
            let with = |code: &str| found.iter().filter(|record| record["code"] == code).count();
            assert_eq!(
                (with("audit_unavailable") > 0, with("closed_by_client")),
                (true, 2)
            );
            let refusals = daemon_refusals(&found);
            assert_eq!(
                refusals,
                disk.answered.load(Ordering::SeqCst) + 1,
                "each answer has its record"
            );
            proves(&[&disk.path()]).await;
        },
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn on_failure_allow_only_counts_a_full_disk() {
    in_own_network("on_failure_allow_only_counts_a_full_disk", async {
        let upstream = RawUpstream::start().await;
        let disk = Disk::new();
        let config = Config::to(upstream.addr()).audit_file(&disk.file(), "on_failure = \"allow\"");
        let mut daemon = Daemon::start(&config).await;
        disk.fill(&daemon).await;
        for _ in 0..20 {
            Tunnel::open(&daemon, &upstream).await.close().await;
        }
        assert_eq!(daemon.admin_get("/readyz").await.0, 200);
        daemon
            .metric_until("sealway_audit_failures_total", |failures| failures >= 2.0)
            .await;
        let tunnels = |found: Vec<serde_json::Value>| {
            found
                .iter()
                .filter(|r| r["code"] == "closed_by_client")
                .count()
        };
        assert!(tunnels(records(&disk.path())) < 20);
        disk.make_room();
        wait_until("the records that waited", async || {
            tunnels(records(&disk.path())) >= 20
        })
        .await;
        daemon.signal("TERM");
        assert!(daemon.exit_status().await.success());
        proves(&[&disk.path()]).await;
    });
}

/// An operator moves the log away to free space; space does not return by itself.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_daemon_recovers_when_the_file_that_fills_the_disk_is_removed() {
    in_own_network(
        "a_daemon_recovers_when_the_file_that_fills_the_disk_is_removed",
        async {
            let disk = Disk::new();
            let mut daemon = Daemon::start(&Config::closed().audit_file(&disk.file(), "")).await;
            disk.fill(&daemon).await;
            fs::remove_file(disk.path()).unwrap();
            assert_eq!(record(&disk.path(), "audit_file").await["cause"], "removed");
            soon("/readyz", async {
                while daemon.admin_get("/readyz").await.0 != 200 {}
            })
            .await;
            attempts(&daemon, 1).await;
            daemon.signal("TERM");
            assert!(daemon.exit_status().await.success());
            let (file, allow) = (disk.file(), "--allow-removed");
            let refuted = sealway(&["audit", "verify", &file]).await;
            assert!(
                refuted.status == 1 && refuted.stderr.contains("was removed"),
                "{refuted:?}"
            );
            assert_eq!(sealway(&["audit", "verify", allow, &file]).await.status, 0);
        },
    );
}

/// With real TLS on both sides, so that the report has versions and groups to show.
#[tokio::test]
async fn tunnels_of_real_tls_are_proved_and_reported() {
    let upstream = TlsUpstream::start(&TLS13, &["h2"]).await;
    let mut daemon =
        Daemon::start(&Config::to(upstream.addr()).audit_file("audit.jsonl", "")).await;
    let (mut client, mut server) = upstream.tunnel(daemon.proxy_addr()).await;
    client.write_all(b"ping").await.unwrap();
    server.read_exact(&mut [0; 4]).await.unwrap();
    drop((client, server));
    attempts(&daemon, 2).await;
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    let file = daemon.path("audit.jsonl");
    proves(&[&file]).await;
    let report = sealway(&[
        "audit",
        "report",
        "--format",
        "json",
        file.to_str().unwrap(),
    ])
    .await;
    let rows: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    let row = &rows[0];
    assert_eq!(
        (&row["user"], &row["tunnels"]),
        (&"-".into(), &1.into()),
        "{rows}"
    );
    assert_eq!(row["tls_versions"], serde_json::json!({"1.3": 1}), "{rows}");
    assert_eq!(
        row["denied"],
        serde_json::json!({"host_denied": 2}),
        "{rows}"
    );
    assert_eq!(row["groups"].as_object().unwrap().len(), 1, "{rows}");
}

/// A file system of 64 KiB; half of it is in use.
struct Disk {
    folder: tempfile::TempDir,
    answered: AtomicUsize,
}

impl Disk {
    fn new() -> Disk {
        let folder = tempfile::tempdir().unwrap();
        run(&format!(
            "mount -t tmpfs -o size=64k tmpfs {}",
            folder.path().display()
        ));
        fs::write(folder.path().join("other"), vec![0; 32 * 1024]).unwrap();
        Disk {
            folder,
            answered: AtomicUsize::new(0),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    fn file(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }

    /// Fills the disk until a record cannot be written.
    async fn fill(&self, daemon: &Daemon) {
        let full = async {
            while daemon.metric("sealway_audit_failures_total").await == Some(0.0) {
                let refused = connect(daemon.proxy_addr(), "evil.example:443", &[])
                    .await
                    .status();
                assert!([403, 503].contains(&refused), "{refused}");
                self.answered.fetch_add(1, Ordering::SeqCst);
            }
        };
        within(Duration::from_secs(60), "a full disk", full).await;
    }

    fn make_room(&self) {
        fs::remove_file(self.folder.path().join("other")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At the latest it disappears with the namespace.
        let _unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.folder.path())
            .status();
    }
}

fn daemon_refusals(found: &[serde_json::Value]) -> usize {
    let denied = found
        .iter()
        .filter(|record| record["event"] == "tunnel" && record["outcome"] == "denied");
    denied.map(count_of).sum()
}

/// Working clients.
struct Load {
    clients: JoinSet<()>,
    stopped: Arc<AtomicBool>,
}

/// Refused clients, until they are stopped; counts those that received their reply.
fn load(daemon: &Arc<Daemon>) -> (Load, Arc<AtomicUsize>) {
    let (mut clients, answered) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    let stopped = Arc::new(AtomicBool::new(false));
    for _ in 0..4 {
        let (proxy, answered, stopped) = (
            daemon.proxy_addr(),
            Arc::clone(&answered),
            Arc::clone(&stopped),
        );
        clients.spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                let Ok(mut stream) = tokio::net::TcpStream::connect(proxy).await else {
                    return;
                };
                let head = support::client::connect_head("evil.example:443", &[]);
                let mut answer = Vec::new();
                let asked = stream.write_all(head.as_bytes()).await.is_ok();
                if asked
                    && stream.read_to_end(&mut answer).await.is_ok()
                    && answer.starts_with(b"HTTP/1.1 403")
                {
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
    }
    (Load { clients, stopped }, answered)
}

async fn stop(load: Load) {
    load.stopped.store(true, Ordering::SeqCst);
    within(
        Duration::from_secs(60),
        "the end of the load",
        load.clients.join_all(),
    )
    .await;
}

async fn answered_at_least(answered: &AtomicUsize, count: usize) {
    wait_within(Duration::from_secs(60), "answers", async || {
        answered.load(Ordering::SeqCst) >= count
    })
    .await;
}

async fn proves(files: &[&Path]) {
    let names = files.iter().map(|file| file.to_str().unwrap());
    let arguments: Vec<&str> = ["audit", "verify"].into_iter().chain(names).collect();
    let ended = sealway(&arguments).await;
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{ended:?}");
}

const CANNOT: &str = "audit records cannot be written";
