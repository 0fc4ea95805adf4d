//! Watches the egress addresses: stops using one that this host does not have, and ends its tunnels
//! after `egress.loss_grace`. An address that returns in time keeps its tunnels.
//!
//! Checks every second on the service thread, and once more at the end of a grace. Never changes an
//! address.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::dial::{Egress, Source};
use crate::shared::Shared;
use crate::sys;
use crate::sys::presence::is_on_this_host;
use crate::worker::WorkerWaker;

/// The missing addresses.
#[derive(Debug, Default)]
pub(super) struct EgressWatch {
    away: HashMap<IpAddr, Away>,
}

/// A missing address.
#[derive(Clone, Copy, Debug)]
struct Away {
    /// The first check that missed it.
    since: Instant,
    warned: Instant,
    /// Whether its tunnels have been ended.
    is_lost: bool,
}

/// The result of a check.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Looked {
    /// Addresses whose grace has passed.
    pub(super) lost: usize,
    /// When the next grace ends.
    next: Option<Instant>,
}

impl EgressWatch {
    /// Checks each address of `egress`, including those of earlier configurations that tunnels
    /// still use.
    pub(super) fn look(
        &mut self,
        egress: &Egress,
        grace: Duration,
        now: Instant,
        is_here: impl Fn(IpAddr) -> io::Result<bool>,
    ) -> Looked {
        let sources: Vec<&Arc<Source>> = egress.sources().chain(egress.retired_in_use()).collect();
        self.away
            .retain(|address, _| sources.iter().any(|source| source.address() == *address));
        let mut lost = 0;
        for source in sources {
            match is_here(source.address()) {
                Ok(true) => self.found(source),
                Ok(false) => {
                    let is_floating = egress.is_floating(source.address());
                    lost += usize::from(self.missed(source, is_floating, grace, now));
                }
                // The address may be present or not, so nothing changes.
                Err(_) => {}
            }
        }
        let waiting = self.away.values().filter(|away| !away.is_lost);
        let next = waiting
            .filter_map(|away| away.since.checked_add(grace))
            .min();
        Looked { lost, next }
    }

    fn found(&mut self, source: &Source) {
        let address = source.address();
        source.set_up(true);
        if self.away.remove(&address).is_some() {
            info!(%address, "the egress address is back");
        }
    }

    /// Whether its grace ends now.
    fn missed(
        &mut self,
        source: &Source,
        is_floating: bool,
        grace: Duration,
        now: Instant,
    ) -> bool {
        let address = source.address();
        source.set_up(false);
        let is_new = !self.away.contains_key(&address);
        let away = self.away.entry(address).or_insert(Away {
            since: now,
            warned: now,
            is_lost: false,
        });
        let is_due = is_new || now.saturating_duration_since(away.warned) >= WARN_EVERY;
        if is_floating && is_new {
            info!(%address, "the floating egress address is not on this host; no tunnel leaves from it until it comes");
        } else if is_due && !is_floating {
            away.warned = now;
            warn!(%address, "{MISSING}");
        }
        let is_over = !away.is_lost && now.saturating_duration_since(away.since) >= grace;
        if is_over {
            away.is_lost = true;
            if source.tunnels() > 0 {
                let tunnels = source.tunnels();
                warn!(%address, tunnels, "the egress address was away for egress.loss_grace; its tunnels are reset");
            }
            source.lose();
        }
        is_over
    }
}

/// Checks until the daemon ends.
pub(super) async fn keep_looking(
    mut watch: EgressWatch,
    shared: Arc<Shared>,
    wakers: Vec<Arc<WorkerWaker>>,
) {
    loop {
        let snapshot = shared.snapshot.load_full();
        snapshot.egress.set_ports_max(sys::ports::ephemeral());
        let grace = snapshot.config.loss_grace;
        let looked = watch.look(&snapshot.egress, grace, Instant::now(), is_on_this_host);
        if looked.lost > 0 {
            shared.note_loss();
            wakers.iter().for_each(|waker| waker.notify());
        }
        let due = looked
            .next
            .map(|at| at.saturating_duration_since(Instant::now()));
        let pace = if snapshot.egress.awaits_floating() {
            PACE_OF_STANDBY
        } else {
            PACE
        };
        tokio::time::sleep(due.unwrap_or(pace).clamp(PACE_MIN, pace)).await;
    }
}

/// The operator's message about a missing address.
pub(super) const MISSING: &str = "the egress address is not on this host, so no tunnel uses it; if it is misspelt, correct egress.addresses and reload, otherwise add it to an interface (ip -brief address lists them)";
/// Between two checks.
const PACE: Duration = Duration::from_secs(1);
/// While a floating address is on another host: clients wait for this host to notice the move.
const PACE_OF_STANDBY: Duration = Duration::from_millis(200);
/// A grace of zero must not keep the thread busy.
const PACE_MIN: Duration = Duration::from_millis(10);
/// A misspelt address stays visible in the log.
const WARN_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(3);

    /// Checks one address at each of these seconds; it is present at those in `here`. Returns the
    /// seconds of its losses.
    fn lost_at(seconds: &[u64], here: impl Fn(u64) -> io::Result<bool>) -> Vec<u64> {
        let egress = Egress::new(&["192.0.2.1".parse().unwrap()], None, 4);
        let (mut watch, start) = (EgressWatch::default(), Instant::now());
        let look = |second: &u64| {
            let now = start + Duration::from_secs(*second);
            watch.look(&egress, GRACE, now, |_| here(*second)).lost > 0
        };
        let mut look = look;
        seconds
            .iter()
            .copied()
            .filter(|second| look(second))
            .collect()
    }

    #[test]
    fn an_address_is_lost_once_when_its_grace_is_over() {
        let all: Vec<u64> = (0..20).collect();
        assert_eq!(lost_at(&all, |second| Ok(second < 5)), [8]);
        assert_eq!(lost_at(&[0, 7, 9, 10], |second| Ok(second < 5)), [10]);
        assert_eq!(lost_at(&all, |_| Ok(false)), [3]);
        assert_eq!(lost_at(&all, |_| Ok(true)), [0; 0]);
        // Twice.
        assert_eq!(lost_at(&all, |second| Ok(second == 8)), [3, 12]);
    }

    #[test]
    fn an_address_that_returns_in_time_is_not_lost() {
        let all: Vec<u64> = (0..100).collect();
        assert_eq!(lost_at(&all, |second| Ok(second % 3 == 0)), [0; 0]);
    }

    #[test]
    fn a_missing_kernel_answer_decides_nothing() {
        let unknown = || io::Error::from(io::ErrorKind::OutOfMemory);
        let all: Vec<u64> = (0..20).collect();
        assert_eq!(lost_at(&all, |_| Err(unknown())), [0; 0]);
        let mostly = |second| {
            if second == 0 {
                Ok(true)
            } else {
                Err(unknown())
            }
        };
        assert_eq!(lost_at(&all, mostly), [0; 0]);
    }

    #[test]
    fn a_source_that_is_lost_ends_the_ports_taken_before_and_none_after() {
        let address = "192.0.2.1".parse().unwrap();
        let egress = Egress::new(&[address], None, 4);
        let (mut watch, start) = (EgressWatch::default(), Instant::now());
        let looked = watch.look(&egress, GRACE, start, |_| Ok(false));
        assert_eq!((looked.lost, looked.next), (0, Some(start + GRACE)));
        assert!(!egress.can_leave_from(&[]));
        let looked = watch.look(&egress, GRACE, start + GRACE, |_| Ok(true));
        assert_eq!((looked.lost, looked.next), (0, None));
        assert!(egress.can_leave_from(&[]) && egress.can_leave_from(&[address]));
        assert!(!egress.can_leave_from(&["192.0.2.2".parse().unwrap()]));
    }
}
