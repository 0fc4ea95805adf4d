//! `egress.nat64`: the IPv4 address in an address beneath a NAT64 prefix is judged, at each length
//! of RFC 6052; an exemption of the outer address exempts nothing inside, and without the key such
//! an address is refused.

use std::net::SocketAddr;

use support::client::connect;
use support::command;
use support::command::sealway;
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{OtherHost, in_own_network, run};
use support::raw::RawUpstream;

/// The prefixes of the translator, and an address of each that holds 8.8.8.8.
const PREFIXES: [(&str, &str); 7] = [
    ("64:ff9b::/96", "64:ff9b::808:808"),
    ("64:ff9b:1:a::/64", "64:ff9b:1:a:8:808:800::"),
    ("2600:100::/32", "2600:100:808:808::"),
    ("2600:200:100::/40", "2600:200:108:808:8::"),
    ("2600:300:100::/48", "2600:300:100:808:8:800::"),
    ("2600:400:100:100::/56", "2600:400:100:108:8:808::"),
    ("fd00:64::/96", "fd00:64::8.8.8.8"),
];

/// Another host is the translator.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn the_embedded_ipv4_address_decides() {
    in_own_network("the_embedded_ipv4_address_decides", async {
        let other = OtherHost::start();
        let listener = other.listen("[::1]:0".parse::<SocketAddr>().unwrap());
        let upstream = RawUpstream::elsewhere(listener, "2600:100:808:808::".parse().unwrap());
        let port = upstream.addr().port();
        // An address that is local only by a route.
        run("ip route add local 142.250.7.0/24 dev lo");
        let prefixes: Vec<_> = PREFIXES.iter().map(|(prefix, _)| *prefix).collect();
        let mut config = Config::closed()
            .egress(&["2001:db8:2::1"])
            .exempt(NAMED)
            .egress_line(&format!("nat64 = {prefixes:?}\npublic = [\"142.250.9.9\"]"));
        let mut names: Vec<(String, String, Option<&str>)> = Vec::new();
        for (_, address) in PREFIXES {
            names.push((format!("n{}.example", names.len()), address.into(), None));
        }
        for (address, error) in REFUSED {
            names.push((
                format!("n{}.example", names.len()),
                address.into(),
                Some(error),
            ));
        }
        for (name, address, _) in &names {
            config = config
                .allow(&format!("{name}:{port}"))
                .resolve(name, &[address]);
        }
        let daemon = Daemon::start(&config).await;
        for (name, address, refused) in &names {
            let reply = connect(daemon.proxy_addr(), &format!("{name}:{port}"), &[]).await;
            let Some(error) = refused else {
                let _client = reply.established();
                let taken = upstream.accept().await;
                assert_eq!(
                    taken.peer_addr().unwrap().ip().to_string(),
                    "2001:db8:2::1",
                    "{address}"
                );
                continue;
            };
            assert_eq!(reply.status(), 403, "{address}");
            let record = daemon
                .line(address, |line| line["host"] == name.as_str())
                .await;
            assert_eq!(record["code"], "destination_denied", "{record}");
            assert_eq!(record["error"].as_str(), Some(*error), "{record}");
        }
        assert!(upstream.is_untouched().await);
    });
}

const NAMED: &str = "64:ff9b::142.250.7.2";

const REFUSED: [(&str, &str); 11] = [
    (
        "64:ff9b::169.254.169.254",
        "64:ff9b::a9fe:a9fe holds 169.254.169.254, which is link-local (RFC 3927)",
    ),
    (
        "2600:300:100:a00:0:700::",
        "2600:300:100:a00:0:700:: holds 10.0.0.7, which is private (RFC 1918)",
    ),
    (
        "2600:100:7f00:3::",
        "2600:100:7f00:3:: holds 127.0.0.3, which is loopback (RFC 1122)",
    ),
    (
        "2600:400:100:1c0:0:201::",
        "2600:400:100:1c0:0:201:: holds 192.0.2.1, which is an address of this host",
    ),
    (
        "64:ff9b::142.250.9.9",
        "64:ff9b::8efa:909 holds 142.250.9.9, which is this host's own public address (egress.public)",
    ),
    (
        "64:ff9b::142.250.7.1",
        "64:ff9b::8efa:701 holds 142.250.7.1, which is local to this host by its routes",
    ),
    // It is named, but not what is inside.
    (
        NAMED,
        "64:ff9b::8efa:702 holds 142.250.7.2, which is local to this host by its routes",
    ),
    (
        "64:ff9b:1:a:108:808:800::",
        "64:ff9b:1:a:108:808:800:0 is NAT64 with bits 64 to 71 that are not zero (RFC 6052)",
    ),
    (
        "2600:100:808:808:0:5efe:a00:1",
        "2600:100:808:808:0:5efe:a00:1 is ISATAP (RFC 5214)",
    ),
    (
        "64:ff9b:1:b:8:808:800::",
        "64:ff9b:1:b:8:808:800:0 is NAT64 (RFC 8215)",
    ),
    (
        "fd00:64:0:1::8.8.8.8",
        "fd00:64:0:1::808:808 is unique local (RFC 4193)",
    ),
];

/// The work-around before the key existed: it must not lead to internal addresses.
#[tokio::test]
async fn an_exemption_of_the_outer_address_exempts_nothing_inside() {
    for (exempt, address, inside) in [
        (
            "64:ff9b::/96",
            "64:ff9b::169.254.169.254",
            "169.254.169.254",
        ),
        ("::/0", "64:ff9b::10.0.0.1", "10.0.0.1"),
        (
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::169.254.169.254",
            "169.254.169.254",
        ),
        ("::ffff:0:0/96", "::ffff:169.254.169.254", "169.254.169.254"),
        ("::/96", "::10.0.0.1", "10.0.0.1"),
        // connect(2) to the unspecified address reaches this host.
        ("::/96", "::", "an address of this host"),
        ("::/0", "::", "an address of this host"),
        ("0.0.0.0/8", "0.0.0.0", "an address of this host"),
        ("2002::/16", "2002:a9fe:a9fe::1", "169.254.169.254"),
        ("2001::/32", "2001:0:808:808::f5ff:fffe", "10.0.0.1"),
        ("2001:4860::/32", "2001:4860::200:5efe:a00:1", "10.0.0.1"),
        ("64:ff9b:1::/48", "64:ff9b:1:a9fe:a9:fe00::", "egress.nat64"),
    ] {
        let ended = explain(&format!("allow_destinations = [{exempt:?}]"), "", address).await;
        assert_eq!(ended.status, 1, "{address}: {}", ended.stdout);
        assert!(
            ended.stdout.contains("(destination_denied)") && ended.stdout.contains(inside),
            "{address}: {}",
            ended.stdout
        );
    }
    // Both are named, so the operator means it. A public address inside needs no exemption of its
    // own.
    for (exempt, address) in [
        ("[\"64:ff9b::/96\", \"10.0.0.0/8\"]", "64:ff9b::10.0.0.1"),
        ("[\"64:ff9b::/96\"]", "64:ff9b::8.8.8.8"),
        ("[\"2002::/16\"]", "2002:808:808::1"),
    ] {
        let ended = explain(&format!("allow_destinations = {exempt}"), "", address).await;
        assert!(
            ended.stdout.contains("verdict: allowed"),
            "{address}: {}",
            ended.stdout
        );
    }
}

#[tokio::test]
async fn explain_shows_embedded_addresses_and_check_validates_prefixes() {
    let address = |stdout: &str| {
        let line = stdout.lines().find(|line| line.starts_with("address:"));
        let words: Vec<_> = line.unwrap().split_whitespace().collect();
        words.join(" ")
    };
    let nat64 = "nat64 = [\"64:ff9b::/96\"]";
    for (policy, egress, at, wanted) in [
        (
            "",
            nat64,
            "64:ff9b::8.8.8.8",
            "address: 64:ff9b::808:808 allowed: NAT64 by 64:ff9b::/96 of egress.nat64, holds 8.8.8.8: globally reachable",
        ),
        (
            "allow_destinations = [\"10.1.0.0/16\"]",
            nat64,
            "64:ff9b::10.1.2.3",
            "address: 64:ff9b::a01:203 allowed: NAT64 by 64:ff9b::/96 of egress.nat64, holds 10.1.2.3: exempt by 10.1.0.0/16 of policy.allow_destinations",
        ),
        (
            "allow_destinations = [\"10.1.0.0/16\"]",
            nat64,
            "64:ff9b::10.2.2.3",
            "address: 64:ff9b::a02:203 denied: holds 10.2.2.3, which is private (RFC 1918) (destination_denied)",
        ),
        (
            "",
            "",
            "64:ff9b::8.8.8.8",
            "address: 64:ff9b::808:808 denied: NAT64 (RFC 6052), in 64:ff9b::/96 (destination_denied)",
        ),
    ] {
        let ended = explain(policy, egress, at).await;
        assert_eq!(address(&ended.stdout), wanted);
    }
    for (prefix, wrong) in [
        (
            "64:ff9b::/95",
            "egress.nat64: \"64:ff9b::/95\": a NAT64 prefix is an IPv6 network of /32, /40, /48, /56, /64 or /96",
        ),
        (
            "64:ff9b::",
            "egress.nat64: \"64:ff9b::\": a NAT64 prefix is an IPv6 network of /32, /40, /48, /56, /64 or /96",
        ),
        (
            "::ffff:0:0/96",
            "egress.nat64: \"::ffff:0:0/96\": no NAT64 translates IPv4-mapped addresses",
        ),
        (
            "2600::100:0:0:0/96",
            "bits 64 to 71 of a NAT64 prefix must be zero",
        ),
    ] {
        let ended = explain("", &format!("nat64 = [{prefix:?}]"), "64:ff9b::1").await;
        assert_eq!(ended.status, 78, "{prefix}");
        assert!(ended.stderr.contains(wrong), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn an_address_beneath_two_prefixes_is_judged_by_both() {
    let nat64 = "nat64 = [\"2600:1::/32\", \"2600:1:808:808::/96\", \"2600:1::/32\"]";
    for (address, verdict) in [
        // 8.8.8.8 by the first, 8.8.4.4 by the second.
        ("2600:1:808:808::8.8.4.4", "verdict: allowed"),
        ("2600:1:808:808::10.0.0.1", "holds 10.0.0.1"),
        ("2600:1:a00:1::8.8.4.4", "holds 10.0.0.1"),
    ] {
        let ended = explain("", nat64, address).await;
        assert!(
            ended.stdout.contains(verdict),
            "{address}: {}",
            ended.stdout
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sealway.toml");
    std::fs::write(&file, format!("[egress]\n{nat64}\n")).unwrap();
    let ended = sealway(&["check", "--offline", "--config", file.to_str().unwrap()]).await;
    let warning = "sealway: warning: egress.nat64: 2600:1::/32 and 2600:1:808:808::/96 overlap";
    assert_eq!(ended.stderr.matches(warning).count(), 1, "{}", ended.stderr);
}

/// An IPv6 source dials it, and no IPv4 source does.
#[tokio::test]
async fn an_ipv4_source_never_dials_a_nat64_address() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sealway.toml");
    let text = "[egress]\naddresses = [\"127.0.0.2\"]\nnat64 = [\"64:ff9b::/96\"]\n\
        [policy]\npresets = []\nallow = [\"a.example\"]\n[dns.hosts]\n\"a.example\" = [\"64:ff9b::8.8.8.8\"]\n";
    std::fs::write(&file, text).unwrap();
    let ended = sealway(&["explain", "a.example", "--config", file.to_str().unwrap()]).await;
    assert_eq!(ended.status, 1, "{}", ended.stdout);
}

/// The output of `sealway explain` for a name with this one address.
async fn explain(policy: &str, egress: &str, address: &str) -> command::Ended {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sealway.toml");
    let text = format!(
        "[egress]\naddresses = [\"127.0.0.2\", \"::1\"]\n{egress}\n\
         [policy]\npresets = []\nallow = [\"a.example\"]\n{policy}\n\
         [dns.hosts]\n\"a.example\" = [{address:?}]\n"
    );
    std::fs::write(&file, text).unwrap();
    sealway(&["explain", "a.example", "--config", file.to_str().unwrap()]).await
}
