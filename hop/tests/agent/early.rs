//! The early 200: only for a destination that was reached of late, with the first flight in the request, and a refusal is
//! an alert.

use support::client::{Reply, connect};
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::{Manner, Node, refusal};
use crate::program::Agent;
use crate::zoo::Authority;

/// The reply, and then an alert of TLS.
async fn alert(reply: Reply) -> Vec<u8> {
    let mut client = reply.established();
    client.write_all(b"hello").await.unwrap();
    let mut bytes = Vec::new();
    soon("the alert", client.read_to_end(&mut bytes))
        .await
        .unwrap();
    bytes
}

async fn reached(agent: &Agent, node: &mut Node) -> TcpStream {
    let client = agent.open("a.example:443").await;
    node.request().await;
    agent.has("upstream_warm", node, 2.0).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_request_is_answered_before_the_upstream_and_carries_the_first_flight() {
    let authority = Authority::new("CA");
    let mut node = Node::start(&authority, Manner::Echo).await;
    let agent = Agent::start_warm(&authority, &[&node], &[]).await;
    reached(&agent, &mut node).await;
    node.behave(Manner::Silent);
    // Another port, another name: not known.
    for other in ["a.example:8443", "b.example:443"] {
        let asking = connect(agent.address, other, &[]);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(100), asking);
        assert!(waited.await.is_err(), "{other}");
        assert_eq!(node.request().await.first, b"");
    }
    let mut client = agent.open("A.EXAMPLE:443").await;
    client.write_all(b"hello").await.unwrap();
    assert_eq!(node.request().await.first, b"hello");

    node.behave(Manner::Echo);
    let mut client = agent.open("a.example:443").await;
    client.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    soon("the echo", client.read_exact(&mut echo))
        .await
        .unwrap();
    assert_eq!(
        (&echo, node.request().await.first.as_slice()),
        (b"hello", &b"hello"[..])
    );
    // A client that says nothing gets its tunnel nevertheless.
    let _silent = agent.open("a.example:443").await;
    assert_eq!(node.request().await.first, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_after_an_early_200_is_an_alert_and_the_next_one_is_http_again() {
    let authority = Authority::new("CA");
    let mut node = Node::start(&authority, Manner::Echo).await;
    let agent = Agent::start_warm(&authority, &[&node], &[]).await;
    for (status, code, description) in [
        (403, "host_denied", 49),
        (407, "auth_failed", 49),
        (502, "connect_refused", 80),
        (503, "draining", 80),
        (504, "dns_timeout", 80),
    ] {
        node.behave(Manner::Echo);
        reached(&agent, &mut node).await;
        node.behave(Manner::Say(refusal(status, code)));
        let reply = agent.ask("a.example:443").await;
        assert_eq!(
            alert(reply).await,
            [21, 3, 3, 0, 2, 2, description],
            "{code}"
        );
        let reply = agent.ask("a.example:443").await;
        assert_eq!(
            reply.status_line,
            format!("HTTP/1.1 {status} Some Phrase ({code})")
        );
        assert_eq!(node.request().await.first, b"hello");
        node.request().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_request_goes_on_to_another_upstream_with_its_first_flight() {
    let authority = Authority::new("CA");
    let mut a = Node::start(&authority, Manner::Echo).await;
    let mut b = Node::start(&authority, Manner::Echo).await;
    let agent = Agent::start_warm(&authority, &[&a, &b], &[]).await;
    for manner in [Manner::Reset, Manner::Say(refusal(503, "tunnel_limit"))] {
        a.behave(Manner::Echo);
        support::wait_until("the first one is tried again", async || {
            let mut client = agent.open("a.example:443").await;
            client.write_all(b"x").await.unwrap();
            client.read_exact(&mut [0; 1]).await.unwrap();
            a.so_far() > 0
        })
        .await;
        agent.has("upstream_warm", &a, 2.0).await;
        b.so_far();
        a.behave(manner);
        let mut client = agent.open("a.example:443").await;
        client.write_all(b"hello").await.unwrap();
        let mut echo = [0; 5];
        soon("the echo", client.read_exact(&mut echo))
            .await
            .unwrap();
        assert_eq!(&echo, b"hello");
        assert_eq!(b.request().await.first, b"hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_turns_it_off() {
    let authority = Authority::new("CA");
    let mut node = Node::start(&authority, Manner::Echo).await;
    let off = [("SEALWAY_AGENT_OPTIMISTIC", "false")];
    let agent = Agent::start_warm(&authority, &[&node], &off).await;
    reached(&agent, &mut node).await;
    node.behave(Manner::Say(refusal(403, "host_denied")));
    let reply = agent.ask("a.example:443").await;
    assert_eq!(reply.status(), 403);
}
