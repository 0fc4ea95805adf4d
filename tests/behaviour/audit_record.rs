//! The audit record of an allowed tunnel: its names, the addresses at both ends, and the bytes of
//! the wire.

use std::time::{Duration, Instant};

use serde_json::Value;
use support::HOST;
use support::config::Config;
use support::daemon::Daemon;
use support::payload;
use support::raw::{RawUpstream, Tunnel, pass};

#[tokio::test]
async fn a_record_names_both_ends_and_the_outcome() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    let client = tunnel.client.local_addr().unwrap();
    let egress = tunnel.upstream.peer_addr().unwrap();
    tunnel.close().await;

    let record = daemon.tunnel_record().await;
    assert_eq!(record["outcome"], "allowed", "{record}");
    assert_eq!(record["code"], "closed_by_client", "{record}");
    assert_eq!(record["host"], HOST, "{record}");
    assert_eq!(record["port"], upstream.addr().port(), "{record}");
    assert_eq!(record["sni"], HOST, "{record}");
    assert_eq!(
        record["ja4"], "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6",
        "of the recorded curl: {record}"
    );
    assert_eq!(
        record["listener"],
        daemon.proxy_addr().to_string(),
        "{record}"
    );
    assert_eq!(record["egress"], egress.to_string(), "{record}");
    assert_eq!(record["upstream"], upstream.addr().to_string(), "{record}");
    let audited_client = record["client"].as_str().expect("a client");
    assert!(
        audited_client.starts_with(&client.ip().to_string()),
        "{record}"
    );
    assert!(
        record.get("user").is_none(),
        "nobody was asked for a name: {record}"
    );
    assert!(record.get("error").is_none(), "{record}");
}

#[tokio::test]
async fn a_record_counts_the_bytes_of_the_wire() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    pass(
        &mut tunnel.client,
        &mut tunnel.upstream,
        &payload::bytes(1, 300_001),
    )
    .await;
    pass(
        &mut tunnel.upstream,
        &mut tunnel.client,
        &payload::bytes(2, 70_007),
    )
    .await;
    let (hello, server_hello) = (tunnel.hello.len() as u64, tunnel.server_hello.len() as u64);
    tunnel.close().await;

    let record = daemon.tunnel_record().await;
    assert_eq!(record["hello_bytes"], hello, "{record}");
    assert_eq!(record["hello_records"], 1, "{record}");
    assert_eq!(record["bytes_up"], hello + 300_001, "{record}");
    assert_eq!(record["bytes_down"], server_hello + 70_007, "{record}");
    assert_eq!(
        record["spliced_up"], 300_001,
        "no byte behind the greeting is copied: {record}"
    );
    let spliced_down = record["spliced_down"].as_u64().expect("a count");
    assert!(
        (70_007..=server_hello + 70_007).contains(&spliced_down),
        "{record}"
    );
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn a_record_has_the_longest_silences_of_the_stream() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let started = Instant::now();
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    pass(&mut tunnel.client, &mut tunnel.upstream, b"a question").await;
    // A model that thinks.
    tokio::time::sleep(Duration::from_millis(300)).await;
    pass(&mut tunnel.upstream, &mut tunnel.client, b"the first byte").await;
    // The daemon counts whole milliseconds.
    let answered_ms = started.elapsed().as_millis() as u64 + 1;
    daemon
        .metric_until("sealway_first_byte_seconds_count", |answers| answers == 1.0)
        .await;
    let waited = daemon
        .metric("sealway_first_byte_seconds_sum")
        .await
        .expect("a sum");
    assert!(
        (0.29..=answered_ms as f64 / 1_000.0).contains(&waited),
        "{waited} s, answered after {answered_ms} ms"
    );
    tokio::time::sleep(Duration::from_millis(700)).await;
    pass(&mut tunnel.upstream, &mut tunnel.client, b"and the others").await;
    pass(
        &mut tunnel.client,
        &mut tunnel.upstream,
        b"another question",
    )
    .await;
    pass(&mut tunnel.upstream, &mut tunnel.client, b"and its answer").await;
    tunnel.close().await;

    let record = daemon.tunnel_record().await;
    let ended_ms = started.elapsed().as_millis() as u64 + 1;
    let of = |name: &str| {
        record[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}: {record}"))
    };
    assert!(
        (290..=answered_ms).contains(&of("first_byte_ms")),
        "answered after {answered_ms} ms: {record}"
    );
    assert!(
        (690..=ended_ms).contains(&of("max_gap_ms")),
        "ended after {ended_ms} ms: {record}"
    );
    assert_eq!(
        daemon.metric("sealway_first_byte_seconds_count").await,
        Some(1.0),
        "once a tunnel"
    );

    // A session in which the server speaks first and the client never does.
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    pass(&mut tunnel.upstream, &mut tunnel.client, b"hello?").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    tunnel.close().await;
    let record = daemon.tunnel_record().await;
    assert!(
        record.get("first_byte_ms").is_none(),
        "nothing was answered: {record}"
    );
    assert!(
        record["max_gap_ms"].as_u64().is_some_and(|gap| gap >= 290),
        "the silence before the end counts: {record}"
    );
}

#[tokio::test]
async fn a_record_has_its_times_and_identity() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let start = daemon
        .line("the start", |line| line["event"] == "start")
        .await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    let (first, second) = (daemon.tunnel_record().await, daemon.tunnel_record().await);

    assert_ne!(first["id"], second["id"]);
    assert!(!first["id"].is_null(), "{first}");
    assert_eq!(
        first["policy"], start["policy"],
        "the policy in force: {first} {start}"
    );
    assert!(is_microsecond_utc(&first["ts"]), "{first}");
    for name in ["dns_ms", "connect_ms", "hello_ms", "duration_ms"] {
        assert!(
            first[name]
                .as_f64()
                .is_some_and(|milliseconds| milliseconds >= 0.0),
            "{name}: {first}"
        );
    }
}

/// `2026-11-21T22:03:27.123456Z`
fn is_microsecond_utc(value: &Value) -> bool {
    let shape = |c: char| if c.is_ascii_digit() { '9' } else { c };
    let text = value.as_str().unwrap_or_default();
    text.chars().map(shape).collect::<String>() == "9999-99-99T99:99:99.999999Z"
}
