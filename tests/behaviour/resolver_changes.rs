//! Changes of `/etc/resolv.conf` and `/etc/hosts` under the running daemon: it follows them without
//! a signal, and keeps the previous contents while a file is broken or missing.

use std::time::Duration;

use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::dns::Say;
use support::etc::{Etc, server, silent};
use support::namespace::in_own_network;
use support::raw::RawUpstream;
use support::within;

/// A policy with a wildcard, so that each attempt can use a name that was never queried before.
fn config(upstream: &RawUpstream) -> Config {
    Config::closed()
        .allow(&format!("*.peer.example:{}", upstream.addr().port()))
        .section("[dns]\ntimeout = \"20s\"\n[timeouts]\nconnect = \"25s\"")
}

/// New names for each attempt.
struct Names(u16, u32);

impl Names {
    fn next(&mut self) -> String {
        self.1 += 1;
        format!("n{}.peer.example:{}", self.1, self.0)
    }
}

fn here() -> Say {
    Say::addresses(&["127.0.0.1"], 3_600)
}

/// Waits until the daemon has logged this text about a file.
async fn until_logged(daemon: &Daemon, file: &str, message: &str) {
    daemon
        .line(message, |line| {
            line["file"] == file
                && line["message"]
                    .as_str()
                    .is_some_and(|text| text.contains(message))
        })
        .await;
}

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// "Within seconds", on a busy machine.
const SOON: Duration = Duration::from_secs(12);

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_new_resolv_conf_applies_within_seconds_also_to_waiting_tunnels() {
    in_own_network(
        "a_new_resolv_conf_applies_within_seconds_also_to_waiting_tunnels",
        async {
            let etc = Etc::with("nameserver 127.0.0.51\n");
            let _dead = silent("127.0.0.51:53");
            let (first, second) = (
                server("127.0.0.52:53", here()).await,
                server("127.0.0.53:53", here()).await,
            );
            let upstream = RawUpstream::start().await;
            let daemon = Daemon::start(&config(&upstream)).await;
            let mut names = Names(upstream.addr().port(), 0);
            let (waiting, is_asked) = (names.next(), std::cell::Cell::new(false));
            let change = async {
                // The query is in flight to the silent server when the file changes.
                tokio::time::sleep(Duration::from_millis(50)).await;
                etc.write(RESOLV_CONF, "nameserver 127.0.0.52\n");
                is_asked.set(true);
            };
            let ask = within(
                SOON,
                "a tunnel that waited for the old server",
                connect(daemon.proxy_addr(), &waiting, &[]),
            );
            let (reply, ()) = tokio::join!(ask, change);
            assert_eq!(reply.status(), 200, "{}", reply.status_line);
            assert_eq!(first.asked().len(), 1, "{:?}", first.asked());
            // Replaced by a rename; the name is cached, but the answer of the old server is not
            // used.
            etc.replace(RESOLV_CONF, "nameserver 127.0.0.53\n");
            let moved = async {
                while second.asked().is_empty() {
                    let reply = connect(daemon.proxy_addr(), &waiting, &[]).await;
                    assert_eq!(reply.status(), 200, "{}", reply.status_line);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            within(SOON, "a question to the new server", moved).await;
        },
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn a_broken_or_missing_file_changes_nothing_and_is_logged_once() {
    in_own_network(
        "a_broken_or_missing_file_changes_nothing_and_is_logged_once",
        async {
            let etc = Etc::with("nameserver 127.0.0.52\n");
            etc.write(HOSTS, "127.0.0.1 pinned.peer.example\n");
            let dns = server("127.0.0.52:53", here()).await;
            let upstream = RawUpstream::start().await;
            let mut daemon = Daemon::start(&config(&upstream)).await;
            let mut names = Names(upstream.addr().port(), 0);
            let pinned = format!("pinned.peer.example:{}", upstream.addr().port());
            type Break<'a> = (&'a str, &'a dyn Fn());
            let broken: [Break<'_>; 4] = [
                (RESOLV_CONF, &|| etc.write(RESOLV_CONF, "")),
                (RESOLV_CONF, &|| {
                    etc.write(RESOLV_CONF, "search example\nnameserver 192.0.2.")
                }),
                (RESOLV_CONF, &|| etc.remove(RESOLV_CONF)),
                (HOSTS, &|| etc.remove(HOSTS)),
            ];
            for (number, (file, act)) in (1..).zip(&broken) {
                act();
                let label = if *file == HOSTS {
                    "hosts"
                } else {
                    "resolv.conf"
                };
                let kept = if *file == HOSTS {
                    1.0
                } else {
                    f64::from(number)
                };
                let series =
                    format!("sealway_dns_file_reads_total{{file=\"{label}\",result=\"kept\"}}");
                daemon.metric_until(&series, |count| count == kept).await;
                until_logged(&daemon, file, "the previous contents stay in force").await;
                let reply = connect(daemon.proxy_addr(), &names.next(), &[]).await;
                assert_eq!(reply.status(), 200, "{number}: {}", reply.status_line);
                // A reload finds the same files and does not fail because of them.
                let record = daemon.reload(&config(&upstream).to_toml()).await;
                assert_eq!(record["result"], "ok", "{number}: {record}");
                let reply = connect(daemon.proxy_addr(), &names.next(), &[]).await;
                assert_eq!(reply.status(), 200, "{number}: {}", reply.status_line);
                let reply = connect(daemon.proxy_addr(), &pinned, &[]).await;
                assert_eq!(reply.status(), 200, "{number}: {}", reply.status_line);
            }
            assert!(
                dns.asked()
                    .iter()
                    .all(|(name, _)| name != "pinned.peer.example"),
                "{:?}",
                dns.asked()
            );
            // They return with other contents.
            drop(dns);
            let other = server("127.0.0.53:53", Say::NoSuchName).await;
            etc.write(RESOLV_CONF, "nameserver 127.0.0.53\n");
            etc.write(HOSTS, "127.0.0.1 other.peer.example\n");
            until_logged(&daemon, HOSTS, "has changed").await;
            other_server_is_asked(&daemon, &other, &pinned).await;
            let reply = connect(
                daemon.proxy_addr(),
                &format!("other.peer.example:{}", upstream.addr().port()),
                &[],
            )
            .await;
            assert_eq!(reply.status(), 200, "{}", reply.status_line);
        },
    );
}

/// Waits for a query for this name at this server.
async fn other_server_is_asked(daemon: &Daemon, other: &support::dns::Dns, authority: &str) {
    let asked = async {
        while other.asked().is_empty() {
            let reply = connect(daemon.proxy_addr(), authority, &[]).await;
            assert!(matches!(reply.status(), 200 | 502), "{}", reply.status_line);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(SOON, "a question to the new server", asked).await;
}

/// Three writes, each before the previous one was read: only the last one counts, and the daemon
/// never queries the server of the first.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_file_under_writing_is_read_after_it_settled() {
    in_own_network("a_file_under_writing_is_read_after_it_settled", async {
        let etc = Etc::with("nameserver 127.0.0.52\n");
        let (old, wrong, new) = (
            server("127.0.0.52:53", here()).await,
            server("127.0.0.5:53", Say::NoSuchName).await,
            server("127.0.0.53:53", here()).await,
        );
        let upstream = RawUpstream::start().await;
        let daemon = Daemon::start(&config(&upstream)).await;
        let mut names = Names(upstream.addr().port(), 0);
        let mut text = b"nameserver 127.0.0.53\noptions edns0\n".to_vec();
        for end in [0, 1, 20, 21, 22, text.len()] {
            etc.write(RESOLV_CONF, &text[..end]);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let reply = connect(daemon.proxy_addr(), &names.next(), &[]).await;
            assert_eq!(reply.status(), 200, "{}", reply.status_line);
        }
        let moved = async {
            while new.asked().is_empty() {
                let reply = connect(daemon.proxy_addr(), &names.next(), &[]).await;
                assert_eq!(reply.status(), 200, "{}", reply.status_line);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within(SOON, "a question to the new server", moved).await;
        assert_eq!(wrong.asked(), [], "of half a line");
        assert!(!old.asked().is_empty());
        // The size is the same and the modification time is restored, yet the file has changed.
        let before = std::fs::metadata(RESOLV_CONF).unwrap().modified().unwrap();
        text[20] = b'2';
        etc.write(RESOLV_CONF, &text);
        let file = std::fs::File::options().write(true).open(RESOLV_CONF);
        file.unwrap().set_modified(before).unwrap();
        let count = old.asked().len();
        let moved = async {
            while old.asked().len() == count {
                let reply = connect(daemon.proxy_addr(), &names.next(), &[]).await;
                assert_eq!(reply.status(), 200, "{}", reply.status_line);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within(SOON, "a question to the old server", moved).await;
    });
}

/// The layout of systemd-resolved, NetworkManager and resolvconf; the link has no target yet, as
/// early at boot.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_link_into_a_later_folder_is_followed() {
    in_own_network(
        "a_link_into_a_later_folder_is_followed",
        follow_a_link(false),
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_link_into_a_recreated_folder_is_followed() {
    in_own_network(
        "a_link_into_a_recreated_folder_is_followed",
        follow_a_link(true),
    );
}

async fn follow_a_link(is_there_at_the_start: bool) {
    let etc = Etc::empty();
    etc.link("../run/machine/resolve/stub.conf", RESOLV_CONF);
    let stub = "/run/machine/resolve/stub.conf";
    if is_there_at_the_start {
        etc.write(stub, "nameserver 127.0.0.50\n");
        std::fs::create_dir("/run/NetworkManager").unwrap();
    }
    let servers = [
        server("127.0.0.51:53", here()).await,
        server("127.0.0.52:53", here()).await,
        server("127.0.0.53:53", here()).await,
        server("127.0.0.54:53", here()).await,
    ];
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&config(&upstream)).await;
    let mut names = Names(upstream.addr().port(), 0);
    for (number, dns) in servers.iter().enumerate() {
        let text = format!("nameserver 127.0.0.{}\n", 51 + number);
        match number {
            0 => etc.write(stub, text),
            1 => etc.replace(stub, text),
            2 => {
                std::fs::remove_dir_all("/run/machine/resolve").unwrap();
                etc.write(stub, text);
            }
            _ => {
                etc.write("/run/NetworkManager/resolv.conf", text);
                etc.link("/run/NetworkManager/resolv.conf", RESOLV_CONF);
            }
        }
        let asked = async {
            while dns.asked().is_empty() {
                connect(daemon.proxy_addr(), &names.next(), &[]).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within(SOON, "a question to the server behind the link", asked).await;
    }
}

/// The layout of container engines: the file itself is mounted, and written in place on the other
/// side.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_mounted_file_is_followed() {
    in_own_network("a_mounted_file_is_followed", async {
        let etc = Etc::with("");
        let outside = tempfile::tempdir().unwrap();
        let source = outside.path().join("resolv.conf");
        let text = |last: u8| format!("nameserver 127.0.0.{last}\n");
        std::fs::write(&source, text(51)).unwrap();
        support::namespace::run(&format!("mount --bind {} {RESOLV_CONF}", source.display()));
        let (_old, new) = (
            server("127.0.0.51:53", here()).await,
            server("127.0.0.52:53", here()).await,
        );
        let upstream = RawUpstream::start().await;
        let daemon = Daemon::start(&config(&upstream)).await;
        let mut names = Names(upstream.addr().port(), 0);
        std::fs::write(&source, text(52)).unwrap();
        let asked = async {
            while new.asked().is_empty() {
                let reply = connect(daemon.proxy_addr(), &names.next(), &[]).await;
                assert_eq!(reply.status(), 200, "{}", reply.status_line);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within(SOON, "a question to the new server", asked).await;
        drop(etc);
    });
}
