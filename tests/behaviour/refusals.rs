//! Every refusal by policy, identity or limits: the reply, the audit record, the metric, and an
//! upstream that received no connection. `refused_heads`, `refused_names`, `refused_dials` and
//! `refused_audit` provoke the other codes.

use sealway::outcome::{self, DenyReason, End, Failure};
use support::HOST;
use support::client::{Reply, connect, connect_head, dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel};
use support::refusal::{REFUSALS, Refusal, count, refused, refused_again};
use support::users::{basic, start_with_users, user, with_users};

#[test]
fn the_table_has_every_http_code_and_no_other() {
    let denied = DenyReason::ALL.iter().map(|reason| End::from(*reason));
    let failed = Failure::ALL.iter().map(|failure| End::from(*failure));
    let in_http = denied
        .chain(failed)
        .filter(|end| matches!(end.reply(), outcome::Reply::Http(..)));
    let (mut daemons, mut table): (Vec<_>, Vec<_>) = (
        in_http.map(End::code).collect(),
        REFUSALS.iter().map(|refusal| refusal.code).collect(),
    );
    daemons.sort_unstable();
    table.sort_unstable();
    assert_eq!(daemons, table);
}

#[tokio::test]
async fn a_client_outside_the_list_is_refused() {
    let (upstream, config) = setting().await;
    let mut daemon =
        Daemon::start(&config.section("[auth]\nclients = [\"198.51.100.0/24\", \"::1/128\"]"))
            .await;
    let reply = ask(&daemon, &upstream).await;
    let record = refused(&mut daemon, reply, "client_denied").await;
    assert!(
        record.get("host").is_none(),
        "a stranger's request was read: {record}"
    );
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn a_client_in_the_list_is_served() {
    let (upstream, config) = setting().await;
    let daemon =
        Daemon::start(&config.section("[auth]\nclients = [\"198.51.100.0/24\", \"127.0.0.1/32\"]"))
            .await;
    assert_eq!(ask(&daemon, &upstream).await.status(), 200);
}

#[tokio::test]
async fn a_user_outside_its_sources_is_refused() {
    let (upstream, config) = setting().await;
    let alice = user("alice", "one", "sources = [\"198.51.100.0/24\"]");
    let mut daemon = start_with_users(config, &alice, "").await;
    let reply = ask_as(&daemon, &upstream, "alice", "one").await;
    refused(&mut daemon, reply, "client_denied").await;
    let reply = ask_as(&daemon, &upstream, "alice", "wrong").await;
    refused(&mut daemon, reply, "auth_failed").await;
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn a_host_and_a_port_without_a_rule_are_refused() {
    let (upstream, config) = setting().await;
    let mut daemon = Daemon::start(&config).await;
    let port = upstream.addr().port();
    for (nth, host) in [
        "evil.example",
        "sub.generativelanguage.googleapis.com",
        "googleapis.com",
        "localhost",
    ]
    .iter()
    .enumerate()
    {
        let reply = connect(daemon.proxy_addr(), &format!("{host}:{port}"), &[]).await;
        let record = refused_again(&mut daemon, reply, "host_denied", nth + 1).await;
        assert_eq!(
            (&record["host"], &record["port"]),
            (&(*host).into(), &port.into()),
            "{record}"
        );
    }
    let reply = connect(daemon.proxy_addr(), &format!("{HOST}:{}", port ^ 1), &[]).await;
    refused(&mut daemon, reply, "port_denied").await;
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn an_address_literal_is_refused() {
    let (upstream, config) = setting().await;
    let port = upstream.addr().port();
    let mut daemon = Daemon::start(&config).await;
    let literals = [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "203.0.113.9",
        "[2001:db8::9]",
    ];
    for (nth, literal) in literals.iter().enumerate() {
        let reply = connect(daemon.proxy_addr(), &format!("{literal}:{port}"), &[]).await;
        refused_again(&mut daemon, reply, "ip_literal_denied", nth + 1).await;
    }
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn missing_wrong_and_non_basic_credentials_are_refused() {
    let (upstream, config) = setting().await;
    let mut daemon =
        start_with_users(config, &user("alice", "one", ""), "lockout_failures = 100").await;
    let reply = ask(&daemon, &upstream).await;
    refused(&mut daemon, reply, "auth_required").await;
    let right = basic("alice", "one");
    let wrong = [
        basic("alice", "two"),
        basic("alice", ""),
        basic("alice", "one "),
        basic("bob", "one"),
        basic("", "one"),
        basic("ALICE", "one"),
        right.replace("Basic", "Bearer"),
        right.replace("Basic ", "Basic"),
        format!("{right}!"),
        "Basic".into(),
        "Basic YWxpY2U=".into(), // no colon
        "Basic //79".into(),     // no UTF-8
    ];
    for (nth, credentials) in wrong.iter().enumerate() {
        let headers = [("Proxy-Authorization", credentials.as_str())];
        let reply = connect(daemon.proxy_addr(), &upstream.authority(), &headers).await;
        let record = refused_again(&mut daemon, reply, "auth_failed", nth + 1).await;
        assert!(record.get("user").is_none(), "{record}");
    }
    assert!(upstream.is_untouched().await);
    assert_eq!(
        ask_as(&daemon, &upstream, "alice", "one").await.status(),
        200
    );
}

#[tokio::test]
async fn a_guessing_client_is_locked() {
    let (upstream, config) = setting().await;
    let auth = |window: &str| format!("lockout_failures = 2\nlockout_window = {window:?}");
    let mut daemon = start_with_users(config.clone(), &user("alice", "one", ""), &auth("1h")).await;
    for nth in [1, 2] {
        let reply = ask_as(&daemon, &upstream, "alice", &format!("guess {nth}")).await;
        refused_again(&mut daemon, reply, "auth_failed", nth).await;
    }
    let lockout = daemon.event("auth_lockout").await;
    assert_eq!(
        (&lockout["client"], &lockout["failures"]),
        (&"127.0.0.1".into(), &2.into()),
        "{lockout}"
    );
    assert_eq!(
        (&lockout["network"], &lockout["user"]),
        (&"127.0.0.1".into(), &"alice".into()),
        "{lockout}"
    );
    let reply = ask_as(&daemon, &upstream, "alice", "guess 3").await;
    let record = refused(&mut daemon, reply, "auth_locked").await;
    assert!(
        record["duration_ms"].as_f64().unwrap() >= 1_000.0,
        "the answer is late: {record}"
    );
    assert!(upstream.is_untouched().await);
    assert_eq!(
        ask_as(&daemon, &upstream, "alice", "one").await.status(),
        200,
        "the right secret is let in"
    );
    assert_eq!(daemon.tunnel_record().await["user"], "alice");
    let reply = ask_as(&daemon, &upstream, "bob", "guess").await;
    refused_again(&mut daemon, reply, "auth_failed", 3).await;

    // The last failure is more than a millisecond old: with such a window the lock has expired.
    assert_eq!(
        daemon
            .reload(&with_users(config, &auth("1ms")).to_toml())
            .await["result"],
        "ok"
    );
    let reply = ask_as(&daemon, &upstream, "alice", "guess 4").await;
    refused_again(&mut daemon, reply, "auth_failed", 4).await;
}

#[tokio::test]
async fn tunnels_above_the_limit_are_refused() {
    let (upstream, config) = setting().await;
    let limits = [
        ("tunnels = 1", "tunnel_limit"),
        ("tunnels_per_client = 1", "client_limit"),
    ];
    for (limit, code) in limits {
        let mut daemon =
            Daemon::start(&config.clone().section(&format!("[limits]\n{limit}"))).await;
        let tunnel = Tunnel::open(&daemon, &upstream).await;
        let silent = dial(daemon.proxy_addr()).await;
        let reply = ask(&daemon, &upstream).await;
        let record = refused(&mut daemon, reply, code).await;
        assert_eq!(record["host"], HOST, "{record}");
        assert!(upstream.is_untouched().await);
        tunnel.close().await;
        assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
        // The silent connection holds no tunnel permit.
        Tunnel::open(&daemon, &upstream).await.close().await;
        drop(silent);
    }
}

#[tokio::test]
async fn pending_connections_above_the_limit_are_refused() {
    let (upstream, config) = setting().await;
    let limits = "[limits]\npending = 2\n[relay]\nworkers = 1";
    let mut daemon = Daemon::start(&config.section(limits)).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(dial(daemon.proxy_addr()).await);
    }
    let reply = read_reply(silent.remove(0)).await;
    let record = refused(&mut daemon, reply, "client_limit").await;
    assert!(
        record["error"].as_str().unwrap().contains("limits.pending"),
        "{record}"
    );
    assert!(record.get("host").is_none(), "{record}");
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    let reply = read_reply(silent.remove(0)).await;
    assert_eq!(
        reply.status_line,
        "HTTP/1.1 429 Too Many Requests (client_limit)"
    );
    assert_eq!(count(&daemon, "client_limit").await, 2.0);
    tunnel.close().await;
}

#[tokio::test]
async fn tunnels_above_the_users_limit_are_refused() {
    let (upstream, config) = setting().await;
    let both = user("alice", "one", "tunnels = 1") + &user("bob", "two", "");
    let config = config.section("[limits]\ntunnels_per_user = 1");
    let mut daemon = start_with_users(config, &both, "").await;
    for (name, secret, nth) in [("alice", "one", 1), ("bob", "two", 2)] {
        let credentials = basic(name, secret);
        let tunnel =
            Tunnel::open_with(&daemon, &upstream, &[("Proxy-Authorization", &credentials)]).await;
        let reply = ask_as(&daemon, &upstream, name, secret).await;
        let record = refused_again(&mut daemon, reply, "user_limit", nth).await;
        assert_eq!(record["user"], name, "{record}");
        assert!(upstream.is_untouched().await);
        tunnel.close().await;
        assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
    }
    assert_eq!(count(&daemon, "user_limit").await, 2.0);
}

/// A close with the client's head unread would be a reset, which can overtake the reply.
#[tokio::test]
async fn a_client_that_is_turned_away_at_once_gets_the_whole_reply_and_a_clean_end() {
    let (upstream, config) = setting().await;
    let daemon = Daemon::start(&config.section("[limits]\naccept_rate = 1")).await;
    let head = connect_head(&upstream.authority(), &[]);
    let mut waiting = Vec::new();
    daemon.at_once(|| {
        for _ in 0..20 {
            let mut client = std::net::TcpStream::connect(daemon.proxy_addr()).unwrap();
            std::io::Write::write_all(&mut client, head.as_bytes()).unwrap();
            client.set_nonblocking(true).unwrap();
            waiting.push(client);
        }
    });
    let mut turned_away = 0;
    for client in waiting {
        let client = tokio::net::TcpStream::from_std(client).unwrap();
        let mut reply = read_reply(client).await;
        if reply.status() == 429 {
            Refusal::of("client_limit").is_told_by(&mut reply).await;
            let reset = reply.stream.take_error().unwrap();
            assert!(reset.is_none(), "behind the end: {reset:?}");
            turned_away += 1;
        }
    }
    assert!(turned_away >= 10, "{turned_away}");
}

async fn setting() -> (RawUpstream, Config) {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr());
    (upstream, config)
}

async fn ask(daemon: &Daemon, upstream: &RawUpstream) -> Reply {
    connect(daemon.proxy_addr(), &upstream.authority(), &[]).await
}

async fn ask_as(daemon: &Daemon, upstream: &RawUpstream, name: &str, secret: &str) -> Reply {
    connect(
        daemon.proxy_addr(),
        &upstream.authority(),
        &[("Proxy-Authorization", &basic(name, secret))],
    )
    .await
}
