//! Warm connections: they carry requests, are replaced, and find out that an upstream is gone.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::namespace::{OtherHost, in_own_network, run};
use tokio::net::TcpListener;

use crate::node::{Manner, Node};
use crate::program::{Agent, echoes};
use crate::zoo::Authority;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_takes_a_warm_connection_and_another_one_takes_its_place() {
    let authority = Authority::new("CA");
    let node = Node::start(&authority, Manner::Echo).await;
    let agent = Agent::start_warm(&authority, &[&node], &[]).await;
    assert_eq!(node.handshakes(), 2);
    for number in 1..=3 {
        echoes(agent.open("a.example:443").await).await;
        agent.has("upstream_warm", &node, 2.0).await;
        assert_eq!(node.handshakes(), 2 + number);
    }
    let metrics = agent.metrics().await;
    let upstream = format!("upstream=\"{}\"", node.address);
    let requests = |connection: &str| {
        metrics[&format!("sealway_agent_requests_total{{{upstream},connection=\"{connection}\"}}")]
    };
    assert_eq!((requests("warm"), requests("new")), (3.0, 0.0));
}

/// The close of an idle connection and the request on it cross on their way.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_crosses_the_close_of_a_warm_connection_is_sent_again() {
    let authority = Authority::new("CA");
    let mut node = Node::start(&authority, Manner::Echo).await;
    for early in ["false", "true"] {
        let key = [("SEALWAY_AGENT_OPTIMISTIC", early)];
        let agent = Agent::start_warm(&authority, &[&node], &key).await;
        for _ in 0..100 {
            node.begin_an_age();
            echoes(agent.open("a.example:443").await).await;
        }
        assert_eq!(node.so_far(), 100);
        let metrics = agent.metrics().await;
        let upstream = format!("upstream=\"{}\"", node.address);
        let again = format!("sealway_agent_requests_total{{{upstream},connection=\"new\"}}");
        assert!(metrics[&again] > 0.0, "no connection was old");
        let failures = format!("sealway_agent_upstream_failures_total{{{upstream}}}");
        assert_eq!(metrics[&failures], 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_ends_connections_at_once_is_not_asked_in_a_loop() {
    let authority = Authority::new("CA");
    let node = Node::start(&authority, Manner::Impatient(Duration::ZERO)).await;
    let _agent = Agent::start(&authority, &[&node], &[]).await;
    let started = Instant::now();
    support::wait_until("some handshakes", async || node.handshakes() >= 4).await;
    // At most two each at 0, 0.25, 0.75, 1.75 … s, and two that ended together.
    let waits = started.elapsed().as_secs_f64() * 4.0;
    let most = 6.0 + 2.0 * waits;
    assert!(
        (node.handshakes() as f64) < most,
        "{} in {waits}",
        node.handshakes()
    );
}

/// Everything between both hosts goes to a link address that nobody has.
fn black_hole(host: &OtherHost) {
    run("ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:99 dev v0 nud permanent");
    host.run("ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:99 dev v1 nud permanent");
}

/// A request costs the wait for an acknowledgement once; then the upstream is known to be gone.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs unshare(1), ip(8) and user namespaces"
)]
fn a_black_hole_costs_a_request_a_quarter_of_a_second() {
    in_own_network(
        "a_black_hole_costs_a_request_a_quarter_of_a_second",
        async {
            let authority = Authority::new("CA");
            let host = OtherHost::start();
            let address: SocketAddr = "192.0.2.2:9443".parse().unwrap();
            let listener = TcpListener::from_std(host.listen(address)).unwrap();
            let far = Node::start_on(listener, address, &authority, Manner::Echo);
            let near = Node::start(&authority, Manner::Echo).await;
            let agent = Agent::start_warm(&authority, &[&far, &near], &[]).await;
            echoes(agent.open("a.example:443").await).await;
            agent.has("upstream_warm", &far, 2.0).await;
            black_hole(&host);
            for (what, limit) in [("warm", 1_000), ("known to be down", 200)] {
                let started = Instant::now();
                echoes(agent.open("b.example:443").await).await;
                let took = started.elapsed();
                println!("{what}: {took:?}");
                assert!(took < Duration::from_millis(limit), "{what}: {took:?}");
            }
        },
    );
}

/// Nobody asks, and the silent warm connections find out.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs unshare(1), ip(8) and user namespaces"
)]
fn a_black_hole_is_noticed_without_a_request() {
    in_own_network("a_black_hole_is_noticed_without_a_request", async {
        let authority = Authority::new("CA");
        let host = OtherHost::start();
        let address: SocketAddr = "192.0.2.2:9443".parse().unwrap();
        let listener = TcpListener::from_std(host.listen(address)).unwrap();
        let far = Node::start_on(listener, address, &authority, Manner::Echo);
        let mut agent = Agent::start_warm(&authority, &[&far], &[]).await;
        black_hole(&host);
        agent.logged("the upstream is down").await;
    });
}
