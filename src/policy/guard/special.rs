//! The IANA special-purpose blocks (RFC 6890 and its successors, as of 2026): the addresses that
//! are not globally reachable. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::policy::translation::is_isatap;

/// The special-purpose block that contains an address, even a globally reachable one; None if there
/// is none.
#[must_use]
pub fn block(address: IpAddr) -> Option<IpNet> {
    match address {
        IpAddr::V4(v4) => NOT_GLOBAL_V4
            .iter()
            .find(|(net, _)| net.contains(&v4))
            .map(|(net, _)| IpNet::V4(*net)),
        IpAddr::V6(v6) => NOT_GLOBAL_V6
            .iter()
            .find(|(net, _)| net.contains(&v6))
            .map(|(net, _)| IpNet::V6(*net)),
    }
}

/// Why an address is not globally reachable; None if it is.
#[must_use]
pub fn not_global(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => NOT_GLOBAL_V4
            .iter()
            .find(|(net, _)| net.contains(&v4))
            .map(|(_, class)| *class),
        IpAddr::V6(v6) => {
            let special = NOT_GLOBAL_V6
                .iter()
                .find(|(net, _)| net.contains(&v6))
                .map(|(_, class)| *class);
            let special = special.or_else(|| is_isatap(v6).then_some(ISATAP));
            special.or_else(|| {
                (!GLOBAL_UNICAST_V6.contains(&v6)).then_some("outside of global unicast")
            })
        }
    }
}

const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)
}

const fn v6(first: [u16; 6], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f] = first;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, 0, 0), prefix)
}

/// IANA IPv4 Special-Purpose Address Registry, the entries that are not globally reachable.
pub(super) const NOT_GLOBAL_V4: [(Ipv4Net, &str); 16] = [
    (v4(0, 0, 0, 8), "of this network (RFC 791)"),
    (v4(10, 0, 0, 8), "private (RFC 1918)"),
    (v4(100, 64, 0, 10), "carrier-grade NAT (RFC 6598)"),
    (v4(127, 0, 0, 8), "loopback (RFC 1122)"),
    (v4(169, 254, 0, 16), "link-local (RFC 3927)"),
    (v4(172, 16, 0, 12), "private (RFC 1918)"),
    (v4(192, 0, 0, 24), "for protocol assignments (RFC 6890)"),
    (v4(192, 0, 2, 24), "documentation (RFC 5737)"),
    (v4(192, 88, 99, 24), "a 6to4 relay (RFC 7526)"),
    (v4(192, 168, 0, 16), "private (RFC 1918)"),
    (v4(198, 18, 0, 15), "benchmarking (RFC 2544)"),
    (v4(198, 51, 100, 24), "documentation (RFC 5737)"),
    (v4(203, 0, 113, 24), "documentation (RFC 5737)"),
    (v4(224, 0, 0, 4), "multicast (RFC 5771)"),
    // Limited broadcast is the last address of the reserved block.
    (v4(240, 0, 0, 4), "reserved (RFC 1112)"),
    // Azure answers on this address from inside every virtual machine, although its number is
    // public.
    (
        Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32),
        "a cloud platform's metadata service",
    ),
];

/// IANA IPv6 Special-Purpose Address Registry, the entries that are not globally reachable or carry an IPv4 address.
pub(super) const NOT_GLOBAL_V6: [(Ipv6Net, &str); 18] = [
    (
        Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128),
        "unspecified (RFC 4291)",
    ),
    (
        Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128),
        "loopback (RFC 4291)",
    ),
    (v6([0, 0, 0, 0, 0, 0xffff], 96), "IPv4-mapped (RFC 4291)"),
    (v6([0, 0, 0, 0, 0, 0], 96), "IPv4-compatible (RFC 4291)"),
    (
        v6([0, 0, 0, 0, 0xffff, 0], 96),
        "IPv4-translated (RFC 2765)",
    ),
    (v6([0x64, 0xff9b, 0, 0, 0, 0], 96), "NAT64 (RFC 6052)"),
    (v6([0x64, 0xff9b, 1, 0, 0, 0], 48), "NAT64 (RFC 8215)"),
    (v6([0x100, 0, 0, 0, 0, 0], 64), "discard-only (RFC 6666)"),
    (v6([0x2001, 0, 0, 0, 0, 0], 32), "Teredo (RFC 4380)"),
    (v6([0x2001, 2, 0, 0, 0, 0], 48), "benchmarking (RFC 5180)"),
    (
        v6([0x2001, 0xdb8, 0, 0, 0, 0], 32),
        "documentation (RFC 3849)",
    ),
    // The rest of the block: ORCHID and what IANA may assign; nothing in it is a public web service.
    (
        v6([0x2001, 0, 0, 0, 0, 0], 23),
        "for protocol assignments (RFC 2928)",
    ),
    (v6([0x2002, 0, 0, 0, 0, 0], 16), "6to4 (RFC 3056)"),
    (v6([0x3fff, 0, 0, 0, 0, 0], 20), "documentation (RFC 9637)"),
    (
        v6([0x5f00, 0, 0, 0, 0, 0], 16),
        "segment routing (RFC 9602)",
    ),
    (v6([0xfc00, 0, 0, 0, 0, 0], 7), "unique local (RFC 4193)"),
    (v6([0xfe80, 0, 0, 0, 0, 0], 10), "link-local (RFC 4291)"),
    (v6([0xff00, 0, 0, 0, 0, 0], 8), "multicast (RFC 4291)"),
];

/// The whole global unicast space that IANA allocates from (RFC 4291, section 2.4).
const GLOBAL_UNICAST_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0], 3);
pub(super) const ISATAP: &str = "ISATAP (RFC 5214)";
