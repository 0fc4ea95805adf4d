//! The cache of DNS answers, bounded in bytes: addresses until their TTL ends, and the last good
//! ones for a bounded time after it.
//!
//! Names that the operator wrote and names that peers chose have one table each, so peers cannot
//! evict the operator's names. A full table evicts the least recently used entry. Pure: no clock,
//! no lock, no I/O.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Families;
use crate::authority::Host;

/// The question of a look-up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) host: Host,
    pub(super) families: Families,
}

/// The cached answers, one table for each kind of name.
#[derive(Clone, Debug, Default)]
pub(super) struct AnswerCache {
    named: Table,
    others: Table,
}

/// One answer; without addresses it means that the name has none.
#[derive(Clone, Debug)]
pub(super) struct Known {
    addresses: Box<[IpAddr]>,
    since: Instant,
    /// The end of its TTL.
    fresh_until: Instant,
    /// Set when DNS failed for this name; no query for it is sent until then.
    down_until: Option<Instant>,
}

/// A table that evicts its least recently used entry.
#[derive(Clone, Debug, Default)]
struct Table {
    entries: HashMap<Key, (u64, Known)>,
    /// Keys by the number of their last use.
    order: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
}

impl AnswerCache {
    /// The addresses of a name while its TTL lasts; empty for a name that has none.
    pub(super) fn fresh(&mut self, key: &Key, now: Instant) -> Option<Vec<IpAddr>> {
        let known = self.get(key).filter(|known| now < known.fresh_until)?;
        Some(known.addresses.to_vec())
    }

    /// The last good answer, if a query for it failed within the last [`DOWN`].
    pub(super) fn while_down(&mut self, key: &Key, now: Instant) -> Option<Vec<IpAddr>> {
        self.last_good(key, now, |known| {
            known.down_until.is_some_and(|until| now < until)
        })
    }

    /// Notes that DNS failed, and returns the last good answer. [`Self::while_down`] returns it
    /// without a query for the next [`DOWN`].
    pub(super) fn recall(&mut self, key: &Key, now: Instant) -> Option<Vec<IpAddr>> {
        self.last_good(key, now, |known| {
            known.down_until = Some(now + DOWN);
            true
        })
    }

    /// Remembers an answer of DNS. An answer without addresses and with a zero TTL only removes the
    /// old entry.
    #[allow(
        clippy::too_many_arguments,
        reason = "a question, its answer and the clock"
    )]
    pub(super) fn insert(
        &mut self,
        key: Key,
        is_named: bool,
        addresses: &[IpAddr],
        ttl: Duration,
        now: Instant,
    ) {
        self.named.remove(&key);
        self.others.remove(&key);
        let ttl = ttl.min(TTL_MAX);
        if ttl.is_zero() && addresses.is_empty() {
            return;
        }
        let known = Known {
            addresses: addresses.into(),
            since: now,
            fresh_until: now + ttl,
            down_until: None,
        };
        let table = if is_named {
            &mut self.named
        } else {
            &mut self.others
        };
        table.insert(key, known);
    }

    /// Expires every TTL, because the servers have changed. The entries remain as last good
    /// answers.
    pub(super) fn make_stale(&mut self, now: Instant) {
        for table in [&mut self.named, &mut self.others] {
            table.entries.values_mut().for_each(|(_, known)| {
                known.fresh_until = known.fresh_until.min(now);
                known.down_until = None;
            });
        }
    }

    fn get(&mut self, key: &Key) -> Option<&mut Known> {
        let Self { named, others } = self;
        named.get(key).or_else(|| others.get(key))
    }

    /// The last good answer to this question, or to the question for both families.
    fn last_good(
        &mut self,
        key: &Key,
        now: Instant,
        mut may_be_used: impl FnMut(&mut Known) -> bool,
    ) -> Option<Vec<IpAddr>> {
        let both = Key {
            host: key.host.clone(),
            families: Families::BOTH,
        };
        [key, &both].into_iter().find_map(|asked| {
            let known = self
                .get(asked)
                .filter(|known| now.saturating_duration_since(known.since) < STALE_MAX)?;
            let addresses: Vec<_> = known
                .addresses
                .iter()
                .copied()
                .filter(|address| key.families.has(*address))
                .collect();
            (!addresses.is_empty() && may_be_used(known)).then_some(addresses)
        })
    }
}

impl Table {
    fn get(&mut self, key: &Key) -> Option<&mut Known> {
        let (used, known) = self.entries.get_mut(key)?;
        self.uses += 1;
        if let Some(key) = self.order.remove(used) {
            self.order.insert(self.uses, key);
        }
        *used = self.uses;
        Some(known)
    }

    fn insert(&mut self, key: Key, known: Known) {
        self.bytes += cost(&key, &known);
        self.uses += 1;
        self.order.insert(self.uses, key.clone());
        self.entries.insert(key, (self.uses, known));
        while self.bytes > TABLE_BYTES_MAX {
            let Some((_, oldest)) = self.order.pop_first() else {
                return;
            };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some((used, known)) = self.entries.remove(key) {
            self.order.remove(&used);
            self.bytes -= cost(key, &known);
        }
    }
}

/// The memory of an entry in bytes, estimated.
fn cost(key: &Key, known: &Known) -> usize {
    ENTRY_BYTES + key.host.as_str().len() + size_of_val(&*known.addresses)
}

/// While DNS is down, one tunnel per this time queries it again; the others use the last good
/// answer at once (RFC 8767, section 5).
const DOWN: Duration = Duration::from_secs(10);
/// RFC 8767 suggests one to three days. An hour limits how long a retired address is dialled.
const STALE_MAX: Duration = Duration::from_secs(3_600);
/// A TTL can be 68 years. A fresh answer is used for no longer than a stale one.
const TTL_MAX: Duration = STALE_MAX;
/// The limit of each of the two tables: about 10,000 names with short answers, or 2,800 with the
/// longest.
pub(super) const TABLE_BYTES_MAX: usize = 4 << 20;
/// The cost of one entry in both maps and the allocator, without its name and addresses.
const ENTRY_BYTES: usize = 384;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            host: Host::parse(name).unwrap(),
            families: Families::BOTH,
        }
    }

    fn addresses(count: u8) -> Vec<IpAddr> {
        (0..count)
            .map(|last| IpAddr::from([203, 0, 113, last]))
            .collect()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn an_answer_is_fresh_for_its_ttl_and_no_longer_than_an_hour() {
        let (mut cache, start) = (AnswerCache::default(), Instant::now());
        cache.insert(key("a.example"), true, &addresses(1), MINUTE, start);
        cache.insert(
            key("b.example"),
            true,
            &addresses(1),
            Duration::from_secs(1 << 31),
            start,
        );
        assert!(cache.fresh(&key("a.example"), start + MINUTE / 2).is_some());
        assert!(cache.fresh(&key("a.example"), start + MINUTE).is_none());
        assert!(
            cache
                .fresh(&key("b.example"), start + 59 * MINUTE)
                .is_some()
        );
        assert!(
            cache
                .fresh(&key("b.example"), start + 60 * MINUTE)
                .is_none()
        );
    }

    #[test]
    fn an_answer_without_addresses_is_cached() {
        let (mut cache, start) = (AnswerCache::default(), Instant::now());
        cache.insert(key("a.example"), true, &addresses(1), MINUTE, start);
        cache.insert(key("a.example"), true, &[], MINUTE / 2, start);
        assert_eq!(
            cache.fresh(&key("a.example"), start + MINUTE / 3),
            Some(Vec::new())
        );
        assert!(cache.fresh(&key("a.example"), start + MINUTE / 2).is_none());
        assert!(
            cache.recall(&key("a.example"), start).is_none(),
            "a name that is gone has no last good answer"
        );
        cache.insert(key("a.example"), true, &[], Duration::ZERO, start);
        assert!(cache.named.entries.is_empty());
    }

    #[test]
    fn the_last_good_answer_is_used_for_an_hour_and_dns_is_asked_again_every_ten_seconds() {
        let (mut cache, start) = (AnswerCache::default(), Instant::now());
        cache.insert(
            key("a.example"),
            false,
            &addresses(1),
            Duration::ZERO,
            start,
        );
        assert!(
            cache.while_down(&key("a.example"), start).is_none(),
            "DNS has not failed yet"
        );
        assert!(cache.recall(&key("a.example"), start + MINUTE).is_some());
        assert!(
            cache
                .while_down(&key("a.example"), start + MINUTE + DOWN / 2)
                .is_some()
        );
        assert!(
            cache
                .while_down(&key("a.example"), start + MINUTE + DOWN)
                .is_none()
        );
        assert!(
            cache
                .recall(&key("a.example"), start + 60 * MINUTE)
                .is_none()
        );
    }

    #[test]
    fn one_family_alone_recalls_what_was_asked_for_both() {
        let (mut cache, start) = (AnswerCache::default(), Instant::now());
        cache.insert(key("a.example"), true, &addresses(2), Duration::ZERO, start);
        let only = |v4| Key {
            families: Families { v4, v6: !v4 },
            ..key("a.example")
        };
        assert_eq!(cache.recall(&only(true), start), Some(addresses(2)));
        assert_eq!(cache.recall(&only(false), start), None);
    }

    #[test]
    fn a_cache_is_bounded_in_bytes_and_drops_the_least_recently_used() {
        let (mut cache, start) = (AnswerCache::default(), Instant::now());
        let name = |number: usize| key(&format!("n{number}.peer.example"));
        cache.insert(key("operator.example"), true, &addresses(1), MINUTE, start);
        for number in 0..20_000 {
            cache.insert(name(number), false, &addresses(64), MINUTE, start);
            assert!(cache.fresh(&name(0), start).is_some(), "used all the time");
        }
        let others = &cache.others;
        assert!(
            others.bytes <= TABLE_BYTES_MAX && others.bytes > TABLE_BYTES_MAX - 4_096,
            "{}",
            others.bytes
        );
        assert_eq!(others.entries.len(), others.order.len());
        let counted: usize = others
            .entries
            .iter()
            .map(|(key, (_, known))| cost(key, known))
            .sum();
        assert_eq!(others.bytes, counted);
        assert!(
            cache.fresh(&name(1), start).is_none() && cache.fresh(&name(19_999), start).is_some()
        );
        assert!(
            cache.fresh(&key("operator.example"), start).is_some(),
            "no peer pushes it out"
        );
    }

    #[test]
    fn new_servers_keep_stale_answers_for_failures() {
        let (mut cache, start) = (AnswerCache::default(), Instant::now());
        cache.insert(key("a.example"), true, &addresses(1), MINUTE, start);
        cache.recall(&key("a.example"), start);
        cache.make_stale(start);
        assert!(
            cache.fresh(&key("a.example"), start).is_none()
                && cache.while_down(&key("a.example"), start).is_none(),
            "the new servers are asked"
        );
        assert!(cache.recall(&key("a.example"), start).is_some());
    }
}
