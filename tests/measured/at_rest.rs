//! A waiting tunnel costs nothing, whatever it waits for: the daemon sleeps beside a peer that has
//! ended, beside one that does not read, and beside one that has done both.

use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, read_to_end};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn the_daemon_sleeps_beside_two_silent_peers() {
    let _alone = support::alone().await;
    costs_nothing("idle_timeout", async |_, _| {}).await;
}

#[tokio::test]
async fn the_daemon_sleeps_beside_an_ended_client() {
    let _alone = support::alone().await;
    costs_nothing("half_close_timeout", async |tunnel, _| {
        end(&mut tunnel.client, &mut tunnel.upstream).await
    })
    .await;
}

#[tokio::test]
async fn the_daemon_sleeps_beside_an_ended_upstream() {
    let _alone = support::alone().await;
    costs_nothing("half_close_timeout", async |tunnel, _| {
        end(&mut tunnel.upstream, &mut tunnel.client).await
    })
    .await;
}

#[tokio::test]
async fn the_daemon_sleeps_beside_a_client_that_does_not_read() {
    let _alone = support::alone().await;
    costs_nothing("idle_timeout", async |tunnel, daemon| {
        fill(&mut tunnel.upstream, daemon).await
    })
    .await;
}

#[tokio::test]
async fn the_daemon_sleeps_beside_two_peers_that_do_not_read() {
    let _alone = support::alone().await;
    costs_nothing("idle_timeout", async |tunnel, daemon| {
        fill(&mut tunnel.upstream, daemon).await;
        fill(&mut tunnel.client, daemon).await;
    })
    .await;
}

#[tokio::test]
async fn the_daemon_sleeps_beside_an_upstream_that_ended_with_unread_bytes() {
    let _alone = support::alone().await;
    costs_nothing("idle_timeout", async |tunnel, daemon| {
        fill(&mut tunnel.upstream, daemon).await;
        tunnel.upstream.shutdown().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_daemon_sleeps_beside_an_ended_client_that_does_not_read() {
    let _alone = support::alone().await;
    costs_nothing("half_close_timeout", async |tunnel, daemon| {
        fill(&mut tunnel.upstream, daemon).await;
        end(&mut tunnel.client, &mut tunnel.upstream).await;
    })
    .await;
}

#[tokio::test]
async fn the_daemon_sleeps_beside_two_ended_peers_with_unread_bytes() {
    let _alone = support::alone().await;
    costs_nothing("idle_timeout", async |tunnel, daemon| {
        for socket in [&mut tunnel.upstream, &mut tunnel.client] {
            fill(socket, daemon).await;
            socket.shutdown().await.unwrap();
        }
    })
    .await;
}

/// Brings a tunnel into a state in which it can only wait, until the daemon ends it with `code`:
/// the CPU time of the daemon is far below that duration.
async fn costs_nothing(code: &str, arrange: impl AsyncFn(&mut Tunnel, &Daemon)) {
    let upstream = RawUpstream::start().await;
    let timeouts = format!(
        "[timeouts]\nidle = \"{WAIT_MS}ms\"\nhalf_close = \"{WAIT_MS}ms\"\n[relay]\nworkers = 1"
    );
    let mut daemon = Daemon::start(&Config::to(upstream.addr()).section(&timeouts)).await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    arrange(&mut tunnel, &daemon).await;
    let before = daemon.cpu_ms();
    assert_eq!(daemon.tunnel_record().await["code"], code);
    let spent = daemon.cpu_ms().saturating_sub(before);
    assert!(
        spent < WAIT_MS / 4,
        "{spent} ms of CPU in {WAIT_MS} ms of rest"
    );
}

/// Ends one side; the other side has noticed.
async fn end(from: &mut TcpStream, to: &mut TcpStream) {
    from.shutdown().await.unwrap();
    assert!(read_to_end(to).await.is_empty());
}

/// Sends until nothing moves: twice in a row no write succeeds, and the daemon has moved no byte
/// meanwhile.
async fn fill(from: &mut TcpStream, daemon: &Daemon) {
    let block = vec![0; 64 << 10];
    let (mut moved, mut waits) = (None, 0);
    while waits < 2 {
        while tokio::time::timeout(STUCK, from.write(&block))
            .await
            .is_ok_and(|written| written.is_ok())
        {}
        let now = [
            daemon.metric(BYTES_UP).await.unwrap(),
            daemon.metric(BYTES_DOWN).await.unwrap(),
        ];
        waits = if moved == Some(now) { waits + 1 } else { 0 };
        moved = Some(now);
    }
}

/// The measured time of rest.
const WAIT_MS: u64 = 3_000;
/// A write that is blocked for this long may stay blocked.
const STUCK: std::time::Duration = std::time::Duration::from_millis(200);
const BYTES_UP: &str = "sealway_tunnel_bytes_total{direction=\"up\"}";
const BYTES_DOWN: &str = "sealway_tunnel_bytes_total{direction=\"down\"}";
