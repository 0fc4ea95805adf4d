//! An egress address that leaves by its own interface: the commands of `docs/operate.md` run as
//! written, and the connection arrives at the host behind that interface and no longer at the one
//! behind the default route.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{OtherHost, in_own_network, run, set_kernel_parameter};
use support::raw::{RawUpstream, Tunnel};
use support::wait_until;

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn the_commands_of_the_page_send_an_address_out_by_its_interface() {
    let test = "the_commands_of_the_page_send_an_address_out_by_its_interface";
    in_own_network(test, async {
        // The stricter mode: answers must be accepted too.
        set_kernel_parameter("/proc/sys/net/ipv4/conf/default/rp_filter", "1");
        set_kernel_parameter("/proc/sys/net/ipv4/conf/all/rp_filter", "1");
        let first = OtherHost::start();
        // Otherwise it would answer for the other address too.
        for route in [
            "route add 198.51.100.7/32 via 192.0.2.1",
            "-6 route add 2001:db8:51::7/128 via 2001:db8:2::1",
        ] {
            first.run(&format!("ip {route} dev v1 table local"));
        }
        let here = ["198.51.100.7/24", "2001:db8:51::7/64"];
        let there = ["198.51.100.1/24", "2001:db8:51::1/64"];
        let second = OtherHost::behind("eth1", &here, &there);
        resolve_gateways().await;
        for (source, upstream) in [
            ("198.51.100.7", "203.0.113.80:0"),
            ("2001:db8:51::7", "[2001:db8:80::80]:0"),
        ] {
            let by_default = listening(&first, upstream);
            let at = SocketAddr::new(by_default.addr().ip(), by_default.addr().port());
            let by_eth1 = listening(&second, &at.to_string());
            let config = Config::to(at)
                .egress(&[source])
                .exempt("203.0.113.0/24")
                .exempt("2001:db8:80::/48");
            let daemon = Daemon::start(&config).await;
            let refused = Tunnel::open(&daemon, &by_default).await;
            let left_from = refused.upstream.peer_addr().unwrap().ip();
            assert_eq!(
                left_from,
                source.parse::<IpAddr>().unwrap(),
                "the right address, the wrong interface"
            );
            refused.close().await;
            for command in page()
                .lines()
                .filter(|command| command.contains(" -6 ") == source.contains(':'))
            {
                run(command);
            }
            let mut tunnel = Tunnel::open(&daemon, &by_eth1).await;
            let left_from = tunnel.upstream.peer_addr().unwrap().ip();
            assert_eq!(left_from, source.parse::<IpAddr>().unwrap());
            tunnel.exchange(1).await;
            tunnel.close().await;
            assert!(by_default.is_untouched().await);
        }
        let said = run("ip route get 203.0.113.80 from 198.51.100.7");
        assert!(said.contains("dev eth1"), "{said}");
    });
}

/// Resolves the gateways from their own networks: the kernel's question for a gateway names the
/// source of the packet, and a neighbour need not answer a foreign one.
async fn resolve_gateways() {
    for gateway in [
        "192.0.2.2:9",
        "[2001:db8:2::2]:9",
        "198.51.100.1:9",
        "[2001:db8:51::1]:9",
    ] {
        wait_until("an answer of a gateway", async || {
            let answer = tokio::net::TcpStream::connect(gateway).await;
            answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        })
        .await;
    }
}

fn listening(host: &OtherHost, at: &str) -> RawUpstream {
    let address: SocketAddr = at.parse().unwrap();
    RawUpstream::elsewhere(host.listen(address), address.ip())
}

/// The commands of the page.
fn page() -> &'static str {
    let text = include_str!("../../docs/operate.md");
    let section = text.split("### Leave by another interface").nth(1).unwrap();
    let commands = section.split("```sh\n").nth(1).unwrap();
    let commands = commands.split("```").next().unwrap();
    assert_eq!(commands.lines().count(), 4, "{commands}");
    commands
}
