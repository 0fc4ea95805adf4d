//! What closes warm sockets: a reload, a drain, a hand-over, the loss of the egress address, an upstream that speaks first.

use serde_json::json;
use support::client::connect;
use support::command::sealway;
use support::daemon::Daemon;
use support::manager::Manager;
use support::namespace::{in_own_network, run};
use support::wait_until;

use super::front_end::{Conduct, FrontEnd};
use super::{assert_sums_agree, authority, closed, config, dials, metric, tunnel, visit, warm_up};

/// Waits until the upstream has seen the end of all warm sockets, each as a reset without a byte.
async fn until_reset(upstream: &FrontEnd, warm: usize) {
    upstream.until_all_are_over().await;
    let resets = upstream
        .connections()
        .into_iter()
        .filter(|one| one.bytes.is_empty());
    let resets: Vec<_> = resets.map(|one| one.was_reset).collect();
    assert_eq!(resets, vec![true; warm]);
}

#[tokio::test]
async fn a_reload_closes_them_and_a_forbidden_address_is_never_used() {
    let upstream = FrontEnd::start("127.0.0.1:0", |_| Conduct::Serve).await;
    let allowed = config(upstream.address, 2);
    let mut daemon = Daemon::start(&allowed).await;
    warm_up(&mut daemon, &upstream, 2).await;
    // The name stays allowed, and its address is refused.
    let toml = allowed.to_toml();
    let forbidden = toml.replace(
        "allow_destinations = [\"127.0.0.1\", ",
        "allow_destinations = [",
    );
    assert_ne!(forbidden, toml);
    assert_eq!(daemon.reload(&forbidden).await["result"], "ok");
    assert_eq!(closed(&daemon, "reload").await, 2);
    until_reset(&upstream, 2).await;
    for _ in 0..4 {
        let reply = connect(daemon.proxy_addr(), &authority(upstream.address), &[]).await;
        assert_eq!(
            reply.status_line,
            "HTTP/1.1 403 Forbidden (destination_denied)"
        );
    }
    assert_eq!(upstream.accepted(), 5);
    // Another reload allows it again: the name has to become busy again.
    assert_eq!(daemon.reload(&toml).await["result"], "ok");
    drop(tunnel(&daemon, upstream.address).await);
    assert_eq!(
        [dials(&daemon, "hit").await, dials(&daemon, "miss").await],
        [0, 0]
    );
    assert_sums_agree(&daemon).await;
}

#[tokio::test]
async fn a_reload_with_another_egress_address_leaves_none_of_the_former() {
    let upstream = FrontEnd::start("127.0.0.1:0", |_| Conduct::Serve).await;
    let former = config(upstream.address, 3);
    let mut daemon = Daemon::start(&former).await;
    warm_up(&mut daemon, &upstream, 2).await;
    let later = former.clone().egress(&["127.0.0.9"]).to_toml();
    assert_eq!(daemon.reload(&later).await["result"], "ok");
    until_reset(&upstream, 2).await;
    for nth in 0..5 {
        let record = visit(&mut daemon, upstream.address).await;
        assert!(
            record["egress"].as_str().unwrap().starts_with("127.0.0.9:"),
            "{nth} {record}"
        );
    }
    let later = upstream.connections().split_off(5);
    assert!(
        later
            .iter()
            .all(|one| one.peer.map(|peer| peer.ip()) == "127.0.0.9".parse().ok()),
        "{later:?}"
    );
    // Off again.
    let off = former.to_toml().replace("warm = 3", "warm = 0");
    assert_eq!(daemon.reload(&off).await["result"], "ok");
    upstream.until_all_are_over().await;
    for nth in 0..5 {
        let record = visit(&mut daemon, upstream.address).await;
        assert_eq!(record.get("warm"), None, "{nth} {record}");
    }
    assert_eq!(metric(&daemon, "sealway_warm_open").await, 0);
    assert_sums_agree(&daemon).await;
}

#[tokio::test]
async fn an_operators_drain_closes_them_and_opens_none() {
    let upstream = FrontEnd::start("127.0.0.1:0", |_| Conduct::Serve).await;
    let mut daemon = Daemon::start(&config(upstream.address, 2)).await;
    let live = tunnel(&daemon, upstream.address).await;
    for _ in 0..2 {
        visit(&mut daemon, upstream.address).await;
    }
    upstream.until_accepted(5).await;
    let admin = daemon.admin_addr().to_string();
    assert_eq!(sealway(&["drain", "--admin", &admin]).await.status, 0);
    assert_eq!(closed(&daemon, "drain").await, 2);
    upstream.until_over(4).await;
    assert_eq!(sealway(&["undrain", "--admin", &admin]).await.status, 0);
    drop(live);
    let record = daemon.tunnel_record().await;
    assert_eq!(record["code"], "closed_by_client", "{record}");
    for _ in 0..3 {
        let record = visit(&mut daemon, upstream.address).await;
        assert_eq!(record.get("warm"), None, "{record}");
    }
    upstream.until_accepted(10).await;
    assert_sums_agree(&daemon).await;
}

#[tokio::test]
async fn a_stop_closes_them_while_tunnels_drain() {
    let upstream = FrontEnd::start("127.0.0.1:0", |_| Conduct::Serve).await;
    let mut daemon = Daemon::start(&config(upstream.address, 2)).await;
    warm_up(&mut daemon, &upstream, 2).await;
    let live = tunnel(&daemon, upstream.address).await;
    upstream.until_accepted(6).await;
    daemon.signal("TERM");
    upstream.until_over(5).await;
    wait_until("both are counted", async || {
        closed(&daemon, "drain").await == 2
    })
    .await;
    drop(live);
    assert_eq!(daemon.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn a_hand_over_closes_them_and_leaves_the_tunnels() {
    let upstream = FrontEnd::start("127.0.0.1:0", |_| Conduct::Serve).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = config(upstream.address, 2).listener(&format!("address = \"{free}\""));
    let manager = Manager::start();
    let mut first = Daemon::start_managed(tempfile::tempdir().unwrap(), &config, &manager).await;
    warm_up(&mut first, &upstream, 2).await;
    let live = tunnel(&first, upstream.address).await;
    upstream.until_accepted(6).await;
    first.signal("USR2");
    assert_eq!(first.exit_status().await.code(), Some(75));
    upstream.until_over(5).await;
    let mut next = Daemon::start_managed(first.into_directory(), &config, &manager).await;
    assert_eq!(next.event("takeover").await["adopted"], 1);
    drop(live);
    let record = next.tunnel_record().await;
    assert_eq!(
        (&record["warm"], &record["code"]),
        (&json!(true), &json!("closed_by_client")),
        "{record}"
    );
    assert_eq!(metric(&next, "sealway_warm_opened_total").await, 0);
}

#[tokio::test]
async fn an_answer_of_dns_without_the_address_closes_them() {
    use support::config::Config;
    use support::dns::{Dns, Say};
    let upstream = FrontEnd::start("0.0.0.0:0", |_| Conduct::Serve).await;
    let dns = Dns::start(Say::addresses(&["127.0.0.1"], 1)).await;
    let settings = Config::closed()
        .allow(&authority(upstream.address))
        .exempt("127.0.0.1")
        .exempt("127.0.0.9")
        .section("[dial]\nwarm = 2")
        .section(&dns.section("2s"));
    let mut daemon = Daemon::start(&settings).await;
    warm_up(&mut daemon, &upstream, 2).await;
    dns.say(Say::addresses(&["127.0.0.9"], 1));
    let mut visits = 0;
    loop {
        visits += 1;
        let record = visit(&mut daemon, upstream.address).await;
        let address = record["upstream"].as_str().unwrap();
        if address.starts_with("127.0.0.9:") {
            // Before it, sockets to the former address were right.
            assert_eq!(record.get("warm"), None, "{record}");
            break;
        }
        assert!(visits < 2_000, "{record}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let noticed = async || closed(&daemon, "answer").await > 0;
    wait_until("the former ones are closed", noticed).await;
    assert_sums_agree(&daemon).await;
}

#[tokio::test]
async fn one_whose_upstream_speaks_first_is_closed() {
    let upstream = FrontEnd::start("127.0.0.1:0", |nth| match nth {
        3 | 4 => Conduct::SpeakFirst,
        _ => Conduct::Serve,
    });
    let upstream = upstream.await;
    let mut daemon = Daemon::start(&config(upstream.address, 2)).await;
    for _ in 0..3 {
        visit(&mut daemon, upstream.address).await;
    }
    upstream.until_accepted(5).await;
    wait_until("both are closed", async || {
        closed(&daemon, "upstream").await == 2
    })
    .await;
    let spoken = upstream.connections()[3..5].to_vec();
    assert!(spoken.iter().all(|one| one.bytes.is_empty()), "{spoken:?}");
    assert_sums_agree(&daemon).await;
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn the_loss_of_the_egress_address_closes_them() {
    in_own_network(
        "warm::ends::the_loss_of_the_egress_address_closes_them",
        async {
            for (address, upstream) in [
                ("198.51.100.10", "127.0.0.1:0"),
                ("2001:db8::10", "[::1]:0"),
            ] {
                let bits = if address.contains(':') {
                    "128 nodad"
                } else {
                    "32"
                };
                run(&format!("ip address add {address}/{bits} dev lo"));
                let upstream = FrontEnd::start(upstream, |_| Conduct::Serve).await;
                let config = config(upstream.address, 2).egress(&[address]);
                let mut daemon = Daemon::start(&config).await;
                warm_up(&mut daemon, &upstream, 2).await;
                let prefix = if address.contains(':') { "128" } else { "32" };
                run(&format!("ip address del {address}/{prefix} dev lo"));
                // At the next look, long before egress.loss_grace.
                wait_until("both are closed", async || {
                    closed(&daemon, "egress").await == 2
                })
                .await;
                assert_eq!(metric(&daemon, "sealway_warm_open").await, 0);
                assert_sums_agree(&daemon).await;
            }
        },
    );
}

/// With as many descriptors as a 128th of which is eight, no more than eight are open, however many upstreams there are.
#[tokio::test]
async fn descriptors_bound_them() {
    let mut upstreams = Vec::new();
    for _ in 0..6 {
        upstreams.push(FrontEnd::start("127.0.0.1:0", |_| Conduct::Serve).await);
    }
    let mut settings = config(upstreams[0].address, 4);
    for upstream in &upstreams[1..] {
        settings = settings.allow(&authority(upstream.address));
    }
    let mut daemon = Daemon::start_with_descriptors(&settings, 1_024).await;
    let mut most = 0;
    for _ in 0..4 {
        for upstream in &upstreams {
            visit(&mut daemon, upstream.address).await;
            most = most.max(metric(&daemon, "sealway_warm_open").await);
        }
    }
    assert!((1..=8).contains(&most), "{most}");
    assert_sums_agree(&daemon).await;
}
