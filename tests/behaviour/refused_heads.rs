//! Every CONNECT head that is refused for its form: malformed, too large, too slow, or not CONNECT.

use support::client::{dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::raw::{RawUpstream, read_to_end};
use support::refusal::{answer_to, refused, refused_again, send};
use support::{HOST, soon};
use tokio::io::AsyncWriteExt;

/// Texts that are not `host:port`, or have no valid host or port.
const TARGETS: [&str; 50] = [
    "",
    "/",
    "*",
    "example.com",
    "::1:443",
    "a:b:443",
    "http://example.com:443",
    "http://example.com/",
    "user@example.com:443",
    "user:pw@example.com:443",
    "example.com:",
    "example.com:0",
    "example.com:0443",
    "example.com:+443",
    "example.com:443 ",
    "example.com:65536",
    "example.com:4294967739",
    "example.com:https",
    "example.com:443/x",
    "example.com:443?x",
    "example.com:443#x",
    "[::1:443",
    "[::1]x:443",
    "[fe80::1%25eth0]:443",
    "[fe80::1%eth0]:443",
    "[127.0.0.1]:443",
    "[]:443",
    ":443",
    ".:443",
    "a..b:443",
    ".example.com:443",
    "example.com..:443",
    "exa mple.com:443",
    "exa\tmple.com:443",
    "example.com\0.test:443",
    "-a.example:443",
    "a-.example:443",
    "%67oogle.com:443",
    "a/b:443",
    "xn--a.example:443",
    "*.example.com:443",
    "2130706433:443",
    "0x7f000001:443",
    "0x7f.1:443",
    "0177.0.0.1:443",
    "127.1:443",
    "127.0.1:443",
    "127.0.0.1.:443",
    "127.0.0.256:443",
    "１２７.0.0.1:443",
];

/// Faults in the rest of a head with a valid target. `{}` stands for the target.
const HEADS: [&str; 23] = [
    "CONNECT {} HTTP/2.0\r\n\r\n",
    "CONNECT {} HTTP/0.9\r\n\r\n",
    "CONNECT {} HTTP/1.2\r\n\r\n",
    "CONNECT {} http/1.1\r\n\r\n",
    "CONNECT {}\r\n\r\n",
    "CONNECT  {} HTTP/1.1\r\n\r\n",
    "CONNECT {} HTTP/1.1 \r\n\r\n",
    "CONNECT {} HTTP/1.1\nHost: {}\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nHost: {}\nX: y\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nX : a\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nno field\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nX: a\0b\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nHost: {}\r\nHost: {}\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nHost: a b\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nHost: {}/x\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nHost: user@{}\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "CONNECT {} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "CONNECT {} HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
    "\x16\x04\x01 {}",
    "\x15\x03\x03 {}",
];

#[tokio::test]
async fn malformed_targets_are_refused() {
    let (upstream, mut daemon) = setting("").await;
    for (nth, target) in TARGETS.iter().enumerate() {
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let reply = answer_to(daemon.proxy_addr(), head.as_bytes()).await;
        assert_eq!(reply.status(), 400, "{target:?}: {}", reply.status_line);
        let record = refused_again(&mut daemon, reply, "bad_request", nth + 1).await;
        assert!(
            record.get("host").is_none() && record["error"].is_string(),
            "{record}"
        );
    }
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn malformed_heads_are_refused() {
    let (upstream, mut daemon) = setting("").await;
    for (nth, head) in HEADS.iter().enumerate() {
        let reply = answer_to(
            daemon.proxy_addr(),
            head.replace("{}", &upstream.authority()).as_bytes(),
        )
        .await;
        assert_eq!(reply.status(), 400, "{head:?}: {}", reply.status_line);
        refused_again(&mut daemon, reply, "bad_request", nth + 1).await;
    }
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn a_client_that_speaks_tls_gets_an_alert_and_a_code_of_its_own() {
    let (upstream, mut daemon) = setting("").await;
    let hello = Recorded::named("curl-openssl").bytes;
    let alert = [21, 3, 3, 0, 2, 2, 70];
    // Whole, byte by byte, and the two bytes that are enough.
    for (bytes, step) in [
        (&hello[..], hello.len()),
        (&hello[..64], 1),
        (&hello[..2], 2),
    ] {
        let mut client = dial(daemon.proxy_addr()).await;
        for piece in bytes.chunks(step) {
            // The daemon may have answered by now.
            let _sent = client.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(read_to_end(&mut client).await, alert);
        let record = daemon.tunnel_record().await;
        assert_eq!(record["code"], "tls_on_cleartext", "{record}");
        assert_eq!(record["outcome"], "denied", "{record}");
    }
    let series = "sealway_tunnels_denied_total{code=\"tls_on_cleartext\"}";
    assert_eq!(daemon.metric(series).await, Some(3.0));
    // One byte can still become something else, and an end says that it does not.
    let mut client = dial(daemon.proxy_addr()).await;
    client.write_all(&hello[..1]).await.unwrap();
    client.shutdown().await.unwrap();
    let reply = read_reply(client).await;
    refused(&mut daemon, reply, "bad_request").await;
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn a_truncated_head_is_refused() {
    let (_upstream, mut daemon) = setting("").await;
    let mut client = dial(daemon.proxy_addr()).await;
    send(
        &mut client,
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: exa",
    )
    .await;
    client.shutdown().await.unwrap();
    let reply = read_reply(client).await;
    refused(&mut daemon, reply, "bad_request").await;
}

#[tokio::test]
async fn other_methods_are_refused() {
    let (upstream, mut daemon) = setting("").await;
    let heads = [
        "GET / HTTP/1.1\r\nHost: {}\r\n\r\n",
        "GET http://{}/ HTTP/1.1\r\nHost: {}\r\n\r\n",
        "GET http://{}/ HTTP/1.0\r\n\r\n",
        "POST http://{}/ HTTP/1.1\r\nHost: {}\r\nContent-Length: 5\r\n\r\nhello",
        "OPTIONS * HTTP/1.1\r\nHost: {}\r\n\r\n",
        "connect {} HTTP/1.1\r\nHost: {}\r\n\r\n",
        "CONNECTED {} HTTP/1.1\r\nHost: {}\r\n\r\n",
    ];
    for (nth, head) in heads.iter().enumerate() {
        let reply = answer_to(
            daemon.proxy_addr(),
            head.replace("{}", &upstream.authority()).as_bytes(),
        )
        .await;
        assert_eq!(reply.status(), 405, "{head:?}: {}", reply.status_line);
        refused_again(&mut daemon, reply, "method_not_allowed", nth + 1).await;
    }
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn the_longest_head_passes_and_one_more_byte_is_refused() {
    let (upstream, mut daemon) = setting("[limits]\nhead_bytes = 1024").await;
    let start = format!("CONNECT {} HTTP/1.1\r\nX: ", upstream.authority());
    let of_length = |length: usize| {
        format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4)).into_bytes()
    };
    assert_eq!(of_length(1024).len(), 1024);
    let client = answer_to(daemon.proxy_addr(), &of_length(1024))
        .await
        .established();
    let _dialled = upstream.accept().await;
    drop(client);
    let record = daemon.tunnel_record().await;
    assert_eq!(record["code"], "closed_by_client", "{record}");
    let endless = [start.as_bytes(), &[b'x'; 2000]].concat();
    let many_fields = format!(
        "CONNECT {} HTTP/1.1\r\n{}\r\n",
        upstream.authority(),
        "a:b\r\n".repeat(65)
    )
    .into_bytes();
    for (nth, head) in [of_length(1025), endless, many_fields].iter().enumerate() {
        let reply = answer_to(daemon.proxy_addr(), head).await;
        refused_again(&mut daemon, reply, "head_too_large", nth + 1).await;
    }
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn a_late_head_times_out() {
    let (upstream, mut daemon) = setting("[timeouts]\nrequest = \"200ms\"").await;
    let silent = dial(daemon.proxy_addr()).await;
    let reply = read_reply(silent).await;
    refused_again(&mut daemon, reply, "request_timeout", 1).await;

    let mut half = dial(daemon.proxy_addr()).await;
    send(&mut half, b"CONNECT example.com:443 HT").await;
    let reply = read_reply(half).await;
    refused_again(&mut daemon, reply, "request_timeout", 2).await;

    // The deadline covers the whole head: further bytes do not move it.
    let mut dripping = dial(daemon.proxy_addr()).await;
    let drip = async {
        send(&mut dripping, b"CONNECT ").await;
        while tokio::time::timeout(std::time::Duration::from_millis(20), dripping.readable())
            .await
            .is_err()
        {
            send(&mut dripping, b"a").await;
        }
    };
    soon("the end of a head that drips", drip).await;
    let reply = read_reply(dripping).await;
    refused_again(&mut daemon, reply, "request_timeout", 3).await;
    assert!(upstream.is_untouched().await);
}

async fn setting(section: &str) -> (RawUpstream, Daemon) {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr()).section(section)).await;
    (upstream, daemon)
}
