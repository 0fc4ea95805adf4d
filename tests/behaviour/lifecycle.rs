//! The end of the daemon: SIGTERM lets live tunnels end by themselves and accepts no new ones, for
//! a bounded time; a second signal stops at once.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;

use support::client::{connect, connect_head, dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, read_to_reset};
use support::refusal::{Refusal, count};
use support::soon;
use support::wait_until;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

#[tokio::test]
async fn sigterm_waits_for_live_tunnels() {
    drains("TERM").await;
}

#[tokio::test]
async fn sigint_drains_too() {
    drains("INT").await;
}

#[tokio::test]
async fn an_idle_daemon_stops_at_once() {
    let (_upstream, mut daemon) = start("").await;
    daemon.signal("TERM");
    daemon.event("stop").await;
    assert_eq!(daemon.exit_status().await.code(), Some(0));
}

/// The handlers were once installed after the `start` record, and a signal in between killed the
/// daemon without a `stop`.
#[tokio::test]
async fn a_signal_right_after_the_start_is_not_lost() {
    for _ in 0..20 {
        let (_upstream, mut daemon) = start("").await;
        daemon.signal("TERM");
        assert_eq!(daemon.exit_status().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_head_that_is_completed_while_draining_is_refused() {
    let (upstream, mut daemon) = start("[relay]\nworkers = 1").await;
    let head = connect_head(&upstream.authority(), &[]);
    let (first, second) = head.split_at(20);
    let mut late = dial(daemon.proxy_addr()).await;
    late.write_all(first.as_bytes()).await.unwrap();
    // The only worker accepts it after the late one, which is therefore accepted too.
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    daemon.signal("TERM");
    wait_until_refused(&daemon).await;

    late.write_all(second.as_bytes()).await.unwrap();
    let mut reply = read_reply(late).await;
    Refusal::of("draining").is_told_by(&mut reply).await;
    audited(&daemon, "draining").await;
    assert_eq!(count(&daemon, "draining").await, 1.0);
    assert!(upstream.is_untouched().await);
    tunnel.close().await;
    audited(&daemon, "closed_by_client").await;
    assert_eq!(daemon.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn readyz_fails_before_the_listeners_close() {
    let (upstream, mut daemon) = start("drain_delay = \"10s\"").await;
    assert_eq!(daemon.admin_get("/readyz").await.0, 200);
    assert_eq!(daemon.admin_get("/healthz").await.0, 200);
    daemon.signal("TERM");
    let reasons = soon("a /readyz that says no", unready(&daemon)).await;
    assert!(reasons.contains("draining"), "{reasons}");
    let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
    assert!(
        [200, 503].contains(&reply.status()),
        "the listeners are still open: {}",
        reply.status_line
    );
    drop(reply);
    // Ten seconds are enough to see them open; the test does not wait for their end.
    daemon.signal("TERM");
    assert_eq!(daemon.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn a_tunnel_that_outlives_the_drain_is_reset() {
    let (upstream, mut daemon) = start("drain = \"300ms\"").await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    daemon.signal("TERM");
    read_to_reset(&mut tunnel.client).await;
    read_to_reset(&mut tunnel.upstream).await;
    audited(&daemon, "drained").await;
    daemon.event("stop").await;
    assert_eq!(daemon.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let (upstream, mut daemon) = start("drain = \"1h\"").await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    daemon.signal("TERM");
    wait_until_refused(&daemon).await;
    tunnel.exchange(5).await;
    daemon.signal("TERM");
    read_to_reset(&mut tunnel.client).await;
    read_to_reset(&mut tunnel.upstream).await;
    // A stop at once may lose records.
    daemon.exit_status().await;
}

/// They connected before the daemon stopped to listen, so the kernel would reset them without a word.
#[tokio::test]
async fn clients_in_the_queue_of_the_listener_are_answered_when_a_drain_begins() {
    let settings = "drain_delay = \"0s\"\n[relay]\nworkers = 1\n[limits]\naccept_rate = 0";
    let (upstream, mut daemon) = start(settings).await;
    let head = connect_head(&upstream.authority(), &[]);
    let mut waiting = Vec::new();
    daemon.at_once(|| {
        for _ in 0..300 {
            let mut client = std::net::TcpStream::connect(daemon.proxy_addr()).unwrap();
            client.write_all(head.as_bytes()).unwrap();
            client.set_nonblocking(true).unwrap();
            waiting.push(client);
        }
        daemon.signal("TERM");
    });
    let mut refused = 0;
    for client in waiting {
        let reply = read_reply(TcpStream::from_std(client).unwrap()).await;
        // The first ones may be accepted before the drain begins.
        assert!(
            [200, 503].contains(&reply.status()),
            "{}",
            reply.status_line
        );
        refused += usize::from(reply.status() == 503);
    }
    assert!(refused > 0);
    daemon.event("stop").await;
    assert_eq!(daemon.exit_status().await.code(), Some(0));
}

/// A program that rotates a file may send SIGHUP at any time.
#[tokio::test]
async fn a_reload_does_not_hurry_a_drain() {
    let (upstream, mut daemon) = start("drain = \"1h\"").await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    daemon.signal("TERM");
    wait_until_refused(&daemon).await;
    daemon.signal("HUP");
    // The kernel delivers the lower number first.
    daemon.signal("USR1");
    daemon
        .line("the second signal", |line| line["signal"] == "SIGUSR1")
        .await;
    for seed in 0..5 {
        tunnel.exchange(seed).await;
    }
    tunnel.close().await;
    audited(&daemon, "closed_by_client").await;
    daemon.event("stop").await;
    assert_eq!(daemon.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn unfinished_handshakes_do_not_delay_the_stop() {
    let (upstream, mut daemon) = start("drain = \"300ms\"").await;
    let mut half_a_head = dial(daemon.proxy_addr()).await;
    half_a_head
        .write_all(b"CONNECT generativelang")
        .await
        .unwrap();
    let _without_a_hello = connect(daemon.proxy_addr(), &upstream.authority(), &[])
        .await
        .established();
    daemon.signal("TERM");
    daemon.event("stop").await;
    assert_eq!(daemon.exit_status().await.code(), Some(0));
}

/// logrotate, Traefik and nginx reopen their files on SIGUSR1; a habitual SIGUSR1 must not end a
/// tunnel here.
#[tokio::test]
async fn a_signal_without_a_meaning_is_logged_and_ends_nothing() {
    let (upstream, mut daemon) = start("").await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    for name in MEANINGLESS {
        daemon.signal(name);
        let wanted = signal_name(name);
        let line = daemon.line(name, |line| line["signal"] == *wanted).await;
        assert_eq!(line["level"], "WARN");
        assert!(line["pid"].as_u64().is_some_and(|pid| pid > 0), "{line}");
    }
    tunnel.exchange(5).await;
    tunnel.close().await;
    audited(&daemon, "closed_by_client").await;
    daemon.signal("TERM");
    assert_eq!(daemon.exit_status().await.code(), Some(0));
}

/// From its first instructions: the configuration has not been read, and there is no queue yet.
#[tokio::test]
async fn a_signal_before_the_start_waits_for_it() {
    for _ in 0..5 {
        let config = Config::closed();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sealway.toml");
        std::fs::write(&file, config.to_toml()).unwrap();
        let mut child = tokio::process::Command::new(support::sealway())
            .args(["run", "--config", file.to_str().unwrap()])
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        wait_until("signals that are held back", async || holds_back(pid)).await;
        for name in MEANINGLESS.iter().chain(&["HUP"]) {
            support::signal(pid, name);
        }
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut ignored, mut reloaded) = (BTreeSet::new(), false);
        let all = MEANINGLESS
            .map(signal_name)
            .into_iter()
            .collect::<BTreeSet<_>>();
        while ignored != all || !reloaded {
            let line = soon("a line of the log", lines.next_line()).await.unwrap();
            let line: serde_json::Value =
                serde_json::from_str(&line.expect("the daemon lives")).unwrap();
            ignored.extend(line["signal"].as_str().map(str::to_owned));
            reloaded |= line["event"] == "reload";
        }
        support::signal(pid, "QUIT");
        assert_eq!(soon("the end", child.wait()).await.unwrap().code(), Some(0));
    }
}

#[tokio::test]
async fn sigquit_stops_without_a_drain() {
    let (upstream, mut daemon) = start("drain = \"1h\"\ndrain_delay = \"1h\"").await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    daemon.signal("QUIT");
    read_to_reset(&mut tunnel.client).await;
    read_to_reset(&mut tunnel.upstream).await;
    audited(&daemon, "drained").await;
    daemon.event("stop").await;
    assert_eq!(daemon.exit_status().await.code(), Some(0));
}

/// Commands that an operator ends with Ctrl-C, or whose terminal closes, end as usual.
#[tokio::test]
async fn other_commands_keep_the_default_of_every_signal() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for (name, number) in [("USR1", 10), ("HUP", 1), ("TERM", 15)] {
        // A test under nohup(1) passes SIGHUP on as ignored.
        let mut child = tokio::process::Command::new("env")
            .args([
                "--default-signal",
                support::sealway().as_str(),
                "top",
                "--once",
                "--admin",
                &address,
            ])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // No server answers it, so it waits.
        let _asks = listener.accept().unwrap();
        support::signal(child.id().unwrap(), name);
        assert_eq!(
            soon("the end", child.wait()).await.unwrap().signal(),
            Some(number),
            "{name}"
        );
    }
}

/// Signals that end or stop a process by default and mean nothing to a daemon.
const MEANINGLESS: [&str; 15] = [
    "USR1", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XCPU", "XFSZ", "TSTP", "TTIN",
    "TTOU", "34", "41", "64",
];

/// As the log writes it.
fn signal_name(short: &str) -> String {
    match short {
        // By their numbers: each library counts real-time signals in its own way.
        "34" => "SIGRTMIN+0".to_owned(),
        "41" => "SIGRTMIN+7".to_owned(),
        "64" => "SIGRTMIN+30".to_owned(),
        other => format!("SIG{other}"),
    }
}

/// Whether a process blocks SIGUSR1 (proc_pid_status, `SigBlk`).
fn holds_back(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:"))
        .unwrap()
        .trim();
    u64::from_str_radix(mask, 16).unwrap() & (1 << 9) != 0
}

/// A tunnel that is open at the signal continues, new ones are refused, and the daemon ends with
/// it.
async fn drains(signal: &str) {
    let (upstream, mut daemon) = start("").await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    daemon.signal(signal);
    wait_until_refused(&daemon).await;
    for seed in 0..20 {
        tunnel.exchange(seed).await;
    }
    tunnel.close().await;
    audited(&daemon, "closed_by_client").await;
    daemon.event("stop").await;
    assert_eq!(daemon.exit_status().await.code(), Some(0));
}

/// A daemon with these timeouts and an upstream that it may reach.
async fn start(timeouts: &str) -> (RawUpstream, Daemon) {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).section(&format!("[timeouts]\n{timeouts}"));
    let daemon = Daemon::start(&config).await;
    (upstream, daemon)
}

/// The kernel refuses new connections once the listeners are closed: the drain has begun.
async fn wait_until_refused(daemon: &Daemon) {
    let refused = async {
        while !matches!(TcpStream::connect(daemon.proxy_addr()).await, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
        {
            support::tick().await;
        }
    };
    soon("refused connections", refused).await;
}

/// The reasons of the first answer of /readyz that is not 200.
async fn unready(daemon: &Daemon) -> String {
    loop {
        match daemon.admin_get("/readyz").await {
            (200, _) => support::tick().await,
            (status, reasons) => {
                assert_eq!(status, 503, "{reasons}");
                return reasons;
            }
        }
    }
}

/// Waits for the record with this code. Records of the probes in [`wait_until_refused`] may stand between.
async fn audited(daemon: &Daemon, code: &str) {
    daemon
        .line(code, |line| {
            line["event"] == "tunnel" && line["code"] == code
        })
        .await;
}
