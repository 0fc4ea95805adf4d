//! The hand-over from the side of the daemon that starts: finds the tunnels of the former one, gives
//! them to the workers when nothing can fail any more, and records what became of them.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tracing::{error, info, warn};

use super::hand_over::remove_former_list;
use crate::audit::{DaemonRecord, Then, timestamp};
use crate::handover::claim::BOTH_WATCH_MAX;
use crate::handover::format::Head;
use crate::handover::left;
use crate::handover::parcel::{self, Arrived, LookError, Unusable};
use crate::handover::state::TunnelState;
use crate::shared::{Shared, Takeover};
use crate::sys::parcel::monotonic;
use crate::tunnel::{Destination, record_lost};
use crate::worker::{Continued, Inheritance, Others, Prepared, Refused};

/// The tunnels of the former daemon.
#[derive(Debug, Default)]
pub(super) struct Estate {
    head: Option<Head>,
    arrived: Vec<Arrived>,
    /// Tunnels that cannot be continued, with the reason.
    refused: Vec<Refused>,
    /// The epolls of the former workers.
    pollers: Vec<OwnedFd>,
    /// The identifiers of all that came.
    came: Vec<String>,
    /// Tunnels of workers whose number is to come.
    reports: Option<Receiver<Continued>>,
    workers: usize,
    frozen: Option<Instant>,
    /// What the workers have reported.
    continued: Continued,
    /// How long no daemon had the tunnels.
    pause: Duration,
}

impl Estate {
    /// Looks into the queues and leaves them as they are. This process may open `limit` descriptors.
    pub(super) fn find(queues: Vec<UnixDatagram>, limit: u64) -> Result<Self, LookError> {
        let mut estate = Self::default();
        for queue in queues {
            let Some(arrived) = parcel::look(queue, limit)? else {
                continue;
            };
            if let Ok(tunnels) = &arrived.contents {
                estate.head = Some(tunnels.head.clone());
            }
            estate.arrived.push(arrived);
        }
        let now = Instant::now();
        let since = estate.head.as_ref().map(|head| head.since(monotonic()));
        estate.frozen = since.map(|since| now.checked_sub(since).unwrap_or(now));
        Ok(estate)
    }

    /// The number of its tunnels.
    pub(super) fn tunnels(&self) -> usize {
        self.head.as_ref().map_or(0, |head| head.tunnels)
    }

    /// The egress addresses of its tunnels.
    pub(super) fn egress(&self) -> &[IpAddr] {
        self.head.as_ref().map_or(&[], |head| &head.egress)
    }

    /// Continues the debts of users and the failures of log-ins.
    pub(super) fn restore(&self, shared: &Shared) {
        let (Some(head), Some(frozen)) = (&self.head, self.frozen) else {
            return;
        };
        let snapshot = shared.snapshot.load();
        for account in snapshot.accounts.iter() {
            let mut debts = head.debts.iter();
            if let Some(debt) = debts.find(|debt| debt.user == account.user().as_str()) {
                account.owe(frozen, Duration::from_micros(debt.due_us));
            }
        }
        shared.limits.lockout.restore(&head.lockout, frozen);
    }

    /// Gives the tunnels to the workers, and empties the queues. From here on a failure resets them.
    pub(super) fn give(&mut self, workers: &mut [Prepared], listeners: &[SocketAddr]) {
        let listeners: Arc<[_]> = listeners.iter().map(|address| Arc::new(*address)).collect();
        let mut shares: Vec<Vec<_>> = workers.iter().map(|_| Vec::new()).collect();
        for arrived in &mut self.arrived {
            let contents = std::mem::replace(&mut arrived.contents, Err(Unusable(String::new())));
            match contents {
                Err(reason) => {
                    error!(%reason, "the tunnels of the former daemon cannot be continued and are reset");
                }
                Ok(tunnels) => {
                    let count = shares.len().max(1);
                    for (place, tunnel) in tunnels.tunnels.into_iter().enumerate() {
                        let state = tunnel.0.state.as_ref().ok();
                        self.came.extend(state.map(|state| state.id.clone()));
                        if let Some(share) = shares.get_mut(place % count) {
                            share.push(tunnel);
                        }
                    }
                }
            }
            self.pollers.append(&mut arrived.pollers);
            arrived.take_out();
        }
        if self.came.len() > BOTH_WATCH_MAX {
            self.pollers.clear();
        }
        let (report, reports) = channel();
        let frozen = self.frozen.unwrap_or_else(Instant::now);
        let inheriting = shares.iter().filter(|tunnels| !tunnels.is_empty());
        let others = Arc::new(Others::of(inheriting.count()));
        for (worker, tunnels) in workers.iter_mut().zip(shares) {
            if tunnels.is_empty() {
                continue;
            }
            self.workers += 1;
            worker.inherit(Inheritance {
                tunnels,
                listeners: Arc::clone(&listeners),
                frozen,
                report: report.clone(),
                others: Arc::clone(&others),
            });
        }
        self.reports = Some(reports);
        self.arrived.clear();
    }

    /// Waits until the workers have continued all tunnels. Call it when the workers run, before anything that can wait: it
    /// would have its part of the processors.
    pub(super) fn settle(&mut self) {
        for _ in 0..self.workers {
            let deadline = self
                .reports
                .as_ref()
                .map(|reports| reports.recv_timeout(PATIENCE));
            let Some(Ok(continued)) = deadline else {
                warn!("a worker does not report which tunnels it has continued");
                break;
            };
            self.continued.adopted += continued.adopted;
            self.continued.refused += continued.refused;
            self.refused.extend(continued.unfit);
        }
        let since = self.frozen.map(|frozen| frozen.elapsed());
        self.pause = since.unwrap_or_default();
    }

    /// Records what became of the tunnels.
    pub(super) fn record(self, shared: &Arc<Shared>, listeners: &[SocketAddr]) {
        let (sum, pause) = (self.continued, self.pause);
        close_beside(self.pollers);
        // The tunnels flow by now.
        let lost = left_behind(self.came.into_iter().collect());
        if self.head.is_none() && lost.is_none() && self.refused.is_empty() {
            return;
        }
        let listeners: Vec<_> = listeners.iter().map(|address| Arc::new(*address)).collect();
        let destination = Destination {
            shared,
            listeners: &listeners,
            pause,
        };
        for (state, why) in &self.refused {
            warn!(
                id = state.as_ref().map(|state| state.id.as_str()),
                why, "a tunnel of the former daemon is reset"
            );
            if let Some(state) = state {
                record_lost(state, why, destination);
            }
        }
        let lost = lost.unwrap_or_default();
        for state in &lost {
            record_lost(state, NOT_TAKEN, destination);
        }
        let takeover = Takeover {
            at: OffsetDateTime::now_utc(),
            adopted: sum.adopted,
            refused: sum.refused + self.refused.len(),
            lost: lost.len(),
            pause,
        };
        publish(shared, takeover, self.head.is_some());
    }
}

/// Closes the epolls on a thread of their own: it takes the kernel 3 µs a tunnel.
fn close_beside(pollers: Vec<OwnedFd>) {
    if !pollers.is_empty() {
        let closing = std::thread::Builder::new().name("handover".into());
        // Without a thread they are closed here.
        drop(closing.spawn(move || drop(pollers)));
    }
}

fn publish(shared: &Shared, takeover: Takeover, has_come: bool) {
    let Takeover {
        adopted,
        refused,
        lost,
        pause,
        ..
    } = takeover;
    let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    shared
        .evidence
        .metrics
        .took_over(adopted, refused, lost, has_come.then_some(pause));
    shared.lifecycle.takeover.store(Some(Arc::new(takeover)));
    info!(adopted, refused, lost, pause_ms, "took over");
    let record = DaemonRecord::Takeover {
        ts: timestamp(),
        adopted,
        refused,
        lost,
        pause_ms,
    };
    match shared.evidence.audit.daemon_synced(record, Then::GoesOn) {
        // The list stays until its tunnels have their records, but the start does not wait for it.
        Some(written) => drop(std::thread::Builder::new().name("handover".into()).spawn(
            move || {
                if written.recv().is_ok() {
                    remove_former_list();
                }
            },
        )),
        None => shared.evidence.metrics.audit_failures.increment(1),
    }
}

/// The tunnels of the list on disk that did not come; None if there is no list.
fn left_behind(came: HashSet<String>) -> Option<Vec<TunnelState>> {
    let folder = left::folder()?;
    left::missing(&folder, &came).unwrap_or_else(|error| {
        warn!(%error, "the list of handed-over tunnels cannot be read");
        None
    })
}

const NOT_TAKEN: &str = "no daemon took its sockets after the hand-over";
/// A worker continues thousands of tunnels in a fraction of it.
const PATIENCE: Duration = Duration::from_secs(10);
