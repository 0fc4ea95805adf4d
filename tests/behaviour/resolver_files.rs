//! What `/etc/resolv.conf` and `/etc/hosts` may look like: as much as glibc takes, and what is not understood is skipped
//! with a warning.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::client::connect;
use support::command::sealway;
use support::config::Config;
use support::daemon::Daemon;
use support::dns::{AAAA, Dns, Say, header, question};
use support::etc::{Etc, server, silent};
use support::namespace::{in_own_network, run};
use support::raw::RawUpstream;
use support::within;

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
fn a_resolv_conf_that_the_platform_takes_is_taken() {
    in_own_network("a_resolv_conf_that_the_platform_takes_is_taken", async {
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

/// A daemon starts with these files and asks this server.
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
fn what_is_not_understood_is_said_at_the_start_and_by_check() {
    in_own_network(
        "what_is_not_understood_is_said_at_the_start_and_by_check",
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
fn servers_beyond_the_third_are_asked_and_options_count() {
    in_own_network(
        "servers_beyond_the_third_are_asked_and_options_count",
        async {
            let etc = Etc::with(
                "nameserver 127.0.0.51\nnameserver 127.0.0.52\nnameserver 127.0.0.53\nnameserver 127.0.0.54\n",
            );
            let dead = ["127.0.0.51:53", "127.0.0.52:53", "127.0.0.53:53"].map(silent);
            let fourth = server("127.0.0.54:53", here()).await;
            let upstream = RawUpstream::start().await;
            asks(&upstream, &fourth, "the fourth server", 1).await;
            drop(dead);
            // No datagram passes.
            etc.write(
                "/etc/resolv.conf",
                "options use-vc\nnameserver 127.0.0.51\n",
            );
            let _silent = silent("127.0.0.51:53");
            let over_tcp = Dns::start_over_tcp("127.0.0.51:53".parse().unwrap(), here()).await;
            asks(&upstream, &over_tcp, "use-vc", 2).await;
            // Each server has a turn.
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
            // Questions for IPv6 are of no use there.
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
        },
    );
}

#[test]
fn a_server_on_a_link_is_asked_through_its_interface() {
    in_own_network("a_server_on_a_link_is_asked_through_its_interface", async {
        let _etc = Etc::with("nameserver fe80::53%late0\n");
        let upstream = RawUpstream::start().await;
        let daemon = Daemon::start(&config(&upstream)).await;
        let authority = |name: &str| format!("{name}.peer.example:{}", upstream.addr().port());
        let reply = connect(daemon.proxy_addr(), &authority("early"), &[]).await;
        assert_eq!(reply.status_line, "HTTP/1.1 502 Bad Gateway (dns_failed)");
        // Two links have the same address; the interface comes after the start.
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
                // Another network's sysfs: ask ip(8).
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
        // The interface is another one now, under the same name.
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
        // By the interface's number, in the configuration.
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

#[test]
fn a_server_without_edns_is_asked_without_it() {
    in_own_network("a_server_without_edns_is_asked_without_it", async {
        let etc = Etc::with("nameserver 127.0.0.51\n");
        let upstream = RawUpstream::start().await;
        // FORMERR and NOTIMP to whatever has an additional record; and one that drops it.
        for (number, code) in [1_u8, 4].into_iter().enumerate() {
            let refuse = move |query: &[u8]| match query[11] {
                0 => [
                    &header(query, 0, [1, 0, 0])[..],
                    &query[12..question(query).2],
                    &support::dns::record([127, 0, 0, 1].into(), 1, 60).unwrap(),
                ]
                .concat(),
                _ => [
                    &header(query, code, [0, 0, 0])[..],
                    &query[12..question(query).2],
                ]
                .concat(),
            };
            let address = format!("127.0.0.{}:53", 61 + number);
            let dns = server(&address, Say::Raw(Arc::new(refuse))).await;
            etc.write(
                "/etc/resolv.conf",
                format!("nameserver 127.0.0.{}\n", 61 + number),
            );
            asks(&upstream, &dns, &format!("code {code}"), number).await;
        }
        etc.write("/etc/resolv.conf", "nameserver 127.0.0.63\n");
        let drops = Dns::start_at("127.0.0.63:53".parse().unwrap(), here().without_edns()).await;
        asks(&upstream, &drops, "no answer to EDNS", 9).await;
    });
}

#[test]
fn a_machine_without_any_resolver_is_none_the_worse_where_every_name_is_fixed() {
    in_own_network(
        "a_machine_without_any_resolver_is_none_the_worse_where_every_name_is_fixed",
        async {
            let etc = Etc::empty();
            etc.write("/etc/hosts", "127.0.0.1 in-hosts.peer.example\n");
            let upstream = RawUpstream::start().await;
            let port = upstream.addr().port();
            let config = Config::closed()
                .host("in-config.peer.example", upstream.addr())
                .allow(&format!("in-hosts.peer.example:{port}"));
            let mut daemon = Daemon::start(&config).await;
            for name in ["in-config", "in-hosts", "IN-Hosts"] {
                let reply = connect(
                    daemon.proxy_addr(),
                    &format!("{name}.peer.example:{port}"),
                    &[],
                )
                .await;
                assert_eq!(reply.status(), 200, "{name}: {}", reply.status_line);
            }
            let fixed = daemon
                .metric("sealway_dns_lookups_total{result=\"fixed\"}")
                .await;
            assert_eq!(fixed, Some(3.0));
            assert_eq!(daemon.admin_get("/readyz").await.0, 200);
            assert_eq!(daemon.reload(&config.to_toml()).await["result"], "ok");
            let file = daemon.path("check.toml");
            std::fs::write(&file, config.to_toml()).unwrap();
            let checked = sealway(&["check", "--config", file.to_str().unwrap()]).await;
            assert_eq!(checked.status, 0, "{checked:?}");
            let explained = sealway(&[
                "explain",
                &format!("in-hosts.peer.example:{port}"),
                "--config",
                file.to_str().unwrap(),
            ])
            .await;
            assert!(
                explained.stdout.contains("fixed in /etc/hosts"),
                "{explained:?}"
            );
            // One name that is left to DNS: now the missing resolver is a problem.
            std::fs::write(&file, config.allow("free.peer.example").to_toml()).unwrap();
            let checked = sealway(&["check", "--config", file.to_str().unwrap()]).await;
            assert_eq!(checked.status, 78, "{checked:?}");
            assert!(
                checked.stderr.contains("free.peer.example"),
                "{}",
                checked.stderr
            );
        },
    );
}

#[test]
fn the_hosts_file_is_the_whole_answer() {
    in_own_network("the_hosts_file_is_the_whole_answer", async {
        let etc = Etc::with("nameserver 127.0.0.1\n");
        etc.write("/etc/hosts", "\u{feff}# The machine's own\r\n\
             127.0.0.1\tlocalhost one.peer.example   ALIAS.peer.example. # one line, three names\r\n\
             192.0.2.1 both.peer.example\n\
             ::1 six.peer.example both.peer.example\n\
             127.0.0.1 both.peer.example\n\
             ::ffff:127.0.0.1 mapped.peer.example\n\
             fe80::1%lo zone.peer.example\n\
             127.0.0.1\n\
             127.1 short.peer.example\n\
             127.0.0.1 winner.peer.example");
        let dns = server("127.0.0.1:53", Say::addresses(&["127.0.0.1", "::1"], 60)).await;
        let upstream = RawUpstream::start().await;
        let port = upstream.addr().port();
        // Both families may be asked for.
        let config = config(&upstream)
            .egress(&["127.0.0.2", "::1"])
            .exempt("192.0.2.0/24")
            .resolve("winner.peer.example", &["127.0.0.3"])
            .resolve("none.peer.example", &[]);
        let daemon = Daemon::start(&config).await;
        let only_v4 = Daemon::start(&config.clone().egress(&["127.0.0.2"])).await;
        for (daemon, name, status) in [
            (&daemon, "one.peer.example", 200),
            (&daemon, "alias.peer.example", 200),
            (&daemon, "ALIAS.peer.example.", 200),
            (&daemon, "mapped.peer.example", 200),
            (&only_v4, "mapped.peer.example", 200),
            (&only_v4, "one.peer.example", 200),
            // No address of the only family: DNS is not asked for it.
            (&only_v4, "six.peer.example", 502),
            (&only_v4, "both.peer.example", 200),
            // Of the configuration, not of the file: nobody listens there.
            (&daemon, "winner.peer.example", 502),
            (&daemon, "none.peer.example", 502),
            (&daemon, "localhost", 200),
        ] {
            let reply = connect(daemon.proxy_addr(), &format!("{name}:{port}"), &[]).await;
            assert_eq!(reply.status(), status, "{name}: {}", reply.status_line);
        }
        assert_eq!(dns.asked(), [], "of names that are fixed");
        // Lines that say nothing: those names are left to DNS.
        for name in ["zone", "short"] {
            let authority = format!("{name}.peer.example:{port}");
            assert_eq!(
                connect(only_v4.proxy_addr(), &authority, &[])
                    .await
                    .status(),
                200
            );
        }
        let names: Vec<_> = dns.asked().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["zone.peer.example", "short.peer.example"]);
    });
}

/// NXDOMAIN with a SOA that asks for a day.
#[tokio::test]
async fn a_negative_answer_is_kept_for_as_long_as_the_operator_says() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let gone = move |query: &[u8]| {
        count.fetch_add(1, Ordering::Relaxed);
        let soa = [
            &[0, 0, 6, 0, 1][..],
            &86_400_u32.to_be_bytes(),
            &[0, 22, 0, 0],
            &[0; 16],
            &86_400_u32.to_be_bytes(),
        ];
        [
            &header(query, 3, [0, 1, 0])[..],
            &query[12..question(query).2],
            &soa.concat(),
        ]
        .concat()
    };
    for (line, least, most) in [
        ("", 1, 1),
        ("negative_ttl_max = \"0s\"", 4, 4),
        ("negative_ttl_max = \"1s\"", 2, 3),
    ] {
        let dns = Dns::start(Say::Raw(Arc::new(gone.clone()))).await;
        asked.store(0, Ordering::Relaxed);
        let upstream = RawUpstream::start().await;
        let config = config(&upstream).section(&format!("{}\n{line}", dns.section("5s")));
        let daemon = Daemon::start(&config).await;
        let authority = format!("gone.peer.example:{}", upstream.addr().port());
        for number in 0..4 {
            let reply = connect(daemon.proxy_addr(), &authority, &[]).await;
            assert_eq!(reply.status_line, "HTTP/1.1 502 Bad Gateway (dns_failed)");
            if number == 2 && least == 2 {
                let again = async {
                    while asked.load(Ordering::Relaxed) < 2 {
                        connect(daemon.proxy_addr(), &authority, &[]).await;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                };
                within(Duration::from_secs(10), "a second question", again).await;
            }
        }
        let count = asked.load(Ordering::Relaxed);
        assert!((least..=most).contains(&count), "{line}: {count}");
    }
}
