//! The local ports of upstream connections: the kernel searches all of them at once when a good
//! third is in use, and every port of the range can carry a tunnel.

use std::net::SocketAddr;

use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, set_kernel_parameter};
use support::raw::{RawUpstream, Tunnel};

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn the_kernel_searches_all_ports_before_half_of_them_are_in_use() {
    in_own_network(
        "the_kernel_searches_all_ports_before_half_of_them_are_in_use",
        search("127.0.0.2", "127.0.0.1:0"),
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn the_kernel_searches_all_ports_before_half_of_them_are_in_use_over_ipv6() {
    in_own_network(
        "the_kernel_searches_all_ports_before_half_of_them_are_in_use_over_ipv6",
        search("::1", "[::1]:0"),
    );
}

/// Linux looks at every second port first. Since 6.8 it does so only if the socket has no range of
/// its own.
async fn search(egress: &str, upstream: &str) {
    let upstream = RawUpstream::start_at(upstream).await;
    let daemon = Daemon::start(&Config::to(upstream.addr()).egress(&[egress])).await;
    let last = FIRST + PORTS - 1;
    set_kernel_parameter(
        "/proc/sys/net/ipv4/ip_local_port_range",
        &format!("{FIRST} {last}"),
    );
    let max = |ports| ports == f64::from(PORTS);
    daemon.metric_until("sealway_egress_ports_max", max).await;
    let listeners = [upstream.addr(), daemon.proxy_addr(), daemon.admin_addr()];
    let in_range = |address: &&SocketAddr| (FIRST..=last).contains(&address.port());
    // The kernel gives none of these to a connection.
    let free = usize::from(PORTS) - listeners.iter().filter(in_range).count();
    let mut held = Vec::new();
    let mut odd_among_half = 0;
    for number in 0..free {
        let tunnel = Tunnel::open(&daemon, &upstream).await;
        let port = tunnel.upstream.peer_addr().unwrap().port();
        assert!((FIRST..=last).contains(&port), "{port} is not of the range");
        if number < free / 2 - 2 && port % 2 == 1 {
            odd_among_half += 1;
        }
        held.push(tunnel);
    }
    if kernel() >= (6, 8) {
        assert!(odd_among_half > 0, "half of the ports is searched first");
    }
}

/// The version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|other: char| !other.is_ascii_digit());
    let mut next = || numbers.next().unwrap().parse().unwrap();
    (next(), next())
}

const FIRST: u16 = 40_000;
const PORTS: u16 = 120;
