//! Upstreams that cannot be reached and static addresses that cannot be used: each failure of the
//! dial has its own code. Cases that need another machine, or would disturb this one, run in a
//! network namespace of the test's own.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use support::HOST;
use support::client::{Reply, connect, connect_head, dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, run, set_kernel_parameter};
use support::raw::{RawUpstream, Tunnel};
use support::refusal::{refused, send};
use support::users::{basic, start_with_users, user};
use support::wait_until;
use tokio::net::TcpStream;

#[tokio::test]
async fn a_refused_connect_is_connect_refused() {
    // Bound, so that no other process gets the port, and not listening.
    let holder = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    holder
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let closed = holder.local_addr().unwrap().as_socket().unwrap();
    let mut daemon = Daemon::start(&Config::to(closed)).await;
    let reply = ask(&daemon, closed).await;
    let record = refused(&mut daemon, reply, "connect_refused").await;
    assert!(
        record["dns_ms"].is_number() && record["connect_ms"].is_number(),
        "{record}"
    );
    assert!(
        record.get("upstream").is_none() && record.get("egress").is_none(),
        "{record}"
    );
}

#[tokio::test]
async fn an_unanswered_connect_times_out() {
    let full = FullUpstream::start().await;
    let mut daemon =
        Daemon::start(&Config::to(full.address).section("[timeouts]\nconnect = \"300ms\"")).await;
    let reply = ask(&daemon, full.address).await;
    let record = refused(&mut daemon, reply, "connect_timeout").await;
    for part in ["duration_ms", "connect_ms"] {
        assert!(record[part].as_f64().unwrap() >= 300.0, "{part}: {record}");
    }
    let connects = "sealway_setup_duration_seconds_count{phase=\"connect\"}";
    assert_eq!(daemon.metric(connects).await, Some(1.0));
}

#[tokio::test]
async fn a_user_whose_egress_address_is_not_the_default_routes() {
    let upstream = RawUpstream::start().await;
    let alice = user("alice", "one", "egress = [\"127.0.0.9\"]");
    let mut daemon = start_with_users(Config::to(upstream.addr()).egress(&[]), &alice, "").await;
    let credentials = basic("alice", "one");
    let reply = connect(
        daemon.proxy_addr(),
        &upstream.authority(),
        &[("Proxy-Authorization", &credentials)],
    )
    .await;
    let record = refused(&mut daemon, reply, "egress_unavailable").await;
    assert_eq!(record["user"], "alice", "{record}");
    assert!(upstream.is_untouched().await);
}

/// Where nobody listens at a port of the own range, a connection from that very port is answered by itself (RFC 9293,
/// section 3.5).
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_connection_that_meets_itself() {
    in_own_network("a_connection_that_meets_itself", async {
        let own = SocketAddr::from(([127, 0, 0, 2], 40_000));
        let mut daemon = Daemon::start(&Config::to(own).egress(&["127.0.0.2"])).await;
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        set_kernel_parameter(range, "40000 40000");
        let reply = ask(&daemon, own).await;
        set_kernel_parameter(range, "32768 60999");
        refused(&mut daemon, reply, "connect_refused").await;
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_upstream_without_a_route_is_connect_unreachable() {
    in_own_network(
        "an_upstream_without_a_route_is_connect_unreachable",
        async {
            // The answers of the routing table: EHOSTUNREACH, EACCES and EINVAL.
            for route in ["unreachable", "prohibit", "blackhole"] {
                run(&format!("ip route add {route} 127.9.9.9/32 table local"));
                let mut daemon = Daemon::start(&Config::to(NOWHERE)).await;
                let reply = ask(&daemon, NOWHERE).await;
                refused(&mut daemon, reply, "connect_unreachable").await;
                run(&format!("ip route del {route} 127.9.9.9/32 table local"));
            }
            // ENETUNREACH: this network knows only the loopback net.
            let beyond = SocketAddr::from(([203, 0, 113, 9], 443));
            let mut daemon = Daemon::start(&Config::to(beyond).exempt("203.0.113.0/24")).await;
            let reply = ask(&daemon, beyond).await;
            refused(&mut daemon, reply, "connect_unreachable").await;
        },
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_connection_reset_during_the_dial_is_connect_reset() {
    in_own_network(
        "a_connection_reset_during_the_dial_is_connect_reset",
        async {
            let full = FullUpstream::start().await;
            let mut daemon = Daemon::start(&Config::to(full.address)).await;
            let mut client = dial(daemon.proxy_addr()).await;
            send(
                &mut client,
                connect_head(&authority(full.address), &[]).as_bytes(),
            )
            .await;
            // A reset from the network in SYN-SENT says "refused" (RFC 9293, section 3.10.7.3); ss -K aborts the socket as a firewall on this host would.
            let kill = format!(
                "ss -K -t -n -H state syn-sent src 127.0.0.2 dport = :{}",
                full.address.port()
            );
            wait_until("a connection in SYN-SENT to kill", async || {
                run(&kill).contains("127.0.0.2")
            })
            .await;
            let reply = read_reply(client).await;
            refused(&mut daemon, reply, "connect_reset").await;
        },
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_missing_egress_address_refuses_until_it_returns() {
    in_own_network("a_missing_egress_address_refuses_until_it_returns", async {
        run("ip address add 192.0.2.10/32 dev lo");
        let upstream = RawUpstream::start().await;
        let mut daemon = Daemon::start(&Config::to(upstream.addr()).egress(&["192.0.2.10"])).await;
        assert_eq!(
            source_of(Tunnel::open(&daemon, &upstream).await).await,
            "192.0.2.10"
        );
        assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");

        run("ip address del 192.0.2.10/32 dev lo");
        let reply = ask(&daemon, upstream.addr()).await;
        let record = refused(&mut daemon, reply, "egress_unavailable").await;
        assert!(
            record["error"]
                .as_str()
                .is_some_and(|error| error.contains("192.0.2.10")),
            "{record}"
        );
        assert!(upstream.is_untouched().await, "left from another address");
        daemon
            .metric_until("sealway_egress_up{address=\"192.0.2.10\"}", |up| up == 0.0)
            .await;
        let (status, reasons) = daemon.admin_get("/readyz").await;
        assert_eq!(
            (status, reasons.as_str()),
            (503, "egress address missing: 192.0.2.10\n")
        );

        run("ip address add 192.0.2.10/32 dev lo");
        daemon
            .metric_until("sealway_egress_up{address=\"192.0.2.10\"}", |up| up == 1.0)
            .await;
        assert_eq!(
            source_of(Tunnel::open(&daemon, &upstream).await).await,
            "192.0.2.10"
        );
        assert_eq!(daemon.admin_get("/readyz").await.0, 200);
    });
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn one_of_two_egress_addresses_may_be_missing() {
    in_own_network("one_of_two_egress_addresses_may_be_missing", async {
        run("ip address add 192.0.2.10/32 dev lo");
        run("ip address add 192.0.2.11/32 dev lo");
        let upstream = RawUpstream::start().await;
        let daemon =
            Daemon::start(&Config::to(upstream.addr()).egress(&["192.0.2.10", "192.0.2.11"])).await;
        let (held, also_held) = (
            Tunnel::open(&daemon, &upstream).await,
            Tunnel::open(&daemon, &upstream).await,
        );
        let sources =
            [&held, &also_held].map(|tunnel| tunnel.upstream.peer_addr().unwrap().ip().to_string());
        assert!(
            sources[0] != sources[1],
            "the one with fewer ports in use is taken: {sources:?}"
        );
        assert_eq!(
            daemon
                .metric("sealway_egress_ports_in_use{address=\"192.0.2.11\"}")
                .await,
            Some(1.0)
        );
        held.close().await;
        also_held.close().await;
        daemon
            .metric_until(
                "sealway_egress_ports_in_use{address=\"192.0.2.11\"}",
                |ports| ports == 0.0,
            )
            .await;

        run("ip address del 192.0.2.11/32 dev lo");
        for _ in 0..4 {
            assert_eq!(
                source_of(Tunnel::open(&daemon, &upstream).await).await,
                "192.0.2.10"
            );
        }
        daemon
            .line("the loss in the log", |line| {
                is_about(line, "is not on this host", "192.0.2.11")
            })
            .await;
        assert_eq!(
            daemon
                .metric("sealway_egress_up{address=\"192.0.2.11\"}")
                .await,
            Some(0.0)
        );
        assert_eq!(
            daemon.admin_get("/readyz").await,
            (
                200,
                "ready\ndegraded: egress address missing: 192.0.2.11\n".to_string()
            )
        );

        run("ip address add 192.0.2.11/32 dev lo");
        daemon
            .line("the return in the log", |line| {
                is_about(line, "is back", "192.0.2.11")
            })
            .await;
        let both = [
            Tunnel::open(&daemon, &upstream).await,
            Tunnel::open(&daemon, &upstream).await,
        ];
        assert!(
            both.iter().any(
                |tunnel| tunnel.upstream.peer_addr().unwrap().ip().to_string() == "192.0.2.11"
            )
        );
        assert_eq!(daemon.admin_get("/readyz").await.0, 200);
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn the_daemon_is_not_ready_when_ports_are_nearly_exhausted() {
    in_own_network(
        "the_daemon_is_not_ready_when_ports_are_nearly_exhausted",
        async {
            let upstream = RawUpstream::start().await;
            let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
            let mut clients = Vec::new();
            for _ in 0..20 {
                clients.push(dial(daemon.proxy_addr()).await);
            }
            let range = "/proc/sys/net/ipv4/ip_local_port_range";
            let before = std::fs::read_to_string(range).unwrap();
            set_kernel_parameter(range, "40000 40019");
            // The reload and the housekeeping read it.
            let toml = std::fs::read_to_string(daemon.path("sealway.toml")).unwrap();
            assert_eq!(daemon.reload(&toml).await["result"], "ok");
            let mut open = Vec::new();
            for (number, mut client) in clients.into_iter().enumerate().take(19) {
                send(
                    &mut client,
                    connect_head(&upstream.authority(), &[]).as_bytes(),
                )
                .await;
                let client = read_reply(client).await.established();
                open.push((client, upstream.accept().await));
                let (status, reasons) = daemon.admin_get("/readyz").await;
                let wanted = if number < 18 {
                    (200, "ready\n")
                } else {
                    (503, "egress ports nearly exhausted: 127.0.0.2\n")
                };
                assert_eq!(
                    (status, reasons.as_str()),
                    wanted,
                    "with {} of 20 ports in use",
                    number + 1
                );
            }
            set_kernel_parameter(range, &before);
            drop(open);
            let emptied = daemon.metric_until(
                "sealway_egress_ports_in_use{address=\"127.0.0.2\"}",
                |ports| ports == 0.0,
            );
            emptied.await;
            assert_eq!(daemon.admin_get("/readyz").await.0, 200);
        },
    );
}

fn is_about(line: &serde_json::Value, words: &str, address: &str) -> bool {
    line["message"]
        .as_str()
        .is_some_and(|message| message.contains(words))
        && line["address"] == address
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_egress_address_without_free_ports_refuses() {
    in_own_network("an_egress_address_without_free_ports_refuses", async {
        let (upstream, other) = (RawUpstream::start().await, RawUpstream::start().await);
        let config = Config::to(upstream.addr()).host("other.example", other.addr());
        let mut daemon = Daemon::start(&config).await;
        // The clients connect before the range shrinks, because they use ports too.
        let (mut first, mut second) = (
            dial(daemon.proxy_addr()).await,
            dial(daemon.proxy_addr()).await,
        );
        let mut third = dial(daemon.proxy_addr()).await;
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        let before = std::fs::read_to_string(range).unwrap();
        set_kernel_parameter(range, "40000 40000");
        send(
            &mut first,
            connect_head(&upstream.authority(), &[]).as_bytes(),
        )
        .await;
        let first = read_reply(first).await.established();
        let dialled = upstream.accept().await;
        assert_eq!(
            dialled.peer_addr().unwrap(),
            SocketAddr::from(([127, 0, 0, 2], 40000))
        );

        send(
            &mut second,
            connect_head(&upstream.authority(), &[]).as_bytes(),
        )
        .await;
        let reply = read_reply(second).await;
        // The ports to one destination are exhausted, those to another are not.
        let elsewhere = format!("other.example:{}", other.addr().port());
        send(&mut third, connect_head(&elsewhere, &[]).as_bytes()).await;
        let _third = read_reply(third).await.established();
        set_kernel_parameter(range, &before);
        let record = refused(&mut daemon, reply, "egress_ports_exhausted").await;
        assert!(
            record["error"]
                .as_str()
                .is_some_and(|error| error.contains("127.0.0.2")),
            "{record}"
        );
        assert!(upstream.is_untouched().await);
        drop((first, dialled));
    });
}

/// An upstream whose queue of connections is full: the kernel drops every further SYN.
struct FullUpstream {
    address: SocketAddr,
    _listener: Socket,
    _queued: TcpStream,
}

impl FullUpstream {
    async fn start() -> FullUpstream {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        // A backlog of n accepts n + 1 connections.
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let queued = TcpStream::connect(address).await.unwrap();
        let next =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await;
        assert!(next.is_err(), "the queue is not full: {next:?}");
        FullUpstream {
            address,
            _listener: listener,
            _queued: queued,
        }
    }
}

async fn source_of(tunnel: Tunnel) -> String {
    let source = tunnel.upstream.peer_addr().unwrap().ip().to_string();
    tunnel.close().await;
    source
}

async fn ask(daemon: &Daemon, upstream: SocketAddr) -> Reply {
    connect(daemon.proxy_addr(), &authority(upstream), &[]).await
}

fn authority(upstream: SocketAddr) -> String {
    format!("{HOST}:{}", upstream.port())
}

/// An address of the loopback net that the tests make unreachable.
const NOWHERE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 9, 9, 9)),
    443,
);
