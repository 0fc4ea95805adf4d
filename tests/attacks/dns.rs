//! Attacks through DNS: large answers, and look-ups whose clients are gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use support::HOST;
use support::client::{Reply, connect, connect_head, dial, http_get, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::dns::{A, Dns, Say, header, question, record};
use support::raw::{RawUpstream, reset};
use support::users::{basic, start_with_users, user};
use support::{wait_within, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_admin_requests_delays_no_look_up() {
    let (upstream, dns) = (
        RawUpstream::start().await,
        Dns::start(Say::addresses(&["127.0.0.1"], 0)).await,
    );
    let config = by_name(&upstream, &dns, "5s");
    let users: String = (0..500)
        .map(|number| user(&format!("user-{number}"), "secret", ""))
        .collect();
    let header = basic("user-1", "secret");
    let daemon = start_with_users(config, &users, "").await;
    let admin = daemon.admin_addr();
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..40 {
        flood.spawn(async move {
            loop {
                http_get(admin, "/metrics").await;
            }
        });
    }
    let look_ups = async {
        for _ in 0..20 {
            let reply = connect(
                daemon.proxy_addr(),
                &upstream.authority(),
                &[("Proxy-Authorization", &header)],
            )
            .await;
            assert_eq!(reply.status(), 200, "{}", reply.status_line);
        }
    };
    // Each takes some milliseconds; in a queue with forty pages it takes half a second.
    within(Duration::from_secs(4), "twenty look-ups", look_ups).await;
    assert_eq!(dns.asked().len(), 20);
}

/// A policy with the upstream's name and a wildcard, both left to DNS.
fn by_name(upstream: &RawUpstream, dns: &Dns, timeout: &str) -> Config {
    let config = Config::closed()
        .allow(&upstream.authority())
        .allow("*.peer.example")
        .allow(&format!("*.peer.example:{}", upstream.addr().port()))
        .section(&dns.section(timeout));
    config.section("[limits]\naccept_rate = 0\nconnect_rate = 0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_ends_with_its_tunnel() {
    let good = |name: &str| {
        if name == HOST {
            Say::addresses(&["127.0.0.1"], 0)
        } else {
            Say::Nothing
        }
    };
    let (upstream, dns) = (
        RawUpstream::start().await,
        Dns::start(Say::by_name(good)).await,
    );
    let config = by_name(&upstream, &dns, "8s").section("[relay]\nworkers = 2");
    let daemon = Daemon::start_with_descriptors(&config, 1_024).await;
    let before = count_descriptors(daemon.pid());
    for batch in 0..10 {
        ask_and_reset(
            &daemon,
            &dns,
            (0..100).map(|number| format!("n{batch}-{number}.peer.example")),
        )
        .await;
    }
    let authority = upstream.authority();
    let reply = within(
        Duration::from_secs(5),
        "another name",
        connect(daemon.proxy_addr(), &authority, &[]),
    )
    .await;
    assert_eq!(reply.status(), 200, "{}", reply.status_line);
    look_ups_end(&daemon, before + 40).await;
}

/// An ordinary close deprives a client of as much as a reset: its TLS handshake can never be
/// finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_ends_when_its_client_closes() {
    let (upstream, dns) = (RawUpstream::start().await, Dns::start(Say::Nothing).await);
    let mut daemon =
        Daemon::start(&by_name(&upstream, &dns, "20s").section("[timeouts]\nconnect = \"25s\""))
            .await;
    let before = count_descriptors(daemon.pid());
    // With and without bytes after the head, closed entirely or by half.
    for (name, behind, is_half) in [
        ("a", "", false),
        ("b", "", true),
        ("c", "\x16\x03\x01", false),
    ] {
        let mut streams = Vec::new();
        for number in 0..20 {
            let mut stream = dial(daemon.proxy_addr()).await;
            let head = connect_head(&format!("{name}{number}.peer.example:443"), &[]);
            stream
                .write_all(format!("{head}{behind}").as_bytes())
                .await
                .unwrap();
            streams.push(stream);
        }
        within(
            Duration::from_secs(5),
            "a question",
            dns.until(|asked| asked.iter().any(|(of, _)| of.starts_with(name))),
        )
        .await;
        if is_half {
            for stream in &mut streams {
                stream.shutdown().await.unwrap();
            }
        } else {
            streams.clear();
        }
        for _ in 0..20 {
            let record = within(
                Duration::from_secs(5),
                "the end before dns.timeout",
                daemon.tunnel_record(),
            )
            .await;
            assert_eq!(
                (&record["code"], &record["outcome"]),
                (&"closed_by_client".into(), &"failed".into()),
                "{record}"
            );
        }
    }
    // Twenty look-ups would hold more; some are the daemon's own.
    look_ups_end(&daemon, before + 16).await;
}

/// Requests each of these names at once, and resets every connection when all look-ups are running
/// or when that takes too long: the daemon has a bound.
async fn ask_and_reset(daemon: &Daemon, dns: &Dns, names: impl Iterator<Item = String>) {
    let (mut streams, before): (Vec<TcpStream>, _) = (Vec::new(), dns.asked().len());
    for name in names {
        let mut stream = dial(daemon.proxy_addr()).await;
        stream
            .write_all(connect_head(&format!("{name}:443"), &[]).as_bytes())
            .await
            .unwrap();
        streams.push(stream);
    }
    let all = dns.until(|asked| asked.len() >= before + streams.len());
    let _bounded = tokio::time::timeout(Duration::from_millis(150), all).await;
    streams.into_iter().for_each(reset);
}

fn count_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_are_not_kept() {
    // A wildcard and report mode let peers choose names; each of these would use more than a
    // megabyte.
    let (upstream, dns) = (
        RawUpstream::start().await,
        Dns::start(Say::many(4_000, u32::MAX)).await,
    );
    let daemon = Daemon::start(&by_name(&upstream, &dns, "10s").policy("mode = \"report\"")).await;
    let before = daemon.resident_kib();
    for name in 0..200 {
        let domain = if name % 2 == 0 {
            "peer.example"
        } else {
            "reported.example"
        };
        let reply = connect(daemon.proxy_addr(), &format!("n{name}.{domain}:443"), &[]).await;
        assert_eq!(reply.status_line, "HTTP/1.1 502 Bad Gateway (dns_failed)");
    }
    assert!(dns.asked().len() >= 400, "over UDP and over TCP");
    let grown = daemon.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1_024, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_cannot_hold_all_look_ups() {
    let answered = [HOST, "good.peer.example"];
    let say = move |name: &str| {
        if answered.contains(&name) {
            Say::addresses(&["127.0.0.1"], 0)
        } else {
            Say::Nothing
        }
    };
    let (upstream, dns) = (
        RawUpstream::start().await,
        Dns::start(Say::by_name(say)).await,
    );
    let daemon = Daemon::start_with_descriptors(&by_name(&upstream, &dns, "20s"), 1_024).await;
    let mut greedy = Vec::new();
    for number in 0..200 {
        let mut stream = dial(daemon.proxy_addr()).await;
        let head = connect_head(&format!("n{number}.peer.example:443"), &[]);
        stream.write_all(head.as_bytes()).await.unwrap();
        greedy.push(stream);
    }
    within(
        Duration::from_secs(5),
        "the first questions",
        dns.until(|asked| asked.len() >= 2),
    )
    .await;
    let authority = upstream.authority();
    for _ in 0..5 {
        let name = format!("good.peer.example:{}", upstream.addr().port());
        let reply = within(
            Duration::from_secs(5),
            "another client",
            connect_from("127.0.0.5", &daemon, &name),
        )
        .await;
        assert_eq!(reply.status_line, "HTTP/1.1 200 Connection established");
        let own = connect(daemon.proxy_addr(), &authority, &[]);
        let reply = within(Duration::from_secs(5), "the operator's name", own).await;
        assert_eq!(reply.status_line, "HTTP/1.1 200 Connection established");
    }
    let silent: HashSet<_> = dns
        .asked()
        .into_iter()
        .filter(|(name, _)| name.starts_with('n'))
        .collect();
    assert!(silent.len() <= 4, "look-ups in flight: {silent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_over_a_bound_are_refused_and_name_it() {
    let long = |query: &[u8]| {
        let end = question(query).2;
        // Sixty useless additional records of a kilobyte each.
        let text = [&[0, 0, 16, 0, 1, 0, 0, 0, 60, 4, 0][..], &[b'x'; 1_024]].concat();
        let address = record("127.0.0.1".parse().unwrap(), A, 60).unwrap();
        [
            &header(query, 0, [1, 0, 60])[..],
            &query[12..end],
            &address,
            &text.repeat(60),
        ]
        .concat()
    };
    let say = move |name: &str| match name.split('.').next().unwrap() {
        "allowed" => Say::many(64, 60),
        "one-more" => Say::many(65, 60),
        "many" => Say::many(4_000, 60),
        _ => Say::Raw(Arc::new(long)),
    };
    let (upstream, dns) = (
        RawUpstream::start().await,
        Dns::start(Say::by_name(say)).await,
    );
    let mut daemon = Daemon::start(&by_name(&upstream, &dns, "10s")).await;
    for (name, code, error) in [
        ("allowed", "", None),
        (
            "one-more",
            "dns_failed",
            Some("DNS: the answer has more than 64 addresses"),
        ),
        (
            "many",
            "dns_failed",
            Some("DNS: the answer is longer than 16384 bytes"),
        ),
        (
            "additional",
            "dns_failed",
            Some("DNS: the answer is longer than 16384 bytes"),
        ),
    ] {
        let reply = connect(
            daemon.proxy_addr(),
            &format!("{name}.peer.example:443"),
            &[],
        )
        .await;
        let record = daemon.tunnel_record().await;
        if let Some(error) = error {
            assert_eq!(reply.status(), 502, "{name}: {}", reply.status_line);
            assert_eq!(record["code"], code, "{record}");
            assert_eq!(record["error"], error, "{record}");
        } else {
            // No server listens there, if the address may be dialled at all.
            assert_ne!(record["code"], "dns_failed", "{record}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_trickles_over_tcp_times_out() {
    let say = |name: &str| {
        if name == HOST {
            Say::addresses(&["127.0.0.1"], 0)
        } else {
            Say::many(200, 60)
        }
    };
    let (upstream, dns) = (
        RawUpstream::start().await,
        Dns::start(Say::by_name(say)).await,
    );
    dns.trickle(Duration::from_millis(100));
    let mut daemon = Daemon::start(&by_name(&upstream, &dns, "3s")).await;
    let before = count_descriptors(daemon.pid());
    let trickled = (0..10).map(|number| {
        let (proxy, name) = (daemon.proxy_addr(), format!("n{number}.peer.example:443"));
        tokio::spawn(async move { connect(proxy, &name, &[]).await.status() })
    });
    let trickled: Vec<_> = trickled.collect();
    let authority = upstream.authority();
    let reply = within(
        Duration::from_secs(5),
        "another name",
        connect(daemon.proxy_addr(), &authority, &[]),
    )
    .await;
    assert_eq!(reply.status(), 200);
    for status in trickled {
        assert_eq!(status.await.unwrap(), 504);
    }
    drop(reply.stream);
    let mut late = 0;
    for _ in 0..11 {
        late += usize::from(daemon.tunnel_record().await["code"] == "dns_timeout");
    }
    assert_eq!(late, 10);
    let closed = async {
        while count_descriptors(daemon.pid()) > before + 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(
        Duration::from_secs(5),
        "the end of all that it trickled to",
        closed,
    )
    .await;
}

/// Sends a request from another address of this machine.
async fn connect_from(address: &str, daemon: &Daemon, authority: &str) -> Reply {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(format!("{address}:0").parse().unwrap())
        .unwrap();
    let mut stream = socket.connect(daemon.proxy_addr()).await.unwrap();
    stream
        .write_all(connect_head(authority, &[]).as_bytes())
        .await
        .unwrap();
    read_reply(stream).await
}

/// Waits until the daemon has no more than `descriptors` open, well before `dns.timeout`.
async fn look_ups_end(daemon: &Daemon, descriptors: usize) {
    let what = "the end of the look-ups, before dns.timeout";
    wait_within(Duration::from_secs(5), what, async || {
        count_descriptors(daemon.pid()) <= descriptors
    })
    .await;
}
