//! A tunnel carries a real TLS session unchanged: requests and answers over TLS 1.2 and 1.3, the
//! server's own certificate, and the ALPN protocol that the two ends negotiate.

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use support::client::{connect, tls_connect};
use support::config::Config;
use support::daemon::Daemon;
use support::soon;
use support::tls::TlsUpstream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn tls_1_2_carries_a_request_and_its_answer() {
    request_and_answer(&TLS12).await;
}

#[tokio::test]
async fn tls_1_3_carries_a_request_and_its_answer() {
    request_and_answer(&TLS13).await;
}

#[tokio::test]
async fn the_client_sees_the_upstreams_own_certificate() {
    let upstream = TlsUpstream::start(&TLS13, &[]).await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let (client, _served) = upstream.tunnel(daemon.proxy_addr()).await;
    let seen = client
        .get_ref()
        .1
        .peer_certificates()
        .expect("the server showed a certificate");
    assert_eq!(seen, [upstream.leaf().clone()]);
}

#[tokio::test]
async fn h2_is_negotiated_through_the_tunnel() {
    let upstream = TlsUpstream::start(&TLS13, &["h2", "http/1.1"]).await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let (client, served) = upstream.tunnel(daemon.proxy_addr()).await;
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(served.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    drop((client, served));
    let alpn = daemon.tunnel_record().await["alpn"].to_string();
    assert!(
        alpn.contains("h2") && alpn.contains("http/1.1"),
        "the offer is audited: {alpn}"
    );
}

#[tokio::test]
async fn two_tunnels_are_two_connections_to_the_upstream() {
    let upstream = TlsUpstream::start(&TLS13, &[]).await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    for tunnels in 1..=2 {
        let _ends = upstream.tunnel(daemon.proxy_addr()).await;
        assert_eq!(upstream.accepted(), tunnels);
    }
}

#[tokio::test]
async fn the_host_is_compared_without_case() {
    let upstream = TlsUpstream::start(&TLS13, &[]).await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let authority = upstream.authority().to_uppercase();
    let connecting = tls_connect(daemon.proxy_addr(), &authority, upstream.client());
    tokio::join!(connecting, upstream.accept());
}

#[tokio::test]
async fn http_1_0_without_host_gets_a_tunnel() {
    let upstream = TlsUpstream::start(&TLS13, &[]).await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let mut stream = support::client::dial(daemon.proxy_addr()).await;
    let head = format!("CONNECT {} HTTP/1.0\r\n\r\n", upstream.authority());
    stream.write_all(head.as_bytes()).await.unwrap();
    support::client::read_reply(stream).await.established();
}

#[tokio::test]
async fn another_name_is_refused() {
    let upstream = TlsUpstream::start(&TLS13, &[]).await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let authority = format!("storage.googleapis.com:{}", upstream.addr().port());
    let reply = connect(daemon.proxy_addr(), &authority, &[]).await;
    assert_eq!(reply.status_line, "HTTP/1.1 403 Forbidden (host_denied)");
}

/// One HTTP-like exchange; both ends must use exactly this version.
async fn request_and_answer(version: &'static SupportedProtocolVersion) {
    let upstream = TlsUpstream::start(version, &["http/1.1"]).await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let (mut client, mut served) = upstream.tunnel(daemon.proxy_addr()).await;
    assert_eq!(client.get_ref().1.protocol_version(), Some(version.version));

    client.write_all(REQUEST.as_bytes()).await.unwrap();
    assert_eq!(read_text(&mut served, REQUEST.len()).await, REQUEST);
    served.write_all(ANSWER.as_bytes()).await.unwrap();
    served.shutdown().await.unwrap();
    assert_eq!(read_text(&mut client, ANSWER.len()).await, ANSWER);
    assert_eq!(soon("the end", client.read(&mut [0])).await.unwrap(), 0);
}

async fn read_text(stream: &mut (impl AsyncRead + Unpin), length: usize) -> String {
    let mut text = vec![0; length];
    soon("the text", stream.read_exact(&mut text))
        .await
        .expect("read");
    String::from_utf8(text).expect("UTF-8")
}

const REQUEST: &str = "POST /v1beta/models/gemini-2.5-flash:generateContent HTTP/1.1\r\n\
    Host: generativelanguage.googleapis.com\r\nContent-Length: 2\r\n\r\n{}";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{\"candidates\":[]}";
