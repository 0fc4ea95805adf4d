//! Several upstreams: which requests go on to another one, how fast, and which never do.

use std::time::{Duration, Instant};

use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{Manner, Node, refusal};
use crate::program::{Agent, echoes};
use crate::zoo::Authority;

async fn two(authority: &Authority, a: Manner, b: Manner) -> (Node, Node) {
    (
        Node::start(authority, a).await,
        Node::start(authority, b).await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_503_about_the_upstream_goes_on_and_no_other_refusal_does() {
    let authority = Authority::new("CA");
    let (mut a, mut b) = two(&authority, Manner::Echo, Manner::Echo).await;
    let agent = Agent::start_warm(&authority, &[&a, &b], &[]).await;
    for code in [
        "draining",
        "tunnel_limit",
        "audit_unavailable",
        "egress_unavailable",
        "egress_ports_exhausted",
    ] {
        a.behave(Manner::Say(refusal(503, code)));
        echoes(agent.open("a.example:443").await).await;
        // Until it has recovered, the other one comes first.
        echoes(agent.open("a.example:443").await).await;
        assert_eq!((a.so_far(), b.so_far()), (1, 2), "{code}");
        a.behave(Manner::Echo);
        support::wait_until("the first one is tried again", async || {
            echoes(agent.open("a.example:443").await).await;
            a.so_far() > 0
        })
        .await;
        b.so_far();
    }
    for (status, code) in [
        (400, "bad_request"),
        (403, "host_denied"),
        (407, "auth_failed"),
        (429, "user_limit"),
        (502, "connect_refused"),
        (503, "ended_by_operator"),
        (504, "dns_timeout"),
    ] {
        a.behave(Manner::Say(refusal(status, code)));
        let reply = agent.ask("b.example:443").await;
        assert_eq!(
            reply.status_line,
            format!("HTTP/1.1 {status} Some Phrase ({code})")
        );
        assert_eq!((a.so_far(), b.so_far()), (1, 0), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_a_reply_goes_on() {
    let authority = Authority::new("CA");
    for manner in [
        Manner::End,
        Manner::Reset,
        Manner::Say("SSH-2.0-x\r\n".into()),
    ] {
        let (mut a, mut b) = two(&authority, manner.clone(), Manner::Echo).await;
        let mut agent = Agent::start_warm(&authority, &[&a, &b], &[]).await;
        echoes(agent.open("a.example:443").await).await;
        // The warm connection may have been an old one: a new one is asked too. Garbage is no end.
        let asked = if matches!(manner, Manner::Say(_)) {
            1
        } else {
            2
        };
        assert_eq!((a.so_far(), b.so_far()), (asked, 1), "{manner:?}");
        agent.logged("the upstream is down").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_upstream_costs_no_new_tunnel_and_comes_back() {
    let authority = Authority::new("CA");
    let (a, b) = two(&authority, Manner::Echo, Manner::Echo).await;
    let agent = Agent::start_warm(&authority, &[&a, &b], &[]).await;
    let mut live = agent.open("a.example:443").await;
    live.write_all(b"x").await.unwrap();
    live.read_exact(&mut [0; 1]).await.unwrap();
    let address = a.kill().await;
    let seen = soon("the reset of the live tunnel", live.read(&mut [0; 1])).await;
    assert_eq!(
        seen.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    for _ in 0..30 {
        echoes(agent.open("a.example:443").await).await;
    }
    let mut a = Node::start_at(&address.to_string(), &authority, Manner::Echo).await;
    agent.has("upstream_up", &a, 1.0).await;
    echoes(agent.open("a.example:443").await).await;
    assert_eq!(a.so_far(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_upstream_the_answer_comes_at_once_with_each_reason() {
    let authority = Authority::new("CA");
    let (a, b) = two(
        &authority,
        Manner::Echo,
        Manner::Say(refusal(503, "draining")),
    )
    .await;
    let mut agent = Agent::start_warm(&authority, &[&a, &b], &[]).await;
    let address = a.kill().await;
    agent.logged("the upstream is down").await;
    let started = Instant::now();
    let reply = agent.ask("a.example:443").await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(
        reply.status_line,
        "HTTP/1.1 503 Service Unavailable (agent_no_upstream)"
    );
    let [first, second] =
        [address, b.address].map(|at| reply.body.find(&format!("{at}: ")).unwrap());
    let (first, second) = (&reply.body[first..second], &reply.body[second..]);
    assert!(
        first.contains("refused") && second.contains("503 (draining)"),
        "{}",
        reply.body
    );
    assert!(!reply.body.contains("s3cret"));
    // With one upstream its own words say more.
    let agent = Agent::start(&authority, &[&b], &[]).await;
    let reply = agent.ask("a.example:443").await;
    assert_eq!(reply.status_line, "HTTP/1.1 503 Some Phrase (draining)");
}
