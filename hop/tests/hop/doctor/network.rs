//! The faults that a network makes, in namespaces: application, tunnel, NAT and provider are machines of their own. The
//! commands that mend a fault run as the doctor prints them.

use std::net::SocketAddr;

use support::HOST;
use support::namespace::{in_own_network, run};
use tokio::net::TcpListener;

use super::fake::Fake;
use super::machines::{Network, PROVIDER, STATIC, add, connect_between, listen, only};
use super::middlebox::{Drops, serve};
use super::run::Doctor;
use crate::zoo::Authority;

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs user namespaces")]
fn a_healthy_network_has_no_finding() {
    in_own_network("a_healthy_network_has_no_finding", async {
        let network = Network::start(&[PROVIDER, "2001:db8:3::80"]).await;
        let _tunnel = network
            .tunnel(&[STATIC], &[PROVIDER, "2001:db8:3::80"])
            .await;
        network.fake.allow(&[STATIC]);
        // By hand, more: SEALWAY_HEALTHY_RUNS=100.
        let rounds = std::env::var("SEALWAY_HEALTHY_RUNS");
        let rounds = rounds.map_or(20, |text| text.parse().unwrap());
        for round in 0..rounds {
            let codes = network.doctor().codes().await;
            assert!(codes.is_empty(), "round {round}: {codes:?}");
        }
        assert_eq!(network.fake.requests(), 2 * rounds);
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces and nft(8)"
)]
fn a_nat_behind_the_tunnel_is_named_with_the_address_that_the_provider_saw() {
    let test = "a_nat_behind_the_tunnel_is_named_with_the_address_that_the_provider_saw";
    in_own_network(test, async {
        let network = Network::start(&[PROVIDER]).await;
        let _tunnel = network.tunnel(&[STATIC], &[PROVIDER]).await;
        network.fake.allow(&[STATIC]);
        network.router.run("nft add table ip nat");
        let chain = "{ type nat hook postrouting priority 100; }";
        network
            .router
            .run(&format!("nft add chain ip nat out {chain}"));
        network
            .router
            .run("nft add rule ip nat out oifname out0 masquerade");
        let doctor = network.doctor().with(&["--key-id", "projects/123/keys/a"]);
        let (texts, commands) = only(&doctor, "address_not_of_tunnel").await;
        assert!(
            texts.contains("saw the request come from 203.0.113.1,"),
            "{texts}"
        );
        assert!(texts.contains(STATIC), "{texts}");
        // The list that the printed command makes.
        let listed = commands
            .iter()
            .find_map(|one| one.split_once("--allowed-ips="));
        let (command, listed) = listed.unwrap();
        assert_eq!(
            (command, listed),
            (
                "gcloud services api-keys update projects/123/keys/a --project=123 ",
                "203.0.113.1"
            )
        );
        network.fake.allow(&[listed]);
        assert!(doctor.codes().await.is_empty());
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces and nft(8)"
)]
fn a_direct_route_by_ipv6_is_found_and_the_printed_rules_close_it() {
    let test = "a_direct_route_by_ipv6_is_found_and_the_printed_rules_close_it";
    in_own_network(test, async {
        let network = Network::start(&[PROVIDER, "2001:db8:9::80"]).await;
        let _tunnel = network.tunnel(&[STATIC], &[PROVIDER]).await;
        network.fake.allow(&[STATIC]);
        connect_between(&network.app, "leak0", &network.provider, "leak0");
        for (machine, address) in [
            (&network.app, "2001:db8:9::2/64"),
            (&network.provider, "2001:db8:9::80/64"),
        ] {
            machine.run("ip link set leak0 up");
            machine.run(&add(address, "leak0"));
        }
        let doctor = network.doctor();
        assert_eq!(
            doctor.codes().await,
            ["direct_connection_possible", "ipv6_bypasses_tunnel"]
        );
        let report = doctor.run().await.json();
        let folder = tempfile::tempdir().unwrap();
        for finding in report["findings"].as_array().unwrap() {
            assert!(
                finding["cause"]
                    .as_str()
                    .unwrap()
                    .contains("2001:db8:9::80"),
                "{finding}"
            );
            for command in finding["commands"].as_array().unwrap() {
                network.on_app(command.as_str().unwrap(), folder.path());
            }
            let rules = std::fs::read_to_string(folder.path().join("application-host.nft"));
            let rules = rules.unwrap();
            assert!(rules.contains("elements = { 192.0.2.1 . 9293 }"), "{rules}");
            assert!(!rules.contains("2001:db8:1::1"), "{rules}");
        }
        assert!(doctor.codes().await.is_empty());
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces and nft(8)"
)]
fn firewalls_that_drop_and_reject_are_told_apart() {
    in_own_network("firewalls_that_drop_and_reject_are_told_apart", async {
        let network = Network::start(&[PROVIDER]).await;
        let limit = "[timeouts]\nconnect = \"2s\"\n";
        let _tunnel = network.tunnel_with(&[STATIC], &[PROVIDER], limit).await;
        network.fake.allow(&[STATIC]);
        run("nft add table inet firewall");
        let chain = |hook: &str| format!("{{ type filter hook {hook} priority 0; }}");
        run(&format!(
            "nft add chain inet firewall rules {}",
            chain("input")
        ));
        // What the tunnel's machine does with packets to the proxy's port.
        for (fate, timeout, wanted) in [
            ("drop", "1", "proxy_connect_timeout"),
            ("reject with tcp reset", "25", "proxy_connect_refused"),
            (
                "reject with icmpx host-unreachable",
                "25",
                "proxy_unreachable",
            ),
        ] {
            run(&format!(
                "nft add rule inet firewall rules tcp dport 9293 {fate}"
            ));
            let doctor = network.doctor().with(&["--timeout", timeout]);
            let (texts, _) = only(&doctor, wanted).await;
            assert!(texts.contains("192.0.2.1:9293"), "{texts}");
            run("nft flush chain inet firewall rules");
            assert!(network.doctor().codes().await.is_empty(), "{fate}");
        }
        // What a router does with packets to the provider.
        let router = &network.router;
        router.run("nft add table inet firewall");
        let forward = chain("forward");
        router.run(&format!("nft add chain inet firewall rules {forward}"));
        for (fate, wanted) in [
            ("drop", "connect_timeout"),
            ("reject with tcp reset", "connect_refused"),
            ("reject with icmpx host-unreachable", "connect_unreachable"),
        ] {
            router.run(&format!(
                "nft add rule inet firewall rules tcp dport 443 {fate}"
            ));
            let (texts, _) = only(&network.doctor(), "tunnel_refused").await;
            assert!(texts.contains(wanted), "{texts}");
            router.run("nft flush chain inet firewall rules");
            assert!(network.doctor().codes().await.is_empty(), "{fate}");
        }
    });
}

/// The tunnel waits longer for the provider than the doctor for the tunnel.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces and nft(8)"
)]
fn a_tunnel_that_still_tries_to_reach_the_provider_is_no_dead_tunnel() {
    let test = "a_tunnel_that_still_tries_to_reach_the_provider_is_no_dead_tunnel";
    in_own_network(test, async {
        let network = Network::start(&[PROVIDER]).await;
        let _tunnel = network.tunnel(&[STATIC], &[PROVIDER]).await;
        network.router.run("nft add table inet firewall");
        let chain = "{ type filter hook forward priority 0; policy drop; }";
        network
            .router
            .run(&format!("nft add chain inet firewall rules {chain}"));
        let doctor = network.doctor().with(&["--timeout", "3"]);
        let (texts, commands) = only(&doctor, "connect_timeout").await;
        assert!(texts.contains("firewall"), "{texts}");
        assert!(commands[0].ends_with("--timeout 20"), "{commands:?}");
    });
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces and nft(8)"
)]
fn devices_that_drop_hellos_and_open_tls_are_found_on_the_path() {
    let test = "devices_that_drop_hellos_and_open_tls_are_found_on_the_path";
    in_own_network(test, async {
        let network = Network::start(&[PROVIDER]).await;
        let _tunnel = network.tunnel(&[STATIC], &[PROVIDER]).await;
        network.fake.allow(&[STATIC]);
        // Between the client and the tunnel: a device that reads one segment.
        let device = TcpListener::bind("192.0.2.1:0").await.unwrap();
        let port = device.local_addr().unwrap().port();
        let to: SocketAddr = "192.0.2.1:9293".parse().unwrap();
        tokio::spawn(serve(Drops::Split, device, to));
        run("nft add table ip middlebox");
        let chain = "{ type nat hook prerouting priority -100; }";
        run(&format!("nft add chain ip middlebox in {chain}"));
        run(&format!(
            "nft add rule ip middlebox in iifname app0 tcp dport 9293 redirect to :{port}"
        ));
        let whole = Doctor::new("http://alice:CANARY-s3cr%25t@192.0.2.1:9293", &network.fake)
            .key("GEMINI_API_KEY", "listed")
            .with(&["--endpoint", HOST])
            .on(&network.app);
        only(&whole, "split_hello_dropped").await;
        run("nft delete table ip middlebox");
        assert!(whole.codes().await.is_empty());
        // Behind the tunnel: packets of full size are lost.
        let router = &network.router;
        router.run("nft add table inet middlebox");
        let forward = "{ type filter hook forward priority 0; }";
        router.run(&format!("nft add chain inet middlebox rules {forward}"));
        router.run("nft add rule inet middlebox rules tcp dport 443 meta length > 1200 drop");
        only(
            &network.doctor().with(&["--timeout", "6"]),
            "big_hello_dropped",
        )
        .await;
        router.run("nft delete table inet middlebox");
        // Behind the tunnel: a device that opens TLS.
        let before = network.fake.requests();
        let inspection = Authority::new("Inspection CA");
        let listener = listen(router, "198.51.100.1:0");
        let port = listener.local_addr().unwrap().port();
        let issued = inspection.server(&[HOST]);
        let opened = Fake::at(listener, &network.authority, &issued, rustls::ALL_VERSIONS);
        router.run("nft add table ip middlebox");
        router.run(&format!("nft add chain ip middlebox in {chain}"));
        router.run(&format!(
            "nft add rule ip middlebox in tcp dport 443 redirect to :{port}"
        ));
        let (texts, _) = only(&network.doctor(), "tls_is_opened").await;
        assert!(texts.contains("Inspection CA"), "{texts}");
        assert_eq!((opened.requests(), network.fake.requests()), (0, before));
        router.run("nft delete table ip middlebox");
        assert!(network.doctor().codes().await.is_empty());
    });
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs user namespaces")]
fn an_address_of_the_wrong_family_is_found() {
    in_own_network("an_address_of_the_wrong_family_is_found", async {
        let network = Network::start(&[PROVIDER]).await;
        network.fake.allow(&[STATIC]);
        let six = "2001:db8:3::80";
        // The provider sees the tunnel's IPv6 address, and the list has IPv4 only.
        let _tunnel = network.tunnel(&[STATIC, "2001:db8:2::2"], &[six]).await;
        let (texts, _) = only(&network.doctor(), "ipv6_not_listed").await;
        assert!(texts.contains("2001:db8:2::2"), "{texts}");
        network.fake.allow(&[STATIC, "2001:db8:2::2"]);
        assert!(network.doctor().codes().await.is_empty());
    });
}

/// The provider has IPv6 only, and the tunnel has no address of that family.
#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs user namespaces")]
fn a_provider_of_the_other_family_is_found() {
    in_own_network("a_provider_of_the_other_family_is_found", async {
        let network = Network::start(&[PROVIDER]).await;
        let six = "2001:db8:3::80";
        let _tunnel = network.tunnel(&[STATIC], &[six]).await;
        let (texts, _) = only(&network.doctor(), "tunnel_refused").await;
        assert!(texts.contains("dns_failed"), "{texts}");
    });
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs user namespaces")]
fn a_no_proxy_that_bypasses_the_tunnel_is_found_and_the_printed_line_mends_it() {
    let test = "a_no_proxy_that_bypasses_the_tunnel_is_found_and_the_printed_line_mends_it";
    in_own_network(test, async {
        let network = Network::start(&[PROVIDER]).await;
        let _tunnel = network.tunnel(&[STATIC], &[PROVIDER]).await;
        network.fake.allow(&[STATIC]);
        let bypassing = "localhost,.googleapis.com,203.0.113.9";
        let doctor = network.doctor().env("NO_PROXY", bypassing);
        let (texts, commands) = only(&doctor, "no_proxy_matches").await;
        assert!(texts.contains(".googleapis.com"), "{texts}");
        let script = format!("{}; printf %s \"$NO_PROXY\"", commands[0]);
        let ran = std::process::Command::new("sh")
            .args(["-ec", &script])
            .output();
        let rest = String::from_utf8(ran.unwrap().stdout).unwrap();
        assert_eq!(rest, "localhost,203.0.113.9");
        assert!(
            network
                .doctor()
                .env("NO_PROXY", &rest)
                .codes()
                .await
                .is_empty()
        );
    });
}
