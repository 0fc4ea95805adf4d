//! The destinations that an upstream has reached of late. Bounded: a client chooses how many different ones there are.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When each destination was reached last.
#[derive(Debug, Default)]
pub struct Recent(Mutex<HashMap<String, Instant>>);

impl Recent {
    /// The upstream has reached this `host:port`.
    pub fn reached(&self, destination: &str, now: Instant) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = table.get_mut(destination) {
            *last = now;
            return;
        }
        if table.len() >= DESTINATIONS_MAX {
            table.retain(|_, last| now < *last + LASTING);
        }
        if table.len() < DESTINATIONS_MAX {
            table.insert(destination.to_owned(), now);
        }
    }

    /// The upstream did not reach it.
    pub fn missed(&self, destination: &str) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.remove(destination);
    }

    /// Whether the upstream has reached it within the last minute.
    #[must_use]
    pub fn knows(&self, destination: &str, now: Instant) -> bool {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .get(destination)
            .is_some_and(|last| now < *last + LASTING)
    }
}

const LASTING: Duration = Duration::from_secs(60);
const DESTINATIONS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_known_for_a_minute_and_the_table_is_bounded() {
        let (recent, now) = (Recent::default(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        recent.reached("a:443", now);
        assert!(recent.knows("a:443", later(59)) && !recent.knows("a:443", later(60)));
        assert!(!recent.knows("a:8443", now));
        recent.missed("a:443");
        assert!(!recent.knows("a:443", now));
        for number in 0..DESTINATIONS_MAX {
            recent.reached(&format!("{number}:443"), now);
        }
        recent.reached("late:443", later(59));
        assert!(!recent.knows("late:443", later(59)));
        recent.reached("later:443", later(60));
        assert!(recent.knows("later:443", later(60)));
    }
}
