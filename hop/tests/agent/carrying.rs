//! A tunnel through the agent: what the upstream gets, and how ends and resets are passed on.

use std::io::ErrorKind;

use support::client::{connect, connect_head, dial, read_reply};
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{Manner, Node, reset_on_close};
use crate::program::Agent;
use crate::zoo::Authority;

#[tokio::test(flavor = "multi_thread")]
async fn the_request_has_the_agents_credentials_and_never_the_clients() {
    let authority = Authority::new("CA");
    let mut node = Node::start(&authority, Manner::Open).await;
    let agent = Agent::start(&authority, &[&node], &[]).await;
    let headers = [
        ("Proxy-Authorization", "Basic bWFsbG9yeTpvd24="),
        ("User-Agent", "client/1.0"),
    ];
    let _tunnel = connect(agent.address, "A.example:443", &headers)
        .await
        .established();
    let request = node.request().await;
    // printf alice:s3cret | base64
    assert_eq!(
        request.head,
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic YWxpY2U6czNjcmV0\r\n\r\n"
    );
    assert_eq!(request.first, b"");
    let _tunnel = connect(agent.address, "[2001:db8::7]:443", &[])
        .await
        .established();
    let head = node.request().await.head;
    assert!(
        head.starts_with("CONNECT [2001:db8::7]:443 HTTP/1.1\r\n"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_and_each_side_ends_on_its_own() {
    let authority = Authority::new("CA");
    let mut node = Node::start(&authority, Manner::Open).await;
    let agent = Agent::start(&authority, &[&node], &[]).await;
    // The first bytes come with the head.
    let mut client = dial(agent.address).await;
    let head = connect_head("a.example:443", &[]) + "hello";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut client = read_reply(client).await.established();
    let mut server = node.request().await.stream.unwrap();
    let mut hello = [0; 5];
    soon("the first bytes", server.read_exact(&mut hello))
        .await
        .unwrap();
    assert_eq!(&hello, b"hello");
    let bytes: Vec<u8> = (0..3 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    let (mut up, mut down) = (Vec::new(), vec![0; bytes.len()]);
    let (mut from_agent, mut to_agent) = client.split();
    let (mut from_client, mut to_client) = tokio::io::split(&mut server);
    let all = async {
        tokio::try_join!(
            async {
                to_agent.write_all(&bytes).await?;
                // The client ends first; the node still answers.
                to_agent.shutdown().await
            },
            async {
                from_client.read_to_end(&mut up).await?;
                to_client.write_all(&bytes).await?;
                to_client.shutdown().await
            },
            async { from_agent.read_exact(&mut down).await.map(drop) },
        )
    };
    soon("all bytes both ways", all).await.unwrap();
    assert!(up == bytes && down == bytes);
    let end = soon("the end", from_agent.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap(), 0);
    agent.has("upstream_tunnels", &node, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_stays_a_reset_in_both_directions() {
    let authority = Authority::new("CA");
    let mut node = Node::start(&authority, Manner::Open).await;
    let agent = Agent::start(&authority, &[&node], &[]).await;
    let client = agent.open("a.example:443").await;
    let mut server = node.request().await.stream.unwrap();
    reset_on_close(&client);
    drop(client);
    let seen = soon("the reset at the node", server.read(&mut [0; 1])).await;
    assert_eq!(seen.unwrap_err().kind(), ErrorKind::ConnectionReset);

    let mut client = agent.open("a.example:443").await;
    let server = node.request().await.stream.unwrap();
    drop(server);
    let seen = soon("the reset at the client", client.read(&mut [0; 1])).await;
    assert_eq!(seen.unwrap_err().kind(), ErrorKind::ConnectionReset);
    agent.has("upstream_tunnels", &node, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_passed_on_byte_for_byte() {
    let authority = Authority::new("CA");
    let wanted = crate::node::refusal(403, "host_denied");
    let node = Node::start(&authority, Manner::Say(wanted.clone())).await;
    let agent = Agent::start(&authority, &[&node], &[]).await;
    let mut client = dial(agent.address).await;
    let head = connect_head("a.example:443", &[]);
    client.write_all(head.as_bytes()).await.unwrap();
    let mut reply = String::new();
    soon("the reply", client.read_to_string(&mut reply))
        .await
        .unwrap();
    assert_eq!(reply, wanted);
}
