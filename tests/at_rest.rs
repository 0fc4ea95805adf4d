//! A tunnel that waits costs nothing, whatever it waits for: the daemon sleeps beside a peer that has ended, beside one
//! that does not read, and beside one that has done both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

mod support;

use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, read_to_end};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn beside_two_silent_peers() {
    costs_nothing("idle_timeout", async |_| {}).await;
}

#[tokio::test]
async fn beside_a_client_that_has_ended() {
    costs_nothing("half_close_timeout", async |tunnel| end(&mut tunnel.client, &mut tunnel.upstream).await).await;
}

#[tokio::test]
async fn beside_an_upstream_that_has_ended() {
    costs_nothing("half_close_timeout", async |tunnel| end(&mut tunnel.upstream, &mut tunnel.client).await).await;
}

#[tokio::test]
async fn beside_a_client_that_does_not_read() {
    costs_nothing("idle_timeout", async |tunnel| fill(&mut tunnel.upstream).await).await;
}

#[tokio::test]
async fn beside_two_peers_that_do_not_read() {
    costs_nothing("idle_timeout", async |tunnel| {
        fill(&mut tunnel.upstream).await;
        fill(&mut tunnel.client).await;
    })
    .await;
}

#[tokio::test]
async fn beside_an_upstream_that_ends_behind_bytes_nobody_reads() {
    costs_nothing("idle_timeout", async |tunnel| {
        fill(&mut tunnel.upstream).await;
        tunnel.upstream.shutdown().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn beside_a_client_that_has_ended_and_does_not_read() {
    costs_nothing("half_close_timeout", async |tunnel| {
        fill(&mut tunnel.upstream).await;
        end(&mut tunnel.client, &mut tunnel.upstream).await;
    })
    .await;
}

#[tokio::test]
async fn beside_two_peers_that_have_ended_behind_bytes_nobody_reads() {
    costs_nothing("idle_timeout", async |tunnel| {
        for socket in [&mut tunnel.upstream, &mut tunnel.client] {
            fill(socket).await;
            socket.shutdown().await.unwrap();
        }
    })
    .await;
}

/// Brings a tunnel into a state in which it can only wait, until the daemon ends it with `code`: far less of that time
/// than all of it was spent on a core.
async fn costs_nothing(code: &str, arrange: impl AsyncFn(&mut Tunnel)) {
    let upstream = RawUpstream::start().await;
    let timeouts = format!("[timeouts]\nidle = \"{WAIT_MS}ms\"\nhalf_close = \"{WAIT_MS}ms\"\n[relay]\nworkers = 1");
    let mut daemon = Daemon::start(&Config::to(upstream.addr()).section(&timeouts)).await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    arrange(&mut tunnel).await;
    let before = daemon.cpu_ms();
    assert_eq!(daemon.tunnel_record().await["code"], code);
    let spent = daemon.cpu_ms() - before;
    assert!(spent < WAIT_MS / 4, "{spent} ms of CPU in {WAIT_MS} ms of rest");
}

/// Ends one side; the other has heard of it.
async fn end(from: &mut TcpStream, to: &mut TcpStream) {
    from.shutdown().await.unwrap();
    assert!(read_to_end(to).await.is_empty());
}

/// Sends until nothing moves any more.
async fn fill(from: &mut TcpStream) {
    let block = vec![0; 64 << 10];
    while tokio::time::timeout(STUCK, from.write(&block)).await.is_ok_and(|written| written.is_ok()) {}
}

/// The time of rest that is looked at.
const WAIT_MS: u64 = 1_000;
/// A write that has not gone on after this long will not.
const STUCK: std::time::Duration = std::time::Duration::from_millis(200);
