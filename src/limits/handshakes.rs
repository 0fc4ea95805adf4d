//! The memory that unfinished handshakes share. Each may hold a little on its own, more than a real client or server needs; what
//! is beyond that is taken from one pool, of which one holder has half at most. Never waits: a full pool is an answer.

use std::hash::Hash;

use super::{Count, CountPermit, KeyedPermit, Table};

/// The pool, shared by all workers.
#[derive(Debug)]
pub struct HandshakeMemory<K: Eq + Hash + Clone> {
    all: Count,
    holders: Table<K>,
}

/// What one handshake has of it; goes back when it is dropped.
#[derive(Debug)]
pub struct HandshakePermit<'a, K: Eq + Hash + Clone> {
    memory: &'a HandshakeMemory<K>,
    holder: K,
    blocks: Vec<(CountPermit, KeyedPermit<K>)>,
}

impl<K: Eq + Hash + Clone> Default for HandshakeMemory<K> {
    fn default() -> Self {
        Self {
            all: Count::default(),
            holders: Table::default(),
        }
    }
}

impl<K: Eq + Hash + Clone> HandshakeMemory<K> {
    /// A permit for one handshake of this holder, which holds nothing of the pool yet.
    #[must_use]
    pub fn permit(&self, holder: K) -> HandshakePermit<'_, K> {
        HandshakePermit {
            memory: self,
            holder,
            blocks: Vec::new(),
        }
    }
}

impl<K: Eq + Hash + Clone> HandshakePermit<'_, K> {
    /// Makes the permit one for so many bytes, more or fewer than before. False when the pool has not that much; then the
    /// handshake must end.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        let wanted = bytes.saturating_sub(FREE_BYTES).div_ceil(BLOCK_BYTES);
        self.blocks.truncate(wanted);
        while self.blocks.len() < wanted {
            let Some(block) = self.block() else {
                return false;
            };
            self.blocks.push(block);
        }
        true
    }

    fn block(&self) -> Option<(CountPermit, KeyedPermit<K>)> {
        let all = self.memory.all.acquire(BLOCKS_MAX)?;
        let own = self.memory.holders.acquire(&self.holder, BLOCKS_MAX / 2)?;
        Some((all, own))
    }
}

/// What each handshake may hold without asking. A post-quantum ClientHello has 2 KiB, and a ServerHello 1.3 KiB.
const FREE_BYTES: usize = 4_096;
const BLOCK_BYTES: usize = 4_096;
/// 64 MiB in all: a thousand unfinished ClientHellos of 64 KiB.
const BLOCKS_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_handshakes_hold_nothing_and_one_client_half() {
        let memory = HandshakeMemory::default();
        let mut real: Vec<_> = (0..10_000).map(|_| memory.permit("a")).collect();
        assert!(real.iter_mut().all(|permit| permit.resize(FREE_BYTES)));
        let mut greedy: Vec<_> = (0..2_000).map(|_| memory.permit("a")).collect();
        let granted = greedy
            .iter_mut()
            .filter_map(|it| it.resize(65_536).then_some(()));
        // Fifteen blocks each.
        assert_eq!(granted.count(), 8_192 / 15);
        let mut others: Vec<_> = (0..2_000).map(|_| memory.permit("b")).collect();
        let granted = others
            .iter_mut()
            .filter_map(|it| it.resize(65_536).then_some(()));
        assert_eq!(granted.count(), 8_192 / 15);
        assert!(!memory.permit("c").resize(65_536), "the pool is empty");
        assert!(memory.permit("c").resize(FREE_BYTES));
        // A handshake that is over, and one that needs less than before, give back what they had.
        greedy.clear();
        others
            .iter_mut()
            .for_each(|permit| assert!(permit.resize(0)));
        assert_eq!(memory.holders.total(), 0);
        assert!(memory.all.acquire(1).is_some(), "none is out");
    }
}
