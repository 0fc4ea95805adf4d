//! A counter that the program can read back, so that `/status` and `/metrics` agree. Never
//! decreases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, CounterFn};

/// A counter of the recorder, and its value.
pub struct Total {
    counter: Counter,
    value: Arc<AtomicU64>,
}

/// The handle that adds to both.
struct Both {
    shown: Counter,
    value: Arc<AtomicU64>,
}

impl Total {
    pub(super) fn of(shown: Counter) -> Self {
        let value = Arc::new(AtomicU64::new(0));
        let both = Both {
            shown,
            value: Arc::clone(&value),
        };
        Self {
            counter: Counter::from_arc(Arc::new(both)),
            value,
        }
    }

    /// A handle that only counts.
    pub fn counter(&self) -> Counter {
        self.counter.clone()
    }

    /// Adds to the counter.
    pub fn increment(&self, by: u64) {
        self.counter.increment(by);
    }

    /// The sum so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

impl CounterFn for Both {
    fn increment(&self, by: u64) {
        self.shown.increment(by);
        self.value.fetch_add(by, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.shown.absolute(value);
        self.value.fetch_max(value, Ordering::Relaxed);
    }
}
