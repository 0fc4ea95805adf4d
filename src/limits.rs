//! Bounds on tunnels: in all, by client, by user (`limits/account.rs`). A permit is a guard that
//! gives its permit back on drop.
//!
//! Tables hold only keys with a live permit, so the number of tunnels bounds them. Never queues: a
//! full limit is an answer.

pub mod account;
pub mod bucket;
pub mod budget;
pub mod client;
pub mod handshakes;
pub mod pending;
pub mod rate;
pub mod sharded;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sharded::Sharded;

/// Counts permits of one kind.
#[derive(Debug, Default)]
pub struct Count(Arc<AtomicUsize>);

/// A permit of a [`Count`].
#[derive(Debug)]
pub struct CountPermit(Arc<AtomicUsize>);

/// Counts permits by key.
#[derive(Debug)]
pub struct Table<K: Eq + Hash + Clone>(Arc<Counts<K>>);

/// A permit under a key. One word, because a tunnel holds some for as long as it is open.
#[derive(Debug)]
pub struct KeyedPermit<K: Eq + Hash + Clone>(Arc<Entry<K>>);

/// What the permits of one key share.
#[derive(Debug)]
struct Entry<K> {
    table: Arc<Counts<K>>,
    key: K,
    /// The number of permits; changes under the lock of the table's part.
    taken: AtomicUsize,
}

type Counts<K> = Sharded<K, HashMap<K, Arc<Entry<K>>>>;

impl Count {
    /// Takes a permit unless `max` are taken.
    #[must_use]
    pub fn acquire(&self, max: usize) -> Option<CountPermit> {
        let one_more = |out: usize| (out < max).then_some(out + 1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(CountPermit(Arc::clone(&self.0)))
    }
}

impl Drop for CountPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<K: Eq + Hash + Clone> Default for Table<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> Table<K> {
    /// Takes a permit unless `max` are taken under this key. The bound is an argument, so a reload
    /// can change it.
    #[must_use]
    pub fn acquire(&self, key: &K, max: usize) -> Option<KeyedPermit<K>> {
        if max == 0 {
            return None;
        }
        let mut entries = self.0.lock(key);
        let Some(entry) = entries.get(key) else {
            let entry = Arc::new(Entry {
                table: Arc::clone(&self.0),
                key: key.clone(),
                taken: AtomicUsize::new(1),
            });
            entries.insert(key.clone(), Arc::clone(&entry));
            return Some(KeyedPermit(entry));
        };
        let taken = entry.taken();
        (taken < max).then(|| {
            entry.taken.store(taken + 1, Ordering::Relaxed);
            KeyedPermit(Arc::clone(entry))
        })
    }

    /// How many permits this key has.
    #[must_use]
    pub fn count(&self, key: &K) -> usize {
        let entries = self.0.lock(key);
        entries.get(key).map_or(0, |entry| entry.taken())
    }

    /// How many permits are taken in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0
            .each()
            .map(|entries| entries.values().map(|entry| entry.taken()).sum::<usize>())
            .sum()
    }

    /// The permits of the key with the most.
    #[must_use]
    pub fn busiest(&self) -> usize {
        self.0
            .each()
            .filter_map(|entries| entries.values().map(|entry| entry.taken()).max())
            .max()
            .unwrap_or(0)
    }
}

impl<K: Eq + Hash + Clone> KeyedPermit<K> {
    /// How many permits its key has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.taken()
    }
}

impl<K> Entry<K> {
    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl<K: Eq + Hash + Clone> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        let Entry { table, key, taken } = &*self.0;
        let mut entries = table.lock(key);
        let others = self.0.taken().saturating_sub(1);
        taken.store(others, Ordering::Relaxed);
        if others == 0 {
            entries.remove(key);
        }
    }
}

/// Makes room in a full table: removes the eighth with the lowest rank, so that one scan pays for
/// many new keys.
pub(crate) fn forget_lowest<K: Eq + Hash, V, R: Ord>(
    table: &mut HashMap<K, V>,
    rank: impl Fn(&V) -> R,
) {
    let mut ranks: Vec<R> = table.values().map(&rank).collect();
    let eighth = ranks.len() / 8;
    if ranks.is_empty() {
        return;
    }
    let (lower, highest, _) = ranks.select_nth_unstable(eighth);
    // Among equal ranks removes as many as needed, in any order.
    let mut alike = eighth + 1 - lower.iter().filter(|rank| *rank < highest).count();
    table.retain(|_, value| {
        let order = rank(value).cmp(highest);
        let goes = order.is_lt() || (order.is_eq() && alike > 0);
        alike -= usize::from(goes && order.is_eq());
        !goes
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_table_grants_max_permits_by_key_and_takes_them_back() {
        let table = Table::default();
        let first = table.acquire(&"a", 2).unwrap();
        let _second = table.acquire(&"a", 2).unwrap();
        assert!(table.acquire(&"a", 2).is_none());
        assert!(table.acquire(&"b", 2).is_some());
        assert!(table.acquire(&"a", 3).is_some(), "the bound may grow");
        let _other = table.acquire(&"b", 1).unwrap();
        assert_eq!(
            (
                table.count(&"a"),
                table.count(&"c"),
                table.total(),
                table.busiest()
            ),
            (2, 0, 3, 2)
        );
        drop(first);
        assert!(table.acquire(&"a", 2).is_some());
    }

    #[test]
    fn a_count_grants_max_permits_and_takes_them_back() {
        let count = Count::default();
        let first = count.acquire(2).unwrap();
        let _second = count.acquire(2).unwrap();
        assert!(count.acquire(2).is_none());
        assert!(count.acquire(3).is_some(), "the bound may grow");
        drop(first);
        assert!(count.acquire(2).is_some());
    }

    #[test]
    fn the_lowest_eighth_at_most_is_forgotten() {
        let mut table: HashMap<u32, u32> = (0..80).map(|number| (number, number / 40)).collect();
        forget_lowest(&mut table, |rank| *rank);
        assert_eq!(
            (
                table.len(),
                table.values().filter(|rank| **rank == 1).count()
            ),
            (69, 40)
        );
        let mut one = HashMap::from([(1, 1)]);
        forget_lowest(&mut one, |rank| *rank);
        assert!(one.is_empty(), "there is always room for one afterwards");
        forget_lowest(&mut one, |rank| *rank);
    }

    #[test]
    fn a_key_without_permits_leaves_no_trace() {
        let table = Table::default();
        drop(table.acquire(&7, 1));
        assert!(table.0.each().all(|counts| counts.is_empty()));
    }
}
