//! More than the daemon can carry: connections at too high a rate, and an exhausted limit on open
//! files. Live tunnels continue, refused clients get a reply, and the daemon recovers by itself.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use support::client::{Reply, connect, connect_head, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel};
use support::soon;
use support::wait_until;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

#[tokio::test]
async fn a_client_that_connects_too_fast_is_refused_and_another_is_not() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    let mut daemon =
        Daemon::start(&Config::to(upstream.addr()).section("[limits]\naccept_rate = 2")).await;
    // Five seconds' worth at once, and the permits that become due meanwhile.
    let started = Instant::now();
    let mut live = Tunnel::open(&daemon, &upstream).await;
    let (mut passed, mut refused) = (1, 0);
    while refused < 100 {
        match ask_nobody(&daemon, "127.0.0.1").await {
            reply if reply.status() == 429 => {
                assert_eq!(
                    reply.status_line,
                    "HTTP/1.1 429 Too Many Requests (client_limit)"
                );
                assert_eq!(reply.header("retry-after"), Some("5"));
                refused += 1;
            }
            reply => {
                assert_eq!(reply.status(), 403, "{}", reply.status_line);
                passed += 1;
            }
        }
    }
    let due = 10.0 + 2.0 * started.elapsed().as_secs_f64();
    assert!(
        (10..=due.ceil() as usize).contains(&passed),
        "{passed} passed, {due} were due"
    );
    assert_eq!(
        ask_nobody(&daemon, "127.0.0.5").await.status(),
        403,
        "another address has its own share"
    );
    live.exchange(1).await;
    live.close().await;
    // Each is answered before it is counted.
    let denied = daemon
        .metric_until(DENIED_CLIENT, |denied| denied >= 100.0)
        .await;
    assert_eq!(denied, 100.0, "each is counted once");
    let (mut records, mut told) = (0, 0);
    while told < 100 {
        let record = daemon.tunnel_record().await;
        if record["code"] == "client_limit" {
            records += 1;
            told += record["count"].as_u64().unwrap_or(1);
        }
    }
    assert_eq!(told, 100, "each is recorded once");
    let most = 60 + 4 * (started.elapsed().as_secs() + 1);
    assert!(
        records <= most,
        "{records} records of 100 refusals, {most} at most"
    );
    wait_until("the next share", async || {
        ask_nobody(&daemon, "127.0.0.1").await.status() != 429
    })
    .await;
}

#[tokio::test]
async fn each_connect_above_the_rate_is_refused_with_a_record() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    let mut daemon =
        Daemon::start(&Config::to(upstream.addr()).section("[limits]\nconnect_rate = 1")).await;
    // Five seconds' worth, and the permits that become due meanwhile.
    let (started, mut passed) = (Instant::now(), 0);
    let (reply, record) = loop {
        let reply = ask_nobody(&daemon, "127.0.0.1").await;
        let record = daemon.tunnel_record().await;
        if reply.status() != 403 {
            break (reply, record);
        }
        assert_eq!(record["code"], "host_denied", "{record}");
        passed += 1;
    };
    let due = 5.0 + started.elapsed().as_secs_f64();
    assert!(
        (5..=due.ceil() as usize).contains(&passed),
        "{passed} passed, {due} were due"
    );
    assert_eq!(
        reply.status_line,
        "HTTP/1.1 429 Too Many Requests (client_limit)"
    );
    assert_eq!(
        (&record["code"], &record["host"]),
        (&"client_limit".into(), &"nobody.example".into()),
        "{record}"
    );
    assert!(
        record["error"]
            .as_str()
            .unwrap()
            .contains("limits.connect_rate"),
        "{record}"
    );
}

#[tokio::test]
async fn a_reload_changes_the_rates_and_zero_means_no_limit() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    let mut daemon =
        Daemon::start(&Config::to(upstream.addr()).section("[limits]\naccept_rate = 1")).await;
    while ask_nobody(&daemon, "127.0.0.1").await.status() != 429 {}
    let unlimited =
        Config::to(upstream.addr()).section("[limits]\naccept_rate = 0\nconnect_rate = 0");
    assert_eq!(daemon.reload(&unlimited.to_toml()).await["result"], "ok");
    for _ in 0..50 {
        assert_eq!(ask_nobody(&daemon, "127.0.0.1").await.status(), 403);
    }
}

#[tokio::test]
async fn the_limit_on_open_files_bounds_the_tunnels_before_it_is_reached() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    // Each worker has some of its own, and a machine with many cores has many workers.
    let config = Config::to(upstream.addr())
        .section("[relay]\nworkers = 2\n[limits]\ntunnels_per_client = 0");
    let daemon = Daemon::start_with_descriptors(&config, 256).await;
    let max = daemon.metric("sealway_tunnels_max").await.unwrap() as usize;
    assert!((20..128).contains(&max), "{max}");
    daemon
        .line("the warning", |line| {
            is_message(line, "limits.tunnels is 20000")
        })
        .await;
    let mut open = Vec::new();
    for _ in 0..max {
        open.push(Tunnel::open(&daemon, &upstream).await);
    }
    for _ in 0..20 {
        let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
        assert_eq!(
            reply.status_line,
            "HTTP/1.1 503 Service Unavailable (tunnel_limit)"
        );
    }
    assert_eq!(
        daemon.metric("sealway_accept_errors_total").await,
        Some(0.0),
        "accept(2) never failed"
    );
    assert_eq!(
        daemon.admin_get("/readyz").await.0,
        200,
        "descriptors are left for the others"
    );
    for (seed, tunnel) in open.iter_mut().enumerate() {
        tunnel.exchange(seed as u64).await;
    }
    open.pop().unwrap().close().await;
    daemon
        .metric_until("sealway_tunnels_active", |active| active < max as f64)
        .await;
    open.push(Tunnel::open(&daemon, &upstream).await);
}

#[tokio::test]
async fn without_a_free_descriptor_clients_get_a_reply_and_live_tunnels_continue() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    // Several workers: the descriptor that one frees for a reply must not be kept by another.
    let config =
        Config::to(upstream.addr()).section("[timeouts]\nrequest = \"5m\"\n[relay]\nworkers = 4");
    let daemon = Daemon::start(&config).await;
    let mut live = Tunnel::open(&daemon, &upstream).await;
    live.exchange(1).await;
    // Silent connections use the last descriptors under the new limit.
    set_descriptors(&daemon, daemon.open_descriptors().await + 2);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(dial_from("127.0.0.1", daemon.proxy_addr()).await);
    }
    daemon
        .line("the record", |line| {
            line["error"] == "no descriptor is left" && line["code"] == "tunnel_limit"
        })
        .await;
    let cpu = daemon.cpu_ms();
    for _ in 0..50 {
        let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
        assert_eq!(
            reply.status_line,
            "HTTP/1.1 503 Service Unavailable (tunnel_limit)"
        );
        live.exchange(2).await;
    }
    let waiting = Instant::now();
    while waiting.elapsed() < Duration::from_secs(1) {
        live.exchange(3).await;
    }
    let spent = daemon.cpu_ms().saturating_sub(cpu);
    assert!(spent < 1_500, "it does not spin: {spent} ms of CPU");
    set_descriptors(&daemon, 4_096);
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    daemon
        .line("the recovery in the log", |line| {
            is_message(
                line,
                "file descriptors are free again: new connections are accepted",
            )
        })
        .await;
    // If one was free for a moment, the tunnel's other socket got none.
    assert!(daemon.metric("sealway_accept_errors_total").await.unwrap() >= 1.0);
    assert_eq!(daemon.admin_get("/readyz").await.0, 200);
    tunnel.close().await;
    live.close().await;
}

/// Requests a host without a rule from this address.
async fn ask_nobody(daemon: &Daemon, from: &str) -> Reply {
    let mut stream = dial_from(from, daemon.proxy_addr()).await;
    let head = connect_head("nobody.example:443", &[]);
    // A connection that is refused at once may be closed before its request is written.
    let _refused_already = stream.write_all(head.as_bytes()).await;
    read_reply(stream).await
}

async fn dial_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind((from.parse::<IpAddr>().unwrap(), 0).into())
        .unwrap();
    soon("a connection", socket.connect(to)).await.unwrap()
}

/// prlimit(1) of util-linux: the soft limit of a running process.
fn set_descriptors(daemon: &Daemon, soft: usize) {
    let (pid, limit) = (
        format!("--pid={}", daemon.pid()),
        format!("--nofile={soft}:"),
    );
    let status = Command::new("prlimit")
        .args([pid, limit])
        .status()
        .expect("prlimit(1) of util-linux");
    assert!(status.success());
}

fn is_message(line: &serde_json::Value, words: &str) -> bool {
    line["message"]
        .as_str()
        .is_some_and(|message| message.contains(words))
}

const DENIED_CLIENT: &str = "sealway_tunnels_denied_total{code=\"client_limit\"}";
