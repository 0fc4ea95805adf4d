//! The series of warm upstream sockets. Every socket that is opened is used by a tunnel, closed for one reason, or open.

use metrics::{Counter, Gauge};

use super::Total;
use super::definitions::{WARM_CLOSED, WARM_DIALS, WARM_OPEN, WARM_OPENED};
use super::registry::Registry;
use crate::outcome::CloseReason;

/// Handles to the series.
pub struct WarmMetrics {
    hits: Total,
    /// Tunnels that were dialled although their name had enough tunnels for warm sockets.
    pub misses: Total,
    /// Hits whose upstream closed before its first byte.
    pub redials: Total,
    opened: Total,
    closed: [Counter; CloseReason::LABELS.len()],
    open: Gauge,
}

impl WarmMetrics {
    pub(super) fn of(registry: &Registry<'_>) -> Self {
        let dials = |result| Total::of(registry.counter(&WARM_DIALS, [result]));
        Self {
            hits: dials("hit"),
            misses: dials("miss"),
            redials: dials("redial"),
            opened: Total::of(registry.counter(&WARM_OPENED, [])),
            closed: CloseReason::LABELS.map(|reason| registry.counter(&WARM_CLOSED, [reason])),
            open: registry.gauge(&WARM_OPEN, []),
        }
    }

    /// Counts a socket that was opened.
    pub fn opened(&self) {
        self.opened.increment(1);
        self.open.increment(1.0);
    }

    /// Counts a socket that a tunnel uses.
    pub fn hit(&self) {
        self.hits.increment(1);
        self.open.decrement(1.0);
    }

    /// Counts closed sockets: a number for each of [`CloseReason::LABELS`].
    pub fn closed(&self, of_reasons: impl Iterator<Item = usize>) {
        for (counter, sockets) in self.closed.iter().zip(of_reasons) {
            if sockets > 0 {
                counter.increment(sockets as u64);
                self.open.decrement(sockets as f64);
            }
        }
    }

    /// Opened sockets, hits, misses and redials so far.
    #[must_use]
    pub fn totals(&self) -> [u64; 4] {
        [&self.opened, &self.hits, &self.misses, &self.redials].map(Total::get)
    }
}
