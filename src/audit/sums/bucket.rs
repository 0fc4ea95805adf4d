//! A token bucket stored as one point in time (the generic cell rate algorithm, ITU-T I.371). Never
//! waits.

use std::time::{Duration, Instant};

/// When the bucket is full again; None if it is full.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket(Option<Instant>);

/// The capacity of a bucket, and the time in which one token returns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) interval: Duration,
}

impl Bucket {
    /// Whether a token is available.
    pub(super) fn has(self, now: Instant, rate: Rate) -> bool {
        let missing = self
            .0
            .map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        missing + rate.interval <= rate.interval * rate.burst
    }

    /// Takes a token if one is available.
    pub(super) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let has = self.has(now, rate);
        if has {
            self.0 = Some(self.0.map_or(now, |full| full.max(now)) + rate.interval);
        }
        has
    }

    pub(super) fn is_full(self, now: Instant) -> bool {
        self.0.is_none_or(|full| full <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        burst: 3,
        interval: Duration::from_secs(1),
    };

    #[test]
    fn a_burst_passes_and_then_the_even_pace() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        let mut taken = |at: u64| {
            (0..10)
                .filter(|_| bucket.take(start + Duration::from_millis(at), RATE))
                .count()
        };
        assert_eq!(
            [0, 999, 1_000, 1_001, 3_000, 60_000].map(&mut taken),
            [3, 0, 1, 0, 2, 3]
        );
        assert!(!bucket.is_full(start + Duration::from_millis(62_999)));
        assert!(bucket.is_full(start + Duration::from_millis(63_000)));
    }
}
