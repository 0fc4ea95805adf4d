//! How many warm sockets the recent tunnels justify. Pure: no clock, no lock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When the last tunnels to a name or over a key were dialled.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent(VecDeque<Instant>);

impl Recent {
    /// Adds a tunnel.
    pub(super) fn add(&mut self, now: Instant) {
        if self.0.len() >= KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// When the last tunnel was dialled.
    pub(super) fn last(&self) -> Option<Instant> {
        self.0.back().copied()
    }

    /// Whether there were [`TUNNELS_MIN`] tunnels within [`PERIOD`].
    pub(super) fn is_busy(&self, now: Instant) -> bool {
        let nth = self.0.iter().rev().nth(TUNNELS_MIN - 1);
        nth.is_some_and(|at| now.saturating_duration_since(*at) < PERIOD)
    }

    /// Tunnels per second, as the last [`KEPT_MAX`] within [`PERIOD`] show it. A burst counts as if it had taken a second.
    fn rate(&self, now: Instant) -> f64 {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        let mut recent = self.0.iter().filter(|at| age(at) < PERIOD).peekable();
        let span = recent.peek().map_or(Duration::ZERO, |oldest| age(oldest));
        recent.count() as f64 / span.as_secs_f64().max(1.0)
    }

    /// How many sockets keep most tunnels from waiting while each used socket is replaced within `rtt`. The replacements in
    /// flight are `rate * rtt` on average and vary by its square root. The one beyond that is for two tunnels at once.
    pub(super) fn sockets(&self, rtt: Duration, now: Instant) -> usize {
        let in_flight = self.rate(now) * rtt.as_secs_f64();
        // A float that is too large saturates.
        (in_flight + 2.0 * in_flight.sqrt()).ceil() as usize + 1
    }
}

/// A name with fewer tunnels in [`PERIOD`] gets no warm socket.
const TUNNELS_MIN: usize = 3;
/// How long a tunnel counts.
pub(super) const PERIOD: Duration = Duration::from_secs(60);
/// 32 a second over 60 ms already want more sockets than a key may have.
const KEPT_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(ages_ms: &[u64], now: Instant) -> Recent {
        let mut recent = Recent::default();
        for age in ages_ms {
            recent.add(now.checked_sub(Duration::from_millis(*age)).unwrap_or(now));
        }
        recent
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(1_000)
    }

    #[test]
    fn three_tunnels_within_a_minute_is_busy() {
        let now = later();
        for (ages, wanted) in [
            (&[][..], false),
            (&[0, 0], false),
            (&[59_999, 1, 0], true),
            (&[60_000, 1, 0], false),
            (&[90_000, 80_000, 59_000, 30_000, 100], true),
            (&[90_000, 80_000, 70_000, 30_000, 100], false),
        ] {
            assert_eq!(recent(ages, now).is_busy(now), wanted, "{ages:?}");
        }
    }

    #[test]
    fn the_number_of_sockets_grows_with_rate_and_round_trip() {
        let now = later();
        let each_50_ms: Vec<u64> = (1..=40).rev().map(|number| number * 50).collect();
        let busy = recent(&each_50_ms, now);
        assert!((busy.rate(now) - 20.0).abs() < 0.01, "{}", busy.rate(now));
        let sockets = |recent: &Recent, ms| recent.sockets(Duration::from_millis(ms), now);
        assert_eq!([0, 1, 40, 150].map(|ms| sockets(&busy, ms)), [1, 2, 4, 8]);
        let quiet = recent(&[40_000, 20_000, 0], now);
        assert_eq!([1, 40, 150].map(|ms| sockets(&quiet, ms)), [2, 2, 2]);
        let burst = recent(&[0; 3], now);
        assert_eq!(sockets(&burst, 1), 2);
        // What is older than the period does not count, and the number kept is bounded.
        let mut all = recent(&[600_000; 100], now);
        assert_eq!((all.0.len(), sockets(&all, 1_000)), (KEPT_MAX, 1));
        (0..1_000).for_each(|_| all.add(now));
        assert_eq!(all.0.len(), KEPT_MAX);
    }
}
