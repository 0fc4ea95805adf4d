//! Whether an upstream works: what tunnels and warm connections have found out. Pure: the caller gives the time and chance.
//!
//! A failed connection takes an upstream out until a probe succeeds. A 503 only puts it behind the others, because it may
//! pass at any moment. The waits between probes grow until a request succeeds, not only a handshake: a terminator may
//! shake hands while its daemon is gone.

use std::time::Duration;

use tokio::time::Instant;

/// The health of one upstream.
#[derive(Clone, Debug, Default)]
pub struct Health {
    standing: Standing,
    /// Failures since the last request that succeeded.
    failures: u32,
    /// Until when it is behind the others, and the code of its 503.
    avoided: Option<(Instant, String)>,
}

#[derive(Clone, Debug, Default)]
enum Standing {
    /// No connection has been tried.
    #[default]
    Unknown,
    Up,
    Down {
        since: Instant,
        /// When the next probe is due.
        until: Instant,
        reason: String,
    },
}

/// In which order upstreams are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Works, or has not been tried.
    Good,
    /// Has refused with a 503 of late.
    Avoided,
}

impl Health {
    /// A connection has finished its handshake. Returns whether the upstream was not known to be up.
    pub fn connected(&mut self) -> bool {
        let was_up = matches!(self.standing, Standing::Up);
        self.standing = Standing::Up;
        !was_up
    }

    /// The upstream has answered a request with anything but a 503.
    pub fn answered(&mut self) {
        self.failures = 0;
        self.avoided = None;
        self.standing = Standing::Up;
    }

    /// A connection has failed. Returns whether the upstream was not known to be down. `chance` is from 0 to 1.
    pub fn failed(&mut self, now: Instant, reason: String, chance: f64) -> bool {
        // Tunnels that fail at the same time are one failure.
        if matches!(self.standing, Standing::Down { until, .. } if now < until) {
            return false;
        }
        let was_down = matches!(self.standing, Standing::Down { .. });
        self.failures = self.failures.saturating_add(1);
        self.standing = Standing::Down {
            since: now,
            until: now + self.wait(chance),
            reason,
        };
        !was_down
    }

    /// A client needs the upstream: the next probe is due a second after the failure. Returns whether that is sooner.
    pub fn hasten(&mut self) -> bool {
        match &mut self.standing {
            Standing::Down { since, until, .. } if *until > *since + FIRST => {
                *until = *since + FIRST;
                true
            }
            _ => false,
        }
    }

    /// The upstream has answered 503.
    pub fn avoid(&mut self, now: Instant, code: String, chance: f64) {
        if !matches!(self.avoided, Some((until, _)) if now < until) {
            self.failures = self.failures.saturating_add(1);
        }
        self.avoided = Some((now + self.wait(chance), code));
    }

    /// The rank of the upstream; None while it is down.
    #[must_use]
    pub fn rank(&self, now: Instant) -> Option<Rank> {
        match (&self.standing, &self.avoided) {
            (Standing::Down { .. }, _) => None,
            (_, Some((until, _))) if now < *until => Some(Rank::Avoided),
            _ => Some(Rank::Good),
        }
    }

    /// Why it is down; None while it is not.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match &self.standing {
            Standing::Down { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// When the next probe is due; None while the upstream is not down.
    #[must_use]
    pub fn probe_at(&self) -> Option<Instant> {
        match self.standing {
            Standing::Down { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Whether a connection has finished its handshake and none has failed since.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.standing, Standing::Up)
    }

    /// 1 s, 2 s, 4 s … 30 s, and up to a quarter less by chance.
    fn wait(&self, chance: f64) -> Duration {
        let doubled = 1_u32 << self.failures.saturating_sub(1).min(5);
        let wait = (FIRST * doubled).min(LONGEST);
        wait.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 4.0)
    }
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_until_a_request_succeeds() {
        let (mut health, start) = (Health::default(), Instant::now());
        assert_eq!(health.rank(start), Some(Rank::Good));
        let mut now = start;
        for wanted in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(health.failed(now, "refused".into(), 0.0), wanted == 1);
            // Another tunnel fails at the same time.
            assert!(!health.failed(now, "refused".into(), 0.0));
            assert_eq!((health.rank(now), health.reason()), (None, Some("refused")));
            assert_eq!(health.probe_at().unwrap() - now, wanted * SECOND);
            now += wanted * SECOND;
        }
        // A handshake alone is no request.
        assert!(health.connected() && !health.connected());
        assert_eq!(health.rank(now), Some(Rank::Good));
        health.failed(now, "closed".into(), 0.0);
        assert_eq!(health.probe_at().unwrap() - now, 30 * SECOND);
        assert!(health.hasten() && !health.hasten());
        assert_eq!(health.probe_at().unwrap() - now, SECOND);
        health.answered();
        health.failed(now, "closed".into(), 1.0);
        assert_eq!(health.probe_at().unwrap() - now, SECOND * 3 / 4);
    }

    #[test]
    fn a_503_puts_behind_and_does_not_take_out() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.connected();
        health.avoid(now, "draining".into(), 0.0);
        assert_eq!(health.rank(now), Some(Rank::Avoided));
        assert_eq!(health.rank(now + SECOND), Some(Rank::Good));
        assert!(health.is_up() && health.reason().is_none());
        health.avoid(now + SECOND, "draining".into(), 0.0);
        assert_eq!(health.rank(now + 2 * SECOND), Some(Rank::Avoided));
        health.answered();
        assert_eq!(health.rank(now + 2 * SECOND), Some(Rank::Good));
    }
}
