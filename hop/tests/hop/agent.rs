//! The agent before two real hops and daemons: one of the hops is killed while tunnels are opened.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::client::tls_connect;
use support::daemon::Daemon;
use support::proxied::config;
use support::soon;
use support::tls::TlsUpstream;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::program::Hop;
use crate::zoo::write;

async fn node(upstream: &TlsUpstream) -> (Daemon, Hop) {
    let daemon = Daemon::start(&config(upstream.addr(), &["127.0.0.1"])).await;
    let folder = tempfile::tempdir().unwrap();
    let hop = Hop::start_before(daemon.proxy_addr(), folder, "", "").await;
    (daemon, hop)
}

/// An agent that trusts both hops, and where it listens.
async fn agent(hops: [&Hop; 2], folder: &tempfile::TempDir) -> (Child, SocketAddr) {
    let authorities = hops.map(|hop| hop.authority.pem()).concat();
    let file = write(folder, "ca.pem", &authorities);
    let urls = hops.map(|hop| format!("https://{}", hop.address));
    let mut agent = Command::new(env!("CARGO_BIN_EXE_sealway-agent"))
        .env("SEALWAY_AGENT_UPSTREAMS", urls.join(","))
        .env("SEALWAY_AGENT_CA", file)
        .env("SEALWAY_AGENT_LISTEN", "127.0.0.1:0")
        .env("SEALWAY_AGENT_ADMIN", "")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(agent.stderr.take().unwrap()).lines();
    let line = soon("a line", lines.next_line()).await.unwrap().unwrap();
    let listening: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = listening["listen"].as_str().unwrap().parse().unwrap();
    tokio::spawn(async move {
        while let Ok(Some(text)) = lines.next_line().await {
            println!("agent: {text}");
        }
    });
    (agent, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_hop_fails_no_tunnel_that_begins_afterwards() {
    let upstream = TlsUpstream::start(&rustls::version::TLS13, &[]).await;
    let ((_first, mut a), (_second, b)) = (node(&upstream).await, node(&upstream).await);
    let folder = tempfile::tempdir().unwrap();
    let (_agent, address) = agent([&a, &b], &folder).await;
    // The first one is then known to work, so that requests go there.
    let is_warm = async || a.metrics().await["sealway_hop_idle"] == 2.0;
    support::wait_until("warm connections", is_warm).await;
    let authority = upstream.authority();
    let open = async || {
        let client = tls_connect(address, &authority, upstream.client());
        let (mut client, (mut server, _)) = tokio::join!(client, upstream.accept());
        client.write_all(b"x").await.unwrap();
        client.flush().await.unwrap();
        soon("a byte", server.read_exact(&mut [0; 1]))
            .await
            .unwrap();
        (client, server)
    };
    let live = open().await;
    let mut ticks = tokio::time::interval(Duration::from_millis(33));
    for number in 0..60 {
        if number == 20 {
            a.signal(Signal::SIGKILL);
            soon("the hop's end", a.child.wait()).await.unwrap();
        }
        ticks.tick().await;
        // A failure is a panic in here. Its time is bounded by the wait for a dead path, on a slow machine too.
        let started = Instant::now();
        drop(open().await);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    let (mut client, _server) = live;
    let seen = soon("the reset", client.read(&mut [0; 1])).await;
    assert!(seen.is_err());
}
