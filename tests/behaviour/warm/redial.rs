//! The upstream closes a warm socket as a tunnel takes it.

use std::time::Duration;

use serde_json::{Value, json};
use support::client::connect;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::wait_until;

use super::front_end::{Conduct, FrontEnd, greet};
use super::{assert_sums_agree, authority, closed, config, dials, visit, warm_up};

#[tokio::test]
async fn no_tunnel_fails_before_an_upstream_that_closes_silent_connections() {
    let upstream = FrontEnd::start("127.0.0.1:0", |nth| {
        // Longer than any client of this test needs for its hello.
        let silence = Duration::from_millis(1_000 + (nth as u64 * 37) % 500);
        match nth % 2 {
            0 => Conduct::CloseAfter(silence),
            _ => Conduct::ResetAfter(silence),
        }
    });
    let upstream = upstream.await;
    let mut daemon = Daemon::start(&config(upstream.address, 4)).await;
    let mut redialled = 0;
    for nth in 1..=300 {
        let record = visit(&mut daemon, upstream.address).await;
        assert_eq!(record["outcome"], "allowed", "{record}");
        redialled += usize::from(record["redialled"] == json!(true));
        if nth % 100 == 0 {
            // The next tunnel finds the pool as the upstream has left it.
            let before = closed_silently(&upstream);
            let more = async || closed_silently(&upstream) > before;
            wait_until("an end of a silent connection", more).await;
        }
    }
    assert_eq!(dials(&daemon, "redial").await, redialled);
    let noticed = async || closed(&daemon, "upstream").await > 0;
    wait_until("the daemon notices", noticed).await;
    assert_sums_agree(&daemon).await;
}

/// Connections that the front end has closed without a byte.
fn closed_silently(upstream: &FrontEnd) -> usize {
    let connections = upstream.connections();
    let silent = connections.iter().filter(|one| one.bytes.is_empty());
    silent.filter(|one| one.is_over && !one.was_reset).count()
}

/// A tunnel with a warm socket, before a front end that treats its fourth and later connections like this.
async fn tunnel_before(conduct: Conduct) -> (FrontEnd, Daemon, Value) {
    let upstream = FrontEnd::start("127.0.0.1:0", move |nth| match nth {
        0..3 => Conduct::Serve,
        _ => conduct,
    });
    let upstream = upstream.await;
    let mut daemon = Daemon::start(&config(upstream.address, 1)).await;
    warm_up(&mut daemon, &upstream, 1).await;
    let reply = connect(daemon.proxy_addr(), &authority(upstream.address), &[]).await;
    let mut client = reply.established();
    assert!(greet(&mut client).await.is_none(), "{conduct:?}");
    drop(client);
    let record = daemon.tunnel_record().await;
    assert_eq!(record["warm"], json!(true), "{record}");
    (upstream, daemon, record)
}

#[tokio::test]
async fn a_hello_is_sent_twice_at_most() {
    for conduct in [Conduct::CloseOnHello, Conduct::ResetOnHello] {
        let (upstream, daemon, record) = tunnel_before(conduct).await;
        let facts = [&record["redialled"], &record["outcome"]];
        assert_eq!(facts, [&json!(true), &json!("failed")], "{record}");
        let code = record["code"].as_str().unwrap();
        assert!(code.ends_with("_by_upstream"), "{record}");
        // Those of three tunnels, of the warm socket and of the second dial.
        assert_eq!(upstream.spoken_to(), 5, "{conduct:?}");
        assert_eq!(dials(&daemon, "redial").await, 1);
    }
}

#[tokio::test]
async fn a_hello_is_not_sent_again_after_a_byte_of_the_answer() {
    let (upstream, daemon, record) = tunnel_before(Conduct::AnswerInPart).await;
    assert_eq!(record.get("redialled"), None, "{record}");
    assert_eq!(record["outcome"], "failed", "{record}");
    assert_eq!(upstream.spoken_to(), 4);
    assert_eq!(dials(&daemon, "redial").await, 0);
}

#[tokio::test]
async fn a_dialled_upstream_that_goes_is_not_replaced() {
    let upstream = FrontEnd::start("127.0.0.1:0", |_| Conduct::CloseOnHello).await;
    let mut daemon = Daemon::start(&config(upstream.address, 1)).await;
    let reply = connect(daemon.proxy_addr(), &authority(upstream.address), &[]).await;
    let mut client = reply.established();
    assert!(greet(&mut client).await.is_none());
    let record = daemon.tunnel_record().await;
    assert_eq!(record["code"], "closed_by_upstream", "{record}");
    assert!(record.get("redialled").is_none() && record["connect_ms"].is_number());
    assert_eq!(upstream.accepted(), 1);
}

/// The upstream closes after the 200 and before the client has sent its hello.
#[tokio::test]
async fn a_client_that_is_slow_with_its_hello_is_served_after_all() {
    for conduct in [Conduct::CloseWhenTold, Conduct::ResetWhenTold] {
        let upstream = FrontEnd::start("127.0.0.1:0", move |nth| match nth {
            3 => conduct,
            _ => Conduct::Serve,
        });
        let upstream = upstream.await;
        let mut daemon = Daemon::start(&config(upstream.address, 1)).await;
        warm_up(&mut daemon, &upstream, 1).await;
        let reply = connect(daemon.proxy_addr(), &authority(upstream.address), &[]).await;
        let mut client = reply.established();
        upstream.free();
        let over = async || upstream.connections()[3].is_over;
        wait_until("the upstream's end", over).await;
        greet(&mut client).await.expect("the answer");
        drop(client);
        let record = daemon.tunnel_record().await;
        let facts = [&record["warm"], &record["redialled"], &record["outcome"]];
        assert_eq!(
            facts,
            [&json!(true), &json!(true), &json!("allowed")],
            "{record}"
        );
        let has = |field: &str| record.get(field).is_some();
        assert!(!has("connect_ms") && !has("error"), "{record}");
        assert!(upstream.connections()[3].bytes.is_empty());
        // The record has the second connection's port.
        let later = upstream.connections().split_off(4);
        let second = later.iter().find(|one| !one.bytes.is_empty());
        let peer = second
            .and_then(|one| one.peer)
            .expect("the second connection");
        assert_eq!(record["egress"], peer.to_string(), "{record}");
        let hello = Recorded::named("curl-openssl").bytes.len();
        assert_eq!(record["bytes_up"], hello, "the hello counts once: {record}");
    }
}
