//! The hop before the real daemon: a tunnel through both, and what a crash of the hop leaves.

use nix::sys::signal::Signal;
use rustls::pki_types::ServerName;
use support::client::connect_head;
use support::daemon::Daemon;
use support::proxied::config;
use support::tls::TlsUpstream;
use support::{HOST, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, server};

use crate::program::Hop;

/// Both sides of a tunnel: TLS to the upstream within TLS to the hop.
type Tunnel = (
    TlsStream<TlsStream<TcpStream>>,
    server::TlsStream<TcpStream>,
);

async fn start(upstream: &TlsUpstream) -> (Daemon, Hop) {
    let daemon = Daemon::start(&config(upstream.addr(), &["127.0.0.1"])).await;
    let folder = tempfile::tempdir().unwrap();
    let hop = Hop::start_before(daemon.proxy_addr(), folder, "", "").await;
    (daemon, hop)
}

async fn tunnel(hop: &Hop, upstream: &TlsUpstream) -> Tunnel {
    let mut outer = hop.connect().await;
    let head = connect_head(&upstream.authority(), &[]);
    outer.write_all(head.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n\r\n") {
        reply.push(soon("the reply", outer.read_u8()).await.unwrap());
    }
    assert!(
        reply.starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&reply)
    );
    let connector = TlsConnector::from(upstream.client());
    let name = ServerName::try_from(HOST).unwrap();
    let (inner, (accepted, _)) = tokio::join!(connector.connect(name, outer), upstream.accept());
    (inner.unwrap(), accepted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_goes_through_both_and_the_record_names_the_client() {
    let upstream = TlsUpstream::start(&rustls::version::TLS13, &[]).await;
    let (mut daemon, hop) = start(&upstream).await;
    let (mut client, mut server) = tunnel(&hop, &upstream).await;
    let address = client.get_ref().0.get_ref().0.local_addr().unwrap();
    let bytes = vec![7; 1 << 20];
    let (mut up, mut down) = (vec![0; bytes.len()], vec![0; bytes.len()]);
    let all = async {
        let (mut from_client, mut to_client) = tokio::io::split(&mut client);
        let (mut from_server, mut to_server) = tokio::io::split(&mut server);
        tokio::try_join!(
            async {
                to_client.write_all(&bytes).await?;
                to_client.flush().await
            },
            async {
                to_server.write_all(&bytes).await?;
                to_server.flush().await
            },
            async { from_server.read_exact(&mut up).await.map(drop) },
            async { from_client.read_exact(&mut down).await.map(drop) },
        )
    };
    soon("all bytes both ways", all).await.unwrap();
    assert!(up == bytes && down == bytes);
    // Ends the inner session and, with it, the outer one.
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("the client's end", server.read_to_end(&mut rest))
        .await
        .unwrap();
    server.shutdown().await.unwrap();
    drop(server);
    let record = daemon.tunnel_record().await;
    assert_eq!(record["client"], address.to_string());
    // The upstream answers the inner close_notify, which may be before the client's FIN.
    let code = record["code"].as_str().unwrap();
    assert!(
        ["closed_by_client", "closed_by_upstream"].contains(&code),
        "{record}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_that_stays_holds_no_session() {
    let upstream = TlsUpstream::start(&rustls::version::TLS13, &[]).await;
    let (mut daemon, hop) = start(&upstream).await;
    let mut client = hop.connect().await;
    let head = connect_head("elsewhere.example.com:443", &[]);
    client.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(daemon.tunnel_record().await["code"], "host_denied");
    // It reads nothing and never ends; timeouts.half_close is five minutes.
    let is_over = async || hop.metrics().await["sealway_hop_sessions"] == 0.0;
    support::wait_until("the session is over", is_over).await;
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_hop_resets_its_tunnels_and_the_daemon_carries_on() {
    let upstream = TlsUpstream::start(&rustls::version::TLS13, &[]).await;
    let (mut daemon, mut hop) = start(&upstream).await;
    let (client, mut server) = tunnel(&hop, &upstream).await;
    hop.signal(Signal::SIGKILL);
    soon("the hop's end", hop.child.wait()).await.unwrap();
    assert_eq!(daemon.tunnel_record().await["code"], "reset_by_client");
    let ended = soon("the upstream's end", server.read(&mut [0; 1])).await;
    assert_eq!(
        ended.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    drop(client);
    // Another hop takes the same daemon.
    let folder = tempfile::tempdir().unwrap();
    let again = Hop::start_before(daemon.proxy_addr(), folder, "", "").await;
    let (mut client, mut server) = tunnel(&again, &upstream).await;
    client.write_all(b"x").await.unwrap();
    client.flush().await.unwrap();
    soon("a byte", server.read_exact(&mut [0; 1]))
        .await
        .unwrap();
}
