//! Endings by the peers: a FIN on one side becomes a FIN on the other after every byte before it, a
//! reset stays a reset and never becomes a clean end, and the audit record names the side that
//! ended the tunnel.

use serde_json::Value;
use support::client::{connect_head, dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::raw::{RawUpstream, Tunnel, read_to_end, read_to_reset, reset};
use support::{payload, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_ends_first_still_gets_the_answer() {
    let (mut daemon, mut tunnel) = open().await;
    one_side_ends_first(&mut tunnel.client, &mut tunnel.upstream).await;
    assert_eq!(code(&mut daemon).await, "closed_by_client");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_ends_first_still_gets_bytes() {
    let (mut daemon, mut tunnel) = open().await;
    one_side_ends_first(&mut tunnel.upstream, &mut tunnel.client).await;
    assert_eq!(code(&mut daemon).await, "closed_by_upstream");
}

#[tokio::test]
async fn a_tunnel_without_a_payload_byte_ends_cleanly() {
    let (mut daemon, tunnel) = open().await;
    tunnel.close().await;
    assert_eq!(code(&mut daemon).await, "closed_by_client");
}

/// splice(2) stops at urgent data as if the stream had ended. No TLS peer sends any; a peer that
/// does must not receive a short stream that looks complete.
#[tokio::test]
async fn urgent_data_is_a_reset() {
    let (mut daemon, mut tunnel) = open().await;
    socket2::SockRef::from(&tunnel.client)
        .send_out_of_band(b"urgent")
        .unwrap();
    read_to_reset(&mut tunnel.upstream).await;
    assert_eq!(code(&mut daemon).await, "reset_by_client");
    let (mut daemon, mut tunnel) = open().await;
    socket2::SockRef::from(&tunnel.upstream)
        .send_out_of_band(b"urgent")
        .unwrap();
    read_to_reset(&mut tunnel.client).await;
    assert_eq!(code(&mut daemon).await, "reset_by_upstream");
}

/// A read stops at urgent data as if no bytes followed; bytes after it must not stay unread until
/// more arrive.
#[tokio::test]
async fn urgent_data_is_a_reset_while_a_tunnel_is_set_up_too() {
    let recorded = Recorded::named("curl-openssl");
    for (within, code) in [
        ("head", "reset_by_client"),
        ("hello", "reset_by_client"),
        ("answer", "reset_by_upstream"),
    ] {
        let upstream = RawUpstream::start().await;
        let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
        let mut client = dial(daemon.proxy_addr()).await;
        let head = connect_head(&upstream.authority(), &[]);
        let mut _served = None;
        if within == "head" {
            daemon.at_once(|| send_with_an_urgent_byte(&client, head.as_bytes()));
        } else {
            client.write_all(head.as_bytes()).await.unwrap();
            client = read_reply(client).await.established();
        }
        if within == "hello" {
            daemon.at_once(|| send_with_an_urgent_byte(&client, &recorded.bytes));
        }
        if within == "answer" {
            client.write_all(&recorded.bytes).await.unwrap();
            let served = _served.insert(upstream.accept().await);
            daemon.at_once(|| send_with_an_urgent_byte(served, &recorded.server_hello()));
        }
        let record = daemon.tunnel_record().await;
        assert_eq!(record["code"], code, "{within}: {record}");
        assert!(
            record["error"].as_str().unwrap().ends_with("urgent data"),
            "{within}: {record}"
        );
    }
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_upstream() {
    let (mut daemon, mut tunnel) = open().await;
    reset(tunnel.client);
    assert_eq!(read_to_reset(&mut tunnel.upstream).await, 0);
    assert_eq!(code(&mut daemon).await, "reset_by_client");
}

#[tokio::test]
async fn a_reset_by_the_upstream_reaches_the_client() {
    let (mut daemon, mut tunnel) = open().await;
    reset(tunnel.upstream);
    assert_eq!(read_to_reset(&mut tunnel.client).await, 0);
    assert_eq!(code(&mut daemon).await, "reset_by_upstream");
}

#[tokio::test]
async fn a_reset_by_the_client_stops_an_upstream_that_sends() {
    let (mut daemon, mut tunnel) = open().await;
    tunnel
        .upstream
        .write_all(&payload::bytes(1, 64 << 10))
        .await
        .unwrap();
    tunnel.client.read_exact(&mut [0; 100]).await.unwrap();
    reset(tunnel.client);
    write_until_it_fails(&mut tunnel.upstream).await;
    assert_eq!(code(&mut daemon).await, "reset_by_client");
}

#[tokio::test]
async fn a_reset_by_the_upstream_stops_a_client_that_sends() {
    let (mut daemon, mut tunnel) = open().await;
    tunnel
        .client
        .write_all(&payload::bytes(1, 64 << 10))
        .await
        .unwrap();
    tunnel.upstream.read_exact(&mut [0; 100]).await.unwrap();
    reset(tunnel.upstream);
    write_until_it_fails(&mut tunnel.client).await;
    assert_eq!(code(&mut daemon).await, "reset_by_upstream");
}

#[tokio::test]
async fn a_reset_after_the_others_fin_is_still_a_reset() {
    let (mut daemon, mut tunnel) = open().await;
    tunnel.client.shutdown().await.unwrap();
    assert!(read_to_end(&mut tunnel.upstream).await.is_empty());
    reset(tunnel.upstream);
    assert_eq!(read_to_reset(&mut tunnel.client).await, 0);
    assert_eq!(code(&mut daemon).await, "reset_by_upstream");
}

#[tokio::test]
async fn a_client_that_resets_after_its_own_fin_stops_the_upstream() {
    let (mut daemon, mut tunnel) = open().await;
    tunnel.client.shutdown().await.unwrap();
    assert!(read_to_end(&mut tunnel.upstream).await.is_empty());
    reset(tunnel.client);
    write_until_it_fails(&mut tunnel.upstream).await;
    assert_eq!(code(&mut daemon).await, "reset_by_client");
}

#[tokio::test]
async fn a_closed_code_is_counted_once() {
    let (mut daemon, tunnel) = open().await;
    tunnel.close().await;
    daemon.tunnel_record().await;
    let closed = "sealway_tunnels_closed_total{code=\"closed_by_client\"}";
    assert_eq!(daemon.metric_until(closed, |count| count > 0.0).await, 1.0);
    assert_eq!(daemon.metric("sealway_tunnels_active").await, Some(0.0));
    assert_eq!(
        daemon.metric("sealway_tunnels_opened_total").await,
        Some(1.0)
    );
}

async fn open() -> (Daemon, Tunnel) {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    (daemon, tunnel)
}

/// `first` sends and ends; `second` sees all of it and the clean end, then sends as much and ends too.
async fn one_side_ends_first(first: &mut TcpStream, second: &mut TcpStream) {
    one_direction(first, second, 3).await;
    one_direction(second, first, 4).await;
}

async fn one_direction(from: &mut TcpStream, to: &mut TcpStream, seed: u64) {
    let both = async {
        tokio::join!(
            payload::send_and_finish(from, seed, 3_000_003),
            payload::receive(to)
        )
    };
    let (sent, received) = soon("all bytes and the clean end", both).await;
    assert_eq!(sent, received);
}

/// The tenth byte is urgent, and the others come on both sides of it.
fn send_with_an_urgent_byte(stream: &TcpStream, bytes: &[u8]) {
    let socket = socket2::SockRef::from(stream);
    socket.send(&bytes[..10]).unwrap();
    socket.send_out_of_band(&bytes[10..11]).unwrap();
    socket.send(&bytes[11..]).unwrap();
}

/// Writes until the connection reports that its peer is gone.
async fn write_until_it_fails(stream: &mut TcpStream) {
    let chunk = vec![0; 4096];
    soon("a failing write", async {
        while stream.write_all(&chunk).await.is_ok() {}
    })
    .await;
}

/// The code of the only tunnel's audit record.
async fn code(daemon: &mut Daemon) -> Value {
    let record = daemon.tunnel_record().await;
    assert_eq!(record["outcome"], "allowed", "{record}");
    record["code"].clone()
}
