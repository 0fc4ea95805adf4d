//! An upstream that is given up before its tunnel opens keeps no port: a normal close would leave
//! it in TIME_WAIT for a minute, and a few hundred refused attempts a second would use every port
//! of the egress address.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use support::client::{connect_head, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::namespace::{OtherHost, in_own_network, run, set_kernel_parameter};
use support::raw::{RawUpstream, Tunnel, read_to_end, reset};
use support::soon;

/// Ports that the kernel has here for one egress address and one upstream.
const PORTS: usize = 100;

/// The way in which an attempt ends after the 200.
#[derive(Clone, Copy)]
enum Fault {
    AnotherName,
    NoTls,
    ClientCloses,
    ClientResets,
    Silence,
    /// After the hello.
    ServerSaysNonsense,
    ClientResetsLate,
}

const FAULTS: [(Fault, &str); 7] = [
    (Fault::AnotherName, "sni_mismatch"),
    (Fault::NoTls, "not_tls"),
    (Fault::ClientCloses, "closed_by_client"),
    (Fault::ClientResets, "reset_by_client"),
    (Fault::ServerSaysNonsense, "server_not_tls"),
    (Fault::ClientResetsLate, "reset_by_client"),
    (Fault::Silence, "client_hello_timeout"),
];

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn refused_attempts_keep_no_port() {
    in_own_network("refused_attempts_keep_no_port", async {
        leave_no_port_behind("192.0.2.1", "203.0.113.9:0").await;
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn refused_attempts_keep_no_port_over_ipv6() {
    in_own_network("refused_attempts_keep_no_port_over_ipv6", async {
        leave_no_port_behind("2001:db8:2::1", "[2001:db8:9::9]:0").await;
    });
}

async fn leave_no_port_behind(egress: &str, address: &str) {
    set_kernel_parameter(
        "/proc/sys/net/ipv4/ip_local_port_range",
        &format!("40000 {}", 40_000 + PORTS - 1),
    );
    let other = OtherHost::start();
    let address: SocketAddr = address.parse().unwrap();
    let upstream = RawUpstream::elsewhere(other.listen(address), address.ip());
    let config = Config::to(upstream.addr())
        .egress(&[egress])
        .exempt("203.0.113.0/24")
        .exempt("2001:db8::/32");
    let mut daemon = Daemon::start(&config).await;
    let mut clients = 0..;
    for (fault, code) in FAULTS {
        if matches!(fault, Fault::Silence) {
            let hasty = config
                .clone()
                .section("[timeouts]\nclient_hello = \"20ms\"");
            assert_eq!(daemon.reload(&hasty.to_toml()).await["result"], "ok");
        }
        for _ in 0..PORTS / 4 {
            attempt(&daemon, &upstream, fault, clients.next().unwrap()).await;
            let record = daemon.tunnel_record().await;
            assert_eq!(record["code"], code, "{record}");
        }
    }
    // More attempts than there are ports, and each port is free.
    let address = if egress.contains(':') {
        format!("[{egress}]")
    } else {
        egress.to_owned()
    };
    let held = run(&format!("ss -H -t -a -n src {address}"));
    assert_eq!(held.lines().count(), 0, "the kernel holds ports:\n{held}");
    assert_eq!(daemon.reload(&config.to_toml()).await["result"], "ok");
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    drop(tunnel);
}

/// Tunnels that clients end first leave their ports to the kernel for a minute. The daemon counts
/// and reports them and refuses in time, and with `tcp_tw_reuse` the ports return at once.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn ports_in_time_wait_are_counted() {
    in_own_network("ports_in_time_wait_are_counted", async {
        set_kernel_parameter("/proc/sys/net/ipv4/ip_local_port_range", "40000 40059");
        let other = OtherHost::start();
        let address: SocketAddr = "203.0.113.9:0".parse().unwrap();
        let upstream = RawUpstream::elsewhere(other.listen(address), address.ip());
        let config = Config::to(upstream.addr())
            .egress(&["192.0.2.1"])
            .exempt("203.0.113.0/24");
        let mut daemon = Daemon::start(&config).await;
        // The kernel skips the ports of the daemon's own listeners.
        let held = 58;
        for number in 0..held {
            let tunnel = Tunnel::over(asking(&daemon, &upstream, number).await, &upstream).await;
            tunnel.close().await;
            assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
        }
        for series in [
            "sealway_egress_ports_in_use",
            "sealway_egress_ports_busiest",
        ] {
            daemon
                .metric_until(&format!("{series}{{address=\"192.0.2.1\"}}"), |ports| {
                    ports == f64::from(held)
                })
                .await;
        }
        let (status, reasons) = daemon.admin_get("/readyz").await;
        assert_eq!(
            (status, reasons.trim()),
            (503, "egress ports nearly exhausted: 192.0.2.1")
        );
        let mut client = dialling(&daemon, 60).await;
        client
            .write_all(connect_head(&upstream.authority(), &[]).as_bytes())
            .await
            .unwrap();
        assert_eq!(read_reply(client).await.status(), 503);
        assert_eq!(
            daemon.tunnel_record().await["code"],
            "egress_ports_exhausted"
        );

        set_kernel_parameter("/proc/sys/net/ipv4/tcp_tw_reuse", "1");
        daemon
            .metric_until(
                "sealway_egress_ports_in_use{address=\"192.0.2.1\"}",
                |ports| ports == 0.0,
            )
            .await;
        assert_eq!(daemon.admin_get("/readyz").await.0, 200);
        // The youngest is more than a second old: the count has been renewed since.
        let tunnel = Tunnel::over(asking(&daemon, &upstream, 61).await, &upstream).await;
        tunnel.close().await;
    });
}

/// One attempt by a client of its own, so that the ports of clients do not run out.
async fn attempt(daemon: &Daemon, upstream: &RawUpstream, fault: Fault, number: u8) {
    let mut client = asking(daemon, upstream, number).await;
    let mut hello = Recorded::named("curl-openssl").bytes;
    match fault {
        Fault::AnotherName => {
            let name = hello
                .windows(6)
                .position(|bytes| bytes == b"google")
                .unwrap();
            hello[name] = b'x';
            client.write_all(&hello).await.unwrap();
            read_to_end(&mut client).await;
        }
        Fault::NoTls => {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            read_to_end(&mut client).await;
        }
        Fault::ClientCloses => drop(client),
        Fault::ClientResets => reset(client),
        Fault::Silence => {
            read_to_end(&mut client).await;
        }
        Fault::ServerSaysNonsense | Fault::ClientResetsLate => {
            client.write_all(&hello).await.unwrap();
            let mut accepted = upstream.accept().await;
            if matches!(fault, Fault::ServerSaysNonsense) {
                accepted
                    .write_all(b"SSH-2.0-OpenSSH_9.2\r\n")
                    .await
                    .unwrap();
                read_to_end(&mut client).await;
            } else {
                reset(client);
            }
            // Whatever this side sends now, the attempt has ended.
            let _over = soon(
                "the end",
                tokio::io::copy(&mut accepted, &mut tokio::io::sink()),
            )
            .await;
            return;
        }
    }
    upstream.was_given_up().await;
}

/// A client after its 200.
async fn asking(daemon: &Daemon, upstream: &RawUpstream, number: u8) -> TcpStream {
    let mut client = dialling(daemon, number).await;
    client
        .write_all(connect_head(&upstream.authority(), &[]).as_bytes())
        .await
        .unwrap();
    read_reply(client).await.established()
}

/// A client with an address of its own.
async fn dialling(daemon: &Daemon, number: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // Outside of the range, because the kernel never assigns a port that a process has bound by
    // number.
    socket
        .bind(SocketAddr::from((
            [127, 0, 3, number],
            20_000 + u16::from(number),
        )))
        .unwrap();
    soon("a connection", socket.connect(daemon.proxy_addr()))
        .await
        .unwrap()
}
