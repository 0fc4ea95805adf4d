//! Recent changes of the counters: refusals by code over the last minutes, and bytes a second.
//! Samples the counters once a second, so counting costs nothing more. Never counts itself.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Metrics;
use crate::outcome::{DenyReason, End, Failure};

/// The sampled counters of the last [`MINUTES`] minutes.
#[derive(Debug)]
pub struct Recent(Mutex<Looks>);

#[derive(Debug)]
struct Looks {
    /// The value of each ending at the start of a minute; the oldest first, never empty.
    minutes: VecDeque<Vec<u64>>,
    minute: Instant,
    second: Sample,
    rate: Rate,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    up: u64,
    down: u64,
}

/// Bytes a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// From clients to upstreams.
    pub up: f64,
    /// From upstreams to clients.
    pub down: f64,
}

/// How often attempts had one ending.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// The ending.
    pub end: End,
    /// Within the last [`MINUTES`] minutes, including the present one.
    pub recent: u64,
    /// Since the start.
    pub total: u64,
}

impl Recent {
    /// Starts at `now` without samples.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let second = Sample {
            at: now,
            up: 0,
            down: 0,
        };
        let minutes = [vec![0; refusals().count()]].into();
        Self(Mutex::new(Looks {
            minutes,
            minute: now,
            second,
            rate: Rate::default(),
        }))
    }

    /// Takes a sample; call it every second.
    pub fn look(&self, metrics: &Metrics, now: Instant) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.measure(metrics, now);
        // A process that was stopped for an hour catches up with no more than the samples it keeps.
        for _ in 0..MINUTES {
            if now.saturating_duration_since(looks.minute) < MINUTE {
                return;
            }
            looks.minute += MINUTE;
            looks
                .minutes
                .push_back(refusals().map(|end| metrics.count(end)).collect());
            if looks.minutes.len() > MINUTES {
                looks.minutes.pop_front();
            }
        }
        looks.minute = now;
    }

    /// The endings of attempts, the most frequent of late first.
    #[must_use]
    pub fn refused(&self, metrics: &Metrics) -> Vec<Refused> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = looks.minutes.front().map(Vec::as_slice).unwrap_or_default();
        let refused = refusals().zip(oldest).map(|(end, then)| {
            let total = metrics.count(end);
            Refused {
                end,
                recent: total.saturating_sub(*then),
                total,
            }
        });
        let mut refused: Vec<_> = refused.filter(|refused| refused.total > 0).collect();
        refused.sort_by_key(|refused| Reverse((refused.recent, refused.total)));
        refused
    }

    /// Bytes in the last second.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).rate
    }
}

impl Looks {
    fn measure(&mut self, metrics: &Metrics, now: Instant) {
        let passed = now.saturating_duration_since(self.second.at);
        // After a late sample the next one comes early; a rate over a few milliseconds means
        // nothing.
        if passed < SECOND / 2 {
            return;
        }
        let sample = Sample {
            at: now,
            up: metrics.bytes_up.get(),
            down: metrics.bytes_down.get(),
        };
        let a_second =
            |now: u64, before: u64| now.saturating_sub(before) as f64 / passed.as_secs_f64();
        self.rate = Rate {
            up: a_second(sample.up, self.second.up),
            down: a_second(sample.down, self.second.down),
        };
        self.second = sample;
    }
}

/// Every ending that is not a tunnel's, always in the same order.
fn refusals() -> impl Iterator<Item = End> {
    let denied = DenyReason::ALL.iter().map(|reason| End::from(*reason));
    denied.chain(Failure::ALL.iter().map(|failure| End::from(*failure)))
}

/// The number of minutes kept.
pub const MINUTES: usize = 15;
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn of_hosts(recent: &Recent, metrics: &Metrics) -> Option<(u64, u64)> {
        let refused = recent.refused(metrics);
        let of_hosts = refused
            .iter()
            .find(|refused| refused.end == DenyReason::HostDenied.into())?;
        Some((of_hosts.recent, of_hosts.total))
    }

    #[test]
    fn a_refusal_is_recent_for_fifteen_minutes_and_counted_for_good() {
        let (metrics, start) = (Metrics::new("v", "r"), Instant::now());
        let recent = Recent::new(start);
        assert_eq!(
            of_hosts(&recent, &metrics),
            None,
            "an end that never came is not listed"
        );
        for second in 0..=20 * 60 {
            if second == 90 {
                metrics.ended(DenyReason::HostDenied.into());
            }
            recent.look(&metrics, after(start, second));
            let wanted = match second {
                0..90 => None,
                // It happened in the second minute, which counts until the seventeenth begins.
                90..960 => Some((1, 1)),
                _ => Some((0, 1)),
            };
            assert_eq!(of_hosts(&recent, &metrics), wanted, "after {second} s");
        }
    }

    #[test]
    fn a_long_pause_forgets_old_refusals() {
        let (metrics, start) = (Metrics::new("v", "r"), Instant::now());
        let recent = Recent::new(start);
        metrics.ended(Failure::DnsFailed.into());
        metrics.ended(DenyReason::HostDenied.into());
        recent.look(&metrics, after(start, 86_400));
        assert_eq!(of_hosts(&recent, &metrics), Some((0, 1)));
        metrics.ended(DenyReason::HostDenied.into());
        recent.look(&metrics, after(start, 86_401));
        assert_eq!(of_hosts(&recent, &metrics), Some((1, 2)));
        let codes: Vec<_> = recent
            .refused(&metrics)
            .iter()
            .map(|refused| refused.end.code())
            .collect();
        assert_eq!(
            codes,
            ["host_denied", "dns_failed"],
            "the recent ones first"
        );
    }

    #[test]
    fn the_rate_covers_the_time_between_two_reads() {
        let (metrics, start) = (Metrics::new("v", "r"), Instant::now());
        let recent = Recent::new(start);
        metrics.bytes_up.increment(4_000);
        metrics.bytes_down.increment(8_000);
        recent.look(&metrics, after(start, 2));
        assert_eq!((recent.rate().up, recent.rate().down), (2_000.0, 4_000.0));
        metrics.bytes_up.increment(1);
        recent.look(&metrics, after(start, 2) + Duration::from_millis(1));
        assert_eq!(recent.rate().up, 2_000.0, "a millisecond is no measure");
        recent.look(&metrics, after(start, 3));
        assert_eq!((recent.rate().up, recent.rate().down), (1.0, 0.0));
    }
}
