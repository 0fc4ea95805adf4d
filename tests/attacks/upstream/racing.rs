//! A name with many silent addresses uses a few descriptors, not one for each address: tunnels, the
//! admin listener, reloads and the check of this machine's addresses continue.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use support::client::{connect, connect_head};
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, run};
use support::raw::{RawUpstream, Tunnel};
use support::soon;

const ATTACKERS: usize = 24;
/// Of 512 descriptors, the share of attempts after the first one of each tunnel.
const POOL: usize = 16;

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn silent_addresses_use_bounded_descriptors() {
    in_own_network("silent_addresses_use_bounded_descriptors", async {
        nobody_answers();
        let upstream = RawUpstream::start().await;
        let silent: Vec<String> = (1..=32)
            .map(|number| format!("203.0.113.{number}"))
            .collect();
        let silent: Vec<&str> = silent.iter().map(String::as_str).collect();
        let config = Config::to(upstream.addr()).egress(&["192.0.2.1"]);
        let config = config
            .allow("silent.example")
            .resolve("silent.example", &silent)
            .exempt("203.0.113.0/24");
        let config = config
            .allow("new.example")
            .resolve("new.example", &["198.51.100.7"])
            .exempt("198.51.100.0/24");
        let mut daemon = Daemon::start_with_descriptors(&config, 512).await;
        let before = daemon.open_descriptors().await;
        let mut attackers = Vec::new();
        for number in 0..ATTACKERS {
            let mut attacker = dial_from(number as u8, &daemon).await;
            attacker
                .write_all(connect_head("silent.example:443", &[]).as_bytes())
                .await
                .unwrap();
            attackers.push(attacker);
        }
        // Each attacker has its two, and all together the pool.
        let all = before + 2 * ATTACKERS + POOL;
        let slack = 8;
        // Attempts start and end: half of the pool shows that it is used.
        let full = async {
            while daemon.open_descriptors().await < all - POOL / 2 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        soon("a full pool", full).await;
        for round in 0..30 {
            assert!(
                daemon.open_descriptors().await <= all + slack,
                "more than {all} descriptors"
            );
            if round % 10 == 0 {
                Tunnel::open(&daemon, &upstream).await.close().await;
                assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
                assert_eq!(daemon.admin_get("/healthz").await.0, 200);
                assert_eq!(daemon.admin_get("/readyz").await.0, 200);
                assert_eq!(daemon.reload(&config.to_toml()).await["result"], "ok");
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        run("ip address add 198.51.100.7/32 dev lo");
        let reply = connect(daemon.proxy_addr(), "new.example:443", &[]).await;
        assert_eq!(
            reply.status(),
            403,
            "a new address of this machine is known at once: {}",
            reply.body
        );
        drop(attackers);
    });
}

/// A client that closes, entirely or by half, leaves no attempt running.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_dial_ends_when_its_client_closes() {
    in_own_network("a_dial_ends_when_its_client_closes", async {
        nobody_answers();
        let config = Config::closed()
            .egress(&["192.0.2.1"])
            .exempt("203.0.113.0/24");
        let config = config
            .allow("silent.example")
            .resolve("silent.example", &["203.0.113.1"]);
        let mut daemon = Daemon::start(&config.section("[timeouts]\nconnect = \"60s\"")).await;
        let before = daemon.open_descriptors().await;
        for is_half in [false, true] {
            let mut clients = Vec::new();
            for number in 0..ATTACKERS {
                let mut client = dial_from(number as u8, &daemon).await;
                client
                    .write_all(connect_head("silent.example:443", &[]).as_bytes())
                    .await
                    .unwrap();
                clients.push(client);
            }
            let dialling = async {
                while run("ss -t -n -H state syn-sent").lines().count() < ATTACKERS {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            soon("a dial for each", dialling).await;
            if is_half {
                for client in &mut clients {
                    client.shutdown().await.unwrap();
                }
            } else {
                clients.clear();
            }
            for _ in 0..ATTACKERS {
                assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
            }
            assert_eq!(run("ss -t -n -H state syn-sent"), "", "attempts are left");
            drop(clients);
            let closed = async {
                while daemon.open_descriptors().await > before + 2 {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            soon("the descriptors", closed).await;
        }
    });
}

/// The first fifteen addresses are silent and the last one answers: each is tried.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_silent_address_gives_way_to_the_next() {
    in_own_network("a_silent_address_gives_way_to_the_next", async {
        nobody_answers();
        let upstream = RawUpstream::start().await;
        let silent: Vec<String> = (1..=5)
            .map(|number| format!("203.0.113.{number}"))
            .collect();
        let addresses: Vec<&str> = silent
            .iter()
            .map(String::as_str)
            .chain(["127.0.0.1"])
            .collect();
        let config = Config::closed()
            .allow(&upstream.authority())
            .exempt("203.0.113.0/24");
        let config = config
            .egress(&["192.0.2.1"])
            .resolve(support::HOST, &addresses);
        let daemon = Daemon::start(&config).await;
        Tunnel::open(&daemon, &upstream).await.close().await;
    });
}

/// A client with an address of its own, because the share of one address is bounded too.
async fn dial_from(number: u8, daemon: &Daemon) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::from(([127, 0, 4, number], 0)))
        .unwrap();
    soon("a connection", socket.connect(daemon.proxy_addr()))
        .await
        .unwrap()
}

/// A link whose other end accepts no packet.
fn nobody_answers() {
    run("ip link add v0 type veth peer name v1");
    ["v0", "v1"]
        .iter()
        .for_each(|link| drop(run(&format!("ip link set {link} up"))));
    run("ip address add 192.0.2.1/24 dev v0");
    run("ip neighbour add 192.0.2.2 lladdr 02:00:00:00:00:09 dev v0");
    run("ip route add 203.0.113.0/24 via 192.0.2.2");
}
