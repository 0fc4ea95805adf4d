//! What the agent never does: connect to a destination itself, trust an upstream without a certificate for its name, or ask
//! another upstream after a 200.

use std::io::ErrorKind;
use std::net::TcpListener;

use support::soon;
use tokio::io::AsyncReadExt;

use crate::node::{Manner, Node, refusal};
use crate::program::{Agent, echoes};
use crate::zoo::Authority;

#[tokio::test(flavor = "multi_thread")]
async fn it_never_connects_to_a_destination_itself() {
    let authority = Authority::new("CA");
    let destination = TcpListener::bind("127.0.0.1:0").unwrap();
    destination.set_nonblocking(true).unwrap();
    let name = destination.local_addr().unwrap().to_string();
    let other = name.replace("127.0.0.1", "localhost");
    let node = Node::start(&authority, Manner::Echo).await;
    let mut agent = Agent::start_warm(&authority, &[&node], &[]).await;
    // The agent then knows it.
    echoes(agent.open(&name).await).await;
    for (status, code) in [(403, "host_denied"), (502, "connect_refused")] {
        node.behave(Manner::Say(refusal(status, code)));
        agent.has("upstream_warm", &node, 2.0).await;
        let wanted = format!("HTTP/1.1 {status} Some Phrase ({code})");
        assert_eq!(agent.ask(&other).await.status_line, wanted);
    }
    node.kill().await;
    agent.logged("the upstream is down").await;
    let reply = agent.ask(&name).await;
    let wanted = "HTTP/1.1 503 Service Unavailable (agent_no_upstream)";
    assert_eq!(reply.status_line, wanted);
    // A connection would have been made before the reply.
    let accepted = destination.accept().unwrap_err();
    assert_eq!(accepted.kind(), ErrorKind::WouldBlock);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_200_no_other_upstream_is_asked() {
    let authority = Authority::new("CA");
    let mut a = Node::start(&authority, Manner::Open).await;
    let mut b = Node::start(&authority, Manner::Echo).await;
    let agent = Agent::start_warm(&authority, &[&a, &b], &[]).await;
    let (mut client, request) = tokio::join!(agent.open("a.example:443"), a.request());
    // Without a byte after its 200.
    drop(request);
    let seen = soon("the reset", client.read(&mut [0; 1])).await;
    assert_eq!(seen.unwrap_err().kind(), ErrorKind::ConnectionReset);
    a.behave(Manner::Say(
        "HTTP/1.1 200 Connection established\r\n\r\n".to_owned(),
    ));
    let mut client = agent.open("b.example:443").await;
    let seen = soon("the end", client.read(&mut [0; 1])).await;
    assert_eq!(seen.unwrap(), 0);
    assert_eq!((a.so_far(), b.so_far()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_a_certificate_that_counts_gets_no_request() {
    let (authority, other) = (Authority::new("CA"), Authority::new("other CA"));
    let foreign = Node::start(&other, Manner::Echo).await;
    // A certificate for 127.0.0.1 only, and reached under another address.
    let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let reached = listener.local_addr().unwrap();
    let issued = ([127, 0, 0, 1], reached.port()).into();
    let misnamed = Node::start_on(listener, issued, &authority, Manner::Echo);
    for (mut node, at, wanted) in [
        (foreign, None, "UnknownIssuer"),
        (misnamed, Some(reached), "not valid for name"),
    ] {
        let at = at.unwrap_or(node.address);
        let url = format!("https://alice:s3cret@{at}");
        let mut agent = Agent::start_before(&authority, &url, &[]).await;
        agent.logged("the upstream is down").await;
        let reply = agent.ask("a.example:443").await;
        assert!(reply.status_line.ends_with("(agent_no_upstream)"));
        assert!(reply.body.contains(wanted), "{}", reply.body);
        assert_eq!((node.handshakes(), node.so_far()), (0, 0));
    }
}
