//! The part of a tunnel's facts that operators see, and their orders. Decides nothing.

use std::sync::Arc;
use std::time::Instant;

use super::TunnelFacts;
use crate::live::{Facts, Phase};
use crate::outcome::End;

impl TunnelFacts {
    /// Adds the tunnel to the list of live tunnels, once its destination is known.
    pub(in super::super) fn enter(&mut self) -> Arc<Facts> {
        self.entry = Some(self.shared.live.enter(&self.visible));
        Arc::clone(&self.visible)
    }

    /// The part that operators see.
    pub(in super::super) fn visible(&self) -> &Facts {
        &self.visible
    }

    /// Stores the stage.
    pub(super) fn reach(&self, phase: Phase) {
        self.visible.reach(phase);
    }

    /// Stores the bytes of the handshake.
    pub(super) fn show_handshake(&self) {
        let (up, down) = (self.bytes_moved.up.bytes(), self.bytes_moved.down.bytes());
        self.visible.moved(up, down, Instant::now());
    }

    /// Records who ordered the end and why.
    pub(in super::super) fn ordered(&mut self, end: impl Into<End>) -> End {
        let order = self.visible.order();
        match order.map(|order| format!("by {}: {}", order.by, order.reason)) {
            Some(cause) => self.with_cause(cause, end),
            None => end.into(),
        }
    }
}
