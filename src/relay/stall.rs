//! Notes since when the bytes of one direction wait for a side that takes too few of them. Owns no timer.

use std::time::Duration;

/// A side that takes so many of the bytes that wait for it is not stalled: what a pipe holds.
pub const STALL_BYTES: u64 = 256 * 1024;

/// A tunnel that has been stalled for so long is one of those that its owner may only have some of.
pub const STALL_NOTED: Duration = Duration::from_secs(5);

/// Since when a direction has made too little progress, if bytes wait in it now.
#[derive(Debug, Default)]
pub(super) struct Stall(Option<Began>);

#[derive(Clone, Copy, Debug)]
struct Began {
    /// Milliseconds of the relay's clock.
    at: u64,
    /// Bytes that had moved by then.
    moved: u64,
}

impl Stall {
    /// Notes whether bytes wait at `now`, after `moved` bytes in all. To take a byte now and then ends no stall.
    pub(super) fn note(&mut self, is_blocked: bool, moved: u64, now: u64) {
        let goes_on = |began: &Began| moved.saturating_sub(began.moved) < STALL_BYTES;
        self.0 = is_blocked.then(|| self.0.filter(goes_on).unwrap_or(Began { at: now, moved }));
    }

    /// Milliseconds of the relay's clock; None while nothing waits.
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
