//! The address guard: denies every address that is not globally reachable, this host's own, and those outside of the
//! operator's ranges. Which routes lead to this host is asked of the kernel by the dial (`dial/routing.rs`).
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
    public: Vec<IpAddr>,
}

/// How the guard sees one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Let through unseen, by this exemption.
    Exempt(IpNet),
    /// An address of this host, which no exemption names one by one.
    Own,
    /// An address by which others know this host, because a NAT in front of it has it.
    Public,
    /// Not globally reachable: the class of its block.
    NotGlobal(&'static str),
    /// Globally reachable, and outside of the operator's ranges.
    Outside,
    /// Let through.
    Reachable,
}

/// An address that the guard has let through: the only kind that is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamAddress {
    ip: IpAddr,
    may_be_own: bool,
}

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
    /// A guard that lets the addresses in `exempt` through. A range lets no address of this host through; an entry for
    /// one address does.
    #[must_use]
    pub fn new(mut exempt: Vec<IpNet>) -> Self {
        exempt.sort();
        Self {
            exempt,
            ranges: None,
            public: Vec::new(),
        }
    }

    /// The same guard, which takes the addresses that a NAT in front of this host has for this host's own.
    #[must_use]
    pub fn behind(self, public: &[IpAddr]) -> Self {
        Self {
            public: public.to_vec(),
            ..self
        }
    }

    /// The same guard, which lets no address through outside of `ranges` but those that are exempt.
    #[must_use]
    pub fn within(self, ranges: Ranges) -> Self {
        Self {
            ranges: Some(ranges),
            ..self
        }
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
    pub fn judge(
        &self,
        answer: &[IpAddr],
        own: &[IpAddr],
    ) -> Result<Vec<UpstreamAddress>, Forbidden> {
        answer
            .iter()
            .map(|address| self.judge_one(*address, own))
            .collect()
    }

    fn judge_one(&self, address: IpAddr, own: &[IpAddr]) -> Result<UpstreamAddress, Forbidden> {
        let class = match self.standing(address, own) {
            Standing::Exempt(net) => {
                return Ok(UpstreamAddress {
                    ip: address,
                    may_be_own: is_one_address(&net),
                });
            }
            Standing::Reachable => {
                return Ok(UpstreamAddress {
                    ip: address,
                    may_be_own: false,
                });
            }
            Standing::Own => "an address of this host",
            Standing::Public => "this host's own public address (egress.public)",
            Standing::NotGlobal(class) => class,
            Standing::Outside => "outside of policy.destination_ranges",
        };
        Err(Forbidden { address, class })
    }

    /// How one address is seen, `own` being those of this host.
    #[must_use]
    pub fn standing(&self, address: IpAddr, own: &[IpAddr]) -> Standing {
        let exempting = |net: &&IpNet| net.contains(&address);
        if let Some(named) = self
            .exempt
            .iter()
            .filter(exempting)
            .find(|net| is_one_address(net))
        {
            return Standing::Exempt(*named);
        }
        if own.contains(&address) {
            return Standing::Own;
        }
        if self.public.contains(&address) {
            return Standing::Public;
        }
        if let Some(net) = self.exempt.iter().find(exempting) {
            return Standing::Exempt(*net);
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
        self.ip
    }

    /// Whether the operator names this very address in `policy.allow_destinations`: then it may lead to this host.
    #[must_use]
    pub fn may_be_own(self) -> bool {
        self.may_be_own
    }
}

impl fmt::Display for AddressGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exempt
            .iter()
            .try_for_each(|net| writeln!(f, "allow_destination {}", net.trunc()))?;
        self.public
            .iter()
            .try_for_each(|address| writeln!(f, "public {address}"))?;
        self.ranges
            .as_ref()
            .map_or(Ok(()), |ranges| write!(f, "within\n{ranges}"))
    }
}

fn is_one_address(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// The special-purpose block that an address lies in; None when it lies in none, even if it is not globally reachable.
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

/// Why an address is not globally reachable; None when it is.
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
            let special = special.or_else(|| is_isatap(v6).then_some("ISATAP (RFC 5214)"));
            special.or_else(|| {
                (!GLOBAL_UNICAST_V6.contains(&v6)).then_some("outside of global unicast")
            })
        }
    }
}

/// Whether the interface identifier holds an IPv4 address, beneath any prefix (RFC 5214, section 6.1): `::5efe:a.b.c.d`
/// or `::200:5efe:a.b.c.d`, and with the group bit.
fn is_isatap(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [_, _, _, _, flags, 0x5efe, _, _] if flags & !0x0300 == 0)
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
    (
        Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32),
        "a cloud platform's metadata service",
    ),
];

/// IANA IPv6 Special-Purpose Address Registry, the entries that are not globally reachable or carry an IPv4 address.
const NOT_GLOBAL_V6: [(Ipv6Net, &str); 18] = [
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

/// All that IANA has ever given out as global unicast (RFC 4291, section 2.4).
const GLOBAL_UNICAST_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0], 3);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
