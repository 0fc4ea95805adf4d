//! What the agent refuses itself, and hostile processes on its machine.

use support::client::{dial, read_reply};
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{Manner, Node};
use crate::program::{Agent, command};
use crate::zoo::{Authority, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_head_gets_its_code_and_reaches_no_upstream() {
    let authority = Authority::new("CA");
    let mut node = Node::start(&authority, Manner::Echo).await;
    let agent = Agent::start(&authority, &[&node], &[]).await;
    let long = format!(
        "CONNECT a.example:443 HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    let many = format!(
        "CONNECT a.example:443 HTTP/1.1\r\n{}\r\n",
        "X: y\r\n".repeat(100)
    );
    for (head, wanted) in [
        (
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "405 Method Not Allowed (method_not_allowed)",
        ),
        (
            "CONNECT a.example HTTP/1.1\r\n\r\n",
            "400 Bad Request (bad_request)",
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\nHost: x\n\r\n\r\n",
            "400 Bad Request (bad_request)",
        ),
        ("\u{16}\u{3}\u{1}\u{2}", "400 Bad Request (bad_request)"),
        (
            &long,
            "431 Request Header Fields Too Large (head_too_large)",
        ),
        (
            &many,
            "431 Request Header Fields Too Large (head_too_large)",
        ),
    ] {
        let mut client = dial(agent.address).await;
        client.write_all(head.as_bytes()).await.unwrap();
        let reply = read_reply(client).await;
        assert_eq!(
            reply.status_line,
            format!("HTTP/1.1 {wanted}"),
            "{head:.40}"
        );
    }
    assert_eq!(node.so_far(), 0);
    let metrics = agent.metrics().await;
    let refused = |code: &str| metrics[&format!("sealway_agent_refusals_total{{code=\"{code}\"}}")];
    assert_eq!(
        ["method_not_allowed", "bad_request", "head_too_large"].map(refused),
        [1.0, 3.0, 2.0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_loopback_and_well_formed_settings_start() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "ca.pem", &Authority::new("CA").pem());
    let good = (
        "SEALWAY_AGENT_UPSTREAMS",
        "https://n:hunter2@127.0.0.1:9443",
    );
    for (variable, wanted) in [
        (("SEALWAY_AGENT_LISTEN", "0.0.0.0:0"), "not on loopback"),
        (("SEALWAY_AGENT_LISTEN", "[::]:0"), "not on loopback"),
        (("SEALWAY_AGENT_ADMIN", "192.0.2.1:0"), "not on loopback"),
        (
            ("SEALWAY_AGENT_UPSTREAMS", "http://n:hunter2@192.0.2.1:9293"),
            "in clear",
        ),
        (
            ("SEALWAY_AGENT_UPSTREAMS", "https://n:hunter2@192.0.2.1"),
            "names no port",
        ),
        (
            ("SEALWAY_AGENT_UPSTREAMS", ""),
            "set SEALWAY_AGENT_UPSTREAMS=",
        ),
        (("SEALWAY_AGENT_CA", "/nowhere/ca.pem"), "/nowhere/ca.pem"),
    ] {
        for arguments in [&[][..], &["exec", "--", "true"]] {
            let mut agent = command(&folder);
            agent.envs([good]).envs([variable]).args(arguments);
            let ended = soon("the end", agent.output()).await.unwrap();
            let said = String::from_utf8(ended.stderr).unwrap();
            // exec needs no admin listener, but checks the address that it is given.
            assert_eq!(ended.status.code(), Some(78), "{variable:?} {said}");
            assert!(said.contains(wanted) && !said.contains("hunter2"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_clients_cost_others_nothing() {
    let authority = Authority::new("CA");
    let node = Node::start(&authority, Manner::Echo).await;
    let agent = Agent::start(&authority, &[&node], &[]).await;
    let mut held = Vec::new();
    for number in 0..200 {
        let mut client = dial(agent.address).await;
        if number % 2 == 0 {
            client.write_all(b"CONNECT a.exa").await.unwrap();
        }
        held.push(client);
    }
    let mut client = agent.open("a.example:443").await;
    client.write_all(b"x").await.unwrap();
    soon("the echo", client.read_exact(&mut [0; 1]))
        .await
        .unwrap();
    // Those who said something are told why it ends.
    let reply = read_reply(held.swap_remove(0)).await;
    assert_eq!(
        reply.status_line,
        "HTTP/1.1 408 Request Timeout (request_timeout)"
    );
}
