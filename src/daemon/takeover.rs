//! The hand-over from the side of the daemon that starts: finds the tunnels of the former one, gives
//! them to the workers when nothing can fail any more, and records what became of them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tracing::{error, info, warn};

use super::hand_over::remove_former_list;
use crate::audit::{DaemonRecord, Then, timestamp};
use crate::handover::ahead::Changes;
use crate::handover::claim::{BOTH_WATCH_MAX, Former, NotTaken};
use crate::handover::format::{Described, Head};
use crate::handover::left;
use crate::handover::parcel::{self, Arrived, LookError, Tunnels, Unusable, waiting};
use crate::handover::state::{SOCKETS, TunnelState};
use crate::shared::{Shared, Takeover};
use crate::sys::parcel::monotonic;
use crate::tunnel::{Destination, record_lost};
use crate::worker::{Continued, Fate, Inheritance, Others, Prepared, Refused, Start};

/// The tunnels of the former daemon.
#[derive(Debug, Default)]
pub(super) struct Estate {
    /// The former daemon, which carries the tunnels that it has sent ahead, and the queues into which it may still put them.
    former: Option<(Former, Vec<UnixDatagram>)>,
    /// The queues with tunnels that stand still.
    arrived: Vec<Arrived>,
    head: Option<Head>,
    tunnels: Vec<(Described, Vec<OwnedFd>)>,
    /// When the states of the tunnels were these.
    described: Option<Instant>,
    /// When they were frozen.
    frozen: Option<Instant>,
    /// The identifiers of the tunnels, by their numbers; those whose state is understood.
    came: HashMap<usize, String>,
    /// Tunnels that cannot be continued, with the reason.
    refused: Vec<Refused>,
    /// The epolls of the former workers.
    pollers: Vec<OwnedFd>,
    /// What has happened to tunnels since they were described, by their numbers.
    fates: HashMap<usize, Fate>,
    /// For the workers, in their order.
    starts: Vec<Sender<Start>>,
    are_ready: Option<Receiver<()>>,
    reports: Option<Receiver<Continued>>,
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
            let Some(mut arrived) = parcel::look(queue, limit)? else {
                continue;
            };
            match std::mem::replace(&mut arrived.contents, Err(Unusable(String::new()))) {
                Err(reason) => error!(%reason, "{UNUSABLE}"),
                Ok(tunnels) => estate.add(tunnels),
            }
            estate.pollers.append(&mut arrived.pollers);
            estate.arrived.push(arrived);
        }
        estate.frozen = estate.described;
        Ok(estate)
    }

    /// The tunnels that this former daemon has sent ahead.
    pub(super) fn ahead(former: Former, tunnels: Tunnels, queues: Vec<UnixDatagram>) -> Self {
        let mut estate = Self::default();
        estate.add(tunnels);
        estate.former = Some((former, queues));
        estate
    }

    fn add(&mut self, Tunnels { head, tunnels }: Tunnels) {
        self.described = Some(instant_of(&head));
        self.head = Some(head);
        self.tunnels.extend(tunnels);
    }

    /// The number of its tunnels.
    pub(super) fn tunnels(&self) -> usize {
        self.head.as_ref().map_or(0, |head| head.tunnels)
    }

    /// The egress addresses of its tunnels.
    pub(super) fn egress(&self) -> &[IpAddr] {
        self.head.as_ref().map_or(&[], |head| &head.egress)
    }

    /// Gives the tunnels to the workers, which wait for the start.
    pub(super) fn give(&mut self, workers: &mut [Prepared], listeners: &[SocketAddr]) {
        let listeners: Arc<[_]> = listeners.iter().map(|address| Arc::new(*address)).collect();
        let count = workers.len().max(1);
        let mut shares: Vec<Vec<_>> = workers.iter().map(|_| Vec::new()).collect();
        for (number, (described, descriptors)) in self.tunnels.drain(..).enumerate() {
            if let Ok(state) = &described.state {
                self.came.insert(number, state.id.clone());
            }
            if let Some(share) = shares.get_mut(number % count) {
                share.push((number, described, descriptors));
            }
        }
        let (report, reports) = channel();
        let (is_ready, are_ready) = channel();
        let others = Arc::new(Others::of(workers.len()));
        for (worker, tunnels) in workers.iter_mut().zip(shares) {
            let (start, wait) = channel();
            self.starts.push(start);
            worker.inherit(Inheritance {
                tunnels,
                listeners: Arc::clone(&listeners),
                described: self.described.unwrap_or_else(Instant::now),
                is_ready: is_ready.clone(),
                start: wait,
                report: report.clone(),
                others: Arc::clone(&others),
            });
        }
        (self.reports, self.are_ready) = (Some(reports), Some(are_ready));
    }

    /// Claims the tunnels that were sent ahead, once the workers have everything else that these need. From here on they stand
    /// still. This process may open `limit` descriptors.
    ///
    /// # Errors
    /// They are not this daemon's; the former one has them, or the queue.
    pub(super) fn claim(&mut self, limit: u64) -> Result<(), NotTaken> {
        let Some((mut former, queues)) = self.former.take() else {
            return Ok(());
        };
        self.wait_for_workers()?;
        let sockets = u64::try_from(SOCKETS * self.came.len()).unwrap_or(u64::MAX);
        let claimed = former.claim_rest(limit.saturating_sub(sockets));
        match claimed.and_then(|changes| former.take().map(|()| changes)) {
            Ok(changes) => self.change(changes),
            Err(NotTaken::Ended) if queues.iter().any(|queue| waiting(queue).is_some()) => {
                return Err(NotTaken::Ended);
            }
            Err(reason @ (NotTaken::Ended | NotTaken::Refused)) => {
                error!(%reason, "{UNUSABLE}");
                let ended = self.came.drain().map(|(number, _)| (number, Fate::Ended));
                self.fates = ended.collect();
                self.head = None;
            }
            Err(reason) => return Err(reason),
        }
        former.wait_until_gone(self.tunnels());
        Ok(())
    }

    fn change(&mut self, changes: Changes) {
        let Changes {
            head,
            changes,
            pollers,
        } = changes;
        self.frozen = Some(instant_of(&head));
        for ended in head.since.iter().flat_map(|since| &since.ended) {
            self.came.remove(ended);
            self.fates.insert(*ended, Fate::Ended);
        }
        for (described, pipes) in changes {
            // None is missing: they were read before.
            if let Ok(change) = &described.state {
                let number = change.of;
                let changed = Fate::Changed(Box::new((described, pipes)));
                self.fates.insert(number, changed);
            }
        }
        self.pollers = pollers;
        self.head = Some(head);
    }

    /// Makes the workers continue the tunnels, with the debts of users and the failures of log-ins, empties the queues, and waits
    /// until all flow. From here on a failure resets them, and clients are accepted. Call it before anything that can wait: it
    /// would have its part of the processors.
    pub(super) fn start(&mut self, shared: &Shared) {
        self.restore(shared);
        self.arrived
            .drain(..)
            .for_each(|arrived| arrived.take_out());
        if self.tunnels() > BOTH_WATCH_MAX {
            self.pollers.clear();
        }
        let frozen = self.frozen.unwrap_or_else(Instant::now);
        let count = self.starts.len().max(1);
        let mut fates: Vec<HashMap<_, _>> = self.starts.iter().map(|_| HashMap::new()).collect();
        for (number, fate) in self.fates.drain() {
            if let Some(fates) = fates.get_mut(number % count) {
                fates.insert(number, fate);
            }
        }
        for (start, fates) in self.starts.iter().zip(fates) {
            // A worker that has failed ends the daemon.
            let _has_failed = start.send(Start { frozen, fates });
        }
        self.settle();
    }

    /// Continues the debts of users and the failures of log-ins.
    fn restore(&self, shared: &Shared) {
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

    /// Waits until the workers have prepared their tunnels.
    fn wait_for_workers(&self) -> io::Result<()> {
        for _ in &self.starts {
            let ready = self.are_ready.as_ref();
            let ready = ready.map(|ready| ready.recv_timeout(PATIENCE));
            if !matches!(ready, Some(Ok(()))) {
                return Err(io::Error::other("a worker does not prepare the tunnels"));
            }
        }
        Ok(())
    }

    /// Waits until the workers have continued all tunnels.
    fn settle(&mut self) {
        for _ in &self.starts {
            let deadline = self
                .reports
                .as_ref()
                .map(|reports| reports.recv_timeout(PATIENCE));
            let Some(Ok(continued)) = deadline else {
                warn!("a worker does not report which tunnels it has continued");
                break;
            };
            self.continued.adopted += continued.adopted;
            self.refused.extend(continued.unfit);
        }
        let since = self.frozen.map(|frozen| frozen.elapsed());
        self.pause = since.unwrap_or_default();
    }

    /// Records what became of the tunnels.
    pub(super) fn record(self, shared: &Arc<Shared>, listeners: &[SocketAddr]) {
        let (sum, pause, now) = (self.continued, self.pause, Instant::now());
        close_beside(self.pollers);
        // The tunnels flow by now.
        let lost = left_behind(&self.came.into_values().collect());
        if self.head.is_none() && lost.is_none() && self.refused.is_empty() {
            return;
        }
        let listeners: Vec<_> = listeners.iter().map(|address| Arc::new(*address)).collect();
        let destination = Destination {
            shared,
            listeners: &listeners,
            described: now.checked_sub(pause).unwrap_or(now),
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
            refused: self.refused.len(),
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

/// When the states of a description were these.
fn instant_of(head: &Head) -> Instant {
    let now = Instant::now();
    now.checked_sub(head.since(monotonic())).unwrap_or(now)
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
fn left_behind(came: &HashSet<String>) -> Option<Vec<TunnelState>> {
    let folder = left::folder()?;
    left::missing(&folder, came).unwrap_or_else(|error| {
        warn!(%error, "the list of handed-over tunnels cannot be read");
        None
    })
}

const UNUSABLE: &str = "the tunnels of the former daemon cannot be continued and are reset";
const NOT_TAKEN: &str = "no daemon took its sockets after the hand-over";
/// A worker continues thousands of tunnels in a fraction of it.
const PATIENCE: Duration = Duration::from_secs(10);
