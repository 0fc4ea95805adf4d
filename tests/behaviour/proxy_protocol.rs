//! A listener behind a balancer: the client is whom the PROXY header declares, in the record and for every rule, and the
//! balancer's own checks leave no trace but a count.

use std::time::Duration;

use proxy_header::{SslInfo, Tlv};
use serde_json::Value;
use support::client::{connect_head, dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::namespace::{in_own_network, run};
use support::proxied::{CLIENT, config, connect_behind, dial_from, listener, v1, v2};
use support::raw::{RawUpstream, Tunnel, read_to_end, reset};
use support::refusal::count;
use support::users::{basic, start_with_users, tempdir, user, with_users, write};
use support::{soon, tick};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Every form that declares a client, and the client.
fn headers() -> Vec<(Vec<u8>, &'static str)> {
    let (v6, mapped) = ("[2001:db8::7]:51234", "[::ffff:198.51.100.7]:51234");
    let of_nlb = [Tlv::Custom(0xea, b"\x01vpce-1"[..].into()), Tlv::Noop(7)];
    vec![
        (v1(CLIENT), CLIENT),
        (v1(v6), v6),
        (v1(mapped), CLIENT),
        (v1("198.51.100.7:0"), "198.51.100.7:0"),
        (v2(Some(CLIENT), []), CLIENT),
        (v2(Some(v6), of_nlb), v6),
        (v2(Some(mapped), []), CLIENT),
        (v2(Some("198.51.100.7:0"), []), "198.51.100.7:0"),
        (v2(Some("127.0.0.9:1"), []), "127.0.0.9:1"),
    ]
}

#[tokio::test]
async fn a_tunnel_is_the_declared_clients_however_the_header_arrives() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&config(upstream.addr(), &["127.0.0.1"])).await;
    for (header, client) in headers() {
        let head = connect_head(&upstream.authority(), &[]).into_bytes();
        let whole = [header.as_slice(), &head].concat();
        let pieces: [Vec<&[u8]>; 3] = [
            vec![&whole],
            vec![&header, &head],
            whole.chunks(1).collect(),
        ];
        for pieces in pieces {
            let mut stream = dial(daemon.proxy_addr()).await;
            for piece in pieces {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let via = stream.local_addr().unwrap().to_string();
            let opened = read_reply(stream).await.established();
            let mut tunnel = Tunnel::over(opened, &upstream).await;
            tunnel.exchange(7).await;
            tunnel.close().await;
            let record = daemon.tunnel_record().await;
            assert_eq!(record["client"], client, "{record}");
            assert_eq!(record["via"], via, "{record}");
            assert_eq!(record["outcome"], "allowed", "{record}");
        }
    }
}

/// The hello may come with the header and the head.
#[tokio::test]
async fn header_head_and_hello_may_come_at_once() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&config(upstream.addr(), &["127.0.0.1"])).await;
    let recorded = Recorded::named("curl-openssl");
    let head = connect_head(&upstream.authority(), &[]);
    let header = v2(Some(CLIENT), [Tlv::Noop(5_000)]);
    let mut stream = dial(daemon.proxy_addr()).await;
    let all = [header.as_slice(), head.as_bytes(), &recorded.bytes].concat();
    stream.write_all(&all).await.unwrap();
    let mut accepted = upstream.accept().await;
    let mut hello = vec![0; recorded.bytes.len()];
    let read = tokio::io::AsyncReadExt::read_exact(&mut accepted, &mut hello);
    soon("the hello", read).await.unwrap();
    assert!(hello == recorded.bytes, "not a byte of the header went up");
    reset(stream);
    assert_eq!(daemon.tunnel_record().await["client"], CLIENT);
}

#[tokio::test]
async fn rules_for_addresses_mean_the_declared_one() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr())
        .listener(&listener(&["127.0.0.0/8"], ""))
        .section("[limits]\naccept_rate = 1");
    let users = [
        user("alice", "one", "sources = [\"198.51.100.0/24\"]"),
        user("bob", "two", "sources = [\"127.0.0.0/8\"]"),
    ];
    let clients = "clients = [\"198.51.100.0/24\", \"2001:db8:7::/48\"]";
    let mut daemon = start_with_users(config, &users.concat(), clients).await;
    for (client, name, secret, code) in [
        ("198.51.100.7:1", "alice", "one", None),
        ("203.0.113.9:1", "alice", "one", Some("client_denied")),
        ("127.0.0.1:1", "bob", "two", Some("client_denied")),
        ("198.51.100.7:1", "bob", "two", Some("client_denied")),
        ("[2001:db8:7::1]:1", "alice", "one", Some("client_denied")),
        ("[2001:db8:8::1]:1", "alice", "one", Some("client_denied")),
        ("198.51.100.8:1", "alice", "wrong", Some("auth_failed")),
        // The rate of accepted connections would have refused it long ago.
        ("198.51.100.9:1", "alice", "one", None),
    ] {
        let fields = [("Proxy-Authorization", basic(name, secret))];
        let fields = fields.each_ref().map(|(key, value)| (*key, value.as_str()));
        let header = v2(Some(client), []);
        let reply =
            connect_behind(daemon.proxy_addr(), &header, &upstream.authority(), &fields).await;
        let wanted = if code.is_some() { 403..=407 } else { 200..=200 };
        assert!(
            wanted.contains(&reply.status()),
            "{client} {name}: {}",
            reply.status_line
        );
        drop(reply);
        let record = daemon.tunnel_record().await;
        assert_eq!(record["client"], client, "{record}");
        assert!(
            record["via"].as_str().unwrap().starts_with("127.0.0.1:"),
            "{record}"
        );
        assert_eq!(
            record["code"],
            code.unwrap_or("closed_by_client"),
            "{record}"
        );
    }
}

#[tokio::test]
async fn limits_and_locks_are_of_each_declared_client() {
    let upstream = RawUpstream::start().await;
    let config = config(upstream.addr(), &["127.0.0.1"])
        .section("[limits]\ntunnels_per_client = 1\nconnect_rate = 1");
    let mut daemon = Daemon::start(&config).await;
    let (first, second) = ("198.51.100.7:1", "198.51.100.8:1");
    let ask = async |client: &str| {
        let header = v2(Some(client), []);
        connect_behind(daemon.proxy_addr(), &header, &upstream.authority(), &[]).await
    };
    let one = Tunnel::over(ask(first).await.established(), &upstream).await;
    let refused = ask(first).await;
    assert!(
        refused.status_line.contains("client_limit"),
        "{}",
        refused.status_line
    );
    let two = Tunnel::over(ask(second).await.established(), &upstream).await;
    // Five at once, and then one a second.
    for _ in 0..20 {
        assert_eq!(ask(first).await.status(), 429);
    }
    let other = ask("[2001:db8::7]:1").await.established();
    drop((one, two, other));
    let record = daemon.tunnel_record().await;
    assert_eq!(
        (&record["client"], &record["code"]),
        (&first.into(), &"client_limit".into()),
        "{record}"
    );
}

#[tokio::test]
async fn a_lock_is_of_the_declared_client() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).listener(&listener(&["127.0.0.1"], ""));
    let users = user("alice", "one", "");
    let mut daemon = start_with_users(config, &users, "lockout_failures = 2").await;
    let ask = async |client: &str, secret: &str| {
        let fields = [("Proxy-Authorization", basic("alice", secret))];
        let fields = fields.each_ref().map(|(key, value)| (*key, value.as_str()));
        let header = v1(client);
        connect_behind(daemon.proxy_addr(), &header, &upstream.authority(), &fields).await
    };
    let (guesser, other) = ("198.51.100.7:1", "198.51.100.8:1");
    for secret in ["a", "b"] {
        assert!(
            ask(guesser, secret)
                .await
                .status_line
                .contains("auth_failed")
        );
    }
    assert!(ask(guesser, "c").await.status_line.contains("auth_locked"));
    assert!(ask(other, "c").await.status_line.contains("auth_failed"));
    assert_eq!(
        ask(guesser, "one").await.status(),
        200,
        "the right one is let in"
    );
    let lock = daemon.event("auth_lockout").await;
    assert_eq!(
        (&lock["client"], &lock["network"]),
        (&"198.51.100.7".into(), &"198.51.100.7".into()),
        "{lock}"
    );
}

#[tokio::test]
async fn a_balancers_own_checks_are_counted_and_not_recorded() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&config(upstream.addr(), &["127.0.0.1"])).await;
    let proxy = daemon.proxy_addr();
    let checks = [
        v2(None, []),
        v2(None, [Tlv::Noop(1)]),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 0.0.0.0 0.0.0.0 0 0\r\n".to_vec(),
    ];
    for check in &checks {
        let mut stream = dial(proxy).await;
        stream.write_all(check).await.unwrap();
        assert_eq!(
            read_to_end(&mut stream).await,
            b"",
            "a close without a byte"
        );
    }
    // With the request of an HTTP check behind it, which nobody reads.
    let mut stream = dial(proxy).await;
    let request = [checks[0].as_slice(), b"GET /readyz HTTP/1.0\r\n\r\n"].concat();
    stream.write_all(&request).await.unwrap();
    let answer = soon(
        "the end",
        tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 9]),
    )
    .await;
    assert!(matches!(answer, Ok(0) | Err(_)), "{answer:?}");
    drop(dial(proxy).await);
    reset(dial(proxy).await);
    daemon
        .metric_until("sealway_health_checks_total", |checks| checks == 7.0)
        .await;
    // The first record is that of a client.
    let reply = connect_behind(proxy, &v1(CLIENT), "evil.example:443", &[]).await;
    assert_eq!(reply.status(), 403);
    let record = daemon.tunnel_record().await;
    assert_eq!(record["client"], CLIENT, "{record}");
    assert_eq!(
        daemon.metric("sealway_health_checks_total").await,
        Some(7.0)
    );
}

/// A client that declares itself and leaves without a byte is no attempt, as on any listener.
#[tokio::test]
async fn a_declared_client_without_a_byte_leaves_no_record() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&config(upstream.addr(), &["127.0.0.1"])).await;
    let mut stream = dial(daemon.proxy_addr()).await;
    stream.write_all(&v1(CLIENT)).await.unwrap();
    stream.shutdown().await.unwrap();
    read_to_end(&mut stream).await;
    let reply = connect_behind(
        daemon.proxy_addr(),
        &v1("203.0.113.9:1"),
        "evil.example:443",
        &[],
    )
    .await;
    assert_eq!(reply.status(), 403);
    assert_eq!(daemon.tunnel_record().await["client"], "203.0.113.9:1");
    assert_eq!(
        daemon.metric("sealway_health_checks_total").await,
        Some(0.0)
    );
}

#[tokio::test]
async fn a_late_header_has_the_deadline_of_the_request() {
    let upstream = RawUpstream::start().await;
    let config = config(upstream.addr(), &["127.0.0.1"]).section("[timeouts]\nrequest = \"300ms\"");
    let mut daemon = Daemon::start(&config).await;
    let header = v2(Some(CLIENT), []);
    for (sent, client) in [
        (&header[..0], None),
        (&header[..20], None),
        (&header, Some(CLIENT)),
    ] {
        let mut stream = dial(daemon.proxy_addr()).await;
        stream.write_all(sent).await.unwrap();
        let peer = stream.local_addr().unwrap().to_string();
        let reply = read_reply(stream).await;
        assert!(
            reply.status_line.contains("request_timeout"),
            "{}",
            reply.status_line
        );
        let record = daemon.tunnel_record().await;
        assert_eq!(record["client"], client.unwrap_or(&peer), "{record}");
        assert_eq!(
            record["via"],
            client.map_or(Value::Null, |_| peer.into()),
            "{record}"
        );
    }
}

#[tokio::test]
async fn a_reload_changes_whom_a_listener_trusts_and_ends_what_it_trusts_no_more() {
    let upstream = RawUpstream::start().await;
    let trusting =
        |from: &[&str]| config(upstream.addr(), from).section("[timeouts]\ndrain = \"1ms\"");
    let mut daemon = Daemon::start(&trusting(&["127.0.0.1"])).await;
    let reply = connect_behind(daemon.proxy_addr(), &v1(CLIENT), &upstream.authority(), &[]).await;
    let mut kept = Tunnel::over(reply.established(), &upstream).await;
    let reload = daemon.reload(&trusting(&["127.0.0.0/8"]).to_toml()).await;
    assert_eq!(reload["result"], "ok", "{reload}");
    kept.exchange(1).await;
    let reload = daemon.reload(&trusting(&["127.0.0.9"]).to_toml()).await;
    assert_eq!(reload["result"], "ok", "{reload}");
    let record = daemon.tunnel_record().await;
    assert_eq!(
        (&record["code"], &record["revoked_by"], &record["client"]),
        (&"revoked".into(), &"client_denied".into(), &CLIENT.into()),
        "{record}"
    );
    let mut stream = dial(daemon.proxy_addr()).await;
    assert_eq!(answer_of_the_silent(&mut stream).await, 0);
    let mut stream = dial_from("127.0.0.9", daemon.proxy_addr()).await;
    stream.write_all(&v1(CLIENT)).await.unwrap();
    stream
        .write_all(connect_head("evil.example:443", &[]).as_bytes())
        .await
        .unwrap();
    assert_eq!(read_reply(stream).await.status(), 403);
    // A listener that other machines' clients reach stays closed to strangers.
    let open = Config::to(upstream.addr()).listener(&listener(&["127.0.0.9"], ""));
    let reload = daemon.reload(&open.to_toml()).await;
    assert_eq!(reload["result"], "failed", "{reload}");
}

/// The bytes that come from the daemon until it closes.
async fn answer_of_the_silent(stream: &mut TcpStream) -> usize {
    let mut bytes = [0; 64];
    let read = tokio::io::AsyncReadExt::read(stream, &mut bytes);
    soon("the end", read).await.unwrap_or(0)
}

/// Another machine's loopback is not this machine's.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn another_machine_cannot_declare_loopback() {
    in_own_network("another_machine_cannot_declare_loopback", async {
        run("ip address add 192.0.2.1/32 dev lo");
        run("ip address add 2001:db8::1/128 dev lo nodad");
        let upstream = RawUpstream::start().await;
        for address in ["192.0.2.1", "2001:db8::1"] {
            let bound = if address.contains(':') {
                format!("[{address}]:0")
            } else {
                format!("{address}:0")
            };
            let lines = format!(
                "address = {bound:?}\nallow_cleartext = true\nproxy_protocol = {{ from = [{address:?}] }}"
            );
            let config = config(upstream.addr(), &[]).listener(&lines);
            let mut daemon = Daemon::start(&config).await;
            for loopback in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.5]:1"] {
                let reply = connect_behind(
                    daemon.proxy_addr(),
                    &v2(Some(loopback), []),
                    "a.example:443",
                    &[],
                )
                .await;
                assert!(
                    reply.status_line.contains("proxy_header_invalid"),
                    "{}",
                    reply.status_line
                );
                let record = daemon.tunnel_record().await;
                assert!(
                    record["error"].as_str().unwrap().contains("loopback"),
                    "{record}"
                );
            }
            let reply = connect_behind(
                daemon.proxy_addr(),
                &v2(Some(CLIENT), []),
                "a.example:443",
                &[],
            )
            .await;
            assert_eq!(reply.status(), 403, "{}", reply.status_line);
            assert_eq!(count(&daemon, "proxy_header_invalid").await, 3.0);
        }
        tick().await;
    });
}

/// A stop ends connections whose header has not come.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_header() {
    let upstream = RawUpstream::start().await;
    let config = config(upstream.addr(), &["127.0.0.1"]).section("[timeouts]\ndrain = \"50ms\"");
    let mut daemon = Daemon::start(&config).await;
    let mut stream = dial(daemon.proxy_addr()).await;
    stream.write_all(b"PROXY TCP4 ").await.unwrap();
    // It is accepted once a later connection has its answer.
    let reply = connect_behind(daemon.proxy_addr(), &v1(CLIENT), "evil.example:443", &[]).await;
    assert_eq!(reply.status(), 403);
    daemon.signal("TERM");
    let ended = support::within(Duration::from_secs(10), "the exit", daemon.exit_status()).await;
    assert!(ended.success(), "{ended}");
    let record = daemon
        .line("draining", |line| line["code"] == "draining")
        .await;
    assert_eq!(record["client"], stream.local_addr().unwrap().to_string());
}

/// What a terminator says of a verified certificate with these names.
fn stated(token: &str, names: &str) -> Vec<u8> {
    let mut tls = SslInfo::new(true, true, true, 0);
    tls.append_tlv(Tlv::SslVersion("TLSv1.3".into()));
    tls.append_tlv(Tlv::SslCipher("TLS_AES_256_GCM_SHA384".into()));
    tls.append_tlv(Tlv::Custom(0x26, b"X25519MLKEM768"[..].into()));
    let tlvs = [
        Tlv::Ssl(tls),
        Tlv::Custom(0xe1, token.as_bytes().into()),
        Tlv::Custom(0xe2, names.as_bytes().into()),
        Tlv::Custom(0xe4, [0xab; 32][..].into()),
        Tlv::Custom(0xe5, b"0a1b"[..].into()),
    ];
    v2(Some(CLIENT), tlvs)
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn a_terminator_sees_the_end_of_a_refused_client_that_stays() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&config(upstream.addr(), &["127.0.0.1"])).await;
    for header in [v1(CLIENT), v2(Some("[2001:db8::7]:51234"), [])] {
        let mut stream = dial(daemon.proxy_addr()).await;
        let head = connect_head("elsewhere.example.com:443", &[]);
        let bytes = [header.as_slice(), head.as_bytes()].concat();
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(daemon.tunnel_record().await["code"], "host_denied");
        let reply = read_to_end(&mut stream).await;
        assert!(reply.starts_with(b"HTTP/1.1 403 "));
        // An end of its own is not enough: the terminator's client might still send.
        soon("a reset", stream.ready(tokio::io::Interest::ERROR))
            .await
            .unwrap();
        assert!(stream.take_error().unwrap().is_some());
    }
}

async fn start_with_identities(upstream: &RawUpstream, users: &str) -> Daemon {
    let directory = tempdir();
    write(&directory.path().join("users.toml"), users);
    write(&directory.path().join("hop.token"), &format!("{TOKEN}\n"));
    let keys = ", identity = true, token_file = \"hop.token\"";
    let config = Config::to(upstream.addr())
        .listener(&listener(&["127.0.0.1"], keys))
        .section("[timeouts]\ndrain = \"1ms\"");
    Daemon::start_in(directory, &with_users(config, "")).await
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn a_certificate_that_a_terminator_has_verified_is_a_users() {
    let upstream = RawUpstream::start().await;
    let users = "[users.alice]\ncertificates = [\"spiffe://corp/app\", \"dns:App.Corp\"]\n";
    let bob = user("bob", "two", "certificates = [\"cn:bob\"]");
    let mut daemon = start_with_identities(&upstream, &format!("{users}{bob}")).await;
    let fields = [("Proxy-Authorization", basic("bob", "two"))];
    let fields = fields.each_ref().map(|(key, value)| (*key, value.as_str()));
    for (names, with_secret, wanted) in [
        (
            "spiffe://corp/app\ncn:x\n",
            false,
            Ok(("alice", "certificate")),
        ),
        ("dns:APP.corp", false, Ok(("alice", "certificate"))),
        ("cn:bob", true, Ok(("bob", "both"))),
        ("cn:bob\ndns:app.corp", false, Err("auth_failed")),
        ("dns:app.corp", true, Err("auth_failed")),
        ("dns:app.corp.example", false, Err("auth_failed")),
        (
            "spiffe://corp/app\nspiffe://corp/b",
            false,
            Err("auth_failed"),
        ),
    ] {
        let fields = if with_secret { &fields[..] } else { &[] };
        let header = stated(TOKEN, names);
        let reply =
            connect_behind(daemon.proxy_addr(), &header, &upstream.authority(), fields).await;
        match wanted {
            Ok(_) => {
                Tunnel::over(reply.established(), &upstream)
                    .await
                    .close()
                    .await
            }
            Err(code) => assert!(
                reply.status_line.contains(code),
                "{names:?}: {}",
                reply.status_line
            ),
        }
        let record = daemon.tunnel_record().await;
        match wanted {
            Ok((user, auth)) => {
                assert_eq!(
                    (&record["user"], &record["auth"]),
                    (&user.into(), &auth.into()),
                    "{record}"
                );
            }
            Err(code) => assert_eq!(
                (&record["code"], &record["user"]),
                (&code.into(), &Value::Null),
                "{record}"
            ),
        }
        assert_eq!(record["certificate"], "ab".repeat(32), "{record}");
        assert_eq!(record["certificate_serial"], "0a1b", "{record}");
        assert_eq!(record["hop_version"], "TLSv1.3", "{record}");
        assert_eq!(record["hop_cipher"], "TLS_AES_256_GCM_SHA384", "{record}");
        assert_eq!(record["hop_group"], "X25519MLKEM768", "{record}");
    }
    // A certificate is not guessed, so it locks nobody.
    assert!(!daemon.log_text().contains("auth_lockout"));
}

#[tokio::test]
async fn a_terminator_without_the_token_declares_nobody() {
    let upstream = RawUpstream::start().await;
    let users = "[users.alice]\ncertificates = [\"dns:a\"]\n";
    let mut daemon = start_with_identities(&upstream, users).await;
    let without = [
        stated(&TOKEN.replace('f', "0"), "dns:a"),
        stated("", "dns:a"),
        v2(Some(CLIENT), []),
        v1(CLIENT),
    ];
    for header in without {
        let mut stream = dial(daemon.proxy_addr()).await;
        stream.write_all(&header).await.unwrap();
        assert_eq!(answer_of_the_silent(&mut stream).await, 0);
        let record = daemon.tunnel_record().await;
        assert_eq!(record["code"], "client_denied", "{record}");
        assert_eq!(
            record["client"],
            stream.local_addr().unwrap().to_string(),
            "{record}"
        );
    }
    let reply = connect_behind(
        daemon.proxy_addr(),
        &stated(TOKEN, "dns:a"),
        &upstream.authority(),
        &[],
    )
    .await;
    assert_eq!(reply.status(), 200, "{}", reply.status_line);
    assert!(!daemon.log_text().contains(TOKEN));
}

/// HAProxy before 2.9 can send no TLV of its own: its unique ID carries the token, and the CN is the
/// only name. A unique ID beside TLV 0xE1 is an ID.
#[tokio::test]
async fn a_unique_id_may_be_the_token() {
    let upstream = RawUpstream::start().await;
    let users = "[users.alice]\ncertificates = [\"cn:app-1\"]\n";
    let mut daemon = start_with_identities(&upstream, users).await;
    let wrong = TOKEN.replace('f', "0");
    let unique = |id: &'static str| Tlv::UniqueId(id.as_bytes().into());
    let own = |token: &str| Tlv::Custom(0xe1, token.as_bytes().to_vec().into());
    for (tlvs, is_known) in [
        (vec![unique(TOKEN)], true),
        (vec![unique("7F000001:2B67"), own(TOKEN)], true),
        (vec![unique(TOKEN), own(&wrong)], false),
        (vec![unique("7F000001:2B67")], false),
        (vec![unique("")], false),
    ] {
        let mut tls = SslInfo::new(true, true, true, 0);
        tls.append_tlv(Tlv::SslCn("app-1".into()));
        let header = v2(Some(CLIENT), tlvs.into_iter().chain([Tlv::Ssl(tls)]));
        let mut stream = dial(daemon.proxy_addr()).await;
        let head = connect_head("evil.example:443", &[]);
        stream
            .write_all(&[header.as_slice(), head.as_bytes()].concat())
            .await
            .unwrap();
        let answered = answer_of_the_silent(&mut stream).await;
        let record = daemon.tunnel_record().await;
        if is_known {
            assert_eq!(record["code"], "host_denied", "{record}");
            assert_eq!(record["user"], "alice", "{record}");
        } else {
            assert_eq!(answered, 0, "{record}");
            assert_eq!(record["code"], "client_denied", "{record}");
        }
    }
    assert!(!daemon.log_text().contains(TOKEN));
}

#[tokio::test]
async fn a_reload_takes_a_certificate_and_a_token_from_whoever_has_them() {
    let upstream = RawUpstream::start().await;
    let users = |name: &str| format!("[users.alice]\ncertificates = [\"{name}\"]\n");
    let mut daemon = start_with_identities(&upstream, &users("dns:a")).await;
    let config = std::fs::read_to_string(daemon.path("sealway.toml")).unwrap();
    let header = stated(TOKEN, "dns:a");
    let reply = connect_behind(daemon.proxy_addr(), &header, &upstream.authority(), &[]).await;
    let mut kept = Tunnel::over(reply.established(), &upstream).await;
    assert_eq!(daemon.reload(&config).await["result"], "ok");
    kept.exchange(1).await;
    write(&daemon.path("users.toml"), &users("dns:b"));
    write(&daemon.path("hop.token"), &TOKEN.to_uppercase());
    assert_eq!(daemon.reload(&config).await["result"], "ok");
    let record = daemon.tunnel_record().await;
    assert_eq!(
        (&record["code"], &record["revoked_by"]),
        (&"revoked".into(), &"auth_failed".into()),
        "{record}"
    );
    let change = daemon
        .line("the change of users", |line| line["changed"][0] == "alice")
        .await;
    assert_eq!(change["event"], "user_change", "{change}");
    let reply = connect_behind(daemon.proxy_addr(), &header, &upstream.authority(), &[]).await;
    assert_eq!(
        reply.status(),
        407,
        "the former token, with a name of no user"
    );
    // The terminator may not have read the new token yet.
    for token in [TOKEN, &TOKEN.to_uppercase()] {
        let header = stated(token, "dns:b");
        let reply = connect_behind(daemon.proxy_addr(), &header, &upstream.authority(), &[]).await;
        assert_eq!(reply.status(), 200, "{token}: {}", reply.status_line);
    }
    let two = format!(
        "{}[users.bob]\ncertificates = [\"dns:b\"]\n",
        users("dns:b")
    );
    write(&daemon.path("users.toml"), &two);
    let reload = daemon.reload(&config).await;
    assert_eq!(reload["result"], "failed", "{reload}");
    assert!(
        reload["error"]
            .as_str()
            .unwrap()
            .contains("a certificate has one user"),
        "{reload}"
    );
}

/// A new token must not wait for the restart that another listener needs.
#[tokio::test]
async fn a_token_changes_in_a_reload_that_also_adds_a_listener() {
    let upstream = RawUpstream::start().await;
    let users = "[users.alice]\ncertificates = [\"dns:a\"]\n";
    let mut daemon = start_with_identities(&upstream, users).await;
    let config = std::fs::read_to_string(daemon.path("sealway.toml")).unwrap();
    let added = format!("[[listener]]\naddress = \"127.0.0.3:0\"\n\n{config}");
    write(&daemon.path("hop.token"), &TOKEN.to_uppercase());
    assert_eq!(daemon.reload(&added).await["result"], "ok");
    let mut stream = dial(daemon.proxy_addr()).await;
    let header = stated(&TOKEN.replace('7', "8"), "dns:a");
    stream.write_all(&header).await.unwrap();
    assert_eq!(answer_of_the_silent(&mut stream).await, 0, "another token");
    let header = stated(&TOKEN.to_uppercase(), "dns:a");
    let reply = connect_behind(daemon.proxy_addr(), &header, &upstream.authority(), &[]).await;
    assert_eq!(reply.status(), 200, "{}", reply.status_line);
}

#[tokio::test]
async fn an_event_of_a_terminator_is_a_record() {
    let upstream = RawUpstream::start().await;
    let users = "[users.alice]\ncertificates = [\"dns:a\"]\n";
    let mut daemon = start_with_identities(&upstream, users).await;
    let event = |token: &str, json: &str| {
        let token = Tlv::Custom(0xe1, token.as_bytes().to_vec().into());
        v2(
            None,
            [token, Tlv::Custom(0xe3, json.as_bytes().to_vec().into())],
        )
    };
    let long = "x".repeat(300);
    let json = format!(
        r#"{{"kind":"handshake_refused","reason":"{long}","client":"198.51.100.7","certificate":"ab","serial":"0a","count":3,"other":[1]}}"#
    );
    let mut stream = dial(daemon.proxy_addr()).await;
    stream.write_all(&event(TOKEN, &json)).await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"\x06");
    let record = daemon.event("hop_event").await;
    assert_eq!(record["kind"], "handshake_refused", "{record}");
    assert_eq!(
        record["via"],
        stream.local_addr().unwrap().to_string(),
        "{record}"
    );
    assert_eq!(
        (&record["client"], &record["count"]),
        (&"198.51.100.7".into(), &3.into()),
        "{record}"
    );
    assert_eq!(record["reason"], "x".repeat(256), "{record}");
    assert_eq!(
        (&record["certificate"], &record["certificate_serial"]),
        (&"ab".into(), &"0a".into())
    );
    let good = r#"{"kind":"hop_started"}"#;
    for (bytes, code) in [
        (event("wrong", good), "client_denied"),
        (
            event(TOKEN, r#"{"kind":"user_change"}"#),
            "proxy_header_invalid",
        ),
        (event(TOKEN, "{"), "proxy_header_invalid"),
        (
            event(TOKEN, &format!("{good}{}", " ".repeat(4_096))),
            "proxy_header_invalid",
        ),
    ] {
        let mut stream = dial(daemon.proxy_addr()).await;
        stream.write_all(&bytes).await.unwrap();
        let record = daemon.tunnel_record().await;
        assert_eq!(record["code"], code, "{record}");
        let answer = read_to_end(&mut stream).await;
        assert!(!answer.starts_with(b"\x06"), "{code}: not recorded");
    }
    assert_eq!(
        daemon.metric("sealway_health_checks_total").await,
        Some(0.0)
    );
    assert_eq!(daemon.log_text().matches("\"hop_event\"").count(), 1);
}
