//! Every ended tunnel has one audit record and frees its permit; a client that leaves before its
//! ClientHello is complete has sent nothing upstream.

use support::client::{Reply, connect, connect_head, dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::raw::{RawUpstream, Tunnel, reset};
use support::soon;
use support::users::{basic, start_with_users, user};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn a_second_tunnel_is_refused_until_the_first_ends() {
    let (upstream, daemon) = one_place().await;
    let first = Tunnel::open(&daemon, &upstream).await;
    assert_eq!(
        ask(&upstream, &daemon).await.status_line,
        "HTTP/1.1 503 Service Unavailable (tunnel_limit)"
    );
    first.close().await;
    free_place(&upstream, &daemon).await;
}

#[tokio::test]
async fn clean_ends_and_resets_free_the_permit() {
    let (upstream, daemon) = one_place().await;
    for _ in 0..5 {
        take_place(&upstream, &daemon).await.close().await;
        reset(take_place(&upstream, &daemon).await.client);
        reset(take_place(&upstream, &daemon).await.upstream);
    }
    free_place(&upstream, &daemon).await;
    daemon
        .metric_until("sealway_tunnels_active", |active| active == 0.0)
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_before_its_hello_frees_the_permit() {
    leaves_after(0, true).await;
    leaves_after(0, false).await;
}

#[tokio::test]
async fn a_client_that_leaves_inside_its_hello_frees_the_permit() {
    leaves_after(100, true).await;
    leaves_after(100, false).await;
}

#[tokio::test]
async fn a_client_that_leaves_inside_its_head_frees_the_permit() {
    let (upstream, daemon) = one_place().await;
    let mut client = dial(daemon.proxy_addr()).await;
    client.write_all(b"CONNECT generativelang").await.unwrap();
    drop(client);
    free_place(&upstream, &daemon).await;
}

/// A client sends this much of its hello, then ends or resets: nothing goes upstream, and one
/// record has the end.
async fn leaves_after(hello_bytes: usize, by_reset: bool) {
    let (upstream, mut daemon) = one_place().await;
    let mut client = ask(&upstream, &daemon).await.established();
    client
        .write_all(&Recorded::named("curl-openssl").bytes[..hello_bytes])
        .await
        .unwrap();
    match by_reset {
        true => reset(client),
        false => drop(client),
    }
    let record = daemon.tunnel_record().await;
    assert_ne!(record["outcome"], "allowed", "{record}");
    assert!(record["code"].is_string(), "{record}");
    upstream.was_given_up().await;
    free_place(&upstream, &daemon).await;
}

/// Otherwise a connection that has asked for nothing yet would lose its place to a tunnel.
#[tokio::test]
async fn a_tunnel_that_is_set_up_holds_no_pending_place() {
    let upstream = RawUpstream::start().await;
    let limits = "[limits]\npending = 2\n[relay]\nworkers = 1";
    let daemon = Daemon::start(&Config::to(upstream.addr()).section(limits)).await;
    let head = connect_head(&upstream.authority(), &[]);
    let (begun, rest) = head.split_at(20);
    let mut slow = dial(daemon.proxy_addr()).await;
    slow.write_all(begun.as_bytes()).await.unwrap();
    let mut without_hellos = Vec::new();
    for _ in 0..4 {
        without_hellos.push(ask(&upstream, &daemon).await.established());
    }
    slow.write_all(rest.as_bytes()).await.unwrap();
    let reply = read_reply(slow).await;
    assert_eq!(reply.status(), 200, "{}", reply.status_line);
}

#[tokio::test]
async fn users_behind_one_address_have_each_a_clients_share() {
    let upstream = RawUpstream::start().await;
    let folks = [user("alice", "secret", ""), user("bob", "secret", "")].concat();
    let limits = "[limits]\ntunnels_per_client = 1";
    let config = Config::to(upstream.addr()).section(limits);
    let daemon = start_with_users(config, &folks, "").await;
    let mut opened = Vec::new();
    for (name, wanted) in [("alice", 200), ("alice", 429), ("bob", 200), ("bob", 429)] {
        let credentials = basic(name, "secret");
        let headers = [("Proxy-Authorization", credentials.as_str())];
        let reply = connect(daemon.proxy_addr(), &upstream.authority(), &headers).await;
        assert_eq!(reply.status(), wanted, "{name}: {}", reply.status_line);
        opened.push(reply);
    }
}

/// An upstream and a daemon with room for one tunnel.
async fn one_place() -> (RawUpstream, Daemon) {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).section("[limits]\ntunnels = 1");
    let daemon = Daemon::start(&config).await;
    (upstream, daemon)
}

async fn ask(upstream: &RawUpstream, daemon: &Daemon) -> Reply {
    connect(daemon.proxy_addr(), &upstream.authority(), &[]).await
}

/// Opens a tunnel with the only permit as soon as it is free.
async fn take_place(upstream: &RawUpstream, daemon: &Daemon) -> Tunnel {
    Tunnel::over(free_place(upstream, daemon).await, upstream).await
}

/// The permit is free, perhaps a moment after the last tunnel ended: a client gets a 200.
async fn free_place(upstream: &RawUpstream, daemon: &Daemon) -> TcpStream {
    let established = async {
        loop {
            let reply = ask(upstream, daemon).await;
            if reply.status() == 200 {
                return reply.established();
            }
        }
    };
    soon("a free place", established).await
}
