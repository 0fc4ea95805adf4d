//! Sets of addresses: networks minus other networks, for `policy.destination_ranges`.
//!
//! Built once into sorted ranges that neither overlap nor touch, so a look-up is one binary search
//! for any number of networks (Google publishes about two thousand). Pure; never reads a file.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A set of addresses, separate for IPv4 and IPv6. An IPv4-mapped address counts as IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    v4: Family,
    v6: Family,
}

/// The ranges of one family as pairs of first and last address: sorted, disjoint, with a gap
/// between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Family(Vec<(u128, u128)>);

impl Ranges {
    /// The addresses of these networks.
    #[must_use]
    pub fn of(networks: &[IpNet]) -> Self {
        let (v4, v6): (Vec<_>, Vec<_>) = networks
            .iter()
            .partition(|network| network.network().is_ipv4());
        Self {
            v4: Family::of(v4),
            v6: Family::of(v6),
        }
    }

    /// These addresses without those of `others`.
    #[must_use]
    pub fn less(&self, others: &Self) -> Self {
        Self {
            v4: self.v4.less(&others.v4),
            v6: self.v6.less(&others.v6),
        }
    }

    /// Whether the address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let family = if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        family.contains(number(address))
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty()
    }
}

impl fmt::Display for Ranges {
    /// Writes one range per line, in order: equal for equal sets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (first, last) in &self.v4.0 {
            let address =
                |number: u128| Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX));
            writeln!(f, "range {}-{}", address(*first), address(*last))?;
        }
        for (first, last) in &self.v6.0 {
            writeln!(
                f,
                "range {}-{}",
                Ipv6Addr::from_bits(*first),
                Ipv6Addr::from_bits(*last)
            )?;
        }
        Ok(())
    }
}

impl Family {
    fn of(networks: Vec<&IpNet>) -> Self {
        let mut given: Vec<_> = networks
            .into_iter()
            .map(|network| (number(network.network()), number(network.broadcast())))
            .collect();
        given.sort_unstable();
        let mut joined: Vec<(u128, u128)> = Vec::with_capacity(given.len());
        for (first, last) in given {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last)
                }
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    fn less(&self, others: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        for (first, last) in &self.0 {
            // The first address that no other range has covered yet; None once the range is used
            // up.
            let mut rest = Some(*first);
            let begin = others.0.partition_point(|other| other.1 < *first);
            for other in others
                .0
                .iter()
                .skip(begin)
                .take_while(|other| other.0 <= *last)
            {
                if let Some(start) = rest.filter(|start| *start < other.0) {
                    left.push((start, other.0 - 1));
                }
                rest = other.1.checked_add(1).filter(|start| start <= last);
            }
            left.extend(rest.map(|start| (start, *last)));
        }
        Self(left)
    }

    fn contains(&self, number: u128) -> bool {
        let behind = self.0.partition_point(|range| range.0 <= number);
        let candidate = behind.checked_sub(1).and_then(|at| self.0.get(at));
        candidate.is_some_and(|range| number <= range.1)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ranges(texts: &[&str]) -> Ranges {
        Ranges::of(&networks(texts))
    }

    fn has(ranges: &Ranges, address: &str) -> bool {
        ranges.contains(address.parse().unwrap())
    }

    #[test]
    fn both_edges_are_inside_and_their_neighbours_are_not() {
        let set = ranges(&[
            "8.8.4.0/24",
            "34.0.0.0/9",
            "203.0.113.7/32",
            "2001:4860::/32",
            "2a00:1450::1/128",
        ]);
        for inside in [
            "8.8.4.0",
            "8.8.4.255",
            "34.0.0.0",
            "34.127.255.255",
            "203.0.113.7",
            "2001:4860::",
            "2001:4860:ffff:ffff:ffff:ffff:ffff:ffff",
            "2a00:1450::1",
        ] {
            assert!(has(&set, inside), "{inside}");
        }
        for outside in [
            "0.0.0.0",
            "8.8.3.255",
            "8.8.5.0",
            "33.255.255.255",
            "34.128.0.0",
            "203.0.113.6",
            "203.0.113.8",
            "255.255.255.255",
            "::",
            "::8.8.4.4",
            "::ffff:8.8.4.4",
            "2001:485f:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:4861::",
            "2a00:1450::",
            "2a00:1450::2",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert!(!has(&set, outside), "{outside}");
        }
    }

    #[test]
    fn all_and_nothing() {
        let all = ranges(&["0.0.0.0/0", "::/0"]);
        for address in [
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert!(
                has(&all, address) && !has(&Ranges::default(), address),
                "{address}"
            );
        }
        assert!(all.less(&all).is_empty() && Ranges::default().is_empty() && !all.is_empty());
        assert!(!has(&ranges(&["0.0.0.0/0"]), "::1") && !has(&ranges(&["::/0"]), "1.1.1.1"));
    }

    #[test]
    fn subtracted_ranges_are_outside_and_their_neighbours_stay() {
        let google = ranges(&["34.0.0.0/9", "142.250.0.0/15", "2600:1900::/28"]);
        let cloud = ranges(&[
            "34.0.0.0/15",
            "34.4.5.0/24",
            "34.127.255.255/32",
            "142.250.0.0/14",
            "2600:1900::/35",
        ]);
        let left = google.less(&cloud);
        for inside in [
            "34.2.0.0",
            "34.4.4.255",
            "34.4.6.0",
            "34.127.255.254",
            "2600:1900:2000::",
        ] {
            assert!(has(&left, inside), "{inside}");
        }
        for outside in [
            "34.0.0.0",
            "34.1.255.255",
            "34.4.5.0",
            "34.4.5.255",
            "34.127.255.255",
            "34.128.0.0",
            "142.250.1.1",
            "2600:1900::",
            "2600:1900:1fff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert!(!has(&left, outside), "{outside}");
        }
    }

    #[test]
    fn equal_sets_have_equal_text() {
        let set = ranges(&[
            "192.0.2.128/25",
            "192.0.2.0/25",
            "192.0.2.9/32",
            "2001:db8::/32",
        ]);
        assert_eq!(
            set,
            ranges(&["2001:db8::/33", "192.0.2.77/24", "2001:db8:8000::/33"])
        );
        let last = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(
            set.to_string(),
            format!("range 192.0.2.0-192.0.2.255\nrange 2001:db8::-{last}\n")
        );
        assert_ne!(set.to_string(), ranges(&["192.0.2.0/24"]).to_string());
    }

    /// Networks that share long prefixes, so that they nest, touch and leave gaps.
    fn network() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u8>(), 22_u8..=32).prop_map(|(low, prefix)| {
            IpNet::V4(
                Ipv4Net::new(
                    Ipv4Addr::from_bits(0x0a00_0000 | u32::from(low) << 2),
                    prefix,
                )
                .unwrap(),
            )
        });
        let v6 = (any::<u8>(), 118_u8..=128).prop_map(|(low, prefix)| {
            IpNet::V6(
                Ipv6Net::new(
                    Ipv6Addr::from_bits(0x2600 << 112 | u128::from(low) << 2),
                    prefix,
                )
                .unwrap(),
            )
        });
        prop_oneof![
            v4,
            v6,
            Just("0.0.0.0/0".parse().unwrap()),
            Just("ffff::/16".parse().unwrap())
        ]
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        let near_v4 =
            (0_u32..1100).prop_map(|low| IpAddr::V4(Ipv4Addr::from_bits(0x09ff_fff0 + low)));
        let near_v6 = (0_u128..1100)
            .prop_map(|low| IpAddr::V6(Ipv6Addr::from_bits((0x2600 << 112) - 16 + low)));
        let any_v4 = any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
        let any_v6 = any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)));
        prop_oneof![4 => near_v4, 4 => near_v6, 1 => any_v4, 1 => any_v6]
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_linear_search(
            given in prop::collection::vec(network(), 0..24),
            taken in prop::collection::vec(network(), 0..24),
            addresses in prop::collection::vec(address(), 64),
        ) {
            let set = Ranges::of(&given).less(&Ranges::of(&taken));
            for address in addresses {
                let naive = given.iter().any(|net| net.contains(&address)) && !taken.iter().any(|net| net.contains(&address));
                prop_assert_eq!(set.contains(address), naive, "{}", address);
            }
            for family in [&set.v4, &set.v6] {
                prop_assert!(family.0.iter().all(|(first, last)| first <= last));
                prop_assert!(family.0.is_sorted_by(|before, after| before.1 + 1 < after.0));
            }
        }
    }
}
