//! What concerns all tunnels of a thread: deadlines, orders, lost egress addresses, a new
//! configuration. A turn handles some of the tunnels and the next turns the others, so that neither
//! a hundred thousand tunnels nor their end delays the bytes of one. Never waits.

use std::time::Duration;

use super::{Ended, Owner, Relay};
use crate::outcome::Ending;

impl<T: Owner> Relay<T> {
    /// Ends, in this turn and the next ones, every tunnel that must end.
    pub fn find_ended(&mut self) {
        self.search.start();
    }

    pub(super) fn end_found(&mut self) {
        let mut ended = 0;
        while ended < ENDED_A_TURN
            && let Some(key) = self.search.next(self.keys)
        {
            let tunnel = self.tunnels.get(key);
            if let Some(ending) = tunnel.and_then(|tunnel| tunnel.owner.must_end()) {
                self.end(key, ending.into());
                ended += 1;
            }
        }
    }

    /// Begins to ask each owner whether its tunnel is still allowed.
    pub fn judge_again(&mut self) {
        self.judgement.start();
        self.waiting.reckon();
    }

    /// Whether some tunnels are not judged yet.
    #[must_use]
    pub fn is_judging(&self) -> bool {
        self.judgement.is_under_way()
    }

    /// Asks the next owners. A tunnel that is not allowed ends as revoked after `grace`, unless it
    /// is allowed again before.
    pub fn judge_some(&mut self, mut is_allowed: impl FnMut(&mut T) -> bool, grace: Duration) {
        for _ in 0..JUDGED_A_TURN {
            let Some(key) = self.judgement.next(self.keys) else {
                return;
            };
            if let Some(tunnel) = self.tunnels.get_mut(key) {
                let is_allowed = is_allowed(&mut tunnel.owner);
                tunnel.judge(is_allowed, self.now, grace);
                if !is_allowed {
                    self.note_deadline(key);
                }
            }
        }
    }

    /// Ends expired tunnels, sets keepalive where it is due and computes the next deadline. There is no timer per tunnel: most
    /// deadlines move before they expire, and checking all tunnels now and then costs less than
    /// moving a timer with each chunk. A turn checks some of them, so that the others do not wait.
    pub(super) fn sweep(&mut self) {
        if !self.sweep.is_under_way() {
            if self.now < self.next_sweep {
                return;
            }
            self.sweep.start();
            self.next_sweep = u64::MAX;
        }
        let mut ended = 0;
        for _ in 0..SWEPT_A_TURN {
            let Some(key) = self.sweep.next(self.keys) else {
                break;
            };
            if let Some(late) = self.overdue(key) {
                self.end(key, late);
                ended += 1;
                if ended == ENDED_A_TURN {
                    break;
                }
            }
        }
        if !self.sweep.is_under_way() {
            let pause = SWEEP_MS.max(self.tunnels.len() as u64 / TUNNELS_A_MS);
            self.next_sweep = self.next_sweep.max(self.now + pause);
        }
    }

    /// The end of a tunnel whose time is up. Sets keepalive on any other where it is due, and notes
    /// its next deadline.
    fn overdue(&mut self, key: usize) -> Option<Ended> {
        let tunnel = self.tunnels.get_mut(key)?;
        let idle_limits = tunnel.owner.idle_limits();
        match tunnel.deadline(idle_limits) {
            (deadline, Ending::Stalled) if deadline <= self.now => {
                return Some(tunnel.stall_ended());
            }
            (deadline, ending) if deadline <= self.now => return Some(ending.into()),
            _ if !tunnel.note_stall(self.now) => return Some(tunnel.one_stall_too_many()),
            _ => {}
        }
        if let Err(error) = tunnel.keep_alive(self.now) {
            return Some(Ended::inside(error));
        }
        self.next_sweep = self.next_sweep.min(tunnel.due(idle_limits));
        None
    }
}

/// One end takes some 30 µs: two resets, two closes, a record.
const ENDED_A_TURN: usize = 32;
/// Some 100 µs.
const SWEPT_A_TURN: usize = 1_024;
/// Some 100 µs.
const JUDGED_A_TURN: usize = 128;
/// The least time between two sweeps, for less than ten thousand tunnels.
const SWEEP_MS: u64 = 100;
/// Each so many tunnels lengthen that time by a millisecond: a sweep takes less than a hundredth of
/// it.
const TUNNELS_A_MS: u64 = 100;
