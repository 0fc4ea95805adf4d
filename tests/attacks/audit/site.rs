//! One IPv6 site against the audit records of others: a /48 is 65,536 clients at no cost.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::counted;
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, run, set_kernel_parameter};
use support::records::{count_of, records};
use support::{DEADLINE, soon};

/// Refused attempts of 1,500 networks of one /48, in two codes each; then a client of another site
/// is refused. Its record names it, and so does the sum of its further refusals.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_48_does_not_take_the_records_of_others() {
    in_own_network("a_48_does_not_take_the_records_of_others", async {
        run("ip -6 route add local 2001:db8::/32 dev lo");
        set_kernel_parameter("/proc/sys/net/ipv6/ip_nonlocal_bind", "1");
        let listener = "address = \"[2001:db8::1]:0\"\nallow_cleartext = true";
        let config = Config::closed()
            .listener(listener)
            .section("[auth]\nclients = [\"::/0\"]\n[limits]\naccept_rate = 0\nconnect_rate = 0")
            .audit_file("audit.jsonl", "");
        let mut daemon = Daemon::start(&config).await;
        let file = daemon.path("audit.jsonl");
        let started = Instant::now();
        for number in 0..1_500 {
            for request in [
                &b"GET / HTTP/1.1\r\n\r\n"[..],
                b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n",
            ] {
                refused(&daemon, v6(0xbad, number), request).await;
            }
        }
        // Slow refusals have records of their own, which the rate allows.
        assert!(started.elapsed() < DEADLINE);
        let other = v6(0xfeed, 7);
        for _ in 0..100 {
            refused(&daemon, other, b"CONNECT evil.example:444 HTTP/1.1\r\n\r\n").await;
        }
        daemon.signal("TERM");
        assert!(daemon.exit_status().await.success());
        let all = records(&file);
        let of_other: Vec<_> = all
            .iter()
            .filter(|record| {
                record["client"]
                    .as_str()
                    .is_some_and(|client| client.contains("feed"))
            })
            .collect();
        assert_eq!(
            of_other
                .iter()
                .map(|record| count_of(record))
                .sum::<usize>(),
            100,
            "each names its client"
        );
        assert!(of_other.len() >= 60, "{} records", of_other.len());
        let whole = (
            counted(&file, "method_not_allowed"),
            counted(&file, "host_denied"),
        );
        assert_eq!(whole, (1_500, 1_600));
    });
}

/// The address of a network of a site.
fn v6(site: u16, network: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 7).into()
}

async fn refused(daemon: &Daemon, from: IpAddr, request: &[u8]) {
    let socket = TcpSocket::new_v6().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = soon("a connection", socket.connect(daemon.proxy_addr()))
        .await
        .unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _reset =
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 40"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}
