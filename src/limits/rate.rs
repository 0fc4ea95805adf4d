//! Limits how often one client may do something: a bounded table with one token bucket for each
//! client.
//!
//! The crate governor was considered; it keeps every key until a sweep, and here the bound matters.
//! A full table forgets the clients that have used least of their share and counts each new one, so
//! it never lets one through uncounted. Never waits; it returns whether the client was too fast.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::bucket::{Bucket, Rate};
use super::client::{ClientNetwork, ClientSite};
use super::forget_lowest;
use super::sharded::Sharded;

/// Counts one kind of action by client, or by another key.
#[derive(Debug)]
pub struct Rates<K: Eq + Hash = ClientNetwork>(Sharded<K, HashMap<K, Bucket>>);

/// The result for one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Within the limit.
    Kept,
    /// Above the limit.
    Exceeded,
}

impl<K: Eq + Hash> Default for Rates<K> {
    fn default() -> Self {
        Self(Sharded::default())
    }
}

impl<K: Eq + Hash> Rates<K> {
    /// Counts one action of this client; `per_second` 0 means no limit. [`BURST`] seconds' worth
    /// may come at once.
    pub fn count(&self, client: impl Into<K>, per_second: u32, now: Instant) -> Pace {
        let Some(rate) = Rate::per_second(per_second, BURST) else {
            return Pace::Kept;
        };
        let client = client.into();
        let mut part = self.0.lock(&client);
        if part.len() >= PART_CLIENTS_MAX && !part.contains_key(&client) {
            forget_lowest(&mut part, |bucket| *bucket);
        }
        if part.entry(client).or_default().take(now, rate) {
            Pace::Kept
        } else {
            Pace::Exceeded
        }
    }
}

/// Counts one connection of a client, and of its site if that is an IPv6 /48: a site may connect `SITE_CLIENTS` times as
/// fast as a client.
pub fn count_connection(
    clients: &Rates<ClientNetwork>,
    sites: &Rates<ClientSite>,
    client: ClientNetwork,
    per_second: u32,
    now: Instant,
) -> Pace {
    let (pace, site) = (clients.count(client, per_second, now), client.site());
    if pace == Pace::Exceeded || !site.is_ipv6() {
        return pace;
    }
    sites.count(site, per_second.saturating_mul(SITE_CLIENTS), now)
}

/// A site may connect as fast as this many clients: more than any site needs that does not rotate its 65,536 networks.
const SITE_CLIENTS: u32 = 8;
/// After this much silence a client may use its whole share at once: a fleet that returns after a
/// restart.
pub const BURST: Duration = Duration::from_secs(5);
/// 65,536 clients in all, about 5 MB.
const PART_CLIENTS_MAX: usize = 1_024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::limits::sharded::PARTS;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    /// How many of `tries` at one moment are within the limit.
    fn kept(rates: &Rates<ClientNetwork>, client: IpAddr, tries: usize, now: Instant) -> usize {
        (0..tries)
            .filter(|_| rates.count(client, 10, now) == Pace::Kept)
            .count()
    }

    #[test]
    fn a_site_that_rotates_its_networks_has_a_rate_of_its_own() {
        let (clients, sites) = (Rates::default(), Rates::default());
        let now = Instant::now();
        let kept = |address: &dyn Fn(u16) -> IpAddr| {
            let networks = (0..2_000).map(|number| ClientNetwork::of(address(number)));
            let paces = networks.map(|client| count_connection(&clients, &sites, client, 1, now));
            paces.filter(|pace| *pace == Pace::Kept).count()
        };
        let burst = BURST.as_secs() as usize * SITE_CLIENTS as usize;
        let of_one_48 = |number| IpAddr::from([0x2001, 0xdb8, 1, number, 0, 0, 0, 1]);
        assert_eq!(kept(&of_one_48), burst);
        let of_many_48s = |number| IpAddr::from([0x2001, 0xdb8, number + 2, 0, 0, 0, 0, 1]);
        assert_eq!(kept(&of_many_48s), 2_000);
        let of_ipv4 = |number: u16| IpAddr::from([198, 51, (number >> 8) as u8, number as u8]);
        assert_eq!(
            kept(&of_ipv4),
            2_000,
            "a site of IPv4 is 256 clients at most"
        );
    }

    #[test]
    fn a_burst_passes_and_then_the_even_pace() {
        let (rates, start) = (Rates::default(), Instant::now());
        assert_eq!(kept(&rates, CLIENT, 100, start), 50);
        assert_eq!(
            kept(&rates, CLIENT, 100, start + Duration::from_millis(99)),
            0
        );
        assert_eq!(
            kept(&rates, CLIENT, 100, start + Duration::from_secs(1)),
            10
        );
        assert_eq!(
            kept(&rates, CLIENT, 100, start + Duration::from_secs(60)),
            50,
            "and no more for a longer silence"
        );
        assert_eq!(
            kept(&rates, "192.0.2.8".parse().unwrap(), 100, start),
            50,
            "each client has its own"
        );
        assert!(
            (0..1_000).all(|_| rates.count(CLIENT, 0, start) == Pace::Kept),
            "0 is no limit"
        );
    }

    #[test]
    fn one_ipv6_host_has_one_share() {
        let (rates, start) = (Rates::<ClientNetwork>::default(), Instant::now());
        assert_eq!(
            (0..100)
                .filter(|low| rates.count(v6(1, *low), 10, start) == Pace::Kept)
                .count(),
            50
        );
    }

    #[test]
    fn a_full_table_is_bounded_and_counts_every_new_client() {
        let (rates, start) = (Rates::default(), Instant::now());
        // Two clients above their limit, then as many networks as three /48 contain.
        let fast = [CLIENT, v6(u64::MAX, 0)];
        assert_eq!(fast.map(|client| kept(&rates, client, 50, start)), [50, 50]);
        for network in 0..200_000 {
            rates.count(v6(network, 0), 10, start);
        }
        let clients: usize = rates.0.each().map(|part| part.len()).sum();
        assert!(clients <= PARTS * PART_CLIENTS_MAX, "{clients}");
        assert_eq!(
            fast.map(|client| kept(&rates, client, 100, start)),
            [0, 0],
            "what is over its share is remembered"
        );
        assert_eq!(
            kept(&rates, v6(1 << 40, 0), 100, start),
            50,
            "and a newcomer has a share, no more"
        );
    }

    fn v6(high: u64, low: u64) -> IpAddr {
        std::net::Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
    }
}
