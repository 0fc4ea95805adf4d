//! Attacks on the resources that clients share: connections, rates and failed credentials.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use support::client::{Reply, connect_head, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, run, set_kernel_parameter};
use support::raw::{RawUpstream, Tunnel};
use support::users::{basic, user, with_users, write};
use support::{raise_descriptor_limit, soon};

/// One /64 without credentials opens more connections than 1,024 descriptors allow, each from
/// another address.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_ipv6_network_without_credentials_displaces_no_user() {
    in_own_network(
        "an_ipv6_network_without_credentials_displaces_no_user",
        async {
            strangers_and_a_user(V6, |number| v6(0, number)).await;
        },
    );
}

/// The same from 600 networks of one /48.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_ipv6_site_without_credentials_displaces_no_user() {
    in_own_network(
        "an_ipv6_site_without_credentials_displaces_no_user",
        async {
            strangers_and_a_user(V6, |number| v6(number, 1)).await;
        },
    );
}

/// The same from one IPv4 address.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_ipv4_address_without_credentials_displaces_no_user() {
    in_own_network(
        "an_ipv4_address_without_credentials_displaces_no_user",
        async {
            strangers_and_a_user(V4, |_| "198.51.100.66".parse().unwrap()).await;
        },
    );
}

/// More connections of strangers than any part of 1,024 descriptors allows, before and after a user
/// connects; the user is served, wherever it comes from.
async fn strangers_and_a_user([listener, home]: [&str; 2], stranger: impl Fn(u16) -> IpAddr) {
    let (upstream, daemon) =
        with_few_descriptors(listener, Some(&user("alice", "one", "")), "").await;
    let home: IpAddr = home.parse().unwrap();
    // It has connected and is half a round trip from sending its request when the strangers arrive.
    let early = dial_from(home, daemon.proxy_addr()).await;
    let mut strangers = Vec::new();
    for number in 0..600 {
        strangers.push(dial_from(stranger(number), daemon.proxy_addr()).await);
    }
    // The last one after the strangers shares an address with one of them.
    let late = dial_from(home, daemon.proxy_addr()).await;
    let neighbour = dial_from(stranger(7), daemon.proxy_addr()).await;
    let credentials = basic("alice", "one");
    let mut told = Vec::new();
    for stream in [early, late, neighbour] {
        told.push(
            ask(stream, &upstream, &[("Proxy-Authorization", &credentials)])
                .await
                .status_line,
        );
    }
    assert_eq!(
        told, ["HTTP/1.1 200 Connection established"; 3],
        "before, behind and beside the strangers"
    );
    assert_eq!(
        daemon.metric("sealway_accept_errors_total").await,
        Some(0.0),
        "accept(2) never failed"
    );
}

/// Without credentials, one address opens as many tunnels as it can and leaves them idle.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn one_address_cannot_take_every_tunnel_with_few_descriptors() {
    in_own_network(
        "one_address_cannot_take_every_tunnel_with_few_descriptors",
        async {
            one_client_and_another(V4, |_| "198.51.100.66".parse().unwrap()).await;
        },
    );
}

/// The same from one /64, each tunnel from another address.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn one_ipv6_network_cannot_take_every_tunnel_with_few_descriptors() {
    in_own_network(
        "one_ipv6_network_cannot_take_every_tunnel_with_few_descriptors",
        async {
            one_client_and_another(V6, |number| v6(0, number)).await;
        },
    );
}

/// The same from many /64 of one /48.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn one_ipv6_site_cannot_take_every_tunnel_with_few_descriptors() {
    in_own_network(
        "one_ipv6_site_cannot_take_every_tunnel_with_few_descriptors",
        async {
            one_client_and_another(V6, |number| v6(number, 1)).await;
        },
    );
}

/// One of two users opens as many as it can.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn one_user_cannot_take_every_tunnel_with_few_descriptors() {
    in_own_network(
        "one_user_cannot_take_every_tunnel_with_few_descriptors",
        async {
            let users = user("alice", "one", "") + &user("bob", "two", "");
            let (upstream, daemon) = with_few_descriptors(V4[0], Some(&users), "").await;
            let carried = daemon.metric("sealway_tunnels_max").await.unwrap() as u16;
            let mut open = Vec::new();
            let refused = loop {
                let from = format!("198.51.100.{}", open.len() % 250).parse().unwrap();
                let reply = ask_as("alice", "one", from, &daemon, &upstream).await;
                match reply.status() {
                    200 => open.push(Tunnel::over(reply.established(), &upstream).await),
                    _ => break reply.status_line,
                }
            };
            assert_eq!(
                refused,
                "HTTP/1.1 429 Too Many Requests (user_limit)",
                "{} of {carried}",
                open.len()
            );
            assert!(
                open.len() * 2 > usize::from(carried),
                "{} of {carried}",
                open.len()
            );
            let reply = ask_as(
                "bob",
                "two",
                "198.51.100.7".parse().unwrap(),
                &daemon,
                &upstream,
            )
            .await;
            Tunnel::over(reply.established(), &upstream)
                .await
                .exchange(1)
                .await;
        },
    );
}

/// A stranger with a user's address sends requests as fast as it can.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn requests_of_a_stranger_do_not_count_for_a_user_with_the_same_address() {
    in_own_network(
        "requests_of_a_stranger_do_not_count_for_a_user_with_the_same_address",
        async {
            let limits = "[limits]\nconnect_rate = 1";
            let (upstream, daemon) =
                with_few_descriptors(V4[0], Some(&user("alice", "one", "")), limits).await;
            let from: IpAddr = "198.51.100.66".parse().unwrap();
            let stranger = async || {
                ask(dial_from(from, daemon.proxy_addr()).await, &upstream, &[])
                    .await
                    .status_line
            };
            while stranger().await != "HTTP/1.1 429 Too Many Requests (client_limit)" {}
            assert_eq!(
                ask_as("alice", "one", from, &daemon, &upstream)
                    .await
                    .status(),
                200
            );
        },
    );
}

/// Each network of a /48 connects once.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn one_ipv6_site_connects_no_faster_than_a_few_clients() {
    in_own_network(
        "one_ipv6_site_connects_no_faster_than_a_few_clients",
        async {
            let limits = "[limits]\naccept_rate = 1";
            let (upstream, daemon) =
                with_few_descriptors(V6[0], Some(&user("alice", "one", "")), limits).await;
            let started = Instant::now();
            let (mut told, mut refused) = (0, 0);
            for network in 0..200 {
                let stream = dial_from(v6(network, 1), daemon.proxy_addr()).await;
                match ask(stream, &upstream, &[]).await.status() {
                    407 => told += 1,
                    status => {
                        assert_eq!(status, 429);
                        refused += 1;
                    }
                }
            }
            // Five seconds' worth of eight clients, and the permits that become due meanwhile.
            let due = 40 + 8 * (started.elapsed().as_secs() + 1);
            assert!(
                told >= 40 && told <= due,
                "{told} of {due}, {refused} refused"
            );
            assert_eq!(
                ask_as("alice", "one", V6[1].parse().unwrap(), &daemon, &upstream)
                    .await
                    .status(),
                200
            );
        },
    );
}

/// Wrong credentials are answered late; meanwhile they hold no more connections than strangers may
/// anyway.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn delayed_refusals_displace_no_user() {
    in_own_network("delayed_refusals_displace_no_user", async {
        let limits = "[limits]\npending = 8\naccept_rate = 0\nconnect_rate = 0";
        let (upstream, daemon) =
            with_few_descriptors(V4[0], Some(&user("alice", "one", "")), limits).await;
        let (before, mut waiting) = (daemon.open_descriptors().await, Vec::new());
        for number in 0..200 {
            let from = format!("198.51.100.{}", number % 4).parse().unwrap();
            let mut stream = dial_from(from, daemon.proxy_addr()).await;
            stream
                .write_all(head(&upstream, &basic("alice", "old")).as_bytes())
                .await
                .unwrap();
            waiting.push(stream);
        }
        let asked = Instant::now();
        assert_eq!(
            ask_as("alice", "one", V4[1].parse().unwrap(), &daemon, &upstream)
                .await
                .status(),
            200
        );
        // Eight pending ones, and 32 that have their reply and linger (a thirty-second of the
        // descriptors).
        let held = daemon.open_descriptors().await - before;
        assert!(
            held < 8 + 32 + 10,
            "{held} descriptors for 200 wrong secrets"
        );
        for stream in waiting {
            let reply = read_reply(stream).await;
            assert_eq!(
                reply.status_line,
                "HTTP/1.1 407 Proxy Authentication Required (auth_failed)"
            );
        }
        // Eight at a time would take 20 seconds.
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "{:?}",
            asked.elapsed()
        );
    });
}

async fn one_client_and_another([listener, home]: [&str; 2], greedy: impl Fn(u16) -> IpAddr) {
    let (upstream, daemon) = with_few_descriptors(listener, None, "").await;
    let carried = daemon.metric("sealway_tunnels_max").await.unwrap() as u16;
    let (mut open, mut refused) = (Vec::new(), 0);
    for number in 0..carried + 20 {
        let stream = dial_from(greedy(number), daemon.proxy_addr()).await;
        match ask(stream, &upstream, &[]).await {
            reply if reply.status() == 200 => {
                open.push(Tunnel::over(reply.established(), &upstream).await)
            }
            reply => {
                assert_eq!(
                    reply.status_line,
                    "HTTP/1.1 429 Too Many Requests (client_limit)"
                );
                refused += 1;
            }
        }
    }
    assert!(
        open.len() * 2 > usize::from(carried),
        "most of the machine for one client: {} of {carried}",
        open.len()
    );
    assert!(refused > 20, "{refused} were refused");
    let other = dial_from(home.parse().unwrap(), daemon.proxy_addr()).await;
    let other = ask(other, &upstream, &[]).await.established();
    Tunnel::over(other, &upstream).await.exchange(1).await;
}

/// A stranger with the same address guesses, with more secrets and names than any bound.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn guesses_do_not_lock_the_right_secret() {
    in_own_network("guesses_do_not_lock_the_right_secret", async {
        let (upstream, mut daemon) =
            with_few_descriptors(V4[0], Some(&user("alice", "one", "")), "").await;
        let from: IpAddr = "198.51.100.66".parse().unwrap();
        let mut told = Vec::new();
        for guess in 0..12 {
            let secret = format!("guess {guess}");
            told.push(
                ask_as("alice", &secret, from, &daemon, &upstream)
                    .await
                    .status_line,
            );
        }
        assert!(
            told[..10]
                .iter()
                .all(|line| line.ends_with("(auth_failed)")),
            "{told:?}"
        );
        assert!(
            told[10..]
                .iter()
                .all(|line| line.ends_with("(auth_locked)")),
            "{told:?}"
        );
        let lockout = daemon.event("auth_lockout").await;
        assert_eq!(
            (&lockout["client"], &lockout["user"]),
            (&"198.51.100.66".into(), &"alice".into()),
            "{lockout}"
        );
        assert_eq!(
            ask_as("alice", "one", from, &daemon, &upstream)
                .await
                .status(),
            200
        );
    });
}

/// A program with a shared address still has an old secret and tries it again and again.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn one_old_secret_never_locks_a_name() {
    in_own_network("one_old_secret_never_locks_a_name", async {
        let users = user("alice", "one", "") + &user("bob", "two", "");
        let (upstream, daemon) = with_few_descriptors(V4[0], Some(&users), "").await;
        let from: IpAddr = "198.51.100.66".parse().unwrap();
        // At once: each failure beyond the bound is answered a second later.
        let mut waiting = Vec::new();
        for _ in 0..30 {
            let mut stream = dial_from(from, daemon.proxy_addr()).await;
            stream
                .write_all(head(&upstream, &basic("alice", "old")).as_bytes())
                .await
                .unwrap();
            waiting.push(stream);
        }
        for stream in waiting {
            let reply = read_reply(stream).await;
            assert_eq!(
                reply.status_line,
                "HTTP/1.1 407 Proxy Authentication Required (auth_failed)"
            );
        }
        for (name, secret, told) in [
            ("alice", "one", "established"),
            ("bob", "wrong", "(auth_failed)"),
        ] {
            let reply = ask_as(name, secret, from, &daemon, &upstream).await;
            assert!(
                reply.status_line.ends_with(told),
                "{name}: {}",
                reply.status_line
            );
        }
        assert!(
            !daemon.log_text().contains("auth_lockout"),
            "{}",
            daemon.log_text()
        );
    });
}

/// A daemon with 1,024 descriptors, in a network where every documentation address is this host's own.
async fn with_few_descriptors(
    listener: &str,
    users: Option<&str>,
    limits: &str,
) -> (RawUpstream, Daemon) {
    for route in [
        "-6 route add local 2001:db8::/32",
        "route add local 192.0.2.0/24",
        "route add local 198.51.100.0/24",
    ] {
        run(&format!("ip {route} dev lo"));
    }
    // bind(2) accepts an IPv6 address that is local by route only if it accepts any address.
    set_kernel_parameter("/proc/sys/net/ipv6/ip_nonlocal_bind", "1");
    raise_descriptor_limit();
    let upstream = RawUpstream::start().await;
    let listener = format!("address = {listener:?}\nallow_cleartext = true");
    let config = Config::to(upstream.addr())
        .listener(&listener)
        .section("[relay]\nworkers = 2")
        .section(limits);
    let directory = tempfile::tempdir().unwrap();
    let config = match users {
        Some(users) => {
            write(&directory.path().join("users.toml"), users);
            with_users(config, "")
        }
        None => config.section("[auth]\nclients = [\"0.0.0.0/0\", \"::/0\"]"),
    };
    (
        upstream,
        Daemon::start_limited_in(directory, &config, 1_024).await,
    )
}

/// An address of 2001:db8:bad::/48.
fn v6(network: u16, host: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xbad, network, 0, 0, 0, host).into()
}

async fn dial_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = if from.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .unwrap();
    socket.bind((from, 0).into()).unwrap();
    soon("a connection", socket.connect(to)).await.unwrap()
}

/// Requests the upstream; reads the reply also of a connection that was given up before.
async fn ask(mut stream: TcpStream, upstream: &RawUpstream, headers: &[(&str, &str)]) -> Reply {
    let _refused_already = stream
        .write_all(connect_head(&upstream.authority(), headers).as_bytes())
        .await;
    read_reply(stream).await
}

async fn ask_as(
    name: &str,
    secret: &str,
    from: IpAddr,
    daemon: &Daemon,
    upstream: &RawUpstream,
) -> Reply {
    let stream = dial_from(from, daemon.proxy_addr()).await;
    ask(
        stream,
        upstream,
        &[("Proxy-Authorization", &basic(name, secret))],
    )
    .await
}

fn head(upstream: &RawUpstream, credentials: &str) -> String {
    connect_head(
        &upstream.authority(),
        &[("Proxy-Authorization", credentials)],
    )
}

/// The daemon's address, and a client that is not near any stranger.
const V4: [&str; 2] = ["192.0.2.1:0", "192.0.2.200"];
const V6: [&str; 2] = ["[2001:db8::1]:0", "2001:db8:2::1"];
