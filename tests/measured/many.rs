//! Two thousand tunnels at once: each carries its own bytes and no other's, and when they are gone so is all they held.

use std::sync::Arc;
use std::time::Duration;

use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::raw::{RawUpstream, Tunnel, read_to_end};
use support::{payload, raise_descriptor_limit, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_tunnels_keep_their_bytes_apart() {
    let _alone = support::alone().await;
    raise_descriptor_limit();
    let upstream = RawUpstream::start().await;
    // One is warm before memory is measured; what any other takes at first would count as the tunnels'.
    let mut daemon =
        Daemon::start(&Config::to(upstream.addr()).section("[relay]\nworkers = 2")).await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    daemon.metric_until(ACTIVE, |active| active == 0.0).await;
    let descriptors_before = daemon.open_descriptors().await;

    let authority = upstream.authority();
    let echo = tokio::spawn(serve_echo(upstream));
    let resident_before = daemon.resident_kib();
    let clients = within(LONG, "2,000 tunnels", open_all(&daemon, authority)).await;
    // The last one is counted a moment after its client has read the ServerHello.
    daemon
        .metric_until(ACTIVE, |active| active == TUNNELS as f64)
        .await;
    let resident = daemon.resident_kib() - resident_before;
    assert!(
        resident < RESIDENT_KIB_MAX,
        "{resident} KiB for {TUNNELS} silent tunnels"
    );
    let clients = within(LONG, "2,000 exchanges", exchange_all(clients)).await;
    assert_eq!(
        daemon.metric(ACTIVE).await,
        Some(TUNNELS as f64),
        "all were open at once"
    );
    within(LONG, "2,000 clean ends", close_all(clients)).await;

    daemon.metric_until(ACTIVE, |active| active == 0.0).await;
    assert_eq!(
        daemon.metric("sealway_tunnels_opened_total").await,
        Some(TUNNELS as f64 + 1.0)
    );
    let descriptors = descriptors_fall_to(&daemon, descriptors_before + SPARE).await;
    assert!(
        descriptors <= descriptors_before + SPARE,
        "{descriptors_before} descriptors before, {descriptors} after"
    );
    for _ in 0..=TUNNELS {
        assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
    }
    echo.abort();
}

/// Opens every tunnel, a bounded number at a time, and keeps it open.
async fn open_all(daemon: &Daemon, authority: String) -> Vec<(u64, TcpStream)> {
    let (proxy, authority, gate) = (
        daemon.proxy_addr(),
        Arc::new(authority),
        Arc::new(Semaphore::new(AT_A_TIME)),
    );
    let recorded = Arc::new(Recorded::named("curl-openssl"));
    let mut opening = JoinSet::new();
    for number in 0..TUNNELS as u64 {
        let (authority, gate, recorded) = (
            Arc::clone(&authority),
            Arc::clone(&gate),
            Arc::clone(&recorded),
        );
        opening.spawn(async move {
            let _turn = gate.acquire_owned().await.expect("the gate stays open");
            let mut client = connect(proxy, &authority, &[]).await.established();
            recorded.greet(&mut client).await;
            (number, client)
        });
    }
    opening.join_all().await
}

/// Sends bytes of its own through every tunnel at once, and reads them back.
async fn exchange_all(clients: Vec<(u64, TcpStream)>) -> Vec<TcpStream> {
    let mut exchanging = JoinSet::new();
    for (number, mut client) in clients {
        exchanging.spawn(async move {
            let sent = payload::bytes(number, 8 << 10);
            let mut echoed = vec![0; sent.len()];
            client.write_all(&sent).await.expect("send");
            client.read_exact(&mut echoed).await.expect("receive");
            assert!(
                echoed == sent,
                "tunnel {number} got bytes that are not its own"
            );
            client
        });
    }
    exchanging.join_all().await
}

/// Ends every tunnel; no byte may be left in it.
async fn close_all(clients: Vec<TcpStream>) {
    for mut client in clients {
        client.shutdown().await.expect("end the client's direction");
        assert!(
            read_to_end(&mut client).await.is_empty(),
            "bytes behind the echo"
        );
    }
}

/// Answers the recorded hello on each connection, then sends back what comes.
async fn serve_echo(upstream: RawUpstream) {
    let recorded = Arc::new(Recorded::named("curl-openssl"));
    loop {
        let mut stream = upstream.accept_whenever().await;
        let recorded = Arc::clone(&recorded);
        tokio::spawn(async move {
            let mut hello = vec![0; recorded.bytes.len()];
            stream.read_exact(&mut hello).await.expect("read the hello");
            assert!(hello == recorded.bytes, "the hello arrived changed");
            stream
                .write_all(&recorded.server_hello())
                .await
                .expect("answer the hello");
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer)
                .await
                .expect("echo");
        });
    }
}

/// Sockets are closed a moment after the gauge falls: reads the count until it is low enough, or for a bounded while.
async fn descriptors_fall_to(daemon: &Daemon, enough: usize) -> usize {
    let low = async {
        while daemon.open_descriptors().await > enough {
            support::tick().await;
        }
    };
    let _low_or_not = tokio::time::timeout(Duration::from_secs(10), low).await;
    daemon.open_descriptors().await
}

/// A silent tunnel takes 0.9 KiB, here 1.02 with what two workers and a debug build add. What was used to set it up is used again.
const RESIDENT_KIB_MAX: usize = TUNNELS * 5 / 4;
const TUNNELS: usize = 2000;
const AT_A_TIME: usize = 64;
const ACTIVE: &str = "sealway_tunnels_active";
/// Pipes that the daemon keeps for later are two descriptors each; far fewer than one for every tunnel.
const SPARE: usize = 256;
const LONG: Duration = Duration::from_secs(120);
