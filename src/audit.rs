//! Audit records, and the one writer that puts them on the log stream or into a file.
//! `audit/record.rs` and `audit/daemon_record.rs` define their fields.
//!
//! A record is one JSON object on one line. Workers never block on the writer: admission reserves a
//! permit for a bounded queue before the dial, and the end of the tunnel uses it, so every promised
//! record finds room. A refusal needs no permit (`audit/sums.rs`), so refused clients take nothing
//! from the others. Records hold no credentials, no payload and no header value except the
//! authority.

pub mod chain;
mod daemon_record;
pub mod file;
mod line;
pub mod memory;
mod record;
mod refusals;
pub mod report;
mod sums;
mod unwritten;
pub mod verify;
mod writer;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::Counter;
use time::OffsetDateTime;
use tokio::sync::mpsc::{self, OwnedPermit};

use chain::Chain;
pub use daemon_record::DaemonRecord;
pub use record::{
    HelloRecord, Micros, Named, Protocols, ServerRecord, TunnelId, TunnelRecord, Versions,
    time_text, timestamp,
};
pub use refusals::{Refusal, Refusals};
pub use sums::Refused;
use sums::Sums;
pub use unwritten::Unwritten;

use crate::limits::client::ClientNetwork;
use crate::limits::{KeyedPermit, Table};

/// An entry in the writer's queue.
#[derive(Debug)]
enum QueuedRecord {
    /// Counts against the client's share of a long queue.
    Tunnel(Box<TunnelRecord>, Option<KeyedPermit<IpAddr>>),
    /// A refusal; it holds no permit.
    Refused(Box<TunnelRecord>),
    Daemon(Box<DaemonRecord>),
    /// The sender is dropped without a message if the record does not reach the disk.
    Synced(Box<DaemonRecord>, std_mpsc::Sender<()>, Then),
}

/// Who writes to the audit file after a record, once somebody has learned that it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// This daemon.
    GoesOn,
    /// The next one; this one cannot write to it any more.
    NextDaemon,
}

/// The sending side of the writer's queue.
#[derive(Clone, Debug)]
pub struct Audit {
    queue: mpsc::Sender<QueuedRecord>,
    state: Arc<State>,
}

/// Guarantees room in the queue for the record of one tunnel.
#[derive(Debug)]
pub struct AuditPermit {
    permit: OwnedPermit<QueuedRecord>,
    state: Arc<State>,
}

/// The writer thread's side; it disconnects after the last record is written.
#[derive(Debug)]
pub struct Writer(std_mpsc::Receiver<()>);

/// State shared by the writer and its senders.
#[derive(Debug, Default)]
struct State {
    /// How many records of tunnels the queue has room for, including those that live tunnels have
    /// reserved.
    room: usize,
    /// Set by the first write: whether it succeeded.
    tried: AtomicBool,
    failing: AtomicBool,
    cause: Mutex<Option<String>>,
    /// Records of tunnels in the queue.
    waiting: AtomicUsize,
    /// Records of refusals in the queue.
    refused: AtomicUsize,
    /// Set when the queue reaches [`State::waiting_max`], cleared when it falls to
    /// [`State::waiting_few`].
    is_behind: AtomicBool,
    /// By IPv4 address or IPv6 /48: records added while the queue was long.
    shares: Table<IpAddr>,
    /// Refusals counted in sums.
    sums: Sums,
    /// Where the chain of the audit file ends.
    head: Mutex<Option<Head>>,
}

/// The last line of the audit file. A collector that keeps it can prove later that no record before
/// it was removed or changed.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The number and the hash of the line.
    pub chain: Chain,
    /// When the line was written.
    pub written_at: OffsetDateTime,
}

impl Audit {
    /// The sending side, with room for the records of this many live `tunnels`, which wait for their writer. `failures` counts
    /// records that could not be written.
    #[must_use]
    pub fn before_its_writer(failures: &Counter, tunnels: usize) -> (Self, Unwritten) {
        let room = tunnels.saturating_add(tunnels / 4);
        let room = room.clamp(QUEUE_RECORDS_MIN, QUEUE_RECORDS_MAX);
        let (queue, records) = mpsc::channel(room + REFUSED_WAITING_MAX);
        let state = Arc::new(State {
            room,
            ..State::default()
        });
        let unwritten = Unwritten {
            records,
            state: Arc::clone(&state),
            failures: failures.clone(),
        };
        (Self { queue, state }, unwritten)
    }

    /// Reserves room for the record of one tunnel. Returns None when the queue is full, or this
    /// client has used its share of a long queue.
    #[must_use]
    pub fn reserve(&self, client: IpAddr) -> Option<AuditPermit> {
        let state = &self.state;
        let is_long = state.waiting.load(Ordering::Relaxed) >= state.waiting_few();
        if is_long && state.shares.count(&holder(client)) >= state.client_waiting_max() {
            return None;
        }
        // The last entries are reserved for refusals and daemon records.
        if self.queue.capacity() <= REFUSED_WAITING_MAX {
            return None;
        }
        let permit = self.queue.clone().try_reserve_owned().ok()?;
        Some(AuditPermit {
            permit,
            state: Arc::clone(state),
        })
    }

    /// Reserves room for the record of a tunnel of another daemon, whatever share its client has.
    #[must_use]
    pub fn reserve_at_once(&self) -> Option<AuditPermit> {
        let permit = self.queue.clone().try_reserve_owned().ok()?;
        let state = Arc::clone(&self.state);
        Some(AuditPermit { permit, state })
    }

    /// Records a refusal at once, or counts it in a sum that is written within a second. Calls
    /// `record` only if it needs the record.
    pub fn refused(&self, refused: &Refused<'_>, record: impl FnOnce() -> TunnelRecord) {
        self.refused_at(Instant::now(), refused, record);
    }

    fn refused_at(
        &self,
        now: Instant,
        refused: &Refused<'_>,
        record: impl FnOnce() -> TunnelRecord,
    ) {
        let state = &self.state;
        let has_room =
            state.refused.load(Ordering::Relaxed) < REFUSED_WAITING_MAX && !self.is_failing();
        let Some(record) = state.sums.refused(refused, now, has_room, record) else {
            return;
        };
        match self.queue.try_reserve() {
            Ok(permit) => {
                state.refused.fetch_add(1, Ordering::Relaxed);
                permit.send(QueuedRecord::Refused(Box::new(record)));
            }
            Err(_) => state.sums.keep(record),
        }
    }

    /// Records a login lock. Strangers can cause locks, so many of them share one record.
    pub fn lockout(&self, record: DaemonRecord) {
        let Some(record) = self.state.sums.lockout(record, Instant::now()) else {
            return;
        };
        match self.queue.try_reserve() {
            Ok(permit) => permit.send(QueuedRecord::Daemon(Box::new(record))),
            Err(_) => self.state.sums.keep_lockout(record),
        }
    }

    /// Whether the last write failed, or the queue is so long that the writer has to catch up
    /// first.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state.failing.load(Ordering::Relaxed)
            || self.queue.capacity() == 0
            || self.state.update_is_behind()
    }

    /// Whether the first write has completed, successfully or not.
    #[must_use]
    pub fn has_tried(&self) -> bool {
        self.state.tried.load(Ordering::Acquire)
    }

    /// The error of the last write, if it failed.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state
            .cause
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The last line of the audit file; None before the first, and if records go to the log stream.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        *self
            .state
            .head
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a record about the daemon. The receiver gets a message once this record and all before
    /// it are on disk. Returns None when the queue is full.
    #[must_use]
    pub fn daemon_synced(
        &self,
        record: DaemonRecord,
        then: Then,
    ) -> Option<std_mpsc::Receiver<()>> {
        let (written, receiver) = std_mpsc::channel();
        let permit = self.queue.try_reserve().ok()?;
        permit.send(QueuedRecord::Synced(Box::new(record), written, then));
        Some(receiver)
    }

    /// Queues a record about the daemon. Returns false when the queue is full.
    pub fn daemon(&self, record: DaemonRecord) -> bool {
        self.queue
            .try_reserve()
            .map(|permit| permit.send(QueuedRecord::Daemon(Box::new(record))))
            .is_ok()
    }
}

impl AuditPermit {
    /// Queues the record.
    pub fn send(self, record: TunnelRecord) {
        let Self { permit, state } = self;
        let is_long = state.waiting.fetch_add(1, Ordering::Relaxed) >= state.waiting_few();
        let client = record.client.filter(|_| is_long);
        let share =
            client.and_then(|client| state.shares.acquire(&holder(client.ip()), usize::MAX));
        permit.send(QueuedRecord::Tunnel(Box::new(record), share));
    }
}

impl Writer {
    /// Waits until the writer has written everything. The caller drops every [`Audit`] and [`AuditPermit`]
    /// first. Returns false if records remain after `patience`.
    #[must_use]
    pub fn finish(self, patience: Duration) -> bool {
        matches!(
            self.0.recv_timeout(patience),
            Err(std_mpsc::RecvTimeoutError::Disconnected)
        )
    }
}

impl State {
    /// With this many tunnel records in the queue the daemon is not ready, until
    /// [`State::waiting_few`] remain.
    fn waiting_max(&self) -> usize {
        self.room / 4 * 3
    }

    /// With this many tunnel records the queue is long, and each client has a share of the rest.
    fn waiting_few(&self) -> usize {
        self.room / 8
    }

    /// The most records that one client may add to a long queue before it gets no permit.
    fn client_waiting_max(&self) -> usize {
        self.room / 8
    }

    /// Applies hysteresis, so that readiness does not flap while the writer catches up.
    fn update_is_behind(&self) -> bool {
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting >= self.waiting_max() {
            self.is_behind.store(true, Ordering::Relaxed);
        } else if waiting <= self.waiting_few() {
            self.is_behind.store(false, Ordering::Relaxed);
        }
        self.is_behind.load(Ordering::Relaxed)
    }

    fn wrote(&self, chain: Chain) {
        let written_at = OffsetDateTime::now_utc();
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Head { chain, written_at });
    }

    fn failed(&self, cause: String) {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
        self.failing.store(true, Ordering::Relaxed);
    }

    fn recovered(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// Returns whose share of a long queue a record counts against: that of an IPv4 address or an IPv6 /48,
/// which is 65,536 clients at no cost.
fn holder(client: IpAddr) -> IpAddr {
    match ClientNetwork::of(client) {
        network if network.address().is_ipv6() => network.site().address(),
        network => network.address(),
    }
}

/// Room for the records of fewer tunnels too. The queue takes memory only for its records: about
/// 100 MB when nothing can be written and so many wait.
const QUEUE_RECORDS_MIN: usize = 65_536;
/// A quarter more than the largest value of `limits.tunnels`.
const QUEUE_RECORDS_MAX: usize = 1_250_000;
/// The most refusal records in the queue, about 8 MB; further refusals are counted in sums.
const REFUSED_WAITING_MAX: usize = 4_096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "audit/tests.rs"]
mod tests;
