//! How a tunnel got its upstream: dialled, or by a warm socket. For its record and the metrics.

use std::time::Duration;

use tracing::debug;

use super::TunnelFacts;
use crate::dial::Upstream;
use crate::metrics::Phase;
use crate::outcome::Failure;

/// A tunnel's use of a warm socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Warm {
    /// It was dialled.
    No,
    /// It uses a warm socket.
    Taken,
    /// The upstream had closed its warm socket, and it was dialled after all.
    Redialled,
}

impl Warm {
    /// From the fields of a record.
    pub(super) fn of(taken: Option<bool>, redialled: Option<bool>) -> Self {
        match (taken, redialled) {
            (Some(true), Some(true)) => Self::Redialled,
            (Some(true), _) => Self::Taken,
            _ => Self::No,
        }
    }

    /// The record's `warm`.
    pub(super) fn taken(self) -> Option<bool> {
        (self != Self::No).then_some(true)
    }

    /// The record's `redialled`.
    pub(super) fn redialled(self) -> Option<bool> {
        (self == Self::Redialled).then_some(true)
    }
}

impl TunnelFacts {
    pub(in crate::tunnel) fn connected(&mut self, took: Duration) {
        self.connect = Some(took.into());
        self.phase(Phase::Connect, took);
    }

    pub(in crate::tunnel) fn dialled(&mut self, upstream: &Upstream) {
        stage!(self, upstream = %upstream.address, egress = %upstream.egress, "dialled");
        self.visible.connected(upstream.egress, upstream.address);
    }

    /// Records that the tunnel uses a warm socket.
    pub(in crate::tunnel) fn taken(&mut self) {
        self.warm = Warm::Taken;
        self.shared.evidence.metrics.warm.hit();
    }

    /// Records that the tunnel was dialled after all.
    pub(in crate::tunnel) fn redialled(&mut self, upstream: &Upstream) {
        stage!(self, upstream = %upstream.address, egress = %upstream.egress, "dialled again: the upstream had closed the warm socket");
        self.warm = Warm::Redialled;
        self.visible.connected(upstream.egress, upstream.address);
        self.shared.evidence.metrics.warm.redials.increment(1);
    }

    /// Records why the tunnel could not be dialled after all.
    pub(in crate::tunnel) fn not_redialled(&mut self, cause: &str) {
        let cause = format_args!(
            "the upstream had closed the warm socket, and dialling again failed: {cause}"
        );
        // The caller has the end.
        let _same = self.with_cause(cause, Failure::UpstreamClosed);
    }
}
