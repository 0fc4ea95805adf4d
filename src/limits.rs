//! Bounds on tunnels: in all, for each client address, for each user. A permit is a guard and goes back when it is
//! dropped.
//!
//! Tables hold only keys with a live permit, so they are bounded by the number of tunnels. Never queues: a full limit
//! is an answer.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts permits for each key.
#[derive(Debug)]
pub struct Table<K: Eq + Hash + Clone>(Arc<Mutex<HashMap<K, usize>>>);

/// One slot under a key.
#[derive(Debug)]
pub struct Permit<K: Eq + Hash + Clone> {
    table: Arc<Mutex<HashMap<K, usize>>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Default for Table<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> Table<K> {
    /// A permit, unless `max` are out under this key. The bound is given with each call, so that a reload can change
    /// it.
    #[must_use]
    pub fn acquire(&self, key: &K, max: usize) -> Option<Permit<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(key).copied().unwrap_or(0);
        if count >= max {
            return None;
        }
        counts.insert(key.clone(), count + 1);
        Some(Permit { table: Arc::clone(&self.0), key: key.clone() })
    }
}

impl<K: Eq + Hash + Clone> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut counts = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_counted_by_key_and_come_back() {
        let table = Table::default();
        let first = table.acquire(&"a", 2).unwrap();
        let _second = table.acquire(&"a", 2).unwrap();
        assert!(table.acquire(&"a", 2).is_none());
        assert!(table.acquire(&"b", 2).is_some());
        assert!(table.acquire(&"a", 3).is_some(), "the bound may grow");
        drop(first);
        assert!(table.acquire(&"a", 2).is_some());
    }

    #[test]
    fn a_key_without_permits_leaves_no_trace() {
        let table = Table::default();
        drop(table.acquire(&7, 1));
        assert!(table.0.lock().unwrap().is_empty());
    }
}
