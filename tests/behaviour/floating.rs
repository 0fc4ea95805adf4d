//! Egress addresses that float between hosts (`egress.floating`): a host without one is on standby, and carries tunnels as
//! soon as the address comes.

use std::time::Duration;

use serde_json::{Value, json};
use support::client::connect;
use support::command::{Ended, sealway};
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, run};
use support::raw::{RawUpstream, Tunnel, read_to_reset};
use support::service::Service;
use support::soon;
use support::users::{basic, tempdir, user, with_users, write};

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_host_without_the_floating_address_is_on_standby_until_it_comes() {
    in_own_network(
        "a_host_without_the_floating_address_is_on_standby_until_it_comes",
        async {
            for (address, upstream) in [(V4, "127.0.0.1:0"), (V6, "[::1]:0")] {
                let upstream = RawUpstream::start_at(upstream).await;
                let service = Service::new(vec![]);
                let config = floating(&upstream, &[address], &[address]);
                let mut daemon = Daemon::start_as_service(tempdir(), &config, &service).await;
                let missing = format!("floating egress address missing: {address}");
                assert_eq!(
                    daemon.admin_get("/readyz").await,
                    (503, format!("{missing}\n"))
                );
                assert_eq!(
                    daemon.admin_get("/standbyz").await,
                    (200, format!("standby\n{missing}\n"))
                );
                let line =
                    format!("STATUS=standby: {missing}; 0 tunnels; egress {address} (elsewhere)");
                service.until("the status", |said| said == line).await;
                assert_eq!(daemon.metric("sealway_ready").await, Some(0.0));
                assert_eq!(daemon.metric("sealway_standby").await, Some(1.0));
                let series = format!("sealway_egress_floating{{address={address:?}}}");
                assert_eq!(daemon.metric(&series).await, Some(1.0));
                let said = status_of(&daemon).await;
                assert_eq!(
                    (&said["standby"], &said["egress"][0]["floating"]),
                    (&json!(true), &json!(true))
                );
                let refused = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
                assert_eq!(refused.status_line, UNAVAILABLE);

                add(address);
                until(&daemon, "/readyz", (200, "ready\n")).await;
                assert_eq!(
                    daemon.admin_get("/standbyz").await,
                    (200, "ready\n".to_owned())
                );
                assert_eq!(daemon.metric("sealway_standby").await, Some(0.0));
                let mut tunnel = Tunnel::open(&daemon, &upstream).await;
                let source = tunnel.upstream.peer_addr().unwrap().ip().to_string();
                assert_eq!(source, address);
                let _refused = daemon.tunnel_record().await;

                delete(address);
                read_to_reset(&mut tunnel.client).await;
                assert_eq!(daemon.tunnel_record().await["code"], "egress_lost");
                let standby = format!("standby\n{missing}\n");
                until(&daemon, "/standbyz", (200, &standby)).await;
                // Only the tunnels that the loss has ended deserve a warning.
                let is_loss = |line: &Value| is_of_address(line) && line["message"] == LOST;
                daemon.line("the loss", is_loss).await;
                assert_eq!(warnings(&daemon), [LOST]);
            }
        },
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn standby_is_refused_for_every_other_reason() {
    in_own_network("standby_is_refused_for_every_other_reason", async {
        let upstream = RawUpstream::start().await;
        // Another address is missing too; the floating one alone would do.
        let both = Daemon::start(&floating(&upstream, &[V4, OTHER], &[OTHER])).await;
        let (status, body) = both.admin_get("/standbyz").await;
        assert_eq!(status, 200, "{body}");
        assert!(
            body.contains(&format!("\negress address missing: {V4}\n")),
            "{body}"
        );
        // No floating address would do for IPv4 alone.
        let fixed = Daemon::start(&floating(&upstream, &[V4], &[])).await;
        assert_eq!(
            fixed.admin_get("/standbyz").await,
            (503, format!("egress address missing: {V4}\n"))
        );
        assert_eq!(fixed.metric("sealway_standby").await, Some(0.0));
        // A drained node must not get the address.
        let drained = Daemon::start(&floating(&upstream, &[OTHER], &[OTHER])).await;
        let admin = drained.admin_addr().to_string();
        let done = sealway(&["drain", "--admin", &admin]).await;
        assert_eq!(done.status, 0, "{done:?}");
        let (status, body) = drained.admin_get("/standbyz").await;
        assert_eq!(status, 503, "{body}");
        assert!(body.starts_with("drained"), "{body}");
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_floating_address_elsewhere_degrades_nothing() {
    in_own_network("a_floating_address_elsewhere_degrades_nothing", async {
        let upstream = RawUpstream::start().await;
        let daemon = Daemon::start(&floating(&upstream, &["127.0.0.2", V4], &[V4])).await;
        for page in ["/readyz", "/standbyz"] {
            assert_eq!(
                daemon.admin_get(page).await,
                (200, "ready\n".to_owned()),
                "{page}"
            );
        }
        assert_eq!(daemon.metric("sealway_degraded").await, Some(0.0));
        assert_eq!(daemon.metric("sealway_standby").await, Some(0.0));
        assert_eq!(warnings(&daemon), [""; 0]);
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_reload_makes_an_address_float_and_stop_floating() {
    in_own_network("a_reload_makes_an_address_float_and_stop_floating", async {
        let upstream = RawUpstream::start().await;
        let fixed = floating(&upstream, &[V4], &[]);
        let mut daemon = Daemon::start(&fixed).await;
        assert_eq!(daemon.admin_get("/standbyz").await.0, 503);
        let floats = floating(&upstream, &[V4], &[V4]);
        assert_eq!(daemon.reload(&floats.to_toml()).await["result"], "ok");
        until(
            &daemon,
            "/standbyz",
            (
                200,
                &format!("standby\nfloating egress address missing: {V4}\n"),
            ),
        )
        .await;
        assert_eq!(daemon.reload(&fixed.to_toml()).await["result"], "ok");
        until(
            &daemon,
            "/standbyz",
            (503, &format!("egress address missing: {V4}\n")),
        )
        .await;
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn users_of_a_floating_address_make_a_standby_if_nobody_has_another() {
    in_own_network(
        "users_of_a_floating_address_make_a_standby_if_nobody_has_another",
        async {
            let upstream = RawUpstream::start().await;
            let config = floating(&upstream, &["127.0.0.2", V4], &[V4])
                .admin("token_file = \"watcher.token\"");
            let folder = tempdir();
            write(&folder.path().join("watcher.token"), &"a".repeat(32));
            let bound =
                |name: &str, address: &str| user(name, "one", &format!("egress = [{address:?}]"));
            let alice = bound("alice", V4);
            write(&folder.path().join("users.toml"), &alice);
            let config = with_users(config, "");
            let mut daemon = Daemon::start_in(folder, &config).await;
            let ask = async |daemon: &Daemon, name: &str| {
                let credentials = basic(name, "one");
                let headers = [("Proxy-Authorization", credentials.as_str())];
                let authority = upstream.authority();
                let answer = connect(daemon.proxy_addr(), &authority, &headers).await;
                answer.status()
            };
            // These visitors show no token, so they learn no address.
            until(&daemon, "/readyz", (503, "not ready\n")).await;
            until(&daemon, "/standbyz", (200, "standby\n")).await;
            assert_eq!(ask(&daemon, "alice").await, 503);

            let both = alice + &bound("bob", "127.0.0.2");
            write(&daemon.path("users.toml"), &both);
            assert_eq!(daemon.reload(&config.to_toml()).await["result"], "ok");
            until(&daemon, "/readyz", (200, "ready\n")).await;
            until(&daemon, "/standbyz", (200, "ready\n")).await;
            assert_eq!(ask(&daemon, "alice").await, 503);
            assert_eq!(ask(&daemon, "bob").await, 200);
        },
    );
}

/// The other host listens there too, and a moment later this host does: a name that resolves to it
/// is refused like one that resolves to this host.
#[tokio::test]
async fn a_floating_address_is_no_destination_while_it_is_elsewhere() {
    let folder = tempdir();
    let file = folder.path().join("sealway.toml");
    let config = format!(
        "[egress]\naddresses = [\"127.0.0.1\", \"{V4}\", \"{V6}\"]\nfloating = [\"{V4}\", \"{V6}\"]\nnat64 = [\"64:ff9b::/96\"]\n\
         [policy]\nallow = [\"*.a.test\"]\nallow_destinations = [\"192.0.2.0/24\", \"2001:db8::/32\", \"64:ff9b::/96\"]\n\
         [dns.hosts]\n\"v4.a.test\" = [\"{V4}\"]\n\"v6.a.test\" = [\"{V6}\"]\n\"nat.a.test\" = [\"64:ff9b::{V4}\"]\n\"next.a.test\" = [\"{OTHER}\"]\n"
    );
    std::fs::write(&file, config).unwrap();
    let explain = async |host: &str| {
        let ended = sealway(&["explain", host, "--config", file.to_str().unwrap()]).await;
        format!("{}{}", ended.stdout, ended.stderr)
    };
    for host in ["v4.a.test", "v6.a.test", "nat.a.test"] {
        let found = explain(host).await;
        assert!(found.contains("destination_denied"), "{host}: {found}");
        assert!(found.contains("egress.floating"), "{host}: {found}");
    }
    let found = explain("next.a.test").await;
    assert!(!found.contains("destination_denied"), "{found}");
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn check_warns_of_a_floating_address_that_is_elsewhere() {
    in_own_network(
        "check_warns_of_a_floating_address_that_is_elsewhere",
        async {
            let upstream = RawUpstream::start().await;
            let folder = tempdir();
            let file = folder.path().join("sealway.toml");
            let check = async |config: &Config| -> Ended {
                std::fs::write(&file, config.to_toml()).unwrap();
                sealway(&["check", "--config", file.to_str().unwrap()]).await
            };
            let checked = check(&floating(&upstream, &[V4], &[V4])).await;
            assert_eq!(checked.status, 0, "{checked:?}");
            let warning = format!("egress.floating: {V4} is not on this host now");
            assert!(checked.stderr.contains(&warning), "{checked:?}");
            let checked = check(&floating(&upstream, &[V4], &[])).await;
            assert_eq!(checked.status, 78, "{checked:?}");
            let checked = check(&floating(&upstream, &["127.0.0.2"], &[V4])).await;
            assert_eq!(checked.status, 78, "{checked:?}");
            let cause = format!("egress.floating: {V4:?}: not one of egress.addresses");
            assert!(checked.stderr.contains(&cause), "{checked:?}");
        },
    );
}

fn floating(upstream: &RawUpstream, addresses: &[&str], floating: &[&str]) -> Config {
    Config::to(upstream.addr())
        .egress(addresses)
        .egress_line(&format!("floating = {floating:?}\nloss_grace = \"300ms\""))
}

async fn status_of(daemon: &Daemon) -> Value {
    serde_json::from_str(&daemon.admin_get("/status").await.1).unwrap()
}

async fn until(daemon: &Daemon, page: &str, (status, body): (u16, &str)) {
    let answered = async {
        while daemon.admin_get(page).await != (status, body.to_owned()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(&format!("{page}: {status} {body}"), answered).await;
}

/// The warnings about egress addresses in the log.
fn warnings(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log_text();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(is_of_address)
        .map(|line| line["message"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn is_of_address(line: &Value) -> bool {
    line["level"] == "WARN" && line["address"].is_string()
}

fn add(address: &str) {
    let no_detection = if address.contains(':') { " nodad" } else { "" };
    run(&format!("ip address add {address} dev lo{no_detection}"));
}

fn delete(address: &str) {
    run(&format!("ip address del {address} dev lo"));
}

const V4: &str = "192.0.2.10";
const V6: &str = "2001:db8::10";
const OTHER: &str = "192.0.2.11";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable (egress_unavailable)";
const LOST: &str = "the egress address was away for egress.loss_grace; its tunnels are reset";
