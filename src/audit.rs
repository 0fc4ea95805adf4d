//! Audit records, and the one writer that puts them on the log stream or in a file; their fields are in
//! `audit/record.rs` and `audit/daemon_record.rs`.
//!
//! One JSON object a line. Workers never block on it: a slot in a bounded queue is reserved before an upstream is dialled
//! and filled at the end of the tunnel, so a record that was promised can always be handed over. A refusal needs no slot
//! (`audit/sums.rs`), so whoever is refused takes nothing from those who are let in. Records hold no credentials, no payload and no header value but the authority.

pub mod chain;
mod daemon_record;
pub mod file;
mod line;
pub mod memory;
mod record;
mod refusals;
pub mod report;
mod sums;
pub mod verify;
mod writer;

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::Counter;
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{self, OwnedPermit};

pub use daemon_record::DaemonRecord;
use file::AuditFile;
pub use record::{
    HelloRecord, Micros, Named, Protocols, ServerRecord, TunnelId, TunnelRecord, Versions,
    time_text, timestamp,
};
pub use refusals::{Refusal, Refusals};
pub use sums::Refused;
use sums::Sums;
use writer::{Clock, Pen, Sink};

use crate::limits::rate::host_of;
use crate::limits::{Permit, Table};

/// What waits to be written.
#[derive(Debug)]
enum Entry {
    /// With the client's share of a long queue.
    Tunnel(Box<TunnelRecord>, Option<Permit<IpAddr>>),
    /// A refusal, which had no slot.
    Refused(Box<TunnelRecord>),
    Daemon(Box<DaemonRecord>),
}

/// The writer's near end.
#[derive(Clone, Debug)]
pub struct Audit {
    queue: mpsc::Sender<Entry>,
    state: Arc<State>,
}

/// The promise that the record of one tunnel can be handed over.
#[derive(Debug)]
pub struct Slot {
    place: OwnedPermit<Entry>,
    state: Arc<State>,
    client: IpAddr,
}

/// The writer's far end: it hangs up when the last record is written.
#[derive(Debug)]
pub struct Writer(std_mpsc::Receiver<()>);

/// What the writer says of itself, and is told.
#[derive(Debug, Default)]
struct State {
    /// The first write has gone well, or not.
    tried: AtomicBool,
    failing: AtomicBool,
    cause: Mutex<Option<String>>,
    look_again: AtomicBool,
    /// Records of tunnels that wait to be written.
    waiting: AtomicUsize,
    /// Records of refusals that do.
    refused: AtomicUsize,
    /// More waited than [`WAITING_MAX`], and has not come down to [`WAITING_FEW`] since.
    is_behind: AtomicBool,
    /// By client, those that were added to a long queue.
    shares: Table<IpAddr>,
    /// Refusals that are summed up.
    sums: Sums,
}

impl Audit {
    /// Starts the writer on `stream`; `failures` counts records it could not write.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        stream: impl Write + Send + 'static,
        failures: Counter,
    ) -> io::Result<(Self, Writer)> {
        Self::start_with(Sink::Stream(stream), failures)
    }

    /// The same on the audit file.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_in(file: AuditFile, failures: Counter) -> io::Result<(Self, Writer)> {
        Self::start_with(Sink::<io::Sink>::File(Box::new(file)), failures)
    }

    fn start_with<W: Write + Send + 'static>(
        sink: Sink<W>,
        failures: Counter,
    ) -> io::Result<(Self, Writer)> {
        let (queue, records) = mpsc::channel(QUEUE_RECORDS + REFUSED_WAITING_MAX);
        let state = Arc::new(State::default());
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let (clock, synced) = (Clock::new(), Instant::now());
        let pen = Pen {
            sink,
            state: Arc::clone(&state),
            failures,
            runtime,
            clock,
            synced,
            summed: synced,
            is_sync_failing: false,
        };
        let (at_work, done) = std_mpsc::channel();
        let thread = std::thread::Builder::new().name("audit".into());
        thread.spawn(move || {
            pen.write_all(records);
            drop(at_work);
        })?;
        Ok((Self { queue, state }, Writer(done)))
    }

    /// A slot for the record of one tunnel. None while the queue is full, or as full as this client may make it.
    #[must_use]
    pub fn reserve(&self, client: IpAddr) -> Option<Slot> {
        let state = &self.state;
        let is_long = state.waiting.load(Ordering::Relaxed) >= WAITING_FEW;
        if is_long && state.shares.count(&host_of(client)) >= CLIENT_WAITING_MAX {
            return None;
        }
        // The last places are for refusals and for records about the daemon.
        if self.queue.capacity() <= REFUSED_WAITING_MAX {
            return None;
        }
        let place = self.queue.clone().try_reserve_owned().ok()?;
        Some(Slot {
            place,
            state: Arc::clone(state),
            client,
        })
    }

    /// Accounts for a refusal: its record is written at once, or it is counted in a sum that is written within a second.
    /// `record` makes the record, and is called only if one is needed.
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
            Ok(place) => {
                state.refused.fetch_add(1, Ordering::Relaxed);
                place.send(Entry::Refused(Box::new(record)));
            }
            Err(_) => state.sums.keep(record),
        }
    }

    /// Accounts for a lock of the log-in. Strangers bring them about, so many at a time share a record.
    pub fn lockout(&self, record: DaemonRecord) {
        let Some(record) = self.state.sums.lockout(record, Instant::now()) else {
            return;
        };
        match self.queue.try_reserve() {
            Ok(place) => place.send(Entry::Daemon(Box::new(record))),
            Err(_) => self.state.sums.keep_lockout(record),
        }
    }

    /// Whether the last write failed, or so much waits that the writer has to catch up first.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state.failing.load(Ordering::Relaxed)
            || self.queue.capacity() == 0
            || self.state.is_behind()
    }

    /// Whether it is known yet that records can be written, or cannot.
    #[must_use]
    pub fn has_tried(&self) -> bool {
        self.state.tried.load(Ordering::Acquire)
    }

    /// Why the last write failed, if it did.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state
            .cause
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Has the writer look, before it writes again, whether the audit file was renamed or removed.
    pub fn look_again(&self) {
        self.state.look_again.store(true, Ordering::Relaxed);
    }

    /// Writes a record about the daemon; false when the queue is full.
    pub fn daemon(&self, record: DaemonRecord) -> bool {
        self.queue
            .try_reserve()
            .map(|place| place.send(Entry::Daemon(Box::new(record))))
            .is_ok()
    }
}

impl Slot {
    /// Hands the record over.
    pub fn fill(self, record: TunnelRecord) {
        let Self {
            place,
            state,
            client,
        } = self;
        let is_long = state.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_FEW;
        let share = is_long
            .then(|| state.shares.acquire(&host_of(client), usize::MAX))
            .flatten();
        place.send(Entry::Tunnel(Box::new(record), share));
    }
}

impl Writer {
    /// Waits until all is written. Every [`Audit`] and [`Slot`] must be gone. False when records were left after
    /// `patience`.
    #[must_use]
    pub fn finish(self, patience: Duration) -> bool {
        matches!(
            self.0.recv_timeout(patience),
            Err(std_mpsc::RecvTimeoutError::Disconnected)
        )
    }
}

impl State {
    /// With hysteresis, so that readiness does not flap while the writer catches up.
    fn is_behind(&self) -> bool {
        match self.waiting.load(Ordering::Relaxed) {
            WAITING_MAX.. => self.is_behind.store(true, Ordering::Relaxed),
            ..=WAITING_FEW => self.is_behind.store(false, Ordering::Relaxed),
            _ => {}
        }
        self.is_behind.load(Ordering::Relaxed)
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

/// Appends the line of a record about the daemon.
fn append_json(record: &impl Serialize, lines: &mut Vec<u8>) {
    // Fails only for maps with keys that are no strings, and no record has a map.
    let _never_fails = serde_json::to_writer(&mut *lines, record);
    lines.push(b'\n');
}

/// Slots: beyond every limit on tunnels, so that live tunnels never fill it; about 100 MB if nothing can be written and all
/// slots are full.
const QUEUE_RECORDS: usize = 65_536;
/// Records of refusals that wait at most, 8 MB; further refusals are summed up.
const REFUSED_WAITING_MAX: usize = 4_096;
/// From so many records of tunnels on, the daemon is not ready until only [`WAITING_FEW`] wait.
const WAITING_MAX: usize = QUEUE_RECORDS * 3 / 4;
/// From so many records of tunnels on, the queue is long: each client has its share of the rest.
const WAITING_FEW: usize = QUEUE_RECORDS / 8;
/// Records of one client that may be added to a long queue before it gets no slot.
const CLIENT_WAITING_MAX: usize = QUEUE_RECORDS / 8;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "audit/tests.rs"]
mod tests;
