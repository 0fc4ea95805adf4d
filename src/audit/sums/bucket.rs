//! A token bucket in one moment of time (the generic cell rate algorithm, ITU-T I.371). Never waits.

use std::time::{Duration, Instant};

/// When the bucket is full again; None: it is full.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket(Option<Instant>);

/// How many tokens a bucket holds, and how long one takes to come back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) interval: Duration,
}

impl Bucket {
    /// Whether there is a token.
    pub(super) fn has(self, now: Instant, rate: Rate) -> bool {
        let missing = self
            .0
            .map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        missing + rate.interval <= rate.interval * rate.burst
    }

    /// Takes a token, if there is one.
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
