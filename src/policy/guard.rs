//! The address guard: denies every address that is not globally reachable, this host's own, and those outside of the
//! operator's ranges.
//!
//! One pure classifier after the IANA special-purpose registries (RFC 6890 and its successors, read in 2026). It
//! judges the very address that is dialled, so a name that resolves to the inside (DNS rebinding, a poisoned answer)
//! ends here. IPv6 is allowed only within 2000::/3 less its exceptions, so every way to write IPv4 inside IPv6 is
//! denied, whatever IPv4 address it holds. Never unwraps such an address to judge what is within: the kernel or a
//! gateway might unwrap it otherwise.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::ranges::Ranges;

/// The classifier, the operator's exemptions and the operator's ranges.
#[derive(Debug)]
pub struct AddressGuard {
    exempt: Vec<IpNet>,
    ranges: Option<Ranges>,
}

/// How the guard sees one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Let through unseen, by this exemption.
    Exempt(IpNet),
    /// An address of this host.
    Own,
    /// Not globally reachable: the class of its block.
    NotGlobal(&'static str),
    /// Globally reachable, and outside of the operator's ranges.
    Outside,
    /// Let through.
    Reachable,
}

/// An address that the guard has let through: the only kind that is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamAddress(IpAddr);

/// The address that was refused, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {class}")]
pub struct Forbidden {
    /// The address.
    pub address: IpAddr,
    /// What it is.
    pub class: &'static str,
}

impl AddressGuard {
    /// A guard that lets the addresses in `exempt` through unseen.
    #[must_use]
    pub fn new(mut exempt: Vec<IpNet>) -> Self {
        exempt.sort();
        Self { exempt, ranges: None }
    }

    /// The same guard, which lets no address through outside of `ranges` but those that are exempt.
    #[must_use]
    pub fn within(self, ranges: Ranges) -> Self {
        Self { ranges: Some(ranges), ..self }
    }

    /// Whether there are ranges that an address must lie in.
    #[must_use]
    pub fn has_ranges(&self) -> bool {
        self.ranges.is_some()
    }

    /// Judges a whole answer: one forbidden address refuses all of it, because a name that points outside and inside
    /// at once is an attack.
    ///
    /// # Errors
    /// The first address that is forbidden.
    pub fn judge(&self, answer: &[IpAddr], own: &[IpAddr]) -> Result<Vec<UpstreamAddress>, Forbidden> {
        answer.iter().map(|address| self.judge_one(*address, own)).collect()
    }

    fn judge_one(&self, address: IpAddr, own: &[IpAddr]) -> Result<UpstreamAddress, Forbidden> {
        let class = match self.standing(address, own) {
            Standing::Exempt(_) | Standing::Reachable => return Ok(UpstreamAddress(address)),
            Standing::Own => "an address of this host",
            Standing::NotGlobal(class) => class,
            Standing::Outside => "outside of policy.destination_ranges",
        };
        Err(Forbidden { address, class })
    }

    /// How one address is seen, `own` being those of this host.
    #[must_use]
    pub fn standing(&self, address: IpAddr, own: &[IpAddr]) -> Standing {
        if let Some(net) = self.exempt.iter().find(|net| net.contains(&address)) {
            return Standing::Exempt(*net);
        }
        if own.contains(&address) {
            return Standing::Own;
        }
        match (not_global(address), &self.ranges) {
            (Some(class), _) => Standing::NotGlobal(class),
            (None, Some(ranges)) if !ranges.contains(address) => Standing::Outside,
            (None, _) => Standing::Reachable,
        }
    }
}

impl UpstreamAddress {
    /// The address.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.0
    }
}

impl fmt::Display for AddressGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exempt.iter().try_for_each(|net| writeln!(f, "allow_destination {}", net.trunc()))?;
        self.ranges.as_ref().map_or(Ok(()), |ranges| write!(f, "within\n{ranges}"))
    }
}

/// The special-purpose block that an address lies in; None when it lies in none, even if it is not globally reachable.
#[must_use]
pub fn block(address: IpAddr) -> Option<IpNet> {
    match address {
        IpAddr::V4(v4) => NOT_GLOBAL_V4.iter().find(|(net, _)| net.contains(&v4)).map(|(net, _)| IpNet::V4(*net)),
        IpAddr::V6(v6) => NOT_GLOBAL_V6.iter().find(|(net, _)| net.contains(&v6)).map(|(net, _)| IpNet::V6(*net)),
    }
}

/// Why an address is not globally reachable; None when it is.
#[must_use]
pub fn not_global(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => NOT_GLOBAL_V4.iter().find(|(net, _)| net.contains(&v4)).map(|(_, class)| *class),
        IpAddr::V6(v6) => {
            let special = NOT_GLOBAL_V6.iter().find(|(net, _)| net.contains(&v6)).map(|(_, class)| *class);
            special.or_else(|| (!GLOBAL_UNICAST_V6.contains(&v6)).then_some("outside of global unicast"))
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
const NOT_GLOBAL_V4: [(Ipv4Net, &str); 16] = [
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
    // Azure answers on it from inside every virtual machine; it is public by its number only.
    (Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32), "a cloud platform's metadata service"),
];

/// IANA IPv6 Special-Purpose Address Registry, the entries that are not globally reachable or carry an IPv4 address.
const NOT_GLOBAL_V6: [(Ipv6Net, &str); 18] = [
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "unspecified (RFC 4291)"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "loopback (RFC 4291)"),
    (v6([0, 0, 0, 0, 0, 0xffff], 96), "IPv4-mapped (RFC 4291)"),
    (v6([0, 0, 0, 0, 0, 0], 96), "IPv4-compatible (RFC 4291)"),
    (v6([0, 0, 0, 0, 0xffff, 0], 96), "IPv4-translated (RFC 2765)"),
    (v6([0x64, 0xff9b, 0, 0, 0, 0], 96), "NAT64 (RFC 6052)"),
    (v6([0x64, 0xff9b, 1, 0, 0, 0], 48), "NAT64 (RFC 8215)"),
    (v6([0x100, 0, 0, 0, 0, 0], 64), "discard-only (RFC 6666)"),
    (v6([0x2001, 0, 0, 0, 0, 0], 32), "Teredo (RFC 4380)"),
    (v6([0x2001, 2, 0, 0, 0, 0], 48), "benchmarking (RFC 5180)"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0], 32), "documentation (RFC 3849)"),
    // The rest of the block: ORCHID and what IANA may assign; nothing in it is a public web service.
    (v6([0x2001, 0, 0, 0, 0, 0], 23), "for protocol assignments (RFC 2928)"),
    (v6([0x2002, 0, 0, 0, 0, 0], 16), "6to4 (RFC 3056)"),
    (v6([0x3fff, 0, 0, 0, 0, 0], 20), "documentation (RFC 9637)"),
    (v6([0x5f00, 0, 0, 0, 0, 0], 16), "segment routing (RFC 9602)"),
    (v6([0xfc00, 0, 0, 0, 0, 0], 7), "unique local (RFC 4193)"),
    (v6([0xfe80, 0, 0, 0, 0, 0], 10), "link-local (RFC 4291)"),
    (v6([0xff00, 0, 0, 0, 0, 0], 8), "multicast (RFC 4291)"),
];

/// All that IANA has ever given out as global unicast (RFC 4291, section 2.4).
const GLOBAL_UNICAST_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0], 3);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
            "3ffe::1",
        ] {
            assert_eq!(class(address), None, "{address}");
        }
    }

    #[test]
    fn ipv4_inside_ipv6_is_denied_whatever_it_holds() {
        for address in [
            "::ffff:142.250.1.95",
            "::142.250.1.95",
            "::ffff:0:142.250.1.95",
            "64:ff9b::142.250.1.95",
            "64:ff9b:1::8efa:15f",
            "2002:8efa:15f::1",
            "2001:0:8efa:15f::1",
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
        assert_eq!(guard.judge(&[ip("142.250.1.95"), ip("142.250.1.96")], &[]).unwrap().len(), 2);
        let refused = guard.judge(&[ip("142.250.1.95"), ip("169.254.169.254")], &[]).unwrap_err();
        assert_eq!(refused.address, ip("169.254.169.254"));
        assert_eq!(
            guard.judge(&[ip("142.250.1.95")], &[ip("142.250.1.95")]).unwrap_err().class,
            "an address of this host"
        );
    }

    #[test]
    fn an_exemption_covers_its_own_range_only() {
        let guard = AddressGuard::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(guard.judge(&[ip("127.0.0.9")], &[ip("127.0.0.9")]).is_ok());
        assert!(guard.judge(&[ip("10.0.0.1")], &[]).is_err());
        assert!(guard.judge(&[ip("::ffff:127.0.0.9")], &[]).is_err());
    }

    #[test]
    fn only_what_lies_in_the_ranges_or_is_exempt_is_let_through() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let ranges = Ranges::of(&["142.250.0.0/15".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
        let guard = AddressGuard::new(vec!["198.51.100.0/24".parse().unwrap()]).within(ranges);
        assert_eq!(guard.judge(&[ip("142.250.1.95"), ip("198.51.100.9")], &[]).unwrap().len(), 2);
        for (outside, class) in [
            ("142.252.0.0", "outside of policy.destination_ranges"),
            ("2001:4860::8888", "outside of policy.destination_ranges"),
            ("10.0.0.1", "private (RFC 1918)"),
        ] {
            let refused = guard.judge(&[ip("142.250.1.95"), ip(outside)], &[]).unwrap_err();
            assert_eq!((refused.address, refused.class), (ip(outside), class), "inside the ranges or not");
        }
        assert_eq!(guard.standing(ip("142.250.1.95"), &[ip("142.250.1.95")]), Standing::Own);
        assert_ne!(guard.to_string(), AddressGuard::new(vec!["198.51.100.0/24".parse().unwrap()]).to_string());
    }

    #[test]
    fn the_block_is_that_of_the_class() {
        let block = |text: &str| block(text.parse().unwrap()).map(|net| net.to_string());
        assert_eq!(block("10.1.2.3").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(block("2001:2::1").as_deref(), Some("2001:2::/48"), "the narrower one comes first");
        assert_eq!((block("142.250.1.95"), block("8000::")), (None, None));
    }

    proptest! {
        /// The standard library names some of the blocks as well; where it does, the guard agrees.
        #[test]
        fn no_address_that_std_knows_as_special_is_let_through(bits in any::<u32>(), bits6 in any::<u128>()) {
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
}
