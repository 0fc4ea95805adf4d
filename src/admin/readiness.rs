//! Decides whether a new tunnel can be carried, and why not. Checks the daemon and this machine;
//! sends nothing to the network.

use crate::shared::Shared;
use crate::sys;

/// Returns the reasons why no new tunnel can be carried; empty when the daemon is ready.
#[must_use]
pub fn why_not_ready(shared: &Shared) -> Vec<String> {
    let mut reasons = Vec::new();
    if shared.stages.leaving.is_cancelled() {
        reasons.push("draining".to_owned());
    }
    if shared.drain.load().is_some() {
        reasons.push(DRAINED.to_owned());
    }
    if !shared.own_addresses.are_known() {
        reasons.push("this host's addresses cannot be listed".to_owned());
    }
    let own = shared.own_addresses.load();
    let missing = shared
        .snapshot
        .load()
        .egress
        .addresses()
        .filter(|address| !sys::is_on_this_host(*address, &own))
        .collect::<Vec<_>>();
    reasons.extend(
        missing
            .iter()
            .map(|address| format!("egress address missing: {address}")),
    );
    let exhausted = shared.snapshot.load().egress.nearly_exhausted();
    reasons.extend(
        exhausted
            .iter()
            .map(|address| format!("egress ports nearly exhausted: {address}")),
    );
    if shared.snapshot.load().config.audit_required && shared.audit.is_failing() {
        reasons.push("audit unavailable".to_owned());
    }
    if sys::pipe().is_err() {
        reasons.push("no descriptors left".to_owned());
    }
    reasons
}

const DRAINED: &str = "drained by an operator: sealway undrain takes new tunnels again";
