//! The table of failed log-ins on its way from one daemon to the next: otherwise a restart would end
//! every lock.

use std::cmp::Reverse;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::{Failures, Lockout, REMEMBERED};
use crate::digest::{Digest, KeyedHash};
use crate::handover::format::{FailuresState, LockoutState};

impl Lockout {
    /// The locks and the failures that come closest to one.
    #[must_use]
    pub fn state(&self, now: Instant) -> LockoutState {
        let hasher = self.hasher.read().unwrap_or_else(PoisonError::into_inner);
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries: Vec<_> = table
            .iter()
            .map(|(of, failures)| FailuresState {
                of: *of,
                secrets: failures.secrets,
                tries: failures.tries,
                locked: failures.is_locked,
                since_ms: milliseconds(now.saturating_duration_since(failures.since)),
                last: failures.last.to_vec(),
            })
            .collect();
        entries.sort_unstable_by_key(|entry| Reverse((entry.locked, entry.secrets, entry.of)));
        entries.truncate(HANDED_OVER_MAX);
        LockoutState {
            key: hasher.key().to_string(),
            entries,
        }
    }

    /// Continues the table of another daemon as of `then`. Call it before the first failure.
    pub fn restore(&self, state: &LockoutState, then: Instant) {
        let Some(key) = Digest::parse(&state.key) else {
            return;
        };
        *self.hasher.write().unwrap_or_else(PoisonError::into_inner) = KeyedHash::new(*key.bytes());
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in state.entries.iter().take(HANDED_OVER_MAX) {
            let since = Duration::from_millis(entry.since_ms);
            let mut last = [0; REMEMBERED];
            last.iter_mut()
                .zip(&entry.last)
                .for_each(|(place, secret)| *place = *secret);
            let failures = Failures {
                secrets: entry.secrets,
                tries: entry.tries,
                is_locked: entry.locked,
                since: then.checked_sub(since).unwrap_or(then),
                last,
            };
            table.insert(entry.of, failures);
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Some 400 KB of text, which take some milliseconds.
const HANDED_OVER_MAX: usize = 4_096;
