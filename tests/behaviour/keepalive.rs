//! A peer that vanishes: the kernel probes both sides of a silent tunnel after a minute (tcp(7),
//! `SO_KEEPALIVE`), so that an established tunnel ends although `timeouts.idle` may be long. The
//! kernel's table of sockets shows the timer.

use std::fs::read_to_string;
use std::net::SocketAddr;
use std::time::Duration;

use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel};
use support::wait_until;

#[tokio::test]
async fn both_sides_of_a_silent_tunnel_are_probed_within_a_minute() {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    are_probed(&daemon, &upstream, "/proc/net/tcp").await;
}

#[tokio::test]
async fn keepalive_probes_ipv6_peers_too() {
    let upstream = RawUpstream::start_at("[::1]:0").await;
    let config = Config::to(upstream.addr()).egress(&["::1"]);
    let daemon = Daemon::start(&config).await;
    are_probed(&daemon, &upstream, "/proc/net/tcp6").await;
}

/// `table` has the sockets of the upstream's family; the client always comes over IPv4. The daemon
/// sets keepalive of the upstream's socket some seconds after the last byte here; the minute begins
/// with that byte all the same.
async fn are_probed(daemon: &Daemon, upstream: &RawUpstream, table: &str) {
    let mut tunnel = Tunnel::open(daemon, upstream).await;
    tunnel.exchange(1).await;
    let client = tunnel.client.local_addr().unwrap();
    let from = tunnel.upstream.peer_addr().unwrap();
    let (silence, late) = (Duration::from_secs(60), Duration::from_secs(4));
    let sockets = [
        ("/proc/net/tcp", daemon.proxy_addr(), client, silence),
        (table, from, upstream.addr(), silence - late),
    ];
    for (table, local, remote, most) in sockets {
        // Until the sent bytes are acknowledged, another timer runs.
        let mut left = None;
        wait_until("a keepalive timer", async || {
            left = timer(table, local, remote);
            left.is_some()
        })
        .await;
        assert!(left <= Some(most), "{left:?} are left to {remote}");
    }
}

/// The rest of the keepalive timer of a socket; None while no such timer runs. The fourth field
/// after the addresses has the timer's kind, of which 2 is keepalive, and its rest in hundredths of
/// a second (proc_net(5), `tcp_ipv4.c`).
fn timer(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<Duration> {
    let text = read_to_string(table).unwrap();
    let ends_in = |field: &str, port: u16| field.ends_with(&format!(":{port:04X}"));
    let line = text.lines().skip(1).find(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        ends_in(fields[1], local.port()) && ends_in(fields[2], remote.port())
    })?;
    let timer = line.split_whitespace().nth(5)?;
    let hundredths = timer.strip_prefix("02:")?;
    Some(Duration::from_millis(
        u64::from_str_radix(hundredths, 16).unwrap() * 10,
    ))
}
