//! No name leads to this machine, whatever makes an address local: a route of type local without an
//! interface address (AnyIP, a load balancer's address), an address that was just added, a rule for
//! the egress address, or a NAT in front of the machine that returns connections to its public
//! address. `policy.allow_destinations` opens such an address only if it names exactly that
//! address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{OtherHost, in_own_network, run, set_kernel_parameter};
use support::raw::{RawUpstream, Tunnel};
use support::{HOST, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TICK: Duration = Duration::from_millis(20);
const ANY_IP: &str = "198.51.100.0/24";
const ANY_IP_V6: &str = "2001:db8:1::/48";

/// A daemon that may reach `upstream` over either family, and whose address guard exempts
/// `network`.
async fn exempting(upstream: SocketAddr, network: &str) -> Daemon {
    Daemon::start(
        &Config::to(upstream)
            .egress(&["127.0.0.2", "::1"])
            .exempt(network),
    )
    .await
}

fn exempting_both(upstream: SocketAddr) -> Config {
    Config::to(upstream)
        .egress(&["127.0.0.2", "::1"])
        .exempt(ANY_IP)
        .exempt(ANY_IP_V6)
}

/// The attack must end as `destination_denied`, and no byte may have reached the service on this
/// machine.
async fn is_denied(daemon: &mut Daemon, upstream: &RawUpstream) {
    is_denied_at(daemon, upstream, &upstream.addr().ip().to_string()).await;
}

/// The same for a name whose address leads to the upstream indirectly.
async fn is_denied_at(daemon: &mut Daemon, upstream: &RawUpstream, address: &str) {
    let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
    assert_eq!(reply.status(), 403, "{} is dialled", upstream.addr());
    let record = daemon.tunnel_record().await;
    assert_eq!(record["code"], "destination_denied", "{record}");
    assert!(
        record["error"]
            .as_str()
            .is_some_and(|error| error.contains(address)),
        "{record}"
    );
    assert!(
        upstream.is_untouched().await,
        "a connection to this machine was made"
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_address_that_is_local_by_route_is_denied() {
    in_own_network("an_address_that_is_local_by_route_is_denied", async {
        run(&format!("ip route add local {ANY_IP} dev lo"));
        run(&format!("ip -6 route add local {ANY_IP_V6} dev lo"));
        for (address, network) in [("198.51.100.7", ANY_IP), ("2001:db8:1::7", ANY_IP_V6)] {
            let upstream = bound_without_address(address).await;
            let mut daemon = exempting(upstream.addr(), network).await;
            is_denied(&mut daemon, &upstream).await;
        }
    });
}

/// The whole loopback network is local, although its interface has only one address of it.
#[tokio::test]
async fn every_loopback_address_is_denied() {
    let upstream = RawUpstream::start_at("127.9.8.7:0").await;
    let config = Config::closed().host(HOST, upstream.addr());
    let toml = config.to_toml().replace(
        &config.allow_destinations(),
        "allow_destinations = [\"127.0.0.0/8\"]",
    );
    let mut daemon = Daemon::start(&config).await;
    assert_eq!(daemon.reload(&toml).await["result"], "ok");
    is_denied(&mut daemon, &upstream).await;
}

/// Each address appears while the daemon runs, and the attack follows at once.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_address_that_was_just_added_is_denied() {
    in_own_network("an_address_that_was_just_added_is_denied", async {
        let mut daemon = None;
        for number in 1..=20 {
            let (address, bits) = match number % 2 {
                0 => (format!("198.51.100.{number}"), 32),
                _ => (format!("2001:db8:1::{number}"), 128),
            };
            // Bound before the address exists, so that the attack can follow at once.
            let upstream = bound_without_address(&address).await;
            let config = exempting_both(upstream.addr()).to_toml();
            let daemon = match &mut daemon {
                Some(daemon) => {
                    let daemon: &mut Daemon = daemon;
                    assert_eq!(daemon.reload(&config).await["result"], "ok");
                    daemon
                }
                none => none.insert(Daemon::start(&exempting_both(upstream.addr())).await),
            };
            // No route leads there yet: a cached look-up of the route would still say so.
            let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
            assert_eq!(
                (reply.status(), &daemon.tunnel_record().await["code"]),
                (502, &"connect_unreachable".into())
            );
            run(&format!("ip address add {address}/{bits} dev lo"));
            is_denied(daemon, &upstream).await;
        }
    });
}

/// Only packets from the egress address are led back, by a table of its own.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_address_that_is_local_by_a_rule_for_the_egress_address_is_denied() {
    in_own_network(
        "an_address_that_is_local_by_a_rule_for_the_egress_address_is_denied",
        async {
            let upstream = bound_without_address("203.0.113.9").await;
            run("ip route add local 203.0.113.0/24 dev lo table 100");
            run("ip rule add from 127.0.0.2 lookup 100");
            let mut daemon = exempting(upstream.addr(), "203.0.113.0/24").await;
            is_denied(&mut daemon, &upstream).await;
        },
    );
}

/// Only TCP, or only this port, is led back. Each rule appears while the daemon runs.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_address_that_is_local_by_a_rule_for_a_protocol_or_port_is_denied() {
    in_own_network(
        "an_address_that_is_local_by_a_rule_for_a_protocol_or_port_is_denied",
        async {
            for (ip, address, network) in [
                ("ip -6", "2001:db8:9::9", "2001:db8:9::/48"),
                ("ip", "203.0.113.9", "203.0.113.0/24"),
            ] {
                let upstream = bound_without_address(address).await;
                run(&format!("{ip} route add local {address} dev lo table 100"));
                // All other packets leave and reach nobody.
                run("ip link add v0 type veth peer name v1");
                ["v0", "v1"]
                    .iter()
                    .for_each(|link| drop(run(&format!("ip link set {link} up"))));
                run(&format!("{ip} route add {network} dev v0"));
                let mut daemon = exempting(upstream.addr(), network).await;
                let port = upstream.addr().port();
                for selector in [
                    format!("ipproto tcp dport {port}"),
                    "ipproto tcp".into(),
                    format!("dport {port}"),
                ] {
                    run(&format!("{ip} rule add {selector} lookup 100"));
                    let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
                    let record = daemon.tunnel_record().await;
                    assert_eq!(
                        (reply.status(), &record["code"]),
                        (403, &"destination_denied".into()),
                        "{selector}: {record}"
                    );
                    assert!(
                        upstream.is_untouched().await,
                        "{selector}: a connection to this machine was made"
                    );
                    run(&format!("{ip} rule del {selector} lookup 100"));
                }
                run("ip link del v0");
            }
        },
    );
}

/// The first address of the name leads nowhere, the second one back to this machine.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_local_second_address_of_a_name_is_denied() {
    in_own_network("a_local_second_address_of_a_name_is_denied", async {
        run(&format!("ip route add local {ANY_IP} dev lo"));
        let upstream = RawUpstream::start_at("198.51.100.7:0").await;
        let entry = format!("{HOST}:{}", upstream.addr().port());
        let config = Config::closed()
            .allow(&entry)
            .resolve(HOST, &["203.0.113.1", "198.51.100.7"]);
        let mut daemon = Daemon::start(&config.exempt(ANY_IP).exempt("203.0.113.0/24")).await;
        is_denied(&mut daemon, &upstream).await;
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_exemption_of_the_exact_address_allows_it() {
    in_own_network("an_exemption_of_the_exact_address_allows_it", async {
        run(&format!("ip route add local {ANY_IP} dev lo"));
        let upstream = RawUpstream::start_at("198.51.100.7:0").await;
        for network in ["198.51.100.7", "198.51.100.7/32"] {
            let daemon = exempting(upstream.addr(), network).await;
            Tunnel::open(&daemon, &upstream).await.close().await;
        }
    });
}

/// The kernel looks up the route of each SYN: an address of another host at the start of the dial
/// is this machine's when the first SYN is repeated.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_address_that_is_added_during_its_dial_is_denied() {
    in_own_network(
        "an_address_that_is_added_during_its_dial_is_denied",
        async {
            run("ip link add v0 type veth peer name v1");
            ["v0", "v1"]
                .iter()
                .for_each(|link| drop(run(&format!("ip link set {link} up"))));
            run("ip address add 203.0.113.1/24 dev v0");
            run("ip neighbour add 203.0.113.9 lladdr 02:00:00:00:00:09 dev v0");
            let upstream = bound_without_address("203.0.113.9").await;
            let config = Config::to(upstream.addr())
                .egress(&["203.0.113.1"])
                .exempt("203.0.113.0/24");
            let mut daemon = Daemon::start(&config).await;
            let (proxy, authority) = (daemon.proxy_addr(), upstream.authority());
            let asked = connect(proxy, &authority, &[]);
            let taken_over = async {
                let dialling = format!(
                    "ss -t -n -H state syn-sent dport = :{}",
                    upstream.addr().port()
                );
                while run(&dialling).is_empty() {
                    tokio::time::sleep(TICK).await;
                }
                run("ip route add local 203.0.113.9 dev lo");
            };
            let (reply, ()) = tokio::join!(asked, soon("a SYN", taken_over));
            assert_eq!(
                (reply.status(), &daemon.tunnel_record().await["code"]),
                (403, &"destination_denied".into())
            );
            upstream.was_given_up().await;
        },
    );
}

/// An upstream's address becomes local, by a route alone, under a live tunnel. The next segment
/// stays on the old route (IPv6) or is answered with a reset, because no socket here has its ports:
/// no byte reaches a service that listens on that address.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_live_tunnel_is_never_redirected_to_this_host() {
    in_own_network("a_live_tunnel_is_never_redirected_to_this_host", async {
        let other = OtherHost::start();
        for (address, ip, egress) in [
            ("203.0.113.9", "ip", "192.0.2.1"),
            ("2001:db8:9::9", "ip -6", "2001:db8:2::1"),
        ] {
            let here = bound_without_address(address).await;
            let address: IpAddr = address.parse().expect("an address");
            let there = RawUpstream::elsewhere(other.listen(here.addr()), address);
            let config = Config::to(there.addr())
                .egress(&[egress])
                .exempt("203.0.113.0/24")
                .exempt("2001:db8:9::/48");
            let mut daemon = Daemon::start(&config).await;
            let mut tunnel = Tunnel::open(&daemon, &there).await;
            tunnel.exchange(1).await;
            run(&format!("{ip} route add local {address} dev lo"));
            let (client, upstream) = (&mut tunnel.client, &mut tunnel.upstream);
            client.write_all(b"x").await.expect("send");
            let (mut byte, mut rest) = ([0], Vec::new());
            let is_reset = async {
                tokio::select! {
                    end = client.read_to_end(&mut rest) => end.is_err(),
                    read = upstream.read(&mut byte) => !read.is_ok_and(|read| read == 1),
                }
            };
            if soon("the byte there, or a reset", is_reset).await {
                assert_eq!(daemon.tunnel_record().await["code"], "reset_by_upstream");
            } else {
                assert_eq!(byte, *b"x", "the other host has it");
            }
            assert!(here.is_untouched().await, "a service here was reached");
            // A new tunnel would reach it.
            is_denied(&mut daemon, &here).await;
        }
    });
}

/// Each thread may send two queries to the kernel; afterwards it cannot learn routes or this
/// machine's addresses.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn no_address_is_dialled_if_the_kernel_does_not_answer() {
    in_own_network(
        "no_address_is_dialled_if_the_kernel_does_not_answer",
        async {
            let upstream = RawUpstream::start().await;
            let beyond = ["198.51.100.1", "198.51.100.2", "198.51.100.3"];
            let mut config = Config::to(upstream.addr())
                .exempt(ANY_IP)
                .section("[relay]\nworkers = 1");
            for (number, address) in beyond.iter().enumerate() {
                config = config
                    .allow(&format!("{number}.example"))
                    .resolve(&format!("{number}.example"), &[address]);
            }
            let mut daemon =
                Daemon::start_with_failing(&config, "sendto:error=ENOBUFS:when=3+").await;
            for (number, code) in [
                "connect_unreachable",
                "connect_unreachable",
                "egress_unavailable",
            ]
            .iter()
            .enumerate()
            {
                connect(daemon.proxy_addr(), &format!("{number}.example:443"), &[]).await;
                assert_eq!(daemon.tunnel_record().await["code"], *code);
            }
            // The operator has named this one; it is refused as soon as the list of this machine's
            // addresses is too old.
            let refused = async {
                while connect(daemon.proxy_addr(), &upstream.authority(), &[])
                    .await
                    .status()
                    != 503
                {
                    tokio::time::sleep(TICK).await;
                }
            };
            soon("a refusal", refused).await;
            assert!(
                daemon
                    .log_text()
                    .contains("cannot list this host's addresses"),
                "{}",
                daemon.log_text()
            );
            let (status, reasons) = daemon.admin_get("/readyz").await;
            assert_eq!(
                (
                    status,
                    reasons.contains("this host's addresses cannot be listed")
                ),
                (503, true),
                "{reasons}"
            );
        },
    );
}

/// The machine's public address belongs to a NAT, which returns connections to it (hairpin).
#[tokio::test]
async fn the_hosts_public_address_is_denied() {
    let upstream = RawUpstream::start_at("127.0.0.1:0").await;
    let config = Config::closed()
        .allow(&upstream.authority())
        .resolve(HOST, &["198.51.100.9"]);
    let public = "public = [\"198.51.100.9\", \"2001:db8:1::9\"]";
    let mut daemon = Daemon::start(&config.clone().exempt(ANY_IP).egress_line(public)).await;
    is_denied_at(&mut daemon, &upstream, "198.51.100.9").await;
    // Only an entry for exactly that address opens it; no server answers there.
    let named = config.exempt("198.51.100.9").egress_line(public);
    assert_eq!(daemon.reload(&named.to_toml()).await["result"], "ok");
    let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
    assert_ne!(reply.status(), 403, "{}", reply.body);
}

/// A listener on an address that this machine does not have (ip(7), `IP_FREEBIND`).
async fn bound_without_address(address: &str) -> RawUpstream {
    let any = ["ipv4", "ipv6"].map(|family| format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    any.iter().for_each(|path| set_kernel_parameter(path, "1"));
    let address: IpAddr = address.parse().expect("an address");
    let upstream = RawUpstream::start_at(&SocketAddr::new(address, 0).to_string()).await;
    any.iter().for_each(|path| set_kernel_parameter(path, "0"));
    upstream
}
