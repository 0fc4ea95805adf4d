//! Names with fixed addresses, by `[dns.hosts]` or `/etc/hosts`: the fixed addresses are the whole
//! answer, and the names need no name server.

use support::client::connect;
use support::command::sealway;
use support::config::Config;
use support::daemon::Daemon;
use support::dns::Say;
use support::etc::{Etc, server};
use support::namespace::in_own_network;
use support::raw::RawUpstream;

/// Names of the wildcard are left to the machine's files.
fn config(upstream: &RawUpstream) -> Config {
    let port = upstream.addr().port();
    Config::closed()
        .allow(&format!("*.peer.example:{port}"))
        .allow(&format!("localhost:{port}"))
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn fixed_names_need_no_resolver() {
    in_own_network("fixed_names_need_no_resolver", async {
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
        // One name that is left to DNS makes the missing resolver a problem.
        std::fs::write(&file, config.allow("free.peer.example").to_toml()).unwrap();
        let checked = sealway(&["check", "--config", file.to_str().unwrap()]).await;
        assert_eq!(checked.status, 78, "{checked:?}");
        assert!(
            checked.stderr.contains("free.peer.example"),
            "{}",
            checked.stderr
        );
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn the_hosts_file_replaces_dns() {
    in_own_network("the_hosts_file_replaces_dns", async {
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
        // Both families may be queried.
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
            // No address of the only family: DNS is not queried for it.
            (&only_v4, "six.peer.example", 502),
            (&only_v4, "both.peer.example", 200),
            // The address in the configuration wins over the file: no server listens there.
            (&daemon, "winner.peer.example", 502),
            (&daemon, "none.peer.example", 502),
            (&daemon, "localhost", 200),
        ] {
            let reply = connect(daemon.proxy_addr(), &format!("{name}:{port}"), &[]).await;
            assert_eq!(reply.status(), status, "{name}: {}", reply.status_line);
        }
        assert_eq!(dns.asked(), [], "of names that are fixed");
        // Lines without a usable address: those names are left to DNS.
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
