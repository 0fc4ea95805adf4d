//! Names: the answer of DNS decides whether a tunnel opens, and to which address. A forbidden
//! address refuses the whole answer, a name without an address and a silent server have different
//! codes, a TTL is respected, and the last good answer is used while DNS is down.

use support::HOST;
use support::client::{Reply, connect};
use support::config::Config;
use support::daemon::Daemon;
use support::dns::{A, AAAA, Dns, Say};
use support::raw::{RawUpstream, Tunnel};
use support::refusal::{refused, refused_again};

#[tokio::test]
async fn a_name_is_queried_once_within_its_ttl() {
    let (upstream, dns, daemon) = setting(Say::addresses(&["127.0.0.1"], 3600)).await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    assert_eq!(
        dns.asked(),
        [(HOST.to_string(), A)],
        "AAAA has no egress address; the second tunnel needs no query"
    );
    assert_eq!(looked_up(&daemon, "ok").await, 2.0);
}

#[tokio::test]
async fn a_ttl_of_zero_is_queried_again() {
    let (upstream, dns, daemon) = setting(Say::addresses(&["127.0.0.1"], 0)).await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    assert_eq!(dns.asked().len(), 2);
}

#[tokio::test]
async fn an_ipv6_egress_queries_ipv6_only() {
    let upstream = RawUpstream::start_at("[::1]:0").await;
    let dns = Dns::start(Say::addresses(&["::1", "127.0.0.1"], 60)).await;
    let config = by_name(&upstream)
        .egress(&["::1"])
        .section(&dns.section("5s"));
    let daemon = Daemon::start(&config).await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    assert_eq!(dns.asked(), [(HOST.to_string(), AAAA)]);
}

#[tokio::test]
async fn the_last_answer_is_used_while_dns_is_down() {
    for down in [Say::Nothing, Say::Failure] {
        let (upstream, dns, daemon) = setting_within("2s", Say::addresses(&["127.0.0.1"], 0)).await;
        Tunnel::open(&daemon, &upstream).await.close().await;
        dns.say(down);
        Tunnel::open(&daemon, &upstream).await.close().await;
        assert_eq!(looked_up(&daemon, "stale").await, 1.0);
        let questions = dns.asked().len();
        Tunnel::open(&daemon, &upstream).await.close().await;
        assert_eq!(looked_up(&daemon, "stale").await, 2.0);
        assert_eq!(
            dns.asked().len(),
            questions,
            "one found out, the next ones do not wait for it"
        );
    }
}

#[tokio::test]
async fn a_removed_name_is_forgotten() {
    let (upstream, dns, mut daemon) = setting(Say::addresses(&["127.0.0.1"], 0)).await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
    for (nth, say) in [Say::NoSuchName, Say::Failure].into_iter().enumerate() {
        dns.say(say);
        let reply = ask(&daemon, &upstream).await;
        refused_again(&mut daemon, reply, "dns_failed", nth + 1).await;
    }
    assert!(
        upstream.is_untouched().await,
        "no stale answer for it either"
    );
}

#[tokio::test]
async fn a_name_without_an_address_fails() {
    let no_address = [
        (Say::NoSuchName, "no_address"),
        (Say::addresses(&[], 60), "no_address"),
        (Say::Failure, "failed"),
    ];
    for (say, result) in no_address {
        let (upstream, _dns, mut daemon) = setting(say).await;
        let reply = ask(&daemon, &upstream).await;
        refused(&mut daemon, reply, "dns_failed").await;
        assert_eq!(looked_up(&daemon, result).await, 1.0, "{result}");
        assert!(upstream.is_untouched().await);
    }
}

#[tokio::test]
async fn a_fixed_name_without_an_address_of_the_egress_family_fails() {
    let upstream = RawUpstream::start_at("[::1]:0").await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let reply = ask(&daemon, &upstream).await;
    refused(&mut daemon, reply, "dns_failed").await;
    assert_eq!(looked_up(&daemon, "no_address").await, 1.0);
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let (upstream, dns, mut daemon) = setting_within("300ms", Say::Nothing).await;
    let reply = ask(&daemon, &upstream).await;
    let record = refused(&mut daemon, reply, "dns_timeout").await;
    assert!(record["dns_ms"].as_f64().unwrap() >= 300.0, "{record}");
    assert_eq!(looked_up(&daemon, "timeout").await, 1.0);
    assert!(!dns.asked().is_empty() && upstream.is_untouched().await);
}

#[tokio::test]
async fn one_answered_family_is_enough() {
    // Servers that drop queries for AAAA are common; both families have an egress address here.
    for silent in [AAAA, A] {
        let upstream = RawUpstream::start_at(if silent == AAAA {
            "127.0.0.1:0"
        } else {
            "[::1]:0"
        })
        .await;
        let dns =
            Dns::start(Say::addresses(&["127.0.0.1", "::1"], 60).but_nothing_to(silent)).await;
        let config = by_name(&upstream)
            .egress(&["127.0.0.2", "::1"])
            .section(&dns.section("1s"));
        let mut daemon = Daemon::start(&config).await;
        let reply = ask(&daemon, &upstream).await;
        drop(reply.stream);
        let record = daemon.tunnel_record().await;
        assert_eq!(
            reply.status_line, "HTTP/1.1 200 Connection established",
            "silent for {silent}: {record}"
        );
    }
}

#[tokio::test]
async fn a_server_slower_than_timeouts_connect_times_out() {
    let upstream = RawUpstream::start().await;
    let dns = Dns::start(Say::Nothing).await;
    let config = by_name(&upstream)
        .section(&dns.section("60s"))
        .section("[timeouts]\nconnect = \"200ms\"");
    let mut daemon = Daemon::start(&config).await;
    let reply = ask(&daemon, &upstream).await;
    refused(&mut daemon, reply, "connect_timeout").await;
}

#[tokio::test]
async fn one_forbidden_address_refuses_the_whole_answer() {
    // 127.0.0.0/8 and ::1 are exempt in these tests; each of the others is not.
    let answers: [&[&str]; 10] = [
        &["10.0.0.7"],
        &["127.0.0.1", "10.0.0.7"],
        &["10.0.0.7", "127.0.0.1"],
        &["127.0.0.1", "127.0.0.1", "127.0.0.1", "169.254.169.254"],
        &["127.0.0.1", "0.0.0.0"],
        &["192.168.1.1"],
        &["100.64.0.1"],
        &["203.0.113.1"],
        &["224.0.0.1"],
        &["168.63.129.16"],
    ];
    let (upstream, dns, mut daemon) = setting(Say::Nothing).await;
    for (nth, answer) in answers.iter().enumerate() {
        dns.say(Say::addresses(answer, 0));
        let reply = ask(&daemon, &upstream).await;
        let record = refused_again(&mut daemon, reply, "destination_denied", nth + 1).await;
        let forbidden = answer
            .iter()
            .find(|address| !address.starts_with("127."))
            .unwrap();
        assert!(
            record["error"]
                .as_str()
                .is_some_and(|error| error.contains(forbidden)),
            "{record}"
        );
        assert!(
            record.get("upstream").is_none() && record.get("connect_ms").is_none(),
            "{record}"
        );
    }
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn a_name_of_this_machine_is_refused_however_it_resolves() {
    let upstream = RawUpstream::start().await;
    let dns = Dns::start(Say::addresses(&["127.0.0.1"], 0)).await;
    let fixed = Config::to(upstream.addr());
    let looked_up = by_name(&upstream).section(&dns.section("5s"));
    for config in [fixed, looked_up] {
        let mut daemon = Daemon::start(&config).await;
        let allowed = ask(&daemon, &upstream).await.established();
        let _dialled = upstream.accept().await;
        drop(allowed);
        let toml = config.to_toml().replace(&config.allow_destinations(), "");
        assert_ne!(toml, config.to_toml());
        assert_eq!(daemon.reload(&toml).await["result"], "ok");
        assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
        let reply = ask(&daemon, &upstream).await;
        let record = refused(&mut daemon, reply, "destination_denied").await;
        assert!(
            record["error"]
                .as_str()
                .is_some_and(|error| error.contains("127.0.0.1")),
            "{record}"
        );
        assert!(upstream.is_untouched().await);
    }
}

/// An upstream, a DNS server that gives this answer for every name, and a daemon that queries it
/// once, also if the server is delayed.
async fn setting(say: Say) -> (RawUpstream, Dns, Daemon) {
    setting_within("5s", say).await
}

/// The same for a server that never answers.
async fn setting_within(timeout: &str, say: Say) -> (RawUpstream, Dns, Daemon) {
    let upstream = RawUpstream::start().await;
    let dns = Dns::start(say).await;
    let daemon = Daemon::start(&by_name(&upstream).section(&dns.section(timeout))).await;
    (upstream, dns, daemon)
}

/// Allows the upstream by name and leaves the name to DNS.
fn by_name(upstream: &RawUpstream) -> Config {
    Config::closed().allow(&upstream.authority())
}

async fn ask(daemon: &Daemon, upstream: &RawUpstream) -> Reply {
    connect(daemon.proxy_addr(), &upstream.authority(), &[]).await
}

async fn looked_up(daemon: &Daemon, result: &str) -> f64 {
    daemon
        .metric(&format!("sealway_dns_lookups_total{{result=\"{result}\"}}"))
        .await
        .expect("a series")
}
