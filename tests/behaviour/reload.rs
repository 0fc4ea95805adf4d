//! SIGHUP: a new policy and new users apply to new tunnels, a live tunnel never notices, and a
//! wrong configuration changes nothing.

use std::path::Path;

use support::client::{Reply, connect};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel};
use support::soon;
use support::users;
use support::wait_until;

#[tokio::test]
async fn an_added_host_is_allowed_after_the_reload() {
    let (upstream, mut daemon, config) = start().await;
    let mut live = Tunnel::open(&daemon, &upstream).await;
    assert_eq!(ask(&daemon, OTHER, &upstream).await.status_line, DENIED);
    let wider = config.host(OTHER, upstream.addr());
    assert_eq!(daemon.reload(&wider.to_toml()).await["result"], "ok");

    assert_eq!(ask(&daemon, OTHER, &upstream).await.status(), 200);
    live.exchange(1).await;
    live.close().await;
}

#[tokio::test]
async fn a_removed_host_is_refused_and_its_live_tunnel_continues() {
    let (upstream, mut daemon, _) = start().await;
    let mut live = Tunnel::open(&daemon, &upstream).await;
    let without = Config::closed().host(OTHER, upstream.addr());
    assert_eq!(daemon.reload(&without.to_toml()).await["result"], "ok");

    let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
    assert_eq!(reply.status_line, DENIED);
    for seed in 0..20 {
        live.exchange(seed).await;
    }
    assert_eq!(daemon.tunnel_record().await["code"], "host_denied");
    live.close().await;
    assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
}

#[tokio::test]
async fn a_new_relay_mode_applies_to_new_tunnels() {
    let (upstream, mut daemon, config) = start().await;
    let mut before = Tunnel::open(&daemon, &upstream).await;
    let adaptive = config.section("[relay]\nmode = \"adaptive\"");
    assert_eq!(daemon.reload(&adaptive.to_toml()).await["result"], "ok");
    let mut after = Tunnel::open(&daemon, &upstream).await;
    before.exchange(1).await;
    after.exchange(2).await;
    before.close().await;
    assert_ne!(daemon.tunnel_record().await["spliced_up"], 0);
    after.close().await;
    assert_eq!(daemon.tunnel_record().await["spliced_up"], 0);
}

/// An operator who removes a broken address must get no more alerts about it.
#[tokio::test]
async fn a_removed_egress_address_is_shown_until_its_last_tunnel_ends() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr());
    let mut daemon = Daemon::start(&config.clone().egress(&["127.0.0.2"])).await;
    let live = Tunnel::open(&daemon, &upstream).await;
    assert_eq!(
        daemon
            .reload(&config.egress(&["127.0.0.3"]).to_toml())
            .await["result"],
        "ok"
    );

    let series = |name: &str, address: &str| {
        format!("sealway_egress_{name}{{address=\"127.0.0.{address}\"}}")
    };
    assert_eq!(daemon.metric(&series("up", "2")).await, None);
    assert_eq!(daemon.metric(&series("up", "3")).await, Some(1.0));
    for name in ["ports_in_use", "ports_busiest"] {
        assert_eq!(daemon.metric(&series(name, "2")).await, Some(1.0), "{name}");
        assert_eq!(daemon.metric(&series(name, "3")).await, Some(0.0), "{name}");
    }
    live.close().await;
    for name in ["ports_in_use", "ports_busiest"] {
        soon("the end of the series", async {
            while daemon.metric(&series(name, "2")).await.is_some() {}
        })
        .await;
    }
}

/// The socket stays open whatever listener the new file names, so the protection against strangers
/// must stay too.
#[tokio::test]
async fn a_reload_never_turns_an_open_listener_into_an_open_relay() {
    for (any, own) in [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")] {
        let reachable = format!("address = \"{any}:0\"\nallow_cleartext = true");
        let closed = Config::closed()
            .listener(&reachable)
            .section("[auth]\nclients = [\"192.0.2.1\"]");
        let mut daemon = Daemon::start(&closed).await;
        let back_on_loopback = daemon.reload(&Config::closed().to_toml()).await;
        assert_eq!(back_on_loopback["result"], "failed", "{back_on_loopback}");
        assert!(
            back_on_loopback["error"]
                .as_str()
                .unwrap()
                .contains("open relay"),
            "{back_on_loopback}"
        );
        let proxy = format!("{own}:{}", daemon.proxy_addr().port());
        assert_eq!(
            connect(proxy.parse().unwrap(), "a.example:443", &[])
                .await
                .status_line,
            "HTTP/1.1 403 Forbidden (client_denied)"
        );
    }
}

#[tokio::test]
async fn a_record_names_the_policy_that_allowed_its_tunnel() {
    let (upstream, mut daemon, config) = start().await;
    let before = Tunnel::open(&daemon, &upstream).await;
    let wider = config.host(OTHER, upstream.addr());
    daemon.reload(&wider.to_toml()).await;
    let after = Tunnel::open(&daemon, &upstream).await;
    before.close().await;
    let first = daemon.tunnel_record().await;
    after.close().await;
    let second = daemon.tunnel_record().await;
    assert!(first["policy"].is_string(), "{first}");
    assert_ne!(first["policy"], second["policy"], "the policies differ");
}

#[tokio::test]
async fn changes_that_need_a_restart_are_logged_while_the_file_differs() {
    let (_upstream, mut daemon, config) = start().await;
    let other = config.clone().section("[relay]\nworkers = 3");
    let texts = [
        other.to_toml(),
        other.host(OTHER, "127.0.0.1:9".parse().unwrap()).to_toml(),
        config.to_toml(),
    ];
    for (reloads, text, warnings) in [(1, &texts[0], 1), (2, &texts[1], 2), (3, &texts[2], 2)] {
        daemon.reload(text).await;
        let count = |words: &str| daemon.log_text().matches(words).count();
        wait_until("the log's word of the reload", async || {
            count("configuration reloaded") >= reloads
        })
        .await;
        assert_eq!(
            count("need a restart to change"),
            warnings,
            "reload {reloads}"
        );
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_and_the_old_one_stays() {
    let (upstream, mut daemon, config) = start().await;
    let mut live = Tunnel::open(&daemon, &upstream).await;
    let wider = config.clone().host(OTHER, upstream.addr());
    let wrong = [
        wider.clone().section("[timeouts]\nidel = \"1h\"").to_toml(),
        wider
            .clone()
            .section("[timeouts]\nidle = \"soon\"")
            .to_toml(),
        wider.to_toml().replace("[policy]", "[policy"),
    ];
    for toml in wrong {
        let reload = daemon.reload(&toml).await;
        assert_eq!(reload["result"], "failed", "{reload}");
        assert_eq!(ask(&daemon, OTHER, &upstream).await.status_line, DENIED);
        live.exchange(3).await;
        Tunnel::open(&daemon, &upstream).await.close().await;
    }
    assert_eq!(
        daemon.reload(&wider.to_toml()).await["result"],
        "ok",
        "a good one is taken afterwards"
    );
    assert_eq!(ask(&daemon, OTHER, &upstream).await.status(), 200);
    live.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_tunnels_outlive_a_bad_and_a_good_reload() {
    let (upstream, mut daemon, config) = start().await;
    let mut live = Vec::new();
    for _ in 0..500 {
        live.push(Tunnel::open(&daemon, &upstream).await);
    }
    assert_eq!(
        daemon.reload("[policy]\nno_such_key = 1\n").await["result"],
        "failed"
    );
    assert_eq!(
        daemon
            .metric("sealway_config_reloads_total{result=\"failed\"}")
            .await,
        Some(1.0)
    );
    assert_eq!(
        daemon.metric("sealway_config_last_reload_successful").await,
        Some(0.0)
    );
    for (seed, tunnel) in live.iter_mut().enumerate() {
        tunnel.exchange(seed as u64).await;
    }
    assert_eq!(
        ask(&daemon, OTHER, &upstream).await.status_line,
        DENIED,
        "the old configuration is in force"
    );
    let wider = config.host(OTHER, upstream.addr());
    assert_eq!(daemon.reload(&wider.to_toml()).await["result"], "ok");
    assert_eq!(
        ask(&daemon, OTHER, &upstream).await.status(),
        200,
        "the new one is"
    );
    for (seed, tunnel) in live.into_iter().enumerate() {
        let mut tunnel = tunnel;
        tunnel.exchange(seed as u64).await;
        tunnel.close().await;
    }
    let closed = "sealway_tunnels_closed_total{code=\"closed_by_client\"}";
    assert_eq!(
        daemon.metric_until(closed, |count| count >= 500.0).await,
        500.0
    );
}

#[tokio::test]
async fn the_reason_of_a_refused_reload_names_its_key() {
    let (_upstream, mut daemon, config) = start().await;
    daemon
        .reload(&config.section("[timeouts]\nidel = \"1h\"").to_toml())
        .await;
    let log = daemon.log_text();
    assert!(
        log.contains("idel") && log.contains("sealway.toml"),
        "{log}"
    );
}

#[tokio::test]
async fn users_are_reloaded() {
    let upstream = RawUpstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    write_users(&directory.path().join("users.toml"), "alice");
    let config = Config::to(upstream.addr()).section("[auth]\nusers_file = \"users.toml\"");
    let mut daemon = Daemon::start_in(directory, &config).await;
    let (alice, bob) = (credentials(ALICE), credentials(BOB));
    let mut live = Tunnel::open_with(&daemon, &upstream, &[alice]).await;
    assert_eq!(ask_as(&daemon, &upstream, bob).await.status_line, UNKNOWN);

    write_users(&daemon.path("users.toml"), "bob");
    assert_eq!(daemon.reload(&config.to_toml()).await["result"], "ok");
    assert_eq!(ask_as(&daemon, &upstream, bob).await.status(), 200);
    assert_eq!(ask_as(&daemon, &upstream, alice).await.status_line, UNKNOWN);
    live.exchange(4).await;
    live.close().await;
    daemon
        .line("the record of alice's tunnel", |line| {
            line["user"] == "alice" && line["code"] == "closed_by_client"
        })
        .await;
    assert!(!daemon.log_text().contains(SECRET), "a secret was logged");
}

/// An upstream, a daemon that may reach it as [`support::HOST`] only, and its configuration.
async fn start() -> (RawUpstream, Daemon, Config) {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr());
    let daemon = Daemon::start(&config).await;
    (upstream, daemon, config)
}

async fn ask(daemon: &Daemon, host: &str, upstream: &RawUpstream) -> Reply {
    connect(
        daemon.proxy_addr(),
        &format!("{host}:{}", upstream.addr().port()),
        &[],
    )
    .await
}

async fn ask_as(daemon: &Daemon, upstream: &RawUpstream, credentials: (&str, &str)) -> Reply {
    connect(daemon.proxy_addr(), &upstream.authority(), &[credentials]).await
}

/// A users file with one user, whose secret is [`SECRET`].
fn write_users(file: &Path, name: &str) {
    users::write(file, &users::user(name, SECRET, ""));
}

fn credentials(encoded: &str) -> (&str, &str) {
    ("Proxy-Authorization", encoded)
}

const OTHER: &str = "oauth2.googleapis.com";
const DENIED: &str = "HTTP/1.1 403 Forbidden (host_denied)";
const UNKNOWN: &str = "HTTP/1.1 407 Proxy Authentication Required (auth_failed)";
const SECRET: &str = "correct-horse-battery-staple";
const ALICE: &str = "Basic YWxpY2U6Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ==";
const BOB: &str = "Basic Ym9iOmNvcnJlY3QtaG9yc2UtYmF0dGVyeS1zdGFwbGU=";
