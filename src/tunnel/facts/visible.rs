//! What a tunnel shows to operators and hears from them. Decides nothing.

use std::sync::Arc;
use std::time::Instant;

use super::TunnelFacts;
use crate::live::{Facts, Phase};
use crate::outcome::End;

impl TunnelFacts {
    /// Makes the tunnel visible to operators, once it is known what it asks for.
    pub(in super::super) fn enter(&mut self) -> Option<Arc<Facts>> {
        let (live, user) = (&self.shared.live, self.user.clone());
        let authority = self.authority.clone()?;
        let entry = live.enter(self.number, self.accepted, self.client, user, authority);
        let facts = entry.facts();
        self.live = Some(entry);
        Some(facts)
    }

    /// What operators see of it.
    pub(in super::super) fn live(&self) -> Option<&Facts> {
        self.live.as_deref()
    }

    /// Notes how far it has come.
    pub(super) fn reach(&self, phase: Phase) {
        self.live.iter().for_each(|live| live.reach(phase));
    }

    /// Shows the bytes of the handshake.
    pub(super) fn show_handshake(&self) {
        let (up, down) = (self.bytes_moved.up.bytes(), self.bytes_moved.down.bytes());
        let now = Instant::now();
        self.live.iter().for_each(|live| live.moved(up, down, now));
    }

    /// Notes who has ordered the end and why.
    pub(in super::super) fn ordered(&mut self, end: impl Into<End>) -> End {
        let order = self.live.as_ref().and_then(|live| live.order());
        match order.map(|order| format!("by {}: {}", order.by, order.reason)) {
            Some(cause) => self.with_cause(cause, end),
            None => end.into(),
        }
    }
}
