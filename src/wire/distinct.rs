//! Detects duplicate numbers: extension types, groups with a key. A long list costs no more per
//! entry than a short one: after the first few, numbers go into a bitmap of constant size.

/// The numbers so far.
pub(super) struct Distinct {
    first: [u16; FIRST_MAX],
    count: usize,
    more: Option<Box<[u64; WORDS]>>,
}

impl Distinct {
    pub(super) fn new() -> Self {
        Self {
            first: [0; FIRST_MAX],
            count: 0,
            more: None,
        }
    }

    /// Adds a number. Returns false if it is present already.
    #[must_use]
    pub(super) fn add(&mut self, number: u16) -> bool {
        if self
            .first
            .get(..self.count)
            .is_none_or(|before| before.contains(&number))
        {
            return false;
        }
        if let Some(free) = self.first.get_mut(self.count) {
            *free = number;
            self.count += 1;
            return true;
        }
        let more = self.more.get_or_insert_with(|| Box::new([0; WORDS]));
        let (word, bit) = (
            usize::from(number) / BITS,
            1 << (usize::from(number) % BITS),
        );
        // The bitmap has a word for each two-byte number.
        let Some(word) = more.get_mut(word) else {
            return false;
        };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

/// Clients send about twenty extensions, servers two to six.
const FIRST_MAX: usize = 64;
const BITS: usize = 64;
/// 8 KiB: a bit for each number of two bytes.
const WORDS: usize = 65_536 / BITS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_new_once_in_any_order() {
        for step in [1_u16, 7, 32_767] {
            let mut distinct = Distinct::new();
            let numbers = || (0..=u16::MAX).map(|number| number.wrapping_mul(step));
            assert!(numbers().all(|number| distinct.add(number)), "{step}");
            assert!(!numbers().any(|number| distinct.add(number)), "{step}");
        }
    }
}
