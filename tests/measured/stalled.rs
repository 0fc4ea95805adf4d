//! A reader that does not read: its sender is stopped, nothing is lost, the other direction
//! continues, and the daemon notices an end meanwhile.

use std::sync::LazyLock;
use std::time::Duration;

use socket2::SockRef;
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, read_to_end, read_to_reset, reset};
use support::{payload, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_a_download_loses_nothing() {
    let _alone = support::alone().await;
    let (_daemon, tunnel) = tunnel_with_small_windows().await;
    stalls_and_recovers(tunnel.upstream, tunnel.client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_an_upload_loses_nothing() {
    let _alone = support::alone().await;
    let (_daemon, tunnel) = tunnel_with_small_windows().await;
    stalls_and_recovers(tunnel.client, tunnel.upstream).await;
}

#[tokio::test]
async fn a_stalled_download_does_not_delay_the_upload() {
    let _alone = support::alone().await;
    let (_daemon, mut tunnel) = tunnel_with_small_windows().await;
    fill_until_stalled(&mut tunnel.upstream).await;
    sends_and_finishes(&mut tunnel.client, &mut tunnel.upstream).await;
}

#[tokio::test]
async fn a_stalled_upload_does_not_delay_the_download() {
    let _alone = support::alone().await;
    let (_daemon, mut tunnel) = tunnel_with_small_windows().await;
    fill_until_stalled(&mut tunnel.client).await;
    sends_and_finishes(&mut tunnel.upstream, &mut tunnel.client).await;
}

#[tokio::test]
async fn a_reset_by_a_stalled_client_is_noticed() {
    let _alone = support::alone().await;
    let (mut daemon, mut tunnel) = tunnel_with_small_windows().await;
    fill_until_stalled(&mut tunnel.client).await;
    reset(tunnel.client);
    assert_eq!(daemon.tunnel_record().await["code"], "reset_by_client");
    read_to_reset(&mut tunnel.upstream).await;
}

#[tokio::test]
async fn a_reset_by_a_stalled_upstream_is_noticed() {
    let _alone = support::alone().await;
    let (mut daemon, mut tunnel) = tunnel_with_small_windows().await;
    fill_until_stalled(&mut tunnel.upstream).await;
    reset(tunnel.upstream);
    assert_eq!(daemon.tunnel_record().await["code"], "reset_by_upstream");
    read_to_reset(&mut tunnel.client).await;
}

#[tokio::test]
async fn a_reset_by_a_reader_that_did_not_read_is_noticed() {
    let _alone = support::alone().await;
    let (mut daemon, mut tunnel) = tunnel_with_small_windows().await;
    fill_until_stalled(&mut tunnel.client).await;
    reset(tunnel.upstream);
    assert_eq!(daemon.tunnel_record().await["code"], "reset_by_upstream");
    let refused = within(LONG, "a failing write", async {
        while tunnel.client.write_all(&[0; 4096]).await.is_ok() {}
    });
    refused.await;
}

#[tokio::test]
async fn readers_that_read_nothing_cost_the_daemon_no_memory() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    // The first tunnel of a worker costs memory of its own.
    let config = Config::to(upstream.addr()).section("[relay]\nworkers = 1");
    let daemon = Daemon::start(&config).await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    tunnel.exchange(1).await;
    let before = daemon.resident_kib();
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut tunnel = Tunnel::open(&daemon, &upstream).await;
        // 96 MiB are offered to each, nearly a GB to all of them.
        fill_until_stalled(&mut tunnel.upstream).await;
        held.push(tunnel);
    }
    let grown = daemon.resident_kib().saturating_sub(before);
    assert!(
        grown < 1024,
        "{grown} KiB for {} readers that read nothing",
        held.len()
    );
}

#[tokio::test]
async fn tiny_segments_are_all_delivered() {
    let _alone = support::alone().await;
    let (_daemon, mut tunnel) = tunnel_with_small_windows().await;
    let sent = payload::bytes(12, 20_000);
    for byte in &sent {
        tunnel
            .client
            .write_all(&[*byte])
            .await
            .expect("send one byte");
    }
    tunnel.client.shutdown().await.unwrap();
    assert!(
        read_to_end(&mut tunnel.upstream).await == sent,
        "the bytes arrived changed"
    );
}

/// A tunnel whose ends buffer so little that a reader that stops soon blocks the sender.
async fn tunnel_with_small_windows() -> (Daemon, Tunnel) {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    for end in [&tunnel.client, &tunnel.upstream] {
        SockRef::from(end).set_recv_buffer_size(64 << 10).unwrap();
        SockRef::from(end).set_send_buffer_size(64 << 10).unwrap();
    }
    (daemon, tunnel)
}

/// Sends 96 MiB to a reader that does not read until the sender is blocked; then all of it must
/// arrive.
async fn stalls_and_recovers(mut writer: TcpStream, mut reader: TcpStream) {
    let stalled_at = fill_until_stalled(&mut writer).await;
    let rest = async {
        writer
            .write_all(&PUSHED[stalled_at..])
            .await
            .expect("send the rest");
        writer.shutdown().await.expect("end the direction");
    };
    let mut received = Vec::new();
    let both = async { tokio::join!(rest, reader.read_to_end(&mut received)) };
    within(LONG, "all that was pushed", both)
        .await
        .1
        .expect("a clean end");
    assert!(
        received == *PUSHED,
        "{} bytes arrived changed",
        received.len()
    );
}

/// 4 MiB go from one end to the other while the opposite direction is stalled.
async fn sends_and_finishes(from: &mut TcpStream, to: &mut TcpStream) {
    let both = async {
        tokio::join!(
            payload::send_and_finish(from, 5, 4 << 20),
            payload::receive(to)
        )
    };
    let (sent, received) = within(LONG, "a transfer beside a stalled one", both).await;
    assert_eq!(sent, received);
}

/// Sends until a write finds no room for a while; returns the number of bytes sent.
async fn fill_until_stalled(writer: &mut TcpStream) -> usize {
    let mut sent = 0;
    while sent < PUSHED.len() {
        match tokio::time::timeout(STALLED, writer.write(&PUSHED[sent..])).await {
            Ok(written) => sent += written.expect("write"),
            Err(_) => return sent,
        }
    }
    panic!("96 MiB went into a tunnel that nobody reads: there is no back-pressure");
}

/// More than the sockets' buffers can hold, which grow to 32 MiB each on a new kernel.
static PUSHED: LazyLock<Vec<u8>> = LazyLock::new(|| payload::bytes(9, 96 << 20));

/// Enough for a large transfer in a debug build on a busy machine.
const LONG: Duration = Duration::from_secs(120);
/// No room for this long is a stall.
const STALLED: Duration = Duration::from_millis(500);
