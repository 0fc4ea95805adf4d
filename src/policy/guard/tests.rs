//! The blocks at both edges, the operator's exemptions and ranges, and this host's own addresses.

use std::net::Ipv6Addr;

use super::special::{NOT_GLOBAL_V4, NOT_GLOBAL_V6};
use super::*;
use proptest::prelude::*;

fn class(address: &str) -> Option<&'static str> {
    not_global(address.parse().unwrap())
}

#[test]
fn both_edges_of_every_block_are_denied() {
    for (net, name) in NOT_GLOBAL_V4 {
        for edge in [net.network(), net.broadcast()] {
            assert_eq!(not_global(edge.into()), Some(name), "{edge}");
        }
    }
    for (net, _) in NOT_GLOBAL_V6 {
        for edge in [net.network(), net.broadcast()] {
            assert!(not_global(edge.into()).is_some(), "{edge}");
        }
    }
}

#[test]
fn neighbours_of_the_blocks_are_reachable() {
    for address in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.0.3.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.255",
        "203.0.114.0",
        "223.255.255.255",
        "142.250.1.95",
        "199.36.153.8",
        "2000::1",
        "2001:200::1",
        "2001:4860:4802:32::a",
        "2003::1",
        "2600:1900::1",
        "2600:1900::400:5efe:1:1",
        "2600:1900::5efe:0:0:1",
        "3ffe::1",
    ] {
        assert_eq!(class(address), None, "{address}");
    }
}

#[test]
fn ipv4_inside_ipv6_is_always_denied() {
    for address in [
        "::ffff:142.250.1.95",
        "::142.250.1.95",
        "::ffff:0:142.250.1.95",
        "64:ff9b::142.250.1.95",
        "64:ff9b:1::8efa:15f",
        "2002:8efa:15f::1",
        "2001:0:8efa:15f::1",
        "2001:4860::5efe:10.0.0.1",
        "2001:4860:1:2:200:5efe:8efa:15f",
        "2001:4860:1:2:300:5efe:8efa:15f",
        "::",
        "::1",
        "fd00::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "4000::1",
    ] {
        assert!(class(address).is_some(), "{address}");
    }
}

#[test]
fn one_forbidden_address_refuses_the_answer() {
    let guard = AddressGuard::new(Vec::new());
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(
        guard
            .judge(
                &[ip("142.250.1.95"), ip("142.250.1.96")],
                &OwnAddresses::default()
            )
            .unwrap()
            .len(),
        2
    );
    let refused = guard
        .judge(
            &[ip("142.250.1.95"), ip("169.254.169.254")],
            &OwnAddresses::default(),
        )
        .unwrap_err();
    assert_eq!(refused.address, ip("169.254.169.254"));
    assert_eq!(
        guard
            .judge(
                &[ip("142.250.1.95")],
                &OwnAddresses::new(vec![ip("142.250.1.95")])
            )
            .unwrap_err()
            .class,
        "an address of this host"
    );
}

#[test]
fn only_the_exact_address_opens_an_address_of_this_host() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let own = OwnAddresses::new(vec![ip("10.0.0.1"), ip("10.0.0.2"), ip("2001:db8::1")]);
    let exempt = ["10.0.0.0/8", "10.0.0.2/32", "2001:db8::/32"].map(|net| net.parse().unwrap());
    let guard = AddressGuard::new(exempt.to_vec()).behind(&[
        ip("198.51.100.9"),
        ip("142.250.1.95"),
        ip("10.0.0.2"),
    ]);
    let class = |address: &str| guard.judge(&[ip(address)], &own).unwrap_err().class;
    assert_eq!(
        (class("10.0.0.1"), class("2001:db8::1")),
        ("an address of this host", "an address of this host")
    );
    assert_eq!(
        class("142.250.1.95"),
        "this host's own public address (egress.public)"
    );
    let let_through = |address: &str| *guard.judge(&[ip(address)], &own).unwrap().first().unwrap();
    assert!(let_through("10.0.0.2").may_be_own(), "named one by one");
    assert!(!let_through("10.0.0.3").may_be_own(), "by a range");
    assert!(!let_through("142.250.1.96").may_be_own());
}

/// connect(2) to the unspecified address reaches this host.
#[test]
fn a_range_does_not_exempt_the_unspecified_address() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let everything = |more: &[&str]| {
        let nets = [&["0.0.0.0/0", "::/0", "::/96", "0.0.0.0/8"], more].concat();
        AddressGuard::new(nets.iter().map(|net| net.parse().unwrap()).collect())
            .translating(&["64:ff9b::/96".parse().unwrap()])
    };
    for address in [
        "::",
        "0.0.0.0",
        "::ffff:0.0.0.0",
        "::ffff:0:0.0.0.0",
        "64:ff9b::0.0.0.0",
        "2002::1",
        "2001:0:0:0:1::",
        "2001:0:8.8.8.8::ffff:ffff",
        "2001:4860::5efe:0.0.0.0",
    ]
    .map(|text| text.replace("8.8.8.8", "808:808"))
    {
        let refused = everything(&[])
            .judge(&[ip(&address)], &OwnAddresses::default())
            .map(|_| ());
        assert_eq!(
            refused.map_err(|refused| refused.class),
            Err("an address of this host"),
            "{address}"
        );
    }
    // `::1.2.3.4` and 0.0.0.1 are other addresses.
    for address in ["::1.2.3.4", "0.0.0.1", "64:ff9b::8.8.8.8"] {
        assert!(
            everything(&[])
                .judge(&[ip(address)], &OwnAddresses::default())
                .is_ok(),
            "{address}"
        );
    }
    let named = everything(&["::/128", "0.0.0.0/32"]);
    for address in ["::", "0.0.0.0", "64:ff9b::0.0.0.0"] {
        assert!(
            named
                .judge(&[ip(address)], &OwnAddresses::default())
                .is_ok(),
            "{address}"
        );
    }
}

#[test]
fn an_exemption_covers_its_own_range_only() {
    let guard = AddressGuard::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert!(
        guard
            .judge(&[ip("127.0.0.9")], &OwnAddresses::default())
            .is_ok()
    );
    assert!(
        guard
            .judge(&[ip("10.0.0.1")], &OwnAddresses::default())
            .is_err()
    );
    assert!(
        guard
            .judge(&[ip("::ffff:127.0.0.9")], &OwnAddresses::default())
            .is_err()
    );
}

#[test]
fn only_addresses_in_the_ranges_or_exempt_pass() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let ranges = Ranges::of(&[
        "142.250.0.0/15".parse().unwrap(),
        "10.0.0.0/8".parse().unwrap(),
    ]);
    let guard = AddressGuard::new(vec!["198.51.100.0/24".parse().unwrap()]).within(ranges);
    assert_eq!(
        guard
            .judge(
                &[ip("142.250.1.95"), ip("198.51.100.9")],
                &OwnAddresses::default()
            )
            .unwrap()
            .len(),
        2
    );
    for (outside, class) in [
        ("142.252.0.0", "outside of policy.destination_ranges"),
        ("2001:4860::8888", "outside of policy.destination_ranges"),
        ("10.0.0.1", "private (RFC 1918)"),
    ] {
        let refused = guard
            .judge(&[ip("142.250.1.95"), ip(outside)], &OwnAddresses::default())
            .unwrap_err();
        assert_eq!(
            (refused.address, refused.class),
            (ip(outside), class),
            "inside the ranges or not"
        );
    }
    assert_eq!(
        guard.standing(
            ip("142.250.1.95"),
            &OwnAddresses::new(vec![ip("142.250.1.95")])
        ),
        Standing::Own
    );
    assert_ne!(
        guard.to_string(),
        AddressGuard::new(vec!["198.51.100.0/24".parse().unwrap()]).to_string()
    );
}

#[test]
fn the_block_is_that_of_the_class() {
    let block = |text: &str| block(text.parse().unwrap()).map(|net| net.to_string());
    assert_eq!(block("10.1.2.3").as_deref(), Some("10.0.0.0/8"));
    assert_eq!(
        block("2001:2::1").as_deref(),
        Some("2001:2::/48"),
        "the narrower one comes first"
    );
    assert_eq!((block("142.250.1.95"), block("8000::")), (None, None));
}

proptest! {
    /// Where the standard library classifies a block too, the guard agrees.
    #[test]
    fn no_special_address_of_std_passes(bits in any::<u32>(), bits6 in any::<u128>()) {
        let v4 = Ipv4Addr::from_bits(bits);
        let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_broadcast()
            || v4.is_documentation() || v4.is_multicast() || v4.is_unspecified();
        prop_assert!(!special || not_global(v4.into()).is_some());
        let v6 = Ipv6Addr::from_bits(bits6);
        let outside = v6.segments()[0] & 0xe000 != 0x2000;
        prop_assert!(!outside || not_global(v6.into()).is_some());
        prop_assert!(not_global(v4.to_ipv6_mapped().into()).is_some());
        prop_assert!(not_global(v4.to_ipv6_compatible().into()).is_some());
    }
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn what_an_address_holds_is_judged_like_the_address() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let prefixes = ["64:ff9b::/96", "2600:1::/32"].map(|text| text.parse().unwrap());
    let ranges = Ranges::of(&["8.0.0.0/8".parse().unwrap()]);
    let exempt = ["10.0.0.0/8", "192.0.2.7/32", "64:ff9b::203.0.113.0/120"];
    let guard = AddressGuard::new(exempt.map(|net| net.parse().unwrap()).to_vec())
        .translating(&prefixes)
        .within(ranges)
        .behind(&[ip("8.8.9.9")]);
    let own = OwnAddresses::new(vec![
        ip("10.0.0.1"),
        ip("192.0.2.7"),
        ip("64:ff9b::8.1.1.1"),
    ]);
    let judge = |address: &str| {
        guard
            .judge(&[ip(address)], &own)
            .map(|judged| *judged.first().unwrap())
    };
    for (address, holds, class) in [
        (
            "64:ff9b::9.9.9.9",
            Some("9.9.9.9"),
            "outside of policy.destination_ranges",
        ),
        (
            "64:ff9b::10.0.0.1",
            Some("10.0.0.1"),
            "an address of this host",
        ),
        (
            "64:ff9b::8.8.9.9",
            Some("8.8.9.9"),
            "this host's own public address (egress.public)",
        ),
        ("64:ff9b::8.1.1.1", None, "an address of this host"),
        (
            "64:ff9b::203.0.113.9",
            Some("203.0.113.9"),
            "documentation (RFC 5737)",
        ),
        ("2600:1:808:808:100::", None, RESERVED_BITS),
    ] {
        let refused = judge(address).unwrap_err();
        let holds = holds.map(|text| text.parse().unwrap());
        assert_eq!((refused.holds, refused.class), (holds, class), "{address}");
    }
    for address in ["64:ff9b::8.8.8.8", "64:ff9b::10.0.0.2", "2600:1:808:808::"] {
        let judged = judge(address).unwrap();
        assert!(!judged.may_be_own(), "{address}");
        assert_eq!(
            judged.holds().count(),
            if address.starts_with("64") { 2 } else { 1 },
            "{address}"
        );
    }
    assert_eq!(
        judge("64:ff9b::192.0.2.7").unwrap().holds().count(),
        0,
        "named one by one"
    );
    let without = AddressGuard::new(Vec::new());
    assert_ne!(
        without.to_string(),
        AddressGuard::new(Vec::new())
            .translating(&prefixes)
            .to_string()
    );
}

proptest! {
    /// No IPv6 exemption and no prefix lets an address through that is refused in IPv4.
    #[test]
    fn addresses_inside_others_are_never_exempt(bits in any::<u32>(), form in 0_usize..8) {
        let v4 = Ipv4Addr::from_bits(bits);
        let low = u128::from(bits);
        let address = match form {
            0 => 0xffff << 32 | low,
            1 => low,
            2 => 0xffff << 48 | low,
            3 => 0x0064_ff9b << 96 | low,
            4 => 0x2002 << 112 | low << 80 | 1,
            5 => 0x2001_0000 << 96 | u128::from(!bits),
            6 => 0x2001_4860 << 96 | 0x0200_5efe << 32 | low,
            _ => 0x2600_0001 << 96 | low << 64,
        };
        prop_assume!(address > 1);
        let guard = AddressGuard::new(vec!["::/0".parse().unwrap()]).translating(&["2600:1::/32".parse().unwrap()]);
        let judged = guard.judge(&[Ipv6Addr::from_bits(address).into()], &OwnAddresses::default());
        let inside = guard.judge(&[v4.into()], &OwnAddresses::default());
        // Teredo also embeds a server, here 0.0.0.0.
        prop_assert_eq!(judged.is_ok(), inside.is_ok() && form != 5);
    }
}
