//! The limits on a tunnel's time: silence, silence after one side has ended, and age; each ends the
//! tunnel with its own code, and a tunnel within the limit continues.

use std::time::{Duration, Instant};

use serde_json::Value;
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, pass, read_to_end};
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn silence_ends_a_tunnel() {
    let _alone = support::alone().await;
    let (mut daemon, mut tunnel) = open("idle = \"300ms\"").await;
    ends(&mut tunnel.client).await;
    ends(&mut tunnel.upstream).await;
    assert_eq!(ended(&mut daemon, 300.0).await, "idle_timeout");
}

#[tokio::test]
async fn bytes_one_way_keep_a_tunnel_from_idling() {
    let _alone = support::alone().await;
    let (mut daemon, mut tunnel) = open("idle = \"1s\"").await;
    for _ in lasting(Duration::from_millis(2500)) {
        pass(&mut tunnel.upstream, &mut tunnel.client, b"thinking").await;
    }
    tunnel.close().await;
    assert_eq!(ended(&mut daemon, 2500.0).await, "closed_by_client");
}

#[tokio::test]
async fn bytes_one_way_keep_a_half_closed_tunnel_open() {
    let _alone = support::alone().await;
    let (mut daemon, mut tunnel) = open("idle = \"1s\"\nhalf_close = \"1s\"").await;
    tunnel.client.shutdown().await.unwrap();
    for _ in lasting(Duration::from_millis(2500)) {
        pass(&mut tunnel.upstream, &mut tunnel.client, b"a long answer").await;
    }
    drop(tunnel.upstream);
    assert!(read_to_end(&mut tunnel.client).await.is_empty());
    assert_eq!(ended(&mut daemon, 2500.0).await, "closed_by_client");
}

#[tokio::test]
async fn silence_after_the_clients_fin_ends_a_tunnel() {
    let _alone = support::alone().await;
    let (mut daemon, mut tunnel) = open("half_close = \"300ms\"").await;
    tunnel.client.shutdown().await.unwrap();
    assert!(read_to_end(&mut tunnel.upstream).await.is_empty());
    ends(&mut tunnel.client).await;
    assert_eq!(ended(&mut daemon, 300.0).await, "half_close_timeout");
}

#[tokio::test]
async fn silence_after_the_upstreams_fin_ends_a_tunnel() {
    let _alone = support::alone().await;
    let (mut daemon, mut tunnel) = open("half_close = \"300ms\"").await;
    tunnel.upstream.shutdown().await.unwrap();
    assert!(read_to_end(&mut tunnel.client).await.is_empty());
    ends(&mut tunnel.upstream).await;
    assert_eq!(ended(&mut daemon, 300.0).await, "half_close_timeout");
}

#[tokio::test]
async fn a_busy_tunnel_ends_at_max_age() {
    let _alone = support::alone().await;
    let (mut daemon, mut tunnel) = open("max_age = \"700ms\"").await;
    let busy = async {
        while echoes(&mut tunnel.client, &mut tunnel.upstream).await
            && echoes(&mut tunnel.upstream, &mut tunnel.client).await
        {}
    };
    soon("the end of a busy tunnel", busy).await;
    assert_eq!(ended(&mut daemon, 700.0).await, "max_age");
}

#[tokio::test]
async fn a_tunnel_without_max_age_continues() {
    let _alone = support::alone().await;
    let (mut daemon, mut tunnel) = open("max_age = \"0s\"").await;
    for _ in lasting(Duration::from_millis(1000)) {
        tunnel.exchange(11).await;
    }
    tunnel.close().await;
    assert_eq!(ended(&mut daemon, 1000.0).await, "closed_by_client");
}

/// A tunnel with these timeouts.
async fn open(timeouts: &str) -> (Daemon, Tunnel) {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).section(&format!("[timeouts]\n{timeouts}"));
    let daemon = Daemon::start(&config).await;
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    (daemon, tunnel)
}

/// Repeats what a test does until `time` has passed: busy, not asleep.
fn lasting(time: Duration) -> impl Iterator<Item = ()> {
    let start = Instant::now();
    std::iter::from_fn(move || (start.elapsed() < time).then_some(()))
}

/// Whether a byte still passes from one end to the other.
async fn echoes(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    from.write_all(b"x").await.is_ok() && matches!(to.read(&mut [0]).await, Ok(1))
}

/// Expects the end of the connection without a byte, in any form.
async fn ends(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    let _clean_or_reset = soon("the end of the connection", stream.read_to_end(&mut bytes)).await;
    assert!(bytes.is_empty(), "{bytes:02x?}");
}

/// The code of the only tunnel's audit record; the tunnel lasted at least this long.
async fn ended(daemon: &mut Daemon, milliseconds: f64) -> Value {
    let record = daemon.tunnel_record().await;
    assert_eq!(record["outcome"], "allowed", "{record}");
    assert!(
        record["duration_ms"].as_f64().unwrap() >= milliseconds,
        "{record}"
    );
    record["code"].clone()
}
