//! The pauses between two starts of a program that keeps ending: short after a crash, doubled while starts fail, and
//! short again once the program has run for a while. Pure.

use std::time::Duration;

/// The next pause.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after a program that has run this long.
    pub(super) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= STEADY {
            self.failures = 0;
        }
        let pause = FIRST.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        pause.min(LONGEST)
    }
}

/// A crashed hop serves again within a second.
const FIRST: Duration = Duration::from_millis(100);
/// An operator who has mended the cause need not wait longer; a reload does not wait at all.
const LONGEST: Duration = Duration::from_secs(30);
/// A program that has run this long did start.
const STEADY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_again_after_a_steady_run() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..12).map(|_| backoff.after(Duration::ZERO)).collect();
        let millis: Vec<_> = pauses.iter().map(Duration::as_millis).collect();
        assert_eq!(
            millis,
            [
                100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000, 30_000
            ]
        );
        assert_eq!(backoff.after(STEADY), FIRST);
        for _ in 0..100 {
            assert!(backoff.after(Duration::from_secs(9)) <= LONGEST);
        }
    }
}
