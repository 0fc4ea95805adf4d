//! `log.level = "debug"` shows the life of each tunnel: one span with its id, one line for each
//! stage, and no secret. At `info` there is neither.

use serde_json::Value;
use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, pass};
use support::users::{basic, start_with_users, user};

const SECRET: &str = "sixteen-characters-of-secret";

#[tokio::test]
async fn a_tunnel_logs_one_line_a_stage_in_one_span() {
    let (mut daemon, upstream) = daemon_at("debug").await;
    let mut ids = Vec::new();
    for size in [1_000, 100_000] {
        let record = tunnel(&mut daemon, &upstream, size).await;
        let id = record["id"].as_str().unwrap().to_owned();
        let ended = daemon.line("ended", |line| is_of(line, &id, "ended")).await;
        for field in ["code", "outcome", "bytes_up", "bytes_down"] {
            assert_eq!(ended[field], record[field], "{field}: {ended}");
        }
        assert_eq!(
            stages(&daemon, &id),
            [
                "accepted",
                "head read",
                "admitted",
                "resolved",
                "dialled",
                "hello judged",
                "server hello judged",
                "relaying",
                "ended"
            ]
        );
        let admitted = daemon
            .line("admitted", |line| is_of(line, &id, "admitted"))
            .await;
        assert_eq!(admitted["user"], "alice");
        let dialled = daemon
            .line("dialled", |line| is_of(line, &id, "dialled"))
            .await;
        assert_eq!(dialled["upstream"], record["upstream"]);
        assert_eq!(dialled["egress"], record["egress"]);
        let judged = daemon
            .line("hello judged", |line| is_of(line, &id, "hello judged"))
            .await;
        assert_eq!(judged["sni"], record["sni"]);
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1]);
    let log = daemon.log_text();
    let encoded = basic("alice", SECRET);
    let encoded = encoded.trim_start_matches("Basic ");
    assert!(!log.contains(SECRET) && !log.contains(encoded), "{log}");
}

#[tokio::test]
async fn a_refused_tunnel_logs_its_code() {
    let (mut daemon, _upstream) = daemon_at("debug").await;
    let alice = basic("alice", SECRET);
    let headers = [("Proxy-Authorization", alice.as_str())];
    let reply = connect(daemon.proxy_addr(), "evil.example:443", &headers).await;
    assert_eq!(reply.status(), 403);
    let id = daemon.tunnel_record().await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let ended = daemon.line("ended", |line| is_of(line, &id, "ended")).await;
    assert_eq!(ended["code"], "host_denied");
    assert_eq!(stages(&daemon, &id), ["accepted", "head read", "ended"]);
}

#[tokio::test]
async fn no_tunnel_is_logged_at_info() {
    let (mut daemon, upstream) = daemon_at("info").await;
    let record = tunnel(&mut daemon, &upstream, 1_000).await;
    assert_eq!(record["code"], "closed_by_client");
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    let log = daemon.log_text();
    assert!(
        log.contains("listening") && log.contains("stopped"),
        "{log}"
    );
    assert!(
        !log.contains("\"span\"") && !log.contains("relaying"),
        "{log}"
    );
}

async fn daemon_at(level: &str) -> (Daemon, RawUpstream) {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).section(&format!("[log]\nlevel = \"{level}\"\n"));
    let daemon = start_with_users(config, &user("alice", SECRET, ""), "").await;
    (daemon, upstream)
}

async fn tunnel(daemon: &mut Daemon, upstream: &RawUpstream, size: usize) -> Value {
    let alice = basic("alice", SECRET);
    let headers = [("Proxy-Authorization", alice.as_str())];
    let mut tunnel = Tunnel::open_with(daemon, upstream, &headers).await;
    pass(&mut tunnel.client, &mut tunnel.upstream, &vec![7; size]).await;
    tunnel.close().await;
    daemon.tunnel_record().await
}

fn is_of(line: &Value, id: &str, message: &str) -> bool {
    line["span"]["id"] == id && line["message"] == message
}

/// The messages of one tunnel, in their order.
fn stages(daemon: &Daemon, id: &str) -> Vec<String> {
    let lines = daemon.log_text();
    let lines = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["span"]["id"] == id)
        .map(|line| line["message"].as_str().unwrap().to_owned())
        .collect()
}
