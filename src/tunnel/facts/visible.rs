//! The part of a tunnel's facts that operators see, and their orders. Decides nothing.

use std::sync::Arc;
use std::time::Instant;

use super::{Transferred, TunnelFacts};
use crate::live::{Facts, Phase};
use crate::outcome::End;
use crate::relay::{ByteCount, TunnelBytes};

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

    /// The visible part, to be changed; None once it is listed, because others read it then.
    pub(super) fn unlisted(&mut self) -> Option<&mut Facts> {
        Arc::get_mut(&mut self.visible)
    }

    /// Stores the bytes of the handshake.
    pub(in super::super) fn shook_hands(&self, bytes_moved: TunnelBytes, now: Instant) {
        let TunnelBytes { up, down } = bytes_moved;
        self.visible.moved(up.bytes(), down.bytes(), now);
    }

    /// The bytes of the handshake, which were copied; none before it ends.
    pub(in super::super) fn handshake(&self) -> Transferred {
        let [up, down] = self.visible.bytes();
        let copied = |copied| ByteCount { spliced: 0, copied };
        Transferred {
            bytes_moved: TunnelBytes {
                up: copied(up),
                down: copied(down),
            },
            timing: None,
        }
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
