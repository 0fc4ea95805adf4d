//! The address guard: denies every address that is not globally reachable, this host's own, and those outside of the
//! operator's ranges. Which routes lead to this host is asked of the kernel by the dial (`dial/routing.rs`).
//!
//! One pure classifier after the IANA special-purpose registries (RFC 6890 and its successors, read in 2026). It
//! judges the very address that is dialled, so a name that resolves to the inside (DNS rebinding, a poisoned answer)
//! ends here. IPv6 is allowed only within 2000::/3 less its exceptions and beneath the NAT64 prefixes that the operator
//! names. An IPv6 address that holds an IPv4 address ([`translation`]) is judged twice: as it is, and by what
//! it holds. So an exemption or a NAT64 prefix never lets through an address that the guard refuses in IPv4.

mod special;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::ranges::Ranges;
use super::translation::{self, Nat64Prefix, is_isatap};
use special::ISATAP;
pub use special::{block, not_global};

/// The classifier, the operator's exemptions, NAT64 prefixes and ranges.
#[derive(Debug)]
pub struct AddressGuard {
    exempt: Vec<IpNet>,
    nat64: Vec<Nat64Prefix>,
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
    /// Let through: a NAT64 translates it to this IPv4 address, which is let through too.
    Translated(Nat64Prefix, Ipv4Addr),
    /// It holds this IPv4 address, which is refused as one of this class.
    Holds(Ipv4Addr, &'static str),
}

/// An address that the guard has let through: the only kind that is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamAddress {
    ip: IpAddr,
    may_be_own: bool,
    /// The IPv4 addresses in it that must not lead to this host.
    holds: [Option<Ipv4Addr>; HELD_MAX],
}

/// The address that was refused, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// The address.
    pub address: IpAddr,
    /// The IPv4 address in it that is refused; None: the address itself.
    pub holds: Option<Ipv4Addr>,
    /// What it is.
    pub class: &'static str,
}

impl std::error::Error for Forbidden {}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, class, .. } = self;
        match self.holds {
            Some(inner) => write!(f, "{address} holds {inner}, which is {class}"),
            None => write!(f, "{address} is {class}"),
        }
    }
}

impl AddressGuard {
    /// A guard that lets the addresses in `exempt` through. A range lets no address of this host through; an entry for
    /// one address does.
    #[must_use]
    pub fn new(mut exempt: Vec<IpNet>) -> Self {
        exempt.sort();
        Self {
            exempt,
            nat64: Vec::new(),
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

    /// The same guard, which judges the addresses beneath these prefixes by the IPv4 addresses that they hold.
    #[must_use]
    pub fn translating(self, nat64: &[Nat64Prefix]) -> Self {
        Self {
            nat64: nat64.to_vec(),
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
        let standing = self.standing(address, own);
        if let Some(class) = standing.refused() {
            let holds = match standing {
                Standing::Holds(inner, _) => Some(inner),
                _ => None,
            };
            return Err(Forbidden {
                address,
                holds,
                class,
            });
        }
        let mut holds = [None; HELD_MAX];
        let unnamed = self
            .held(address)
            .filter(|inner| self.named((*inner).into()).is_none());
        for (slot, inner) in holds.iter_mut().zip(unnamed) {
            *slot = Some(inner);
        }
        Ok(UpstreamAddress {
            ip: address,
            may_be_own: self.named(address).is_some(),
            holds,
        })
    }

    /// The exemption for this very address, if there is one.
    fn named(&self, address: IpAddr) -> Option<IpNet> {
        let of_one = |net: &&IpNet| is_one_address(net) && net.contains(&address);
        self.exempt.iter().find(of_one).copied()
    }

    /// How one address is seen, `own` being those of this host: as it is, and by each IPv4 address that it holds.
    #[must_use]
    pub fn standing(&self, address: IpAddr, own: &[IpAddr]) -> Standing {
        let whole = self.as_it_is(address, own);
        if whole.refused().is_some() {
            return whole;
        }
        let refused = self.held(address).find_map(|inner| {
            let class = self.as_it_is(inner.into(), own).refused()?;
            Some(Standing::Holds(inner, class))
        });
        refused.unwrap_or(whole)
    }

    /// The IPv4 addresses that somebody between here and the upstream may take out of it.
    fn held(&self, address: IpAddr) -> impl Iterator<Item = Ipv4Addr> {
        let v6 = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(v6),
        };
        let translated = v6.into_iter().flat_map(|v6| {
            let prefixes = self.nat64.iter().filter(move |prefix| prefix.contains(v6));
            prefixes.filter_map(move |prefix| prefix.ipv4_in(v6))
        });
        translated.chain(v6.into_iter().flat_map(translation::held))
    }

    fn as_it_is(&self, address: IpAddr, own: &[IpAddr]) -> Standing {
        if let Some(named) = self.named(address) {
            return self.exempt(address, named);
        }
        if own.contains(&address) {
            return Standing::Own;
        }
        if self.public.contains(&address) {
            return Standing::Public;
        }
        if let Some(net) = self.exempt.iter().find(|net| net.contains(&address)) {
            return self.exempt(address, *net);
        }
        if let Some(standing) = self.translated(address) {
            return standing;
        }
        match (not_global(address), &self.ranges) {
            (Some(class), _) => Standing::NotGlobal(class),
            (None, Some(ranges)) if !ranges.contains(address) => Standing::Outside,
            (None, _) => Standing::Reachable,
        }
    }

    /// How an address beneath a NAT64 prefix is seen, whatever it holds; None where it is beneath none.
    fn translated(&self, address: IpAddr) -> Option<Standing> {
        let IpAddr::V6(v6) = address else {
            return None;
        };
        let mut prefixes = self.nat64.iter().filter(|prefix| prefix.contains(v6));
        let first = *prefixes.clone().next()?;
        // Whoever takes it for the other form sends it elsewhere.
        if is_isatap(v6) {
            return Some(Standing::NotGlobal(ISATAP));
        }
        let Some(inner) = first.ipv4_in(v6) else {
            return Some(Standing::NotGlobal(RESERVED_BITS));
        };
        if prefixes.any(|prefix| prefix.ipv4_in(v6).is_none()) {
            return Some(Standing::NotGlobal(RESERVED_BITS));
        }
        Some(Standing::Translated(first, inner))
    }

    /// An exempt address, unless it holds an IPv4 address that nobody can find.
    fn exempt(&self, address: IpAddr, by: IpNet) -> Standing {
        let unknown = match (self.translated(address), address) {
            (Some(Standing::NotGlobal(RESERVED_BITS)), _) => Some(RESERVED_BITS),
            (None, IpAddr::V6(v6)) if translation::is_local_use(v6) => Some(UNNAMED_NAT64),
            _ => None,
        };
        unknown.map_or(Standing::Exempt(by), Standing::NotGlobal)
    }
}

impl Standing {
    /// The class as which it is refused; None: it is let through.
    #[must_use]
    pub fn refused(&self) -> Option<&'static str> {
        match self {
            Self::Exempt(_) | Self::Reachable | Self::Translated(..) => None,
            Self::Own => Some("an address of this host"),
            Self::Public => Some("this host's own public address (egress.public)"),
            Self::NotGlobal(class) | Self::Holds(_, class) => Some(class),
            Self::Outside => Some("outside of policy.destination_ranges"),
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

    /// The IPv4 addresses that a translator may take out of it and that must not lead to this host either.
    pub fn holds(self) -> impl Iterator<Item = Ipv4Addr> {
        self.holds.into_iter().flatten()
    }
}

impl fmt::Display for AddressGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exempt
            .iter()
            .try_for_each(|net| writeln!(f, "allow_destination {}", net.trunc()))?;
        self.nat64
            .iter()
            .try_for_each(|prefix| writeln!(f, "nat64 {prefix}"))?;
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

/// One for each length of a NAT64 prefix, two of Teredo, one of ISATAP, one of another form.
const HELD_MAX: usize = 10;
const RESERVED_BITS: &str = "NAT64 with bits 64 to 71 that are not zero (RFC 6052)";
const UNNAMED_NAT64: &str = "NAT64 (RFC 8215) of a prefix that egress.nat64 does not name";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
