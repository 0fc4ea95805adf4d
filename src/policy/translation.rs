//! Finds IPv4 addresses embedded in IPv6 addresses: in fixed forms, which the address itself
//! reveals, and under the NAT64 prefixes that the operator names (RFC 6052). Pure. Never decides
//! whether an address may be dialled.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv6Net};

/// A prefix whose addresses a NAT64 translates to IPv4, with one of the six lengths of RFC 6052,
/// section 2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nat64Prefix(Ipv6Net);

/// Why a text is not a NAT64 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nat64PrefixError {
    /// Not a network, an IPv4 network, or a network of another length.
    #[error(
        "a NAT64 prefix is an IPv6 network of /32, /40, /48, /56, /64 or /96 (RFC 6052), such as 64:ff9b::/96"
    )]
    Form,
    /// The prefix has bits in the octet that RFC 6052 reserves.
    #[error("bits 64 to 71 of a NAT64 prefix must be zero (RFC 6052)")]
    Reserved,
    /// It overlaps a block that no translator uses.
    #[error("no NAT64 translates {0} addresses: name a prefix of your network, or 64:ff9b::/96")]
    Occupied(&'static str),
}

impl Nat64Prefix {
    /// The prefix as a network.
    #[must_use]
    pub fn network(self) -> Ipv6Net {
        self.0
    }

    /// Whether the prefix contains an address.
    #[must_use]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        self.0.contains(&address)
    }

    /// Whether two prefixes share addresses.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.0.contains(&other.0.network()) || other.0.contains(&self.0.network())
    }

    /// The IPv4 address embedded in an address under this prefix; None if bits 64 to 71 are not
    /// zero, which no translator accepts. A suffix after the IPv4 address has no meaning (RFC 6052,
    /// section 2.2).
    #[must_use]
    pub fn ipv4_in(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let bits = address.to_bits();
        if (bits >> 56) & 0xff != 0 {
            return None;
        }
        let length = u32::from(self.0.prefix_len());
        // The IPv4 address skips the octet at bit 64.
        let (without_octet, width) = if length < 96 {
            ((bits >> 64) << 56 | bits & ((1 << 56) - 1), 120)
        } else {
            (bits, 128)
        };
        Some(last_32(without_octet >> (width - length - 32)))
    }
}

impl FromStr for Nat64Prefix {
    type Err = Nat64PrefixError;

    fn from_str(text: &str) -> Result<Self, Nat64PrefixError> {
        let Ok(IpNet::V6(net)) = text.parse::<IpNet>() else {
            return Err(Nat64PrefixError::Form);
        };
        let net = net.trunc();
        if !LENGTHS.contains(&net.prefix_len()) {
            return Err(Nat64PrefixError::Form);
        }
        if (net.network().to_bits() >> 56) & 0xff != 0 {
            return Err(Nat64PrefixError::Reserved);
        }
        let overlaps =
            |other: &Ipv6Net| net.contains(&other.network()) || other.contains(&net.network());
        match OCCUPIED.iter().find(|(other, _)| overlaps(other)) {
            Some((_, name)) => Err(Nat64PrefixError::Occupied(name)),
            None if net.prefix_len() == 96 && is_isatap(net.network()) => {
                Err(Nat64PrefixError::Occupied("ISATAP"))
            }
            None => Ok(Self(net)),
        }
    }
}

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The IPv4 addresses that an address embeds in the fixed forms: mapped, compatible, translated,
/// the well-known NAT64 prefix, 6to4, Teredo (server and client) and ISATAP. A local-use NAT64
/// address (64:ff9b:1::/48) is none of these: only the operator knows the position of its IPv4
/// address.
pub fn held(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bits = address.to_bits();
    let is_plain = address == Ipv6Addr::UNSPECIFIED || address == Ipv6Addr::LOCALHOST;
    let ends_with_it = !is_plain && LAST_32.iter().any(|net| net.contains(&address));
    let by_prefix = ends_with_it || is_isatap(address);
    let six_to_four = SIX_TO_FOUR.contains(&address);
    let teredo = TEREDO.contains(&address);
    [
        by_prefix.then(|| last_32(bits)),
        six_to_four.then(|| last_32(bits >> 80)),
        teredo.then(|| last_32(bits >> 64)),
        // Teredo stores the client's address inverted (RFC 4380, section 4).
        teredo.then(|| last_32(!bits)),
    ]
    .into_iter()
    .flatten()
}

/// Whether only the operator knows the position of the IPv4 address in it (RFC 8215).
#[must_use]
pub fn is_local_use(address: Ipv6Addr) -> bool {
    LOCAL_USE.contains(&address)
}

/// Whether the interface identifier embeds an IPv4 address, under any prefix (RFC 5214, section
/// 6.1): `::5efe:a.b.c.d` or `::200:5efe:a.b.c.d`, with or without the group bit.
#[must_use]
pub fn is_isatap(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [_, _, _, _, flags, 0x5efe, _, _] if flags & !0x0300 == 0)
}

fn last_32(bits: u128) -> Ipv4Addr {
    Ipv4Addr::from_bits((bits & u128::from(u32::MAX)) as u32)
}

const fn net(segments: [u16; 6], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, 0, 0), prefix)
}

/// RFC 6052, section 2.2.
const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];
const MAPPED: Ipv6Net = net([0, 0, 0, 0, 0, 0xffff], 96);
const COMPATIBLE: Ipv6Net = net([0; 6], 96);
const TRANSLATED: Ipv6Net = net([0, 0, 0, 0, 0xffff, 0], 96);
const WELL_KNOWN: Ipv6Net = net([0x64, 0xff9b, 0, 0, 0, 0], 96);
const LOCAL_USE: Ipv6Net = net([0x64, 0xff9b, 1, 0, 0, 0], 48);
const SIX_TO_FOUR: Ipv6Net = net([0x2002, 0, 0, 0, 0, 0], 16);
const TEREDO: Ipv6Net = net([0x2001, 0, 0, 0, 0, 0], 32);
/// The forms that embed the IPv4 address in the last 32 bits.
const LAST_32: [Ipv6Net; 4] = [MAPPED, COMPATIBLE, TRANSLATED, WELL_KNOWN];
/// Blocks with another meaning to hosts and routers: the kernel itself unwraps the first one.
const OCCUPIED: [(Ipv6Net, &str); 7] = [
    (MAPPED, "IPv4-mapped"),
    (COMPATIBLE, "IPv4-compatible"),
    (TRANSLATED, "IPv4-translated"),
    (SIX_TO_FOUR, "6to4"),
    (TEREDO, "Teredo"),
    (net([0xfe80, 0, 0, 0, 0, 0], 10), "link-local"),
    (net([0xff00, 0, 0, 0, 0, 0], 8), "multicast"),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Nat64Prefix {
        text.parse().unwrap()
    }

    /// RFC 6052, section 2.4, tables 2 and 3, and the local-use prefix at two lengths.
    #[test]
    fn the_examples_of_the_rfc_decode() {
        for (net, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
            ("64:ff9b:1::/48", "64:ff9b:1:c000:2:2100::"),
            ("64:ff9b:1:fffe::/96", "64:ff9b:1:fffe::c000:221"),
        ] {
            let (net, address): (_, Ipv6Addr) = (prefix(net), address.parse().unwrap());
            assert!(net.contains(address), "{net} {address}");
            assert_eq!(
                net.ipv4_in(address),
                Some(Ipv4Addr::new(192, 0, 2, 33)),
                "{net} {address}"
            );
        }
    }

    #[test]
    fn suffix_bits_are_ignored_and_a_set_reserved_octet_is_refused() {
        let held = |net: &str, address: &str| prefix(net).ipv4_in(address.parse().unwrap());
        let google = Some(Ipv4Addr::new(8, 8, 8, 8));
        assert_eq!(
            held("2001:db8::/32", "2001:db8:808:808::5efe:a00:1"),
            google
        );
        assert_eq!(
            held("2001:db8:1:2::/64", "2001:db8:1:2:8:808:800:ff"),
            google
        );
        for (net, address) in [
            ("2001:db8::/32", "2001:db8:808:808:100::"),
            ("2001:db8:1:2::/64", "2001:db8:1:2:8008:808:800::"),
            ("2001:db8:1::/48", "2001:db8:1:808:ff08:800::"),
        ] {
            assert_eq!(held(net, address), None, "{net} {address}");
        }
    }

    #[test]
    fn another_length_and_another_form_are_refused() {
        let wrong = |text: &str| text.parse::<Nat64Prefix>().unwrap_err();
        for text in [
            "64:ff9b::",
            "64:ff9b::/95",
            "64:ff9b::/97",
            "64:ff9b::/128",
            "2001:db8::/0",
            "2001:db8::/31",
            "2001:db8::/33",
            "2001:db8::/72",
            "2001:db8::/80",
            "10.0.0.0/32",
            "192.0.2.1",
            "",
            "nat64",
        ] {
            assert_eq!(wrong(text), Nat64PrefixError::Form, "{text}");
        }
        assert_eq!(wrong("2001:db8:1:2:100::/96"), Nat64PrefixError::Reserved);
        for (text, name) in [
            ("::ffff:0:0/96", "IPv4-mapped"),
            ("::/96", "IPv4-compatible"),
            ("::/32", "IPv4-mapped"),
            ("2002:c000:204::/48", "6to4"),
            ("2001::/32", "Teredo"),
            ("2001:0:1::/48", "Teredo"),
            ("fe80::/64", "link-local"),
            ("ff0e::/32", "multicast"),
            ("2001:db8::5efe:0:0/96", "ISATAP"),
        ] {
            assert_eq!(wrong(text), Nat64PrefixError::Occupied(name), "{text}");
        }
        assert_eq!(prefix("64:ff9b::8.8.8.8/96"), prefix("64:ff9b::/96"));
    }

    #[test]
    fn the_fixed_forms_decode() {
        let held = |address: &str| -> Vec<String> {
            held(address.parse().unwrap())
                .map(|v4| v4.to_string())
                .collect()
        };
        for address in [
            "::ffff:192.0.2.33",
            "::192.0.2.33",
            "::ffff:0:192.0.2.33",
            "64:ff9b::192.0.2.33",
            "2002:c000:221::1",
            "2001:db8::5efe:192.0.2.33",
            "2001:db8::200:5efe:192.0.2.33",
        ] {
            assert_eq!(held(address), ["192.0.2.33"], "{address}");
        }
        assert_eq!(
            held("2001:0:c000:221:0:0:3fff:fdd2"),
            ["192.0.2.33", "192.0.2.45"]
        );
        assert_eq!(
            held("2002:a00:1::5efe:192.0.2.33"),
            ["192.0.2.33", "10.0.0.1"]
        );
        for address in [
            "::",
            "::1",
            "2001:db8::1",
            "64:ff9b:1::808:808",
            "fe80::1",
            "2600:1900::1",
        ] {
            assert!(held(address).is_empty(), "{address}");
        }
    }

    proptest! {
        /// An IPv4 address embedded bit by bit, as in table 1 of RFC 6052, is found again, whatever
        /// the suffix.
        #[test]
        fn embedded_addresses_decode_to_themselves(site in any::<u128>(), inner in any::<u32>(), suffix in any::<u128>(), at in 0_usize..6) {
            let length = u32::from(*LENGTHS.get(at).unwrap());
            let mut bits = 0_u128;
            let mut put = 0;
            for bit in 0..128_u32 {
                let taken = match bit {
                    64..=71 => 0,
                    _ if bit < length => site >> (127 - bit) & 1,
                    _ if put < 32 => { put += 1; u128::from(inner >> (32 - put) & 1) }
                    _ => suffix >> (127 - bit) & 1,
                };
                bits |= taken << (127 - bit);
            }
            // An address within 2600::/12 has none of the fixed forms.
            let bits = bits & (u128::MAX >> 12) | 0x260 << 116;
            let address = Ipv6Addr::from_bits(bits);
            let net = Ipv6Net::new(address, length as u8).unwrap().trunc();
            prop_assume!(!(length == 96 && is_isatap(address)));
            let prefix: Nat64Prefix = net.to_string().parse().unwrap();
            prop_assert_eq!(prefix.ipv4_in(address), Some(Ipv4Addr::from_bits(inner)));
        }
    }
}
