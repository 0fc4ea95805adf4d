//! A pass over the keys of a table, some of them in each turn, so that a table of any size delays
//! nobody. Visits each key once that the table had at the start; never touches the table.

/// The progress of a pass.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// The next key; None: no pass is under way.
    next: Option<usize>,
}

impl Pass {
    /// Begins a pass. One that is under way begins again.
    pub(super) fn start(&mut self) {
        self.next = Some(0);
    }

    /// Whether keys are left.
    pub(super) fn is_under_way(&self) -> bool {
        self.next.is_some()
    }

    /// The next key below `end`; None when all have been visited, which ends the pass.
    pub(super) fn next(&mut self, end: usize) -> Option<usize> {
        let key = self.next.filter(|key| *key < end);
        self.next = key.map(|key| key + 1).filter(|next| *next < end);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_visited_once_in_a_pass() {
        let mut pass = Pass::default();
        assert_eq!(pass.next(3), None, "not started");
        pass.start();
        assert!(pass.is_under_way());
        let visited: Vec<_> = std::iter::from_fn(|| pass.next(3)).collect();
        assert_eq!(visited, [0, 1, 2]);
        assert!(!pass.is_under_way());
    }

    #[test]
    fn a_pass_begins_again_and_ends_with_a_table_that_has_shrunk() {
        let mut pass = Pass::default();
        pass.start();
        assert_eq!([pass.next(9), pass.next(9)], [Some(0), Some(1)]);
        pass.start();
        assert_eq!([pass.next(9), pass.next(9)], [Some(0), Some(1)]);
        assert_eq!(pass.next(2), None);
        assert!(!pass.is_under_way());
        pass.start();
        assert_eq!(pass.next(0), None, "an empty table");
        assert!(!pass.is_under_way());
    }
}
