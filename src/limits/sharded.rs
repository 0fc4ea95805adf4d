//! A table in 64 parts, each under a lock of its own, so that threads with different keys rarely
//! contend. The hash of the key selects the part; its seed is random, so no peer can choose keys
//! that share a part.
//!
//! Bounds nothing itself: the user of a table bounds what a part holds, and holds a lock for one
//! operation on one part. Never holds two locks at a time.

use std::hash::{BuildHasher, Hash, RandomState};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The parts of a table with keys `K`. `P` is the content of a part, such as a `HashMap<K, _>`.
#[derive(Debug)]
pub struct Sharded<K, P> {
    hasher: RandomState,
    parts: [Mutex<P>; PARTS],
    keys: PhantomData<fn(K)>,
}

impl<K, P: Default> Default for Sharded<K, P> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            parts: std::array::from_fn(|_| Mutex::default()),
            keys: PhantomData,
        }
    }
}

impl<K: Hash, P> Sharded<K, P> {
    /// Locks the part of this key.
    pub fn lock(&self, key: &K) -> MutexGuard<'_, P> {
        let [first, ..] = &self.parts;
        let number = self.hasher.hash_one(key) as usize % PARTS;
        lock(self.parts.get(number).unwrap_or(first))
    }

    /// Locks each part in turn, so what the parts hold is not of one moment.
    pub fn each(&self) -> impl Iterator<Item = MutexGuard<'_, P>> {
        self.parts.iter().map(lock)
    }
}

/// A panic leaves no part half changed, because every change is one operation of a collection.
fn lock<P>(part: &Mutex<P>) -> MutexGuard<'_, P> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A few for each core of a large machine.
pub(crate) const PARTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_key_keeps_its_part_and_keys_spread_over_all_parts() {
        let table = Sharded::<u64, HashMap<u64, u64>>::default();
        for _ in 0..2 {
            for key in 0..10_000 {
                *table.lock(&key).entry(key).or_default() += 1;
            }
        }
        let parts: Vec<_> = table.each().map(|part| part.len()).collect();
        assert_eq!((parts.len(), parts.iter().sum()), (PARTS, 10_000));
        // Each expects 156 with a standard deviation of 12.
        assert!(
            parts.iter().all(|keys| (50..300).contains(keys)),
            "{parts:?}"
        );
        assert!(
            table
                .each()
                .all(|part| part.values().all(|count| *count == 2))
        );
    }
}
