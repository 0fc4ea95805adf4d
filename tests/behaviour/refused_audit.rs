//! Without an audit record there is no tunnel: while the log stream cannot be written, attempts are
//! refused, live tunnels continue, and the daemon neither dies nor loses its ability to stop.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::Value;
use support::client::{connect, http_get};
use support::config::Config;
use support::hello::Recorded;
use support::raw::{RawUpstream, pass};
use support::refusal::Refusal;
use support::soon;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

#[tokio::test]
async fn no_tunnel_opens_without_a_record() {
    let upstream = RawUpstream::start().await;
    let (mut daemon, reader) = Daemon::start(&Config::to(upstream.addr())).await;
    let recorded = Recorded::named("curl-openssl");
    let mut live = connect(daemon.proxy, &upstream.authority(), &[])
        .await
        .established();
    let mut served = upstream.accept().await;
    pass(&mut live, &mut served, &recorded.bytes).await;
    pass(&mut served, &mut live, &recorded.server_hello()).await;

    drop(reader);
    daemon.loses_a_record().await;
    assert_eq!(
        http_get(daemon.admin, "/readyz").await,
        (503, "audit unavailable\n".to_string())
    );
    let (denied, lost) = (daemon.denied().await, daemon.failures(|_| true).await);
    for _ in 0..3 {
        let mut reply = connect(daemon.proxy, &upstream.authority(), &[]).await;
        Refusal::of("audit_unavailable")
            .is_told_by(&mut reply)
            .await;
    }
    assert!(upstream.is_untouched().await);
    assert_eq!(daemon.denied().await, denied + 3.0);
    daemon.failures(|failures| failures >= lost + 3.0).await;
    pass(&mut live, &mut served, b"a live tunnel goes on").await;

    let mut reader = daemon.read_again();
    let recovered = async {
        loop {
            let mut reply = connect(daemon.proxy, &upstream.authority(), &[]).await;
            match reply.status() {
                200 => return reply.established(),
                _ => {
                    Refusal::of("audit_unavailable")
                        .is_told_by(&mut reply)
                        .await
                }
            }
        }
    };
    let _tunnel = soon("tunnels again", recovered).await;
    let _dialled = upstream.accept().await;
    assert_eq!(
        http_get(daemon.admin, "/readyz").await,
        (200, "ready\n".to_string())
    );
    let mut record = next(&mut reader, "tunnel").await;
    while record["code"] != "audit_unavailable" {
        record = next(&mut reader, "tunnel").await;
    }
    assert_eq!(record["outcome"], "denied", "{record}");
    pass(&mut served, &mut live, b"it still does").await;
    daemon.child.start_kill().unwrap();
}

#[tokio::test]
async fn on_failure_allow_counts_lost_records_and_continues() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).section("[audit]\non_failure = \"allow\"");
    let (daemon, reader) = Daemon::start(&config).await;
    drop(reader);
    daemon.loses_a_record().await;
    connect(daemon.proxy, &upstream.authority(), &[])
        .await
        .established();
    assert_eq!(http_get(daemon.admin, "/readyz").await.0, 200);
    let lost = daemon.failures(|_| true).await;
    connect(daemon.proxy, "evil.example:443", &[]).await;
    daemon.failures(|failures| failures > lost).await;
}

#[tokio::test]
async fn a_daemon_whose_log_is_lost_reloads_and_stops() {
    let upstream = RawUpstream::start().await;
    let (mut daemon, reader) = Daemon::start(&Config::to(upstream.addr())).await;
    drop(reader);
    daemon.signal("HUP");
    daemon
        .metric_until("sealway_config_reloads_total{result=\"ok\"}", |reloads| {
            reloads == 1.0
        })
        .await;
    daemon.signal("TERM");
    let status = soon("the daemon's exit", daemon.child.wait())
        .await
        .unwrap();
    assert!(status.success(), "{status}");
}

/// A daemon that logs into a FIFO; the test opens and closes the other end.
struct Daemon {
    child: Child,
    proxy: SocketAddr,
    admin: SocketAddr,
    directory: TempDir,
}

type Log = tokio::io::Lines<BufReader<pipe::Receiver>>;

impl Daemon {
    async fn start(config: &Config) -> (Daemon, Log) {
        let directory = tempfile::tempdir().unwrap();
        let (file, fifo) = (
            directory.path().join("sealway.toml"),
            directory.path().join("log"),
        );
        std::fs::write(&file, config.to_toml()).unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut log = open(&fifo);
        let stderr = OpenOptions::new().write(true).open(&fifo).unwrap();
        let mut command = Command::new(support::sealway());
        command
            .arg("run")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(stderr)
            .kill_on_drop(true);
        let child = command.spawn().unwrap();
        let start = next(&mut log, "start").await;
        let address = |value: &Value| value.as_str().unwrap().parse().unwrap();
        let (proxy, admin) = (address(&start["listeners"][0]), address(&start["admin"]));
        (
            Daemon {
                child,
                proxy,
                admin,
                directory,
            },
            log,
        )
    }

    fn read_again(&self) -> Log {
        open(&self.directory.path().join("log"))
    }

    fn signal(&self, name: &str) {
        support::signal(self.child.id().unwrap(), name);
    }

    /// The first refused attempt is the one whose record is lost. A process that another test is
    /// just starting may hold the reader's descriptor for a moment, so one attempt is not always
    /// enough.
    async fn loses_a_record(&self) {
        while self.failures(|_| true).await == 0.0 {
            connect(self.proxy, "evil.example:443", &[]).await;
        }
    }

    async fn denied(&self) -> f64 {
        self.metric_until(
            "sealway_tunnels_denied_total{code=\"audit_unavailable\"}",
            |_| true,
        )
        .await
    }

    async fn failures(&self, wanted: impl Fn(f64) -> bool) -> f64 {
        self.metric_until("sealway_audit_failures_total", wanted)
            .await
    }

    async fn metric(&self, series: &str) -> Option<f64> {
        let (_, page) = http_get(self.admin, "/metrics").await;
        page.lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    async fn metric_until(&self, series: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let reached = async {
            loop {
                match self.metric(series).await {
                    Some(value) if wanted(value) => return value,
                    _ => support::tick().await,
                }
            }
        };
        soon(series, reached).await
    }
}

fn open(fifo: &std::path::Path) -> Log {
    BufReader::new(pipe::OpenOptions::new().open_receiver(fifo).unwrap()).lines()
}

/// The next record of this event.
async fn next(log: &mut Log, event: &str) -> Value {
    let found = async {
        loop {
            let line = log.next_line().await.unwrap().expect("the log goes on");
            match serde_json::from_str::<Value>(&line) {
                Ok(record) if record["event"] == event => return record,
                _ => {}
            }
        }
    };
    soon(event, found).await
}
