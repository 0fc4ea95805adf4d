//! Attacks with a side that stops reading: how much kernel memory its tunnel holds, and for how
//! long.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, run, set_kernel_parameter};
use support::raw::{RawUpstream, Tunnel, read_to_reset};
use support::{soon, within};

/// A side reads bytes as fast as they arrive, so that the kernel enlarges every buffer on the way,
/// and then stops.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_stalled_tunnel_holds_little_memory_of_the_kernel() {
    in_own_network(
        "a_stalled_tunnel_holds_little_memory_of_the_kernel",
        async {
            let (daemon, upstream) = daemon_with_the_kernels_defaults().await;
            for (directions, bound) in [
                ("down", ONE_WAY_MAX),
                ("up", ONE_WAY_MAX),
                ("both", 2 * ONE_WAY_MAX),
            ] {
                let tunnel = Tunnel::open(&daemon, &upstream).await;
                let (mut client, mut served) =
                    (tunnel.client.into_split(), tunnel.upstream.into_split());
                let down = async {
                    flow(&mut served.1, &mut client.0, FAST).await;
                    fill(&mut served.1).await
                };
                let up = async {
                    flow(&mut client.1, &mut served.0, FAST).await;
                    fill(&mut client.1).await
                };
                match directions {
                    "down" => within(LONG, directions, down).await,
                    "up" => within(LONG, directions, up).await,
                    _ => {
                        within(LONG, directions, async { tokio::join!(down, up) })
                            .await
                            .0
                    }
                };
                let held = kernel_bytes(&daemon, upstream.addr().port());
                assert!(held > 0, "nothing was measured");
                assert!(
                    held < bound,
                    "{directions}: a stalled tunnel holds {held} bytes of the kernel"
                );
            }
        },
    );
}

/// The same with the defaults on a path without delay, where the kernel allows a receive buffer of
/// 32 MiB and begins with 16.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_stalled_tunnel_of_a_near_peer_holds_a_quarter_of_the_kernels_limit() {
    in_own_network(
        "a_stalled_tunnel_of_a_near_peer_holds_a_quarter_of_the_kernels_limit",
        async {
            set_kernel_parameter("/proc/sys/net/ipv4/tcp_rmem", "4096 16777216 33554432");
            set_kernel_parameter("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 4194304");
            let upstream = RawUpstream::start().await;
            let daemon = Daemon::start(&Config::to(upstream.addr())).await;
            for direction in ["down", "up"] {
                let tunnel = Tunnel::open(&daemon, &upstream).await;
                let (mut from, mut to) = ends(tunnel, direction);
                let stalled = async {
                    flow(&mut from, &mut to, FAST).await;
                    fill(&mut from).await
                };
                within(LONG, direction, stalled).await;
                let held = kernel_bytes(&daemon, upstream.addr().port());
                assert!(held > 0, "nothing was measured");
                assert!(
                    held < NEAR_MAX,
                    "{direction}: a stalled tunnel holds {held} bytes of the kernel"
                );
            }
        },
    );
}

/// A side that reads nothing, or a drip, has `timeouts.stalled`, whatever the other side does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_that_takes_no_or_few_bytes_is_reset() {
    for (direction, who) in [("down", "the client"), ("up", "the upstream")] {
        for drip in [0, 16 << 10] {
            let case = format!("{direction}, {drip} bytes at a time");
            let upstream = RawUpstream::start().await;
            let config = Config::to(upstream.addr()).section("[timeouts]\nstalled = \"1s\"");
            let mut daemon = Daemon::start(&config).await;
            let tunnel = Tunnel::open(&daemon, &upstream).await;
            let (mut from, mut to) = ends(tunnel, direction);
            let pushing = tokio::spawn(async move { while from.write_all(CHUNK).await.is_ok() {} });
            let dripping = async {
                let mut buffer = vec![0; drip];
                while drip == 0 || to.read_exact(&mut buffer).await.is_ok() {
                    tokio::time::sleep(PAUSE).await;
                }
            };
            let record = tokio::select! {
                record = daemon.tunnel_record() => record,
                () = dripping => daemon.tunnel_record().await,
            };
            assert_eq!(
                (&record["code"], &record["outcome"]),
                (&"stalled".into(), &"allowed".into()),
                "{case}: {record}"
            );
            assert!(
                record["error"]
                    .as_str()
                    .is_some_and(|error| error.starts_with(who)),
                "{case}: {record}"
            );
            assert!(
                record["duration_ms"]
                    .as_f64()
                    .is_some_and(|ms| ms >= 1_000.0),
                "{case}: {record}"
            );
            soon("a reset at the side that sends", pushing)
                .await
                .unwrap();
            read_to_reset(&mut to).await;
        }
    }
}

/// However many tunnels one user has, the kernel holds the bytes of only a few stalled ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_has_few_stalled_tunnels() {
    let upstream = RawUpstream::start().await;
    let mut daemon =
        Daemon::start(&Config::to(upstream.addr()).section("[limits]\nstalled_per_user = 2")).await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let Tunnel {
            client,
            upstream: mut from,
            ..
        } = Tunnel::open(&daemon, &upstream).await;
        fill(&mut from).await;
        stalled.push((client, from));
    }
    for _ in 0..2 {
        let record = daemon.tunnel_record().await;
        assert_eq!(record["code"], "stalled", "{record}");
        assert!(
            record["error"]
                .as_str()
                .is_some_and(|error| error.contains("limits.stalled_per_user")),
            "{record}"
        );
    }
    // The remaining ones have their five minutes; one that reads its bytes gives its permit to
    // another.
    let mut left = Vec::new();
    for (client, mut from) in stalled {
        match tokio::time::timeout(FULL, from.write_all(CHUNK)).await {
            Ok(written) => assert!(written.is_err(), "a stalled tunnel takes more"),
            Err(_) => left.push((client, from)),
        }
    }
    assert_eq!(left.len(), 2);
    let (mut client, from) = left.remove(0);
    drop(from);
    let mut taken = Vec::new();
    let _reset_or_end = within(LONG, "what waited", client.read_to_end(&mut taken)).await;
    drop(client);
    assert_ne!(daemon.tunnel_record().await["code"], "stalled");
    let Tunnel {
        client,
        upstream: mut from,
        ..
    } = Tunnel::open(&daemon, &upstream).await;
    fill(&mut from).await;
    tokio::time::sleep(STALL_NOTED).await;
    let more = tokio::time::timeout(FULL, from.write_all(CHUNK)).await;
    assert!(
        more.is_err(),
        "the place of the tunnel that went on is free: {more:?}"
    );
    drop((client, from));
}

/// A slow side, or one with nothing to read, is not stalled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_side_and_a_silent_tunnel_continue() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).section("[timeouts]\nstalled = \"2s\"");
    let mut daemon = Daemon::start(&config).await;
    let mut silent = Tunnel::open(&daemon, &upstream).await;
    let Tunnel {
        client: mut to,
        upstream: mut from,
        ..
    } = Tunnel::open(&daemon, &upstream).await;
    let started = Instant::now();
    let pushing = async {
        for _ in 0..SLOW / CHUNK.len() {
            from.write_all(CHUNK).await.unwrap();
        }
        from.shutdown().await.unwrap();
    };
    let reading = async {
        // Half a megabyte in a twentieth of the time, for more than twice the time.
        let (mut received, mut buffer) = (0, vec![0; 512 << 10]);
        while received < SLOW {
            received += to.read_exact(&mut buffer).await.unwrap();
            tokio::time::sleep(PAUSE).await;
        }
        assert_eq!(to.read(&mut buffer).await.unwrap(), 0, "a clean end");
    };
    within(LONG, "a slow transfer", async {
        tokio::join!(pushing, reading)
    })
    .await;
    assert!(
        started.elapsed() > Duration::from_secs(4),
        "{:?} are too short to show anything",
        started.elapsed()
    );
    to.shutdown().await.unwrap();
    let record = daemon.tunnel_record().await;
    assert_eq!(record["code"], "closed_by_upstream", "{record}");
    silent.exchange(7).await;
    silent.close().await;
}

/// Which end sends and which one reads.
fn ends(tunnel: Tunnel, direction: &str) -> (TcpStream, TcpStream) {
    let Tunnel {
        client, upstream, ..
    } = tunnel;
    if direction == "up" {
        (client, upstream)
    } else {
        (upstream, client)
    }
}

async fn daemon_with_the_kernels_defaults() -> (Daemon, RawUpstream) {
    // Debian's values, where the machine has others; and segments as on a network.
    set_kernel_parameter("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 6291456");
    set_kernel_parameter("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 4194304");
    run("ip link set lo mtu 1500");
    let upstream = RawUpstream::start().await;
    let daemon =
        Daemon::start(&Config::to(upstream.addr()).section("[limits]\nsocket_buffer_rtt = \"0s\""))
            .await;
    (daemon, upstream)
}

/// Moves this many bytes as fast as both ends can.
async fn flow(
    from: &mut (impl AsyncWriteExt + Unpin),
    to: &mut (impl AsyncReadExt + Unpin),
    bytes: usize,
) {
    let send = async {
        for _ in 0..bytes / CHUNK.len() {
            from.write_all(CHUNK).await.unwrap();
        }
    };
    let receive = async {
        let (mut left, mut buffer) = (bytes, vec![0; CHUNK.len()]);
        while left > 0 {
            let read = to.read(&mut buffer).await.unwrap();
            assert!(read > 0, "an early end");
            left -= read;
        }
    };
    tokio::join!(send, receive);
}

/// Sends until there is no room for a while.
async fn fill(writer: &mut (impl AsyncWriteExt + Unpin)) -> usize {
    let mut sent = 0;
    while sent < 1 << 28 {
        match tokio::time::timeout(FULL, writer.write(CHUNK)).await {
            Ok(written) => sent += written.unwrap(),
            Err(_) => return sent,
        }
    }
    panic!("256 MiB went into a tunnel that nobody reads: there is no back-pressure");
}

/// The kernel's memory for the daemon's two sockets of the only tunnel (ss(8): bytes received and
/// not read, bytes written and not acknowledged, and the memory of each).
fn kernel_bytes(daemon: &Daemon, upstream: u16) -> u64 {
    let proxy = daemon.proxy_addr().port();
    let listed = run(&format!(
        "ss -Htnm ( sport = :{proxy} or dport = :{upstream} )"
    ));
    let field = |line: &str, name: &str| -> u64 {
        let (_, fields) = line.split_once("skmem:(").unwrap_or_default();
        let found = fields
            .split(',')
            .find_map(|field| field.strip_prefix(name)?.trim_end_matches(')').parse().ok());
        found.unwrap_or_else(|| panic!("no {name} in {line}"))
    };
    listed
        .lines()
        .filter(|line| line.contains("skmem:("))
        .map(|line| field(line, "r") + field(line, "w"))
        .sum()
}

const CHUNK: &[u8] = &[7; 64 << 10];
/// Enough for the kernel to enlarge each buffer as far as it may.
const FAST: usize = 64 << 20;
/// 2 MiB of a receive buffer and half a MiB of unsent bytes, and more for a path that a busy
/// machine makes long. If `net.core.rmem_max` is low, the window is bounded instead: 4.4 MB.
/// Without the bounds it is 9 MB.
const ONE_WAY_MAX: u64 = 6 << 20;
/// 8 MiB of a receive buffer and 4 of a send buffer. Without the bound it is 20 MiB and more.
const NEAR_MAX: u64 = 14 << 20;
/// The bytes that a slow side reads in total.
const SLOW: usize = 24 << 20;
const PAUSE: Duration = Duration::from_millis(100);
/// Longer than the time after which a stalled tunnel counts.
const STALL_NOTED: Duration = Duration::from_secs(6);
/// No room for this long is a stall.
const FULL: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(60);
