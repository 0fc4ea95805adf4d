//! The time limits of a relayed tunnel: silence, stall, age and revocation. Ends nothing itself: the
//! relay asks when a limit is due.

use std::time::Duration;

use super::{IdleLimits, Owner, RelayedTunnel, later};
use crate::outcome::Ending;

impl<T: Owner> RelayedTunnel<T> {
    /// When the tunnel will have been silent, half closed or alive for too long if no byte comes,
    /// and the ending then.
    pub(in crate::relay) fn deadline(&self, idle_limits: IdleLimits) -> (u64, Ending) {
        let (silence, silent_for_too_long) = match self.half_closed {
            None => (idle_limits.idle, Ending::IdleTimeout),
            Some(_) => (idle_limits.half_close, Ending::HalfCloseTimeout),
        };
        let quiet_since = self
            .half_closed
            .map_or(self.last_byte, |at| at.max(self.last_byte))
            .max(self.resumed);
        // Time in which the tunnel may not move bytes is not silence.
        let silent = (
            if self.waits {
                u64::MAX
            } else {
                later(quiet_since, silence)
            },
            silent_for_too_long,
        );
        let stalled = self
            .stalls()
            .map(|since| (later(since, idle_limits.stalled), Ending::Stalled));
        let aged = idle_limits
            .max_age
            .map(|age| (later(self.started, age), Ending::MaxAge));
        let revoked = self.revoked.map(|at| (at, Ending::Revoked));
        revoked
            .into_iter()
            .chain(aged)
            .chain(stalled)
            .chain([silent])
            .min_by_key(|(at, _)| *at)
            .unwrap_or(silent)
    }

    /// When the relay has to look at the tunnel again if no byte comes.
    pub(in crate::relay) fn due(&self, idle_limits: IdleLimits) -> u64 {
        let (deadline, _) = self.deadline(idle_limits);
        deadline.min(self.stall_due()).min(self.keepalive_due())
    }

    /// Records whether the tunnel is still allowed; a tunnel that is not has `grace` from the first
    /// time.
    pub(in crate::relay) fn judge(&mut self, is_allowed: bool, now: u64, grace: Duration) {
        self.revoked = (!is_allowed).then(|| self.revoked.unwrap_or_else(|| later(now, grace)));
    }
}
