//! The source of tunnels: the configured address, for either family of the upstream, and no other
//! one.

use std::net::{IpAddr, Ipv4Addr};

use support::HOST;
use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel};

#[tokio::test]
async fn the_upstream_sees_the_egress_address() {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    assert_eq!(peer(&tunnel), IpAddr::from([127, 0, 0, 2]));
}

#[tokio::test]
async fn every_tunnel_uses_a_listed_egress_address() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).egress(&["127.0.0.3", "127.0.0.4"]);
    let daemon = Daemon::start(&config).await;
    for _ in 0..8 {
        let tunnel = Tunnel::open(&daemon, &upstream).await;
        let listed = [IpAddr::from([127, 0, 0, 3]), IpAddr::from([127, 0, 0, 4])];
        assert!(
            listed.contains(&peer(&tunnel)),
            "left from {}",
            peer(&tunnel)
        );
    }
}

#[tokio::test]
async fn a_family_without_an_egress_address_is_never_dialled() {
    let (upstream, over_ipv6) = upstreams_of_one_port().await;
    let daemon = Daemon::start(&both_families(&upstream).egress(&["127.0.0.2"])).await;
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    assert_eq!(peer(&tunnel), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
    assert!(
        over_ipv6.is_untouched().await,
        "a connection leaked over IPv6"
    );
}

#[tokio::test]
async fn an_ipv6_egress_carries_ipv6_only() {
    let (over_ipv4, over_ipv6) = upstreams_of_one_port().await;
    let daemon = Daemon::start(&both_families(&over_ipv4).egress(&["::1"])).await;
    let tunnel = Tunnel::open(&daemon, &over_ipv6).await;
    assert_eq!(peer(&tunnel), "::1".parse::<IpAddr>().unwrap());
    assert!(
        over_ipv4.is_untouched().await,
        "a connection leaked over IPv4"
    );
}

#[tokio::test]
async fn a_name_of_the_wrong_family_only_is_refused() {
    let upstream = RawUpstream::start_at("[::1]:0").await;
    let daemon = Daemon::start(&Config::to(upstream.addr()).egress(&["127.0.0.2"])).await;
    let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
    assert!(reply.status() >= 500, "{}", reply.status_line);
    assert!(
        upstream.is_untouched().await,
        "a connection leaked over IPv6"
    );
}

/// The source address of a tunnel, as its upstream sees it.
fn peer(tunnel: &Tunnel) -> IpAddr {
    tunnel.upstream.peer_addr().expect("a peer").ip()
}

/// Listens on 127.0.0.1 and on [::1]. A port that is free on one may be in use on the other; then
/// another one is chosen.
async fn upstreams_of_one_port() -> (RawUpstream, RawUpstream) {
    for _ in 0..100 {
        let over_ipv4 = RawUpstream::start().await;
        let same_port = format!("[::1]:{}", over_ipv4.addr().port());
        // It panics if it cannot be bound.
        let bound = tokio::spawn(async move { RawUpstream::start_at(&same_port).await }).await;
        if let Ok(over_ipv6) = bound {
            return (over_ipv4, over_ipv6);
        }
    }
    panic!("no port is free on 127.0.0.1 and on [::1]");
}

/// [`HOST`] with the IPv6 address first, the order of a dual-stack resolver.
fn both_families(upstream: &RawUpstream) -> Config {
    let entry = format!("{HOST}:{}", upstream.addr().port());
    Config::closed()
        .allow(&entry)
        .resolve(HOST, &["::1", "127.0.0.1"])
}
