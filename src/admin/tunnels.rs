//! The live tunnels as operators see them. Reads atomics that workers write; asks no worker and stops none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::operation::{Tunnel, Tunnels};
use crate::live::{Facts, Phase};
use crate::shared::Shared;

/// Those that are live now, the oldest first.
pub(super) fn list(shared: &Shared) -> Tunnels {
    let (tunnels, now) = (shared.live.select(|_| true), Instant::now());
    let live = tunnels
        .iter()
        .filter_map(|facts| tunnel(facts, shared, now));
    Tunnels {
        tunnels: live.collect(),
    }
}

/// None: it has ended meanwhile.
fn tunnel(facts: &Arc<Facts>, shared: &Shared, now: Instant) -> Option<Tunnel> {
    let phase = Some(facts.phase()).filter(|phase| *phase != Phase::Gone)?;
    let [bytes_up, bytes_down] = facts.bytes();
    let [egress, upstream] = facts.ends().map_or([None; 2], |ends| ends.map(Some));
    Some(Tunnel {
        id: shared.ids.of(facts.number).to_string(),
        user: facts.user.as_ref().map(ToString::to_string),
        client: facts.client,
        host: facts.authority.destination.to_string(),
        port: facts.authority.port.number(),
        egress,
        upstream,
        age_seconds: seconds(now.saturating_duration_since(facts.accepted)),
        silent_seconds: seconds(facts.silence(now)),
        bytes_up,
        bytes_down,
        phase: phase.name().to_owned(),
    })
}

/// To the millisecond.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1_000.0
}
