//! A reload that withdraws the permission of a live tunnel: the tunnel ends as `revoked` after
//! `timeouts.drain`, with a reset on both sides, and no other tunnel notices.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::HOST;
use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, read_to_reset};
use support::soon;
use support::users::{basic, start_with_users, user, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_removed_user_is_reset_and_the_other_stays() {
    let (upstream, mut daemon) =
        start(&[user("alice", "one", ""), user("bob", "two", "")].concat()).await;
    let mut alice = open(&daemon, &upstream, "alice", "one").await;
    let mut bob = open(&daemon, &upstream, "bob", "two").await;
    rewrite(&mut daemon, &user("bob", "two", "")).await;
    let reply = connect(
        daemon.proxy_addr(),
        &upstream.authority(),
        &[("Proxy-Authorization", &basic("alice", "one"))],
    )
    .await;
    assert_eq!(reply.status(), 407, "no new tunnel at once");
    read_to_reset(&mut alice.client).await;
    read_to_reset(&mut alice.upstream).await;
    // The record of the refused attempt may follow that of the ended tunnel.
    let (first, second) = (daemon.tunnel_record().await, daemon.tunnel_record().await);
    let (refused, revoked) = if first["code"] == "revoked" {
        (second, first)
    } else {
        (first, second)
    };
    assert_eq!(refused["code"], "auth_failed");
    says_revoked(&daemon, &revoked, "alice").await;
    bob.exchange(7).await;
    bob.close().await;
    assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
}

#[tokio::test]
async fn a_disabled_user_is_reset_while_bytes_flow() {
    let (upstream, mut daemon) = start(&user("alice", "one", "")).await;
    let mut alice = open(&daemon, &upstream, "alice", "one").await;
    // A stream that never falls silent does not avoid it.
    let mut exchanges = 0;
    let flow = async {
        loop {
            alice.client.write_all(&[7; 100]).await?;
            alice.upstream.read_exact(&mut [0; 100]).await?;
            exchanges += 1;
        }
    };
    let flow = soon("the end of the stream", flow);
    let disabled = user("alice", "one", "disabled = true");
    let (ended, ()): (std::io::Result<()>, ()) =
        tokio::join!(flow, rewrite(&mut daemon, &disabled));
    assert!(matches!(
        ended.unwrap_err().kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    ));
    assert!(exchanges > 0, "not one exchange before its time was up");
    is_recorded(&mut daemon, "alice").await;
}

#[tokio::test]
async fn a_narrowed_user_loses_the_tunnels_off_its_list() {
    let (upstream, mut daemon) = start(&user("alice", "one", "")).await;
    let mut alice = open(&daemon, &upstream, "alice", "one").await;
    rewrite(
        &mut daemon,
        &user("alice", "one", "allow = [\"other.example\"]"),
    )
    .await;
    is_revoked(&mut daemon, &mut alice, "alice").await;
}

#[tokio::test]
async fn a_rotated_secret_ends_nothing() {
    let (upstream, mut daemon) = start(&user("alice", "one", "")).await;
    let mut alice = open(&daemon, &upstream, "alice", "one").await;
    rewrite(&mut daemon, &user("alice", "two", "")).await;
    // Waits as long as a revoked tunnel would last, and for a tunnel that opens meanwhile.
    let mut after = open(&daemon, &upstream, "alice", "two").await;
    let until = Instant::now() + DRAIN * 3;
    while Instant::now() < until {
        alice.exchange(1).await;
        after.exchange(2).await;
    }
}

#[tokio::test]
async fn a_host_that_is_removed_and_restored_in_time_ends_nothing() {
    let upstream = RawUpstream::start().await;
    let config = || Config::to(upstream.addr()).section("[timeouts]\ndrain = \"2s\"");
    let mut daemon = Daemon::start(&config()).await;
    let mut live = Tunnel::open(&daemon, &upstream).await;
    let without = Config::closed()
        .host("other.example", upstream.addr())
        .section("[timeouts]\ndrain = \"2s\"");
    assert_eq!(daemon.reload(&without.to_toml()).await["result"], "ok");
    assert_eq!(daemon.reload(&config().to_toml()).await["result"], "ok");
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        live.exchange(1).await;
    }
    live.close().await;
    assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
}

#[tokio::test]
async fn a_tunnel_in_set_up_during_a_reload_is_judged_too() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr()).section(TIMEOUTS)).await;
    let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
    let client = reply.established();
    let without = Config::closed()
        .host("other.example", upstream.addr())
        .section(TIMEOUTS);
    assert_eq!(daemon.reload(&without.to_toml()).await["result"], "ok");
    // Its own snapshot still allows it, so it opens, and then its worker notices.
    let mut late = Tunnel::over(client, &upstream).await;
    read_to_reset(&mut late.client).await;
    read_to_reset(&mut late.upstream).await;
    assert_eq!(daemon.tunnel_record().await["code"], "revoked");
}

#[tokio::test]
async fn a_removed_client_network_is_reset() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr()).section(TIMEOUTS)).await;
    let mut live = Tunnel::open(&daemon, &upstream).await;
    let closed = Config::to(upstream.addr())
        .section(TIMEOUTS)
        .section("[auth]\nclients = [\"192.0.2.0/24\"]");
    assert_eq!(daemon.reload(&closed.to_toml()).await["result"], "ok");
    read_to_reset(&mut live.client).await;
    assert_eq!(daemon.tunnel_record().await["code"], "revoked");
}

async fn start(users: &str) -> (RawUpstream, Daemon) {
    let upstream = RawUpstream::start().await;
    let daemon = start_with_users(Config::to(upstream.addr()).section(TIMEOUTS), users, "").await;
    (upstream, daemon)
}

async fn open(daemon: &Daemon, upstream: &RawUpstream, name: &str, secret: &str) -> Tunnel {
    Tunnel::open_with(
        daemon,
        upstream,
        &[("Proxy-Authorization", &basic(name, secret))],
    )
    .await
}

/// Puts these users in force.
async fn rewrite(daemon: &mut Daemon, users: &str) {
    write(&daemon.path("users.toml"), users);
    daemon.signal("HUP");
    assert_eq!(daemon.event("reload").await["result"], "ok");
}

/// Both sides see a reset; the record and the counter say why.
async fn is_revoked(daemon: &mut Daemon, tunnel: &mut Tunnel, user: &str) {
    read_to_reset(&mut tunnel.client).await;
    read_to_reset(&mut tunnel.upstream).await;
    is_recorded(daemon, user).await;
}

async fn is_recorded(daemon: &mut Daemon, user: &str) {
    let record = daemon.tunnel_record().await;
    says_revoked(daemon, &record, user).await;
}

async fn says_revoked(daemon: &Daemon, record: &Value, user: &str) {
    let wanted = [
        ("code", "revoked"),
        ("outcome", "allowed"),
        ("user", user),
        ("host", HOST),
    ];
    for (field, value) in wanted {
        assert_eq!(record[field], Value::from(value), "{record}");
    }
    assert!(
        record["duration_ms"].as_f64().unwrap() >= DRAIN.as_millis() as f64,
        "{record}"
    );
    assert_eq!(daemon.metric(REVOKED).await, Some(1.0));
}

const DRAIN: Duration = Duration::from_millis(400);
const TIMEOUTS: &str = "[timeouts]\ndrain = \"400ms\"";
const REVOKED: &str = "sealway_tunnels_closed_total{code=\"revoked\"}";
