//! Egress addresses that appear and disappear under the daemon: at the start, at a reload, and
//! under live tunnels.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::client::{Reply, connect, connect_head, dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, run, set_kernel_parameter};
use support::raw::{RawUpstream, Tunnel, read_to_reset};
use support::service::Service;
use support::soon;
use support::users::{basic, start_with_users, tempdir, user, with_users, write};
use tokio::io::AsyncWriteExt;

// ---- a reload while an address is missing ----

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_reload_while_an_address_is_missing_revokes_a_user() {
    in_own_network(
        "a_reload_while_an_address_is_missing_revokes_a_user",
        async {
            for (address, upstream) in [(V4, "127.0.0.1:0"), (V6, "[::1]:0")] {
                add(address);
                let upstream = RawUpstream::start_at(upstream).await;
                let here = if upstream.addr().is_ipv4() {
                    "127.0.0.2"
                } else {
                    "::1"
                };
                let config = Config::to(upstream.addr()).egress(&[here, address]);
                let both = [user("alice", "one", ""), user("bob", "two", "")].concat();
                let mut daemon = start_with_users(config.clone(), &both, DRAIN_AT_ONCE).await;
                delete(address);
                write(&daemon.path("users.toml"), &user("bob", "two", ""));
                let record = daemon
                    .reload(&with_users(config, DRAIN_AT_ONCE).to_toml())
                    .await;
                assert_eq!(record["result"], "ok", "{record}");
                assert_eq!(
                    ask_as(&daemon, &upstream, "alice", "one").await.status(),
                    407
                );
                assert_eq!(ask_as(&daemon, &upstream, "bob", "two").await.status(), 200);
                let is_named = |line: &Value| line["level"] == "WARN" && line["address"] == address;
                daemon
                    .line("a warning that names the address", is_named)
                    .await;
            }
        },
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_reload_may_name_an_address_that_is_added_later() {
    in_own_network("a_reload_may_name_an_address_that_is_added_later", async {
        let upstream = RawUpstream::start().await;
        let config = Config::to(upstream.addr());
        let mut daemon = Daemon::start(&config).await;
        let later = config.egress(&[V4]);
        assert_eq!(daemon.reload(&later.to_toml()).await["result"], "ok");
        let refused = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
        assert_eq!(refused.status_line, UNAVAILABLE);
        assert_eq!(daemon.admin_get("/readyz").await, (503, missing(V4)));
        add(V4);
        until_ready(&daemon).await;
        assert_eq!(source_of(Tunnel::open(&daemon, &upstream).await).await, V4);
    });
}

// ---- ready and degraded ----

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_daemon_with_another_address_is_ready_and_degraded() {
    in_own_network(
        "a_daemon_with_another_address_is_ready_and_degraded",
        async {
            add(V4);
            let upstream = RawUpstream::start().await;
            let service = Service::new(vec![]);
            let config = Config::to(upstream.addr()).egress(&["127.0.0.2", V4]);
            let daemon = Daemon::start_as_service(tempdir(), &config, &service).await;
            until_ready(&daemon).await;
            assert_eq!(daemon.metric("sealway_degraded").await, Some(0.0));
            delete(V4);
            daemon.metric_until(&up(V4), |up| up == 0.0).await;
            let (status, body) = daemon.admin_get("/readyz").await;
            assert_eq!(
                (status, body),
                (200, format!("ready\ndegraded: {}", missing(V4)))
            );
            assert_eq!(daemon.metric("sealway_ready").await, Some(1.0));
            assert_eq!(daemon.metric("sealway_degraded").await, Some(1.0));
            let said = status_of(&daemon).await;
            assert_eq!(said["not_ready"], json!([]));
            assert_eq!(said["degraded"], json!([missing(V4).trim_end()]));
            let line = format!(
                "STATUS=ready, degraded: {}; 0 tunnels; egress 127.0.0.2, {V4} (missing)",
                missing(V4).trim_end()
            );
            service.until("the status", |said| said == line).await;
            assert_eq!(
                source_of(Tunnel::open(&daemon, &upstream).await).await,
                "127.0.0.2"
            );
            add(V4);
            daemon
                .metric_until("sealway_degraded", |reasons| reasons == 0.0)
                .await;
            assert_eq!(
                daemon.admin_get("/readyz").await,
                (200, "ready\n".to_owned())
            );
        },
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn readiness_counts_the_users_without_an_address() {
    in_own_network("readiness_counts_the_users_without_an_address", async {
        let upstream = RawUpstream::start().await;
        let config = Config::to(upstream.addr()).egress(&["127.0.0.2", V4]);
        let held = user("alice", "one", &format!("egress = [{V4:?}]"));
        let free = user("bob", "two", "");
        let mut daemon = start_with_users(config.clone(), &held, "").await;
        // No user who may connect has a usable address.
        let reason = format!(
            "egress address missing: {V4}\nno user has an egress address that is on this host\n"
        );
        assert_eq!(daemon.admin_get("/readyz").await, (503, reason));
        assert_eq!(
            ask_as(&daemon, &upstream, "alice", "one").await.status(),
            503
        );
        for (others, expected) in [
            (free.as_str(), 200),
            (&user("bob", "two", "disabled = true"), 503),
            (
                &user("bob", "two", "expires = \"2020-01-01T00:00:00Z\""),
                503,
            ),
            (&user("bob", "two", "egress = [\"127.0.0.2\"]"), 200),
        ] {
            write(
                &daemon.path("users.toml"),
                &[held.as_str(), others].concat(),
            );
            daemon
                .reload(&with_users(config.clone(), "").to_toml())
                .await;
            let (status, body) = daemon.admin_get("/readyz").await;
            assert_eq!(status, expected, "{others}: {body}");
            if expected == 200 {
                assert!(
                    body.contains("1 user has no egress address that is on this host"),
                    "{body}"
                );
                assert_eq!(ask_as(&daemon, &upstream, "bob", "two").await.status(), 200);
            }
        }
        add(V4);
        daemon
            .metric_until("sealway_degraded", |reasons| reasons == 0.0)
            .await;
        assert_eq!(
            ask_as(&daemon, &upstream, "alice", "one").await.status(),
            200
        );
    });
}

// ---- a start without the address ----

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn the_daemon_starts_without_its_address_and_uses_it_later() {
    in_own_network(
        "the_daemon_starts_without_its_address_and_uses_it_later",
        async {
            for (address, upstream) in [(V4, "127.0.0.1:0"), (V6, "[::1]:0")] {
                let upstream = RawUpstream::start_at(upstream).await;
                let service = Service::new(vec![]);
                let config = Config::to(upstream.addr()).egress(&[address]);
                let mut daemon = Daemon::start_as_service(tempdir(), &config, &service).await;
                // The start has completed although the machine is not ready for tunnels: systemctl
                // start must not time out.
                let told = service
                    .until("the start's end", |line| line == "READY=1")
                    .await;
                let why = format!(
                    "STATUS=not ready: {}; 0 tunnels; egress {address} (missing)",
                    missing(address).trim_end()
                );
                if !told.contains(&why) {
                    service
                        .until("why it is not ready", |line| line == why)
                        .await;
                }
                assert_eq!(daemon.admin_get("/readyz").await, (503, missing(address)));
                assert_eq!(daemon.metric("sealway_ready").await, Some(0.0));
                let refused = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
                assert_eq!(refused.status_line, UNAVAILABLE);
                assert_eq!(daemon.tunnel_record().await["code"], "egress_unavailable");
                assert!(upstream.is_untouched().await, "left from another address");
                add(address);
                until_ready(&daemon).await;
                service
                    .until("that it is ready", |line| line.starts_with("STATUS=ready;"))
                    .await;
                assert_eq!(
                    source_of(Tunnel::open(&daemon, &upstream).await).await,
                    address
                );
            }
        },
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_tentative_address_is_missing() {
    in_own_network("a_tentative_address_is_missing", async {
        // Duplicate address detection runs when the link has a carrier, and a link has one when its
        // other end is up.
        run("ip link add v0 type veth peer name v1");
        run("ip link set v0 up");
        run(&format!("ip address add {V6}/64 dev v0"));
        assert!(run("ip -6 address show dev v0").contains("tentative"));
        let upstream = RawUpstream::start_at("[::1]:0").await;
        for nonlocal in ["0", "1"] {
            set_kernel_parameter("/proc/sys/net/ipv6/ip_nonlocal_bind", nonlocal);
            let daemon = Daemon::start(&Config::to(upstream.addr()).egress(&[V6])).await;
            assert_eq!(
                daemon.admin_get("/readyz").await,
                (503, missing(V6)),
                "ip_nonlocal_bind {nonlocal}"
            );
        }
        let daemon = Daemon::start(&Config::to(upstream.addr()).egress(&[V6])).await;
        run("ip link set v1 up");
        until_ready(&daemon).await;
        assert_eq!(source_of(Tunnel::open(&daemon, &upstream).await).await, V6);
        run(&format!("ip address change {V6}/64 dev v0 preferred_lft 0"));
        assert!(run("ip -6 address show dev v0").contains("deprecated"));
        assert_eq!(
            source_of(Tunnel::open(&daemon, &upstream).await).await,
            V6,
            "deprecated is still there"
        );
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_address_that_only_bind_accepts_is_missing() {
    in_own_network("an_address_that_only_bind_accepts_is_missing", async {
        set_kernel_parameter("/proc/sys/net/ipv4/ip_nonlocal_bind", "1");
        set_kernel_parameter("/proc/sys/net/ipv6/ip_nonlocal_bind", "1");
        // A return path that does not lead to this host.
        run("ip route add 192.0.2.0/24 dev lo");
        run("ip -6 route add 2001:db8::/64 dev lo");
        for (address, upstream) in [(V4, "127.0.0.1:0"), (V6, "[::1]:0")] {
            let upstream = RawUpstream::start_at(upstream).await;
            let daemon = Daemon::start(&Config::to(upstream.addr()).egress(&[address])).await;
            assert_eq!(daemon.admin_get("/readyz").await, (503, missing(address)));
            let refused = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
            assert_eq!(refused.status_line, UNAVAILABLE);
            assert!(
                upstream.is_untouched().await,
                "left from an address that the host has not"
            );
        }
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_address_that_is_local_by_route_is_present() {
    in_own_network("an_address_that_is_local_by_route_is_present", async {
        run("ip route add local 192.0.2.0/24 dev lo");
        let upstream = RawUpstream::start().await;
        let daemon = Daemon::start(&Config::to(upstream.addr()).egress(&[V4])).await;
        assert_eq!(
            daemon.admin_get("/readyz").await,
            (200, "ready\n".to_owned())
        );
        assert_eq!(source_of(Tunnel::open(&daemon, &upstream).await).await, V4);
    });
}

// ---- an address that disappears under live tunnels ----

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_tunnel_whose_address_stays_away_is_reset() {
    in_own_network("a_tunnel_whose_address_stays_away_is_reset", async {
        for (address, here, upstream) in [(V4, "127.0.0.2", "127.0.0.1:0"), (V6, "::1", "[::1]:0")]
        {
            add(address);
            let upstream = RawUpstream::start_at(upstream).await;
            let config = Config::to(upstream.addr())
                .egress(&[address])
                .egress_line("loss_grace = \"300ms\"");
            let mut daemon = Daemon::start(&config).await;
            let mut lost: Vec<Tunnel> = Vec::new();
            for _ in 0..3 {
                lost.push(Tunnel::open(&daemon, &upstream).await);
            }
            // One with another source, and one of a former configuration.
            let other = config.clone().egress(&[here]);
            let drain = "[timeouts]\ndrain = \"1h\"";
            assert_eq!(
                daemon.reload(&other.section(drain).to_toml()).await["result"],
                "ok"
            );
            let mut stays = Tunnel::open(&daemon, &upstream).await;
            delete(address);
            for tunnel in &mut lost {
                read_to_reset(&mut tunnel.client).await;
                let record = daemon.tunnel_record().await;
                assert_eq!(record["code"], "egress_lost", "{record}");
                assert_eq!(record["outcome"], "allowed", "{record}");
                assert!(
                    record["egress"].as_str().unwrap().contains(address),
                    "{record}"
                );
                assert!(
                    record["error"].as_str().unwrap().contains(address),
                    "{record}"
                );
            }
            let closed = "sealway_tunnels_closed_total{code=\"egress_lost\"}";
            assert_eq!(daemon.metric(closed).await, Some(3.0));
            assert_eq!(daemon.metric("sealway_tunnels_active").await, Some(1.0));
            stays.exchange(1).await;
            stays.close().await;
        }
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_address_that_returns_in_time_keeps_its_tunnels() {
    in_own_network("an_address_that_returns_in_time_keeps_its_tunnels", async {
        run("ip link add d0 type veth peer name d1");
        run("ip link set d1 up");
        run("ip link set d0 up");
        for (address, upstream) in [(V4, "127.0.0.1:0"), (V6, "[::1]:0")] {
            add(address);
            let upstream = RawUpstream::start_at(upstream).await;
            let config = Config::to(upstream.addr())
                .egress(&[address])
                .egress_line("loss_grace = \"20s\"");
            let mut daemon = Daemon::start(&config).await;
            let mut tunnel = Tunnel::open(&daemon, &upstream).await;
            // It flaps, and finally another interface has it.
            for device in ["lo", "d0"] {
                run(&format!("ip address del {address} dev lo"));
                daemon.metric_until(&up(address), |up| up == 0.0).await;
                run(&format!(
                    "ip address add {address} dev {device}{}",
                    no_detection(address)
                ));
                daemon.metric_until(&up(address), |up| up == 1.0).await;
                tunnel.exchange(3).await;
            }
            tunnel.close().await;
            assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
            run(&format!("ip address del {address} dev d0"));
        }
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_tunnel_in_set_up_ends_when_its_address_is_lost() {
    in_own_network("a_tunnel_in_set_up_ends_when_its_address_is_lost", async {
        add(V4);
        let upstream = RawUpstream::start().await;
        let config = Config::to(upstream.addr())
            .egress(&[V4])
            .egress_line("loss_grace = \"100ms\"")
            .section("[timeouts]\nclient_hello = \"1h\"\nserver_hello = \"1h\"");
        let mut daemon = Daemon::start(&config).await;
        // One client is silent after the 200, the other waits for the server.
        let silent = connect(daemon.proxy_addr(), &upstream.authority(), &[])
            .await
            .established();
        let _dialled = upstream.accept().await;
        let mut waiting = connect(daemon.proxy_addr(), &upstream.authority(), &[])
            .await
            .established();
        let mut server = upstream.accept().await;
        let hello = support::hello::Recorded::all().remove(0);
        waiting.write_all(&hello.bytes).await.unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut server, &mut vec![0; hello.bytes.len()])
            .await
            .unwrap();
        delete(V4);
        for _ in 0..2 {
            let record = daemon.tunnel_record().await;
            assert_eq!(record["code"], "egress_lost", "{record}");
            assert_eq!(record["outcome"], "failed", "{record}");
        }
        drop((silent, waiting));
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_dial_whose_address_is_lost_continues_from_another() {
    in_own_network(
        "a_dial_whose_address_is_lost_continues_from_another",
        async {
            add(V4);
            // No host answers there: each SYN is dropped.
            run("ip link add d0 type veth peer name d1");
            run("ip link set d1 up");
            run("ip link set d0 up");
            run("ip route add 203.0.113.9/32 dev d0");
            run("ip neigh add 203.0.113.9 lladdr 02:00:00:00:00:01 dev d0 nud permanent");
            let beyond = "203.0.113.9:443".parse().unwrap();
            let config = Config::to(beyond)
                .exempt("203.0.113.9/32")
                .egress(&[V4])
                .egress_line("loss_grace = \"100ms\"")
                .section("[timeouts]\nconnect = \"1h\"");
            let mut daemon = Daemon::start(&config).await;
            let mut client = dial(daemon.proxy_addr()).await;
            client
                .write_all(connect_head(&format!("{}:443", support::HOST), &[]).as_bytes())
                .await
                .unwrap();
            let ask = "ss -tnH state syn-sent src 192.0.2.10";
            let dialled = async {
                while run(ask).is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            soon("a SYN", dialled).await;
            delete(V4);
            let reply = read_reply(client).await;
            assert_eq!(reply.status_line, UNAVAILABLE);
            assert_eq!(daemon.tunnel_record().await["code"], "egress_unavailable");
        },
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn loss_grace_does_not_end_early() {
    in_own_network("loss_grace_does_not_end_early", async {
        add(V4);
        let upstream = RawUpstream::start().await;
        let config = Config::to(upstream.addr())
            .egress(&[V4])
            .egress_line("loss_grace = \"2s\"");
        let mut daemon = Daemon::start(&config).await;
        let mut tunnel = Tunnel::open(&daemon, &upstream).await;
        let gone = Instant::now();
        delete(V4);
        read_to_reset(&mut tunnel.client).await;
        assert!(
            gone.elapsed() >= Duration::from_secs(2),
            "{:?}",
            gone.elapsed()
        );
        assert_eq!(daemon.tunnel_record().await["code"], "egress_lost");
        // An address can be lost and return more than once.
        add(V4);
        until_ready(&daemon).await;
        let mut again = Tunnel::open(&daemon, &upstream).await;
        again.exchange(9).await;
        again.close().await;
        assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
    });
}

async fn ask_as(daemon: &Daemon, upstream: &RawUpstream, name: &str, secret: &str) -> Reply {
    let credentials = basic(name, secret);
    connect(
        daemon.proxy_addr(),
        &upstream.authority(),
        &[("Proxy-Authorization", &credentials)],
    )
    .await
}

async fn until_ready(daemon: &Daemon) {
    let ready = async {
        while daemon.admin_get("/readyz").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("that the daemon is ready", ready).await;
}

async fn status_of(daemon: &Daemon) -> Value {
    serde_json::from_str(&daemon.admin_get("/status").await.1).unwrap()
}

async fn source_of(tunnel: Tunnel) -> String {
    let source = tunnel.upstream.peer_addr().unwrap().ip().to_string();
    tunnel.close().await;
    source
}

fn up(address: &str) -> String {
    format!("sealway_egress_up{{address={address:?}}}")
}

fn missing(address: &str) -> String {
    format!("egress address missing: {address}\n")
}

fn add(address: &str) {
    run(&format!(
        "ip address add {address} dev lo{}",
        no_detection(address)
    ));
}

fn delete(address: &str) {
    run(&format!("ip address del {address} dev lo"));
}

fn no_detection(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

const V4: &str = "192.0.2.10";
const V6: &str = "2001:db8::10";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable (egress_unavailable)";
const DRAIN_AT_ONCE: &str = "[timeouts]\ndrain = \"0s\"";
