//! A token bucket stored as one point in time, so that it needs no refill (the generic cell rate
//! algorithm, ITU-T I.371). Never waits; it returns whether a token is available.

use std::time::{Duration, Instant};

/// When the bucket is full again; None for one that was never used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket(Option<Instant>);

/// The time in which one token returns, and the time in which an empty bucket fills.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    interval: Duration,
    fill: Duration,
}

impl Rate {
    /// One token for each interval, and a capacity of `burst` tokens.
    #[must_use]
    pub const fn new(burst: u32, interval: Duration) -> Self {
        Self {
            interval,
            fill: interval.saturating_mul(burst),
        }
    }

    /// So many tokens a second, and a capacity of the tokens of `fill`. None for 0 tokens a second.
    #[must_use]
    pub fn per_second(tokens: u32, fill: Duration) -> Option<Self> {
        let interval = Duration::from_secs(1).checked_div(tokens)?;
        Some(Self { interval, fill })
    }
}

impl Bucket {
    /// Whether a token is available.
    #[must_use]
    pub fn has(self, now: Instant, rate: Rate) -> bool {
        let missing = self
            .0
            .map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        missing + rate.interval <= rate.fill
    }

    /// Takes a token if one is available.
    pub fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let has = self.has(now, rate);
        if has {
            self.0 = Some(self.0.map_or(now, |full| full.max(now)) + rate.interval);
        }
        has
    }

    /// Whether no token is missing.
    #[must_use]
    pub fn is_full(self, now: Instant) -> bool {
        self.0.is_none_or(|full| full <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate::new(3, Duration::from_secs(1));

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

    #[test]
    fn no_tokens_a_second_is_no_rate() {
        assert!(Rate::per_second(0, Duration::from_secs(5)).is_none());
        assert!(Rate::per_second(u32::MAX, Duration::from_secs(5)).is_some());
    }

    proptest! {
        /// A bucket that is refilled, in nanoseconds of tokens, decides alike.
        #[test]
        fn a_bucket_decides_like_a_refilled_one(
            burst in 1_u32..40,
            interval in 1_u64..2_000,
            pauses in prop::collection::vec(0_u64..5_000, 1..300),
        ) {
            let rate = Rate::new(burst, Duration::from_nanos(interval));
            let (mut bucket, mut now) = (Bucket::default(), Instant::now());
            let capacity = u64::from(burst) * interval;
            let mut credit = capacity;
            for pause in pauses {
                now += Duration::from_nanos(pause);
                credit = (credit + pause).min(capacity);
                let has = credit >= interval;
                prop_assert_eq!(bucket.is_full(now), credit == capacity);
                prop_assert_eq!(bucket.has(now, rate), has);
                prop_assert_eq!(bucket.take(now, rate), has);
                credit -= if has { interval } else { 0 };
            }
        }

        /// Threads read the clock before they reach the lock, so times may come in any order.
        #[test]
        fn a_bucket_never_exceeds_burst_and_rate_for_times_in_any_order(
            tokens in 1_u32..2_000,
            times in prop::collection::vec(0_u64..3_000_000, 1..300),
        ) {
            let fill = Duration::from_millis(5);
            let rate = Rate::per_second(tokens * 1_000, fill).unwrap_or(RATE);
            let (mut bucket, start) = (Bucket::default(), Instant::now());
            let at = |time: &u64| start + Duration::from_nanos(*time);
            let taken = times.iter().filter(|time| bucket.take(at(time), rate)).count();
            let (first, last) = (times.iter().min(), times.iter().max());
            let span = last.map(at).zip(first.map(at)).map_or(fill, |(last, first)| last - first);
            let most = (fill + span).as_nanos() / rate.interval.as_nanos();
            prop_assert!(taken as u128 <= most, "{taken} of {most}");
        }
    }
}
