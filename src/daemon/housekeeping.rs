//! What the service thread does by the clock: looks every second at users who expire, this host's addresses, local ports and
//! the audit writer, and gives the metrics their samples. Never ends a tunnel itself: the workers judge theirs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::runtime::Runtime;
use tracing::{error, info, warn};

use super::closing::ClosingPorts;
use super::egress_watch::{self, EgressWatch};
use super::warnings;
use crate::shared::{Shared, Snapshot};
use crate::sys;
use crate::worker::WorkerWaker;

/// Starts what the service thread does by the clock.
pub(super) fn start(
    service: &Runtime,
    shared: &Arc<Shared>,
    watch: EgressWatch,
    wakers: &[Arc<WorkerWaker>],
) {
    service.spawn(egress_watch::keep_looking(
        watch,
        Arc::clone(shared),
        wakers.to_vec(),
    ));
    service.spawn(keep_house(Arc::clone(shared), wakers.to_vec()));
    service.spawn(warnings::daily(Arc::clone(shared)));
}

/// Every second: expired users, this host's addresses, samples of the counters, the histograms.
async fn keep_house(shared: Arc<Shared>, wakers: Vec<Arc<WorkerWaker>>) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    let mut closing = ClosingPorts::default();
    let (mut trouble, mut expired) = (None, None);
    loop {
        ticks.tick().await;
        look_at_expiry(&shared, &mut expired, &wakers);
        look_at_audit(&shared, &mut trouble);
        match sys::interface_addresses() {
            Ok(addresses) => shared.own_addresses.renew(addresses),
            // After two failures nothing is dialled; the next tick tries again.
            Err(error) => {
                shared.own_addresses.missed();
                warn!(%error, "cannot list this host's addresses");
            }
        }
        closing.look(&shared, Instant::now());
        shared
            .evidence
            .recent
            .look(&shared.evidence.metrics, Instant::now());
        shared.evidence.metrics.upkeep();
    }
}

/// Makes the workers judge their tunnels when a user has expired, or is live again because the
/// clock was set back. `seen` is the last configuration that was checked and its number of expired
/// users. A new configuration is judged once more, because a user may have expired between the
/// reload and this check.
fn look_at_expiry(
    shared: &Shared,
    seen: &mut Option<(Arc<Snapshot>, usize)>,
    wakers: &[Arc<WorkerWaker>],
) {
    let snapshot = shared.snapshot.load_full();
    let expired = snapshot
        .config
        .auth
        .users
        .as_ref()
        .map_or(0, |users| users.expired(OffsetDateTime::now_utc()));
    let is_known = seen
        .as_ref()
        .is_some_and(|(before, count)| Arc::ptr_eq(before, &snapshot) && *count == expired);
    if !is_known {
        *seen = Some((snapshot, expired));
        shared.judge_again();
        wakers.iter().for_each(|waker| waker.notify());
    }
}

/// Logs once why audit records cannot be written, and once when they can be again; `told` is the
/// last message.
fn look_at_audit(shared: &Shared, told: &mut Option<String>) {
    let trouble = shared.evidence.audit.trouble();
    if trouble != *told {
        match &trouble {
            Some(reason) => {
                error!(%reason, "audit records cannot be written; the daemon tries again every second")
            }
            None => info!("audit records can be written again"),
        }
        *told = trouble;
    }
}

const HOUSEKEEPING: Duration = Duration::from_secs(1);
