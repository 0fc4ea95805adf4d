//! Records how long the bytes of one direction have waited for a side that takes too few of them.
//! Has no timer.

use std::time::Duration;

/// A side that takes this many of the waiting bytes is not stalled: the size of a pipe.
pub const STALL_BYTES: u64 = 256 * 1024;

/// A tunnel stalled for this long counts among the owner's stalled tunnels, whose number is
/// bounded.
pub const STALL_NOTED: Duration = Duration::from_secs(5);

/// When a direction began to make too little progress; None if no bytes wait.
#[derive(Debug, Default)]
pub(super) struct Stall(Option<Began>);

#[derive(Clone, Copy, Debug)]
struct Began {
    /// Milliseconds of the relay's clock.
    at: u64,
    /// Bytes moved by then.
    moved: u64,
}

impl Stall {
    /// Updates the state with whether bytes wait at `now`, after `moved` bytes. A byte now and then
    /// does not end a stall.
    pub(super) fn note(&mut self, is_blocked: bool, moved: u64, now: u64) {
        let goes_on = |began: &Began| moved.saturating_sub(began.moved) < STALL_BYTES;
        self.0 = is_blocked.then(|| self.0.filter(goes_on).unwrap_or(Began { at: now, moved }));
    }

    /// How long it has lasted, in milliseconds, and the bytes moved when it began.
    pub(super) fn state(&self, now: u64) -> Option<(u64, u64)> {
        self.0
            .map(|began| (now.saturating_sub(began.at), began.moved))
    }

    /// Continues a stall of another daemon.
    pub(super) fn adopt(state: Option<(u64, u64)>, now: u64) -> Self {
        let began = |(lasted, moved)| Began {
            at: now.saturating_sub(lasted),
            moved,
        };
        Self(state.map(began))
    }

    /// Milliseconds of the relay's clock; None while no bytes wait.
    pub(super) fn since(&self) -> Option<u64> {
        self.0.map(|began| began.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_ends_no_stall_and_progress_does() {
        let mut stall = Stall::default();
        stall.note(false, 1_000, 10);
        assert_eq!(stall.since(), None, "nothing waits");
        stall.note(true, 1_000, 20);
        stall.note(true, 1_001, 500);
        stall.note(true, 1_000 + STALL_BYTES - 1, 900);
        assert_eq!(stall.since(), Some(20), "a drip");
        stall.note(true, 1_000 + STALL_BYTES, 1_000);
        assert_eq!(stall.since(), Some(1_000), "a part of it was enough");
        stall.note(false, 1_001 + STALL_BYTES, 1_100);
        assert_eq!(stall.since(), None, "all was taken");
    }
}
