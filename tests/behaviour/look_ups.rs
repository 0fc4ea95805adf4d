//! The queries of a look-up: their content, their number, and how long the resolver remembers an
//! answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::dns::{Dns, Say, header, question};
use support::etc::{Etc, server};
use support::namespace::in_own_network;
use support::raw::RawUpstream;
use support::within;

/// Names of the wildcard are left to the machine's files.
fn config(upstream: &RawUpstream) -> Config {
    let port = upstream.addr().port();
    Config::closed()
        .allow(&format!("*.peer.example:{port}"))
        .allow(&format!("localhost:{port}"))
}

fn here() -> Say {
    Say::addresses(&["127.0.0.1"], 60)
}

/// Starts a daemon with these files and expects a query to this server.
async fn asks(upstream: &RawUpstream, dns: &Dns, what: &str, number: usize) {
    let daemon = Daemon::start(&config(upstream)).await;
    let name = format!("n{number}.peer.example");
    let authority = format!("{name}:{}", upstream.addr().port());
    let reply = connect(daemon.proxy_addr(), &authority, &[]).await;
    assert_eq!(reply.status(), 200, "{what}: {}", reply.status_line);
    let asked = dns.asked();
    assert!(asked.iter().any(|(of, _)| *of == name), "{what}: {asked:?}");
}

/// An answer with one address.
fn one_address(query: &[u8]) -> Vec<u8> {
    let address = support::dns::record([127, 0, 0, 1].into(), 1, 60).unwrap();
    [
        &header(query, 0, [1, 0, 0])[..],
        &query[12..question(query).2],
        &address,
    ]
    .concat()
}

#[tokio::test]
async fn a_query_has_edns_of_1232_bytes_and_a_random_id() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    let keep = move |query: &[u8]| {
        kept.lock().unwrap().push(query.to_vec());
        one_address(query)
    };
    let dns = Dns::start(Say::Raw(Arc::new(keep))).await;
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&config(&upstream).section(&dns.section("5s"))).await;
    for number in 0..8 {
        let name = format!("N{number}.Peer.Example:{}", upstream.addr().port());
        assert_eq!(connect(daemon.proxy_addr(), &name, &[]).await.status(), 200);
    }
    let asked = asked.lock().unwrap();
    for query in asked.iter() {
        let end = question(query).2;
        // A standard query, recursion desired; one question, one additional record.
        assert_eq!(query[2], 1, "{query:x?}");
        assert_eq!(query[4..12], [0, 1, 0, 0, 0, 0, 0, 1], "{query:x?}");
        assert_eq!(query[13], b'n', "no 0x20: {query:x?}");
        // OPT (RFC 6891): the root, the type 41, 1232 bytes, no DO bit, no cookie.
        let wanted = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
        assert_eq!(query[end..], wanted, "{query:x?}");
    }
    let numbers: std::collections::HashSet<_> = asked.iter().map(|query| &query[..2]).collect();
    assert_eq!(asked.len(), 8);
    assert!(numbers.len() >= 6, "{numbers:?}");
}

#[tokio::test]
async fn a_silent_server_gets_three_queries_and_a_failing_one_a_query_for_each_tunnel() {
    let (silent, failing) = (
        Dns::start(Say::Nothing).await,
        Dns::start(Say::Failure).await,
    );
    let upstream = RawUpstream::start().await;
    let authority = format!("a.peer.example:{}", upstream.addr().port());
    let daemon = Daemon::start(&config(&upstream).section(&silent.section("1s"))).await;
    let reply = connect(daemon.proxy_addr(), &authority, &[]).await;
    assert_eq!(
        reply.status_line,
        "HTTP/1.1 504 Gateway Timeout (dns_timeout)"
    );
    assert_eq!(silent.asked().len(), 3, "{:?}", silent.asked());
    let daemon = Daemon::start(&config(&upstream).section(&failing.section("5s"))).await;
    for asked in 1..=2 {
        let reply = connect(daemon.proxy_addr(), &authority, &[]).await;
        assert_eq!(reply.status_line, "HTTP/1.1 502 Bad Gateway (dns_failed)");
        assert_eq!(failing.asked().len(), asked, "errors are not remembered");
    }
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_server_without_edns_gets_a_query_without_it() {
    in_own_network("a_server_without_edns_gets_a_query_without_it", async {
        let etc = Etc::with("nameserver 127.0.0.51\n");
        let upstream = RawUpstream::start().await;
        // FORMERR and NOTIMP for every query with an additional record; and a server that drops it.
        for (number, code) in [1_u8, 4].into_iter().enumerate() {
            let refuse = move |query: &[u8]| match query[11] {
                0 => [
                    &header(query, 0, [1, 0, 0])[..],
                    &query[12..question(query).2],
                    &support::dns::record([127, 0, 0, 1].into(), 1, 60).unwrap(),
                ]
                .concat(),
                _ => [
                    &header(query, code, [0, 0, 0])[..],
                    &query[12..question(query).2],
                ]
                .concat(),
            };
            let address = format!("127.0.0.{}:53", 61 + number);
            let dns = server(&address, Say::Raw(Arc::new(refuse))).await;
            etc.write(
                "/etc/resolv.conf",
                format!("nameserver 127.0.0.{}\n", 61 + number),
            );
            asks(&upstream, &dns, &format!("code {code}"), number).await;
        }
        etc.write("/etc/resolv.conf", "nameserver 127.0.0.63\n");
        let drops = Dns::start_at("127.0.0.63:53".parse().unwrap(), here().without_edns()).await;
        asks(&upstream, &drops, "no answer to EDNS", 9).await;
    });
}

/// NXDOMAIN with a SOA that asks for a day.
#[tokio::test]
async fn negative_ttl_max_bounds_a_negative_answer() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let gone = move |query: &[u8]| {
        count.fetch_add(1, Ordering::Relaxed);
        let soa = [
            &[0, 0, 6, 0, 1][..],
            &86_400_u32.to_be_bytes(),
            &[0, 22, 0, 0],
            &[0; 16],
            &86_400_u32.to_be_bytes(),
        ];
        [
            &header(query, 3, [0, 1, 0])[..],
            &query[12..question(query).2],
            &soa.concat(),
        ]
        .concat()
    };
    for (line, least, most) in [
        ("", 1, 1),
        ("negative_ttl_max = \"0s\"", 4, 4),
        ("negative_ttl_max = \"1s\"", 2, 3),
    ] {
        let dns = Dns::start(Say::Raw(Arc::new(gone.clone()))).await;
        asked.store(0, Ordering::Relaxed);
        let upstream = RawUpstream::start().await;
        let config = config(&upstream).section(&format!("{}\n{line}", dns.section("5s")));
        let daemon = Daemon::start(&config).await;
        let authority = format!("gone.peer.example:{}", upstream.addr().port());
        for number in 0..4 {
            let reply = connect(daemon.proxy_addr(), &authority, &[]).await;
            assert_eq!(reply.status_line, "HTTP/1.1 502 Bad Gateway (dns_failed)");
            if number == 2 && least == 2 {
                let again = async {
                    while asked.load(Ordering::Relaxed) < 2 {
                        connect(daemon.proxy_addr(), &authority, &[]).await;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                };
                within(Duration::from_secs(10), "a second question", again).await;
            }
        }
        let count = asked.load(Ordering::Relaxed);
        assert!((least..=most).contains(&count), "{line}: {count}");
    }
}
