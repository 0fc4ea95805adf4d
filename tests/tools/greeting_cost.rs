//! The cost of the greeting in system calls. A CONNECT proxy that judges nothing reads the head and
//! writes the 200 before it relays; judging the handshake adds one read and one write in each
//! direction: the ClientHello up, the ServerHello down. strace(1) counts them; without it the test
//! fails.

use support::client::connect;
use support::config::Config;
use support::raw::{RawUpstream, Tunnel};
use support::trace::{Trace, Traced, peer_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn the_greeting_adds_two_reads_and_two_writes() {
    let upstream = RawUpstream::start().await;
    let daemon = Traced::start_watching(&Config::to(upstream.addr()), &["splice"]).await;
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS {
        let client = connect(daemon.proxy_addr(), &upstream.authority(), &[])
            .await
            .established();
        let tunnel = Tunnel::over(client, &upstream).await;
        tunnels.push((
            peer_of(&tunnel.client),
            peer_of(&tunnel.upstream),
            tunnel.server_hello.len() as u64,
        ));
        tunnel.close().await;
    }
    let trace = daemon.stop().await;
    for (client, upstream, server_hello) in tunnels {
        let calls = until_the_server_hello(&trace, [&client, &upstream], server_hello);
        assert_eq!(
            calls,
            LEAST,
            "{:#?}",
            trace.calls_with(&[&client, &upstream])
        );
    }
}

/// The calls on both sockets of a tunnel, from accept until the client has the ServerHello.
fn until_the_server_hello(
    trace: &Trace,
    [client, upstream]: [&str; 2],
    server_hello: u64,
) -> Vec<String> {
    let mut calls = Vec::new();
    for call in trace.calls_with(&[client, upstream]) {
        calls.push(call.shown(&[(client, "client"), (upstream, "upstream")]));
        if calls.last().is_some_and(|call| call == LEAST[5]) && call.bytes() == server_hello {
            return calls;
        }
    }
    panic!("the ServerHello was not passed on: {calls:?}")
}

const TUNNELS: usize = 20;

/// The minimum: no call fails for want of bytes.
const LEAST: [&str; 6] = [
    "read client",    // the CONNECT head
    "write client",   // the 200
    "read client",    // the ClientHello
    "write upstream", // the same
    "read upstream",  // the ServerHello
    "write client",   // the same
];
