//! The address guard: refuses every address that is not globally reachable, every address of this
//! host, and every address outside the operator's ranges. The dialler asks the kernel which routes
//! lead to this host (`dial/routing.rs`).
//!
//! One pure classifier, following the IANA special-purpose registries (RFC 6890 and its successors,
//! as of 2026). It judges the very address that is dialled, so a name that resolves to an internal
//! address (DNS rebinding, a poisoned answer) is refused.
//!
//! IPv6 is allowed only within 2000::/3 without its exceptions, and under the NAT64 prefixes that
//! the operator names. An IPv6 address that embeds an IPv4 address
//! ([`translation`]) is judged twice: as it is, and by the embedded address. So neither an exemption
//! nor a NAT64 prefix lets an address through that the guard refuses in IPv4.

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
    floating: Vec<IpAddr>,
}

/// The addresses of this host's interfaces. A type of its own, so that nothing can swap them with
/// the addresses that are judged.
#[derive(Clone, Debug, Default)]
pub struct OwnAddresses(Vec<IpAddr>);

/// The guard's classification of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Allowed without further checks by this exemption.
    Exempt(IpNet),
    /// An address of this host that no single-address exemption names.
    Own,
    /// A public address of this host on a NAT in front of it.
    Public,
    /// An address that this host has at times.
    Floating,
    /// Not globally reachable; the class of its block.
    NotGlobal(&'static str),
    /// Globally reachable, but outside the operator's ranges.
    Outside,
    /// Allowed.
    Reachable,
    /// Allowed: a NAT64 translates it to this IPv4 address, which is allowed too.
    Translated(Nat64Prefix, Ipv4Addr),
    /// Embeds this IPv4 address, which is refused with this class.
    Holds(Ipv4Addr, &'static str),
}

/// An address that the guard has allowed; only such addresses are dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamAddress {
    ip: IpAddr,
    may_be_own: bool,
    /// The embedded IPv4 addresses that must not lead to this host.
    holds: [Option<Ipv4Addr>; HELD_MAX],
}

/// An address that the guard refused, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// The refused address.
    pub address: IpAddr,
    /// The embedded IPv4 address that caused the refusal; None: the address itself did.
    pub holds: Option<Ipv4Addr>,
    /// The class that is refused.
    pub class: &'static str,
}

impl OwnAddresses {
    /// These are the addresses of this host.
    #[must_use]
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        Self(addresses)
    }

    /// Whether this is an address of this host.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
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
    /// Creates a guard that lets the addresses in `exempt` through. A network in it lets no address
    /// of this host through; an entry for a single address does.
    #[must_use]
    pub fn new(mut exempt: Vec<IpNet>) -> Self {
        exempt.sort();
        Self {
            exempt,
            nat64: Vec::new(),
            ranges: None,
            public: Vec::new(),
            floating: Vec::new(),
        }
    }

    /// Also treats these public addresses, of a NAT in front of this host, as addresses of this
    /// host.
    #[must_use]
    pub fn behind(self, public: &[IpAddr]) -> Self {
        Self {
            public: public.to_vec(),
            ..self
        }
    }

    /// Also treats these addresses as addresses of this host while another host has them.
    #[must_use]
    pub fn sharing(self, floating: &[IpAddr]) -> Self {
        Self {
            floating: floating.to_vec(),
            ..self
        }
    }

    /// Also judges the addresses under these prefixes by the IPv4 addresses that they embed.
    #[must_use]
    pub fn translating(self, nat64: &[Nat64Prefix]) -> Self {
        Self {
            nat64: nat64.to_vec(),
            ..self
        }
    }

    /// Also refuses addresses outside `ranges`, except exempt ones.
    #[must_use]
    pub fn within(self, ranges: Ranges) -> Self {
        Self {
            ranges: Some(ranges),
            ..self
        }
    }

    /// Whether addresses must lie within ranges.
    #[must_use]
    pub fn has_ranges(&self) -> bool {
        self.ranges.is_some()
    }

    /// Judges a whole answer. One forbidden address refuses all of it, because a name that points
    /// outside and inside at once is an attack.
    ///
    /// # Errors
    /// The first forbidden address.
    pub fn judge(
        &self,
        answer: &[IpAddr],
        own: &OwnAddresses,
    ) -> Result<Vec<UpstreamAddress>, Forbidden> {
        answer
            .iter()
            .map(|address| self.judge_one(*address, own))
            .collect()
    }

    fn judge_one(&self, address: IpAddr, own: &OwnAddresses) -> Result<UpstreamAddress, Forbidden> {
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

    /// The single-address exemption of this address, if there is one.
    fn named(&self, address: IpAddr) -> Option<IpNet> {
        let of_one = |net: &&IpNet| is_one_address(net) && net.contains(&address);
        self.exempt.iter().find(of_one).copied()
    }

    /// Classifies one address, as it is and by each IPv4 address that it embeds. `own` are the
    /// addresses of this host.
    #[must_use]
    pub fn standing(&self, address: IpAddr, own: &OwnAddresses) -> Standing {
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

    /// The embedded IPv4 addresses that a translator on the path may extract.
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

    fn as_it_is(&self, address: IpAddr, own: &OwnAddresses) -> Standing {
        if let Some(named) = self.named(address) {
            return self.exempt(address, named);
        }
        if own.contains(address) || (is_unspecified(address) && self.is_exempt(address)) {
            return Standing::Own;
        }
        if self.public.contains(&address) {
            return Standing::Public;
        }
        if self.floating.contains(&address) {
            return Standing::Floating;
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

    fn is_exempt(&self, address: IpAddr) -> bool {
        self.exempt.iter().any(|net| net.contains(&address))
    }

    /// Classifies an address under a NAT64 prefix without judging the embedded address; None if no
    /// prefix contains it.
    fn translated(&self, address: IpAddr) -> Option<Standing> {
        let IpAddr::V6(v6) = address else {
            return None;
        };
        let mut prefixes = self.nat64.iter().filter(|prefix| prefix.contains(v6));
        let first = *prefixes.clone().next()?;
        // A router that reads the address as ISATAP sends it elsewhere.
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

    /// Classifies an exempt address. It is refused if nobody can tell which IPv4 address it embeds.
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
    /// The class with which the address is refused; None if it is allowed.
    #[must_use]
    pub fn refused(&self) -> Option<&'static str> {
        match self {
            Self::Exempt(_) | Self::Reachable | Self::Translated(..) => None,
            Self::Own => Some("an address of this host"),
            Self::Public => Some("this host's own public address (egress.public)"),
            Self::Floating => Some("an address that floats to this host (egress.floating)"),
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

    /// Whether `policy.allow_destinations` names this very address; then it may lead to this host.
    #[must_use]
    pub fn may_be_own(self) -> bool {
        self.may_be_own
    }

    /// The IPv4 addresses that a translator may extract from it and that must not lead to this host
    /// either.
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
        self.floating
            .iter()
            .try_for_each(|address| writeln!(f, "floating {address}"))?;
        self.ranges
            .as_ref()
            .map_or(Ok(()), |ranges| write!(f, "within\n{ranges}"))
    }
}

fn is_one_address(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// Whether connect(2) to the address reaches this host: Linux replaces the unspecified address by a loopback one.
fn is_unspecified(address: IpAddr) -> bool {
    address.to_canonical().is_unspecified()
}

/// One for each length of a NAT64 prefix, two of Teredo, one of ISATAP, one of another form.
const HELD_MAX: usize = 10;
const RESERVED_BITS: &str = "NAT64 with bits 64 to 71 that are not zero (RFC 6052)";
const UNNAMED_NAT64: &str = "NAT64 (RFC 8215) of a prefix that egress.nat64 does not name";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
