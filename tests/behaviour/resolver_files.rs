//! The accepted forms of `/etc/resolv.conf` and `/etc/hosts`: those of glibc; unknown parts are
//! skipped with a warning.

use support::client::connect;
use support::command::sealway;
use support::config::Config;
use support::daemon::Daemon;
use support::dns::{AAAA, Dns, Say};
use support::etc::{Etc, server, silent};
use support::namespace::{in_own_network, run};
use support::raw::RawUpstream;

/// Names of the wildcard are left to the machine's files.
fn config(upstream: &RawUpstream) -> Config {
    let port = upstream.addr().port();
    Config::closed()
        .allow(&format!("*.peer.example:{port}"))
        .allow(&format!("localhost:{port}"))
}

fn here() -> Say {
    Say::addresses(&["127.0.0.1"], 60)
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_resolv_conf_of_the_platform_is_accepted() {
    in_own_network("a_resolv_conf_of_the_platform_is_accepted", async {
        let etc = Etc::empty();
        let dns = server("127.0.0.1:53", here()).await;
        let sixth = server("[::1]:53", here()).await;
        let upstream = RawUpstream::start().await;
        let good: [(&str, &[u8]); 14] = [
            ("empty", b""),
            ("comments only", b"# nothing\n; here\n"),
            ("no server", b"search example.net\noptions edns0\n"),
            ("no valid server", b"nameserver\nnameserver one.example\n"),
            ("a bad search list", b"nameserver 127.0.0.1\nsearch foo..bar -x- " ),
            ("a bad domain", b"domain ..\nnameserver 127.0.0.1\n"),
            ("unknown words", b"family inet4\nlookup file bind\nnameserver 127.0.0.1\noptions new-thing:7 ndots:x\n"),
            ("CR LF", b"nameserver 127.0.0.1\r\noptions ndots:2\r\n"),
            ("tabs, spaces, a comment behind", b"\tnameserver\t127.0.0.1 \t# the local one\n"),
            ("not UTF-8, and a NUL", b"# caf\xe9 \0\nnameserver 127.0.0.1\n"),
            ("a byte order mark", b"\xef\xbb\xbfnameserver 127.0.0.1\n"),
            ("no end of line", b"nameserver 127.0.0.1"),
            ("an IPv4 address in IPv6", b"nameserver ::ffff:127.0.0.1\n"),
            ("any address of this host", b"nameserver 0.0.0.0\n"),
        ];
        for (number, (what, text)) in good.iter().enumerate() {
            etc.write("/etc/resolv.conf", text);
            asks(&upstream, &dns, what, number).await;
        }
        etc.remove("/etc/resolv.conf");
        asks(&upstream, &dns, "missing", 20).await;
        std::fs::create_dir("/etc/resolv.conf").unwrap();
        asks(&upstream, &dns, "a folder", 21).await;
        std::fs::remove_dir("/etc/resolv.conf").unwrap();
        run("mkfifo /etc/resolv.conf");
        asks(&upstream, &dns, "a pipe", 22).await;
        etc.remove("/etc/resolv.conf");
        etc.write("/etc/resolv.conf", "nameserver ::\n");
        asks(&upstream, &sixth, "any address, IPv6", 23).await;
    });
}

/// Starts a daemon with these files and expects a query to this server.
async fn asks(upstream: &RawUpstream, dns: &Dns, what: &str, number: usize) {
    let daemon = Daemon::start(&config(upstream)).await;
    let name = format!("n{number}.peer.example");
    let authority = format!("{name}:{}", upstream.addr().port());
    let reply = connect(daemon.proxy_addr(), &authority, &[]).await;
    assert_eq!(reply.status(), 200, "{what}: {}", reply.status_line);
    let asked = dns.asked();
    assert!(asked.iter().any(|(of, _)| *of == name), "{what}: {asked:?}");
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn unknown_words_are_logged_at_the_start_and_by_check() {
    in_own_network(
        "unknown_words_are_logged_at_the_start_and_by_check",
        async {
            let etc = Etc::with(
                "nameserver one.example\nnameserver 127.0.0.1\nfamily inet4\noptions ndots:1 new-thing\n",
            );
            etc.write(
                "/etc/hosts",
                "127.0.0.1 localhost\n127.0.0.999 a.example\n127.0.0.1 a..b ok.example\n",
            );
            let _dns = server("127.0.0.1:53", here()).await;
            let upstream = RawUpstream::start().await;
            let daemon = Daemon::start(&config(&upstream)).await;
            for (file, line) in [
                ("/etc/resolv.conf", 1),
                ("/etc/resolv.conf", 3),
                ("/etc/resolv.conf", 4),
                ("/etc/hosts", 2),
                ("/etc/hosts", 3),
            ] {
                let wanted = |log: &serde_json::Value| {
                    log["file"] == file && log["line"] == line && log["level"] == "WARN"
                };
                daemon.line(&format!("{file}:{line}"), wanted).await;
            }
            let file = daemon.path("check.toml");
            std::fs::write(&file, config(&upstream).to_toml()).unwrap();
            let checked = sealway(&["check", "--config", file.to_str().unwrap()]).await;
            assert_eq!(checked.status, 0, "{checked:?}");
            for place in [
                "/etc/resolv.conf:1:",
                "/etc/resolv.conf:4:",
                "/etc/hosts:2:",
                "new-thing",
            ] {
                assert!(
                    checked.stderr.contains(place),
                    "{place}: {}",
                    checked.stderr
                );
            }
        },
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn more_than_three_servers_and_options_are_used() {
    in_own_network("more_than_three_servers_and_options_are_used", async {
        let etc = Etc::with(
            "nameserver 127.0.0.51\nnameserver 127.0.0.52\nnameserver 127.0.0.53\nnameserver 127.0.0.54\n",
        );
        let dead = ["127.0.0.51:53", "127.0.0.52:53", "127.0.0.53:53"].map(silent);
        let fourth = server("127.0.0.54:53", here()).await;
        let upstream = RawUpstream::start().await;
        asks(&upstream, &fourth, "the fourth server", 1).await;
        drop(dead);
        // No datagram passes, so the query must use TCP.
        etc.write(
            "/etc/resolv.conf",
            "options use-vc\nnameserver 127.0.0.51\n",
        );
        let _silent = silent("127.0.0.51:53");
        let over_tcp = Dns::start_over_tcp("127.0.0.51:53".parse().unwrap(), here()).await;
        asks(&upstream, &over_tcp, "use-vc", 2).await;
        // The servers are queried in turn.
        etc.write(
            "/etc/resolv.conf",
            "options rotate\nnameserver 127.0.0.54\nnameserver 127.0.0.55\n",
        );
        let fifth = server("127.0.0.55:53", here()).await;
        let daemon = Daemon::start(&config(&upstream)).await;
        let before = fourth.asked().len();
        for number in 0..6 {
            let name = format!("r{number}.peer.example:{}", upstream.addr().port());
            assert_eq!(connect(daemon.proxy_addr(), &name, &[]).await.status(), 200);
        }
        assert_eq!((fourth.asked().len() - before, fifth.asked().len()), (3, 3));
        // Queries for IPv6 addresses are useless there.
        etc.write(
            "/etc/resolv.conf",
            "nameserver 127.0.0.54\noptions no-aaaa\n",
        );
        let daemon = Daemon::start(&config(&upstream).egress(&["127.0.0.2", "::1"])).await;
        let name = format!("v4.peer.example:{}", upstream.addr().port());
        assert_eq!(connect(daemon.proxy_addr(), &name, &[]).await.status(), 200);
        assert!(
            fourth.asked().iter().all(|(_, kind)| *kind != AAAA),
            "{:?}",
            fourth.asked()
        );
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_link_local_server_uses_its_interface() {
    in_own_network("a_link_local_server_uses_its_interface", async {
        let _etc = Etc::with("nameserver fe80::53%late0\n");
        let upstream = RawUpstream::start().await;
        let daemon = Daemon::start(&config(&upstream)).await;
        let authority = |name: &str| format!("{name}.peer.example:{}", upstream.addr().port());
        let reply = connect(daemon.proxy_addr(), &authority("early"), &[]).await;
        assert_eq!(reply.status_line, "HTTP/1.1 502 Bad Gateway (dns_failed)");
        // Two links have the same address; the interface appears after the start.
        for link in ["other0", "late0"] {
            run(&format!("ip link add {link} type veth peer name {link}b"));
            run(&format!("ip link set {link}b up"));
            run(&format!("ip link set {link} up"));
            run(&format!("ip address add fe80::53/64 dev {link} nodad"));
        }
        let index = |link: &str| -> u32 {
            let path = format!("/sys/class/net/{link}/ifindex");
            match std::fs::read_to_string(path) {
                Ok(text) => text.trim().parse().unwrap(),
                // The sysfs of another network: use ip(8).
                Err(_) => run(&format!("ip -o link show {link}"))
                    .split(':')
                    .next()
                    .unwrap()
                    .parse()
                    .unwrap(),
            }
        };
        let at = |link: &str| {
            std::net::SocketAddr::V6(std::net::SocketAddrV6::new(
                "fe80::53".parse().unwrap(),
                53,
                0,
                index(link),
            ))
        };
        let other = Dns::start_at(at("other0"), Say::NoSuchName).await;
        let dns = Dns::start_at(at("late0"), here()).await;
        let reply = connect(daemon.proxy_addr(), &authority("late"), &[]).await;
        assert_eq!(reply.status(), 200, "{}", reply.status_line);
        assert_eq!((dns.asked().len(), other.asked().len()), (1, 0));
        // The interface is a different one now, under the same name.
        drop((dns, other));
        run("ip link del late0");
        run("ip link add late0 type veth peer name late0b");
        run("ip link set late0b up");
        run("ip link set late0 up");
        run("ip address add fe80::53/64 dev late0 nodad");
        let dns = Dns::start_at(at("late0"), here()).await;
        let reply = connect(daemon.proxy_addr(), &authority("again"), &[]).await;
        assert_eq!(reply.status(), 200, "{}", reply.status_line);
        assert_eq!(dns.asked().len(), 1);
        // By the number of the interface, in the configuration.
        let section = format!("[dns]\nservers = [\"[fe80::53%{}]:53\"]", index("late0"));
        let daemon = Daemon::start(&config(&upstream).section(&section)).await;
        let reply = connect(daemon.proxy_addr(), &authority("number"), &[]).await;
        assert_eq!(reply.status(), 200, "{}", reply.status_line);
        let daemon =
            Daemon::start(&config(&upstream).section("[dns]\nservers = [\"[fe80::53%late0]:53\"]"))
                .await;
        let reply = connect(daemon.proxy_addr(), &authority("name"), &[]).await;
        assert_eq!(reply.status(), 200, "{}", reply.status_line);
    });
}
