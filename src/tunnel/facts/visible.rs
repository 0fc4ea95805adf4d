//! The part of a tunnel's facts that operators see, and their orders. Decides nothing.

use std::sync::Arc;
use std::time::Instant;

use super::TunnelFacts;
use crate::live::{Facts, Phase};
use crate::outcome::End;

impl TunnelFacts {
    /// Adds the tunnel to the list of live tunnels, once its destination is known.
    pub(in super::super) fn enter(&mut self) -> Option<Arc<Facts>> {
        let (live, user) = (&self.shared.live, self.user.clone());
        let authority = self.authority.clone()?;
        let entry = live.enter(self.number, self.accepted, self.client, user, authority);
        let facts = entry.facts();
        self.live = Some(entry);
        Some(facts)
    }

    /// The entry that operators see.
    pub(in super::super) fn live(&self) -> Option<&Facts> {
        self.live.as_deref()
    }

    /// Stores the stage.
    pub(super) fn reach(&self, phase: Phase) {
        self.live.iter().for_each(|live| live.reach(phase));
    }

    /// Stores the bytes of the handshake.
    pub(super) fn show_handshake(&self) {
        let (up, down) = (self.bytes_moved.up.bytes(), self.bytes_moved.down.bytes());
        let now = Instant::now();
        self.live.iter().for_each(|live| live.moved(up, down, now));
    }

    /// Records who ordered the end and why.
    pub(in super::super) fn ordered(&mut self, end: impl Into<End>) -> End {
        let order = self.live.as_ref().and_then(|live| live.order());
        match order.map(|order| format!("by {}: {}", order.by, order.reason)) {
            Some(cause) => self.with_cause(cause, end),
            None => end.into(),
        }
    }
}
