//! The relay loses, changes and reorders nothing: both directions at once, from one byte to 256 MB.

use std::time::Duration;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use support::config::Config;
use support::daemon::Daemon;
use support::payload::{self, Fingerprint};
use support::raw::{RawUpstream, Tunnel, pass};
use support::tls::TlsUpstream;
use support::{soon, within};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_2_flows_both_ways_at_once() {
    let _alone = support::alone().await;
    both_ways_at_once(&TLS12, &SIZES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_3_flows_both_ways_at_once() {
    let _alone = support::alone().await;
    both_ways_at_once(&TLS13, &SIZES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarter_of_a_gigabyte_flows_both_ways_at_once() {
    let _alone = support::alone().await;
    both_ways_at_once(&TLS13, &[256_000_000]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_tcp_flows_both_ways_at_once() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    for size in SIZES {
        let tunnel = Tunnel::open(&daemon, &upstream).await;
        let hello = tunnel.hello.len() as u64;
        transfer(tunnel.client, tunnel.upstream, size).await;
        let record = daemon.tunnel_record().await;
        assert_eq!(record["bytes_up"], hello + size, "{record}");
        assert_eq!(record["spliced_up"], size, "{record}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adaptive_mode_copies_small_amounts_and_splices_the_rest() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).section("[relay]\nmode = \"adaptive\"");
    let mut daemon = Daemon::start(&config).await;
    for size in SIZES {
        let tunnel = Tunnel::open(&daemon, &upstream).await;
        let hello = tunnel.hello.len() as u64;
        transfer(tunnel.client, tunnel.upstream, size).await;
        let record = daemon.tunnel_record().await;
        assert_eq!(record["bytes_up"], hello + size, "{record}");
        let spliced = record["spliced_up"].as_u64().unwrap();
        assert!(
            if size <= 1 << 10 {
                spliced == 0
            } else {
                spliced <= size
            },
            "{record}"
        );
        assert!(size < 16 << 20 || spliced > size / 2, "{record}");
    }
}

/// One worker has both. `src/relay/flow.rs` bounds how much it moves for the fast one before it
/// turns to the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_tunnel_does_not_starve_another() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).section("[relay]\nworkers = 1");
    let daemon = Daemon::start(&config).await;
    let fast = Tunnel::open(&daemon, &upstream).await;
    let mut other = Tunnel::open(&daemon, &upstream).await;
    let (came, mut seen) = watch::channel(0);
    let _flood = flood(fast, &came);
    let mut meanwhile = Vec::new();
    for seed in 0..50 {
        let before = *seen.borrow();
        soon("an exchange beside a fast tunnel", other.exchange(seed)).await;
        meanwhile.push(*seen.borrow() - before);
        let goes_on = seen.wait_for(|bytes| *bytes > before + (1 << 20));
        soon("the fast tunnel to go on all the time", goes_on)
            .await
            .unwrap();
    }
    meanwhile.sort_unstable();
    // About twenty megabytes are usual. The lower quartile, because the test itself may be delayed.
    assert!(
        meanwhile[12] < 128 << 20,
        "moved by the fast tunnel during one exchange: {meanwhile:?}"
    );
}

#[tokio::test]
async fn byte_counters_grow_while_the_tunnel_is_open() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    for (direction, greeting) in [
        ("up", tunnel.hello.len()),
        ("down", tunnel.server_hello.len()),
    ] {
        let (from, to) = match direction {
            "up" => (&mut tunnel.client, &mut tunnel.upstream),
            _ => (&mut tunnel.upstream, &mut tunnel.client),
        };
        let series = format!("sealway_tunnel_bytes_total{{direction=\"{direction}\"}}");
        for megabytes in 1..=2_usize {
            pass(from, to, &payload::bytes(7, 1 << 20)).await;
            let expected = (greeting + (megabytes << 20)) as f64;
            daemon
                .metric_until(&series, |value| value == expected)
                .await;
        }
    }
    assert_eq!(daemon.metric("sealway_tunnels_active").await, Some(1.0));
    tunnel.close().await;
    daemon.tunnel_record().await;
}

/// One tunnel per size, each end sending while it receives.
async fn both_ways_at_once(version: &'static SupportedProtocolVersion, sizes: &[u64]) {
    let upstream = TlsUpstream::start(version, &[]).await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    for size in sizes {
        let (client, served) = upstream.tunnel(daemon.proxy_addr()).await;
        transfer(client, served, *size).await;
    }
}

/// Both ends send without a pause and read, until this is dropped; `came` counts the bytes
/// received.
fn flood(tunnel: Tunnel, came: &watch::Sender<usize>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for end in [tunnel.client, tunnel.upstream] {
        let (mut reader, mut writer) = end.into_split();
        let came = came.clone();
        tasks.spawn(async move { while writer.write_all(&[7; 65_536]).await.is_ok() {} });
        tasks.spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok(read @ 1..) = reader.read(&mut buffer).await {
                came.send_modify(|bytes| *bytes += read);
            }
        });
    }
    tasks
}

/// Moves `size` different bytes in each direction at once, and compares the sent bytes with the
/// received ones up to the clean end.
async fn transfer<A, B>(client: A, upstream: B, size: u64)
where
    A: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ends = async {
        tokio::join!(
            tokio::spawn(exchange(client, 1, size)),
            tokio::spawn(exchange(upstream, 2, size))
        )
    };
    let (client, upstream) = within(LONG, "both transfers", ends).await;
    let ((up_sent, down_received), (down_sent, up_received)) = (client.unwrap(), upstream.unwrap());
    assert_eq!(up_sent, up_received, "upwards");
    assert_eq!(down_sent, down_received, "downwards");
    assert_ne!(
        up_sent.sha256, down_received.sha256,
        "each direction has bytes of its own"
    );
}

/// Sends a stream of its own and receives the other's, at once.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite,
    seed: u64,
    size: u64,
) -> (Fingerprint, Fingerprint) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::join!(
        payload::send_and_finish(&mut writer, seed, size),
        payload::receive(&mut reader)
    )
}

const SIZES: [u64; 5] = [1, 1 << 10, 64 << 10, 1 << 20, 16 << 20];
/// Enough for the largest transfer in a debug build on a busy machine.
const LONG: Duration = Duration::from_secs(300);
