//! The limits of a relayed tunnel: bytes that wait in the kernel, how long they wait, silence, age
//! and revocation. Ends nothing itself: the relay asks when a limit is due.

use std::time::Duration;

use super::{
    Bound, Ended, IdleLimits, Locked, Owner, RelayedTunnel, STALL_NOTED, Side, Stall, later,
};
use crate::outcome::Ending;

impl<T: Owner> RelayedTunnel<T> {
    /// Bounds the bytes of this side that wait in the kernel, and records how long they have
    /// waited.
    pub(super) fn bound_what_waits(&mut self, from: Side, now: u64, rmem_max: usize) {
        let (flow, buffers, stall, source, sink) = match from {
            Side::Client => (
                &self.up,
                &mut self.up_buffers,
                &mut self.up_stall,
                &mut self.client,
                &mut self.upstream,
            ),
            Side::Upstream => (
                &self.down,
                &mut self.down_buffers,
                &mut self.down_stall,
                &mut self.upstream,
                &mut self.client,
            ),
        };
        let moved = flow.moved.bytes();
        stall.note(flow.is_blocked(), moved, now);
        let source = Locked {
            socket: &source.socket,
            locks: &mut source.locks,
        };
        let sink = Locked {
            socket: &sink.socket,
            locks: &mut sink.locks,
        };
        buffers.bound(
            moved,
            flow.is_blocked(),
            source,
            sink,
            Bound {
                buffers: self.buffers,
                rmem_max,
            },
        );
    }

    /// Whether bytes wait for a side that does not take them.
    pub(in crate::relay) fn is_held_up(&self) -> bool {
        self.up.is_blocked() || self.down.is_blocked()
    }

    /// When it will count as stalled for its owner; never, if no bytes wait.
    pub(super) fn stalled_long_at(&self) -> u64 {
        self.stalls()
            .min()
            .map_or(u64::MAX, |since| later(since, STALL_NOTED))
    }

    /// The same, until its owner counts it.
    pub(in crate::relay) fn stall_due(&self) -> u64 {
        if self.is_stall_noted {
            u64::MAX
        } else {
            self.stalled_long_at()
        }
    }

    /// Makes its owner count it if it is due. Returns false when the owner has too many such
    /// tunnels.
    pub(in crate::relay) fn note_stall(&mut self, now: u64) -> bool {
        if self.stall_due() <= now {
            self.is_stall_noted = self.owner.stalled();
            return self.is_stall_noted;
        }
        true
    }

    /// When each direction stalled.
    fn stalls(&self) -> impl Iterator<Item = u64> {
        [&self.up_stall, &self.down_stall]
            .into_iter()
            .filter_map(Stall::since)
    }

    /// The end of a tunnel with a side that has taken too little for too long.
    pub(in crate::relay) fn stall_ended(&self) -> Ended {
        self.stalled(format!(
            "{} takes none, or hardly any, of the bytes that wait for it",
            self.stalled_side()
        ))
    }

    /// The end of a stalled tunnel whose owner has the most stalled tunnels already.
    pub(in crate::relay) fn one_stall_too_many(&self) -> Ended {
        self.stalled(format!(
            "{} takes too few of the bytes that wait for it, and so it is in limits.stalled_per_user other tunnels",
            self.stalled_side()
        ))
    }

    fn stalled(&self, cause: String) -> Ended {
        Ended {
            ending: Ending::Stalled,
            cause: Some(std::io::Error::other(cause)),
        }
    }

    /// The side that has taken too little for longest.
    fn stalled_side(&self) -> &'static str {
        match (self.up_stall.since(), self.down_stall.since()) {
            (Some(up), down) if down.is_none_or(|down| up <= down) => "the upstream",
            _ => "the client",
        }
    }

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

    /// Records whether the tunnel is still allowed; a tunnel that is not has `grace` from the first
    /// time.
    pub(in crate::relay) fn judge(&mut self, is_allowed: bool, now: u64, grace: Duration) {
        self.revoked = (!is_allowed).then(|| self.revoked.unwrap_or_else(|| later(now, grace)));
    }
}
