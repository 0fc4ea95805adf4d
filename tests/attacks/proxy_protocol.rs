//! Hostile headers of the PROXY protocol: from peers that may not send any, malformed, doubled, and a flood of clients behind one
//! balancer.

use proxy_header::Tlv;
use serde_json::Value;
use support::HOST;
use support::client::{connect_head, dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::proxied::{CLIENT, config, connect_behind, dial_from, listener, v1, v2};
use support::raw::{RawUpstream, read_to_end};
use support::refusal::{count, refused_again};
use support::users::{basic, start_with_users, user};
use support::{soon, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A peer outside of `from` gets no byte, its header is not read, and the client whom it declares notices nothing: neither a
/// record nor a lock, a limit or a rate.
#[tokio::test]
async fn a_forged_header_changes_nothing_for_the_client_whom_it_names() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr())
        .listener(&listener(&["127.0.0.9"], ""))
        .section("[limits]\nconnect_rate = 1\ntunnels_per_client = 2\npending = 4");
    let users = user("alice", "one", "");
    let mut daemon = start_with_users(config, &users, "lockout_failures = 1").await;
    let proxy = daemon.proxy_addr();
    let wrong = |secret: &str| [("Proxy-Authorization".to_owned(), basic("alice", secret))];
    let head = |secret: &str| {
        let fields = wrong(secret);
        let fields = fields
            .each_ref()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        connect_head(&upstream.authority(), &fields)
    };
    let mut forgers = Vec::new();
    for number in 0..40 {
        let header = if number % 2 == 0 {
            v1(CLIENT)
        } else {
            v2(Some(CLIENT), [])
        };
        let mut stream = dial(proxy).await;
        let bytes = [header, head(&number.to_string()).into_bytes()].concat();
        // The daemon may have closed the connection already.
        let _closed = stream.write_all(&bytes).await;
        forgers.push(stream.local_addr().unwrap().to_string());
        let mut answer = Vec::new();
        let read = soon("the end", stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "{read:?} {answer:?}");
    }
    assert_eq!(count(&daemon, "client_denied").await, 40.0);
    let record = daemon.tunnel_record().await;
    assert_eq!(record["code"], "client_denied", "{record}");
    assert!(
        forgers.contains(&record["client"].as_str().unwrap().to_owned()),
        "{record}"
    );
    assert_eq!(record["via"], Value::Null, "{record}");
    // The client has its burst of five, its two tunnels, and no lock.
    for secret in ["one", "one"] {
        let mut stream = dial_from("127.0.0.9", proxy).await;
        let bytes = [v2(Some(CLIENT), []), head(secret).into_bytes()].concat();
        stream.write_all(&bytes).await.unwrap();
        let reply = read_reply(stream).await;
        assert_eq!(reply.status(), 200, "{}", reply.status_line);
        std::mem::forget(reply);
    }
    let log = daemon.log_text();
    assert!(
        !log.contains("198.51.100.7") && !log.contains("auth_"),
        "{log}"
    );
    assert_eq!(count(&daemon, "auth_failed").await, 0.0);
    assert_eq!(
        daemon.metric("sealway_health_checks_total").await,
        Some(0.0)
    );
}

#[tokio::test]
async fn what_is_no_header_is_told_and_counted_as_the_peers() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&config(upstream.addr(), &["127.0.0.1"])).await;
    let head = connect_head(&upstream.authority(), &[]).into_bytes();
    let good = v2(Some(CLIENT), []);
    let mut altered = v2(Some(CLIENT), [Tlv::Crc32c(1)]);
    altered.extend(&head);
    let too_long = [&good[..14], &[0xff, 0xff]].concat();
    let wrong: [&[u8]; 13] = [
        &head,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 1\r\n",
        b"PROXY TCP6 198.51.100.7 192.0.2.1 1 2\r\n",
        b"PROXY TCP6 fe80::1%lo 2001:db8::1 1 2\r\n",
        b"PROXY TCP4 0.0.0.0 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 224.0.0.1 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 1 2\n",
        &[b'P'; 1],
        &[&good[..13], &[0x12], &good[14..]].concat(),
        &altered,
        &too_long,
    ];
    for (nth, bytes) in wrong.iter().enumerate() {
        let mut stream = dial(daemon.proxy_addr()).await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let reply = read_reply(stream).await;
        let record = refused_again(&mut daemon, reply, "proxy_header_invalid", nth + 1).await;
        assert!(
            record["error"]
                .as_str()
                .is_some_and(|why| why.contains("PROXY protocol header")),
            "{record}"
        );
        assert_eq!(
            (&record["via"], &record["host"]),
            (&Value::Null, &Value::Null),
            "{record}"
        );
    }
}

/// What follows a header is the client's: it is judged as any request.
#[tokio::test]
async fn what_follows_a_header_is_the_declared_clients() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&config(upstream.addr(), &["127.0.0.1"])).await;
    let header = v2(Some(CLIENT), []);
    let head = connect_head(&upstream.authority(), &[]);
    let victim = v1("203.0.113.9:1");
    let behind: [(Vec<u8>, &str); 6] = [
        ([victim.as_slice(), head.as_bytes()].concat(), "bad_request"),
        (
            [v2(Some("203.0.113.9:1"), []).as_slice(), head.as_bytes()].concat(),
            "bad_request",
        ),
        (b"\0\0\0\0".to_vec(), "bad_request"),
        (b"\x16\x03\x01\x02\x00\x01".to_vec(), "tls_on_cleartext"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "method_not_allowed"),
        (vec![b'x'; 20_000], "head_too_large"),
    ];
    for (bytes, code) in behind {
        let mut stream = dial(daemon.proxy_addr()).await;
        let via = stream.local_addr().unwrap().to_string();
        stream
            .write_all(&[header.as_slice(), &bytes].concat())
            .await
            .unwrap();
        if code == "tls_on_cleartext" {
            assert_eq!(read_to_end(&mut stream).await, [21, 3, 3, 0, 2, 2, 70]);
        } else {
            let line = read_reply(stream).await.status_line;
            assert!(line.ends_with(&format!("({code})")), "{line}");
        }
        let record = daemon.tunnel_record().await;
        assert_eq!(
            (&record["code"], &record["client"], &record["via"]),
            (&code.into(), &CLIENT.into(), &via.into()),
            "{record}"
        );
    }
    assert!(!daemon.log_text().contains("203.0.113.9"));
}

/// All clients come from one balancer, and a flood of one of them must not push out another.
#[tokio::test]
async fn a_balancer_is_not_one_heavy_client() {
    let upstream = RawUpstream::start().await;
    let config = config(upstream.addr(), &["127.0.0.1"])
        .section("[limits]\npending = 8\n[relay]\nworkers = 1");
    let daemon = Daemon::start(&config).await;
    let proxy = daemon.proxy_addr();
    let begin = async |client: &str| -> TcpStream {
        let mut stream = dial(proxy).await;
        stream.write_all(&v2(Some(client), [])).await.unwrap();
        stream.write_all(b"CONNECT ").await.unwrap();
        stream
    };
    let mut good = Vec::new();
    for number in 1..=3 {
        good.push(begin(&format!("192.0.2.{number}:1")).await);
    }
    let mut flood = Vec::new();
    for port in 1..=40 {
        flood.push(begin(&format!("198.51.100.66:{port}")).await);
    }
    wait_until("the flood to push out itself", async || {
        count(&daemon, "client_limit").await >= 35.0
    })
    .await;
    for mut stream in good {
        let rest = format!("{HOST}:{} HTTP/1.1\r\n\r\n", upstream.addr().port());
        stream.write_all(rest.as_bytes()).await.unwrap();
        let reply = read_reply(stream).await;
        assert_eq!(reply.status(), 200, "{}", reply.status_line);
    }
    // Neither do connections that send no header: they are the balancer's, and the balancer's only.
    let late = begin("192.0.2.9:1").await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(dial(proxy).await);
    }
    let answered = connect_behind(
        proxy,
        &v2(Some("192.0.2.8:1"), []),
        &upstream.authority(),
        &[],
    )
    .await;
    assert_eq!(answered.status(), 200, "{}", answered.status_line);
    drop((late, silent));
}
