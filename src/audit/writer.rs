//! The one thread that writes audit records from the queue to the log stream or the audit file.
//! Retries a failed write until it succeeds; nobody waits for it.

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use metrics::Counter;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::file::{Appended, AuditFile};
use super::{DaemonRecord, QueuedRecord, State, Then, line};
use crate::limits::KeyedPermit;
use crate::sys;

/// Where records go.
#[derive(Debug)]
pub(super) enum Sink<W> {
    Stream(W),
    File(Box<AuditFile>),
}

/// State of the thread.
#[derive(Debug)]
pub(super) struct Pen<W> {
    pub(super) sink: Sink<W>,
    pub(super) state: Arc<State>,
    pub(super) failures: Counter,
    /// Only for its timer.
    pub(super) runtime: Runtime,
    pub(super) clock: Clock,
    /// When the file was last synced, or a sync was tried.
    pub(super) synced: Instant,
    pub(super) is_sync_failing: bool,
    /// When the sums were last written.
    pub(super) summed: Instant,
}

/// Whether the clock is synchronised, read at most once a second.
#[derive(Debug)]
pub(super) struct Clock {
    asked: Option<Instant>,
    is_synchronised: Option<bool>,
}

/// What woke the thread.
enum Waited {
    Record(QueuedRecord),
    /// The sums or a sync of the file are due.
    Due,
    Closed,
}

/// Lines of one write, and the shares to give back after it.
#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    tunnels: usize,
    refused: usize,
    shares: Vec<KeyedPermit<IpAddr>>,
    /// Who waits until the lines are on disk.
    waiting: Vec<std_mpsc::Sender<()>>,
    /// Whether the next daemon writes after them.
    is_last: bool,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            asked: None,
            is_synchronised: Some(true),
        }
    }

    fn is_synchronised(&mut self) -> Option<bool> {
        if self.asked.is_none_or(|asked| asked.elapsed() >= SECOND) {
            self.is_synchronised = sys::is_clock_synchronised();
            self.asked = Some(Instant::now());
        }
        self.is_synchronised
    }
}

impl QueuedRecord {
    /// Appends the entry as a line.
    fn write_to(&self, lines: &mut Vec<u8>, is_clock_synchronised: Option<bool>) {
        match self {
            Self::Tunnel(record, _) | Self::Refused(record) => line::append(record, lines),
            Self::Daemon(record) | Self::Synced(record, ..) => line::append_json(record, lines),
        }
        let said: &[u8] = match is_clock_synchronised {
            Some(true) => return,
            Some(false) => b",\"clock_synchronised\":false}\n",
            None => b",\"clock_synchronised\":null}\n",
        };
        if lines.ends_with(b"}\n") {
            lines.truncate(lines.len() - 2);
            lines.extend_from_slice(said);
        }
    }
}

impl Batch {
    fn add(&mut self, entry: QueuedRecord, is_clock_synchronised: Option<bool>) {
        entry.write_to(&mut self.lines, is_clock_synchronised);
        match entry {
            QueuedRecord::Tunnel(_, share) => {
                self.tunnels += 1;
                self.shares.extend(share);
            }
            QueuedRecord::Refused(_) => self.refused += 1,
            QueuedRecord::Synced(_, waiting, then) => {
                self.waiting.push(waiting);
                self.is_last |= then == Then::NextDaemon;
            }
            QueuedRecord::Daemon(_) => {}
        }
    }

    /// Clears the batch after its lines were written.
    fn written(&mut self, state: &State) {
        state
            .waiting
            .fetch_sub(std::mem::take(&mut self.tunnels), Ordering::Relaxed);
        state
            .refused
            .fetch_sub(std::mem::take(&mut self.refused), Ordering::Relaxed);
        self.shares.clear();
        self.lines.clear();
    }
}

impl<W: Write> Pen<W> {
    /// Writes records in order, as many at once as are queued, until every sender is gone. Rests
    /// after it has emptied the queue: during the rest workers need not wake it, and a wake-up
    /// costs more than a record. A full batch means that more is queued, so there is no rest.
    pub(super) fn write_all(mut self, mut records: mpsc::Receiver<QueuedRecord>) {
        let mut batch = Batch::default();
        loop {
            let mut has_emptied_the_queue = true;
            match self.wait(&mut records) {
                Waited::Record(first) => {
                    let is_synchronised = self.clock.is_synchronised();
                    self.add(first, is_synchronised, &mut batch);
                    while batch.lines.len() < BATCH_BYTES
                        && let Ok(next) = records.try_recv()
                    {
                        self.add(next, is_synchronised, &mut batch);
                    }
                    has_emptied_the_queue = batch.lines.len() < BATCH_BYTES;
                    self.write_batch(&batch.lines, &records);
                    batch.written(&self.state);
                    let is_known = self.answer(&mut batch.waiting);
                    if std::mem::take(&mut batch.is_last) && is_known {
                        self.release();
                    }
                }
                Waited::Due => {}
                Waited::Closed => break,
            }
            self.write_sums_when_due(SUMMED, &records);
            self.sync_when_due(SECOND);
            if has_emptied_the_queue && !records.is_closed() {
                std::thread::sleep(REST);
            }
        }
        self.write_sums_when_due(Duration::ZERO, &records);
        self.sync_when_due(Duration::ZERO);
    }

    /// Puts the lines on disk for those who wait for it. Returns whether anybody has learned of it.
    fn answer(&mut self, waiting: &mut Vec<std_mpsc::Sender<()>>) -> bool {
        if waiting.is_empty() {
            return false;
        }
        self.sync_when_due(Duration::ZERO);
        let is_unsynced = matches!(&self.sink, Sink::File(file) if file.is_unsynced());
        // One that does not wait any more learns nothing.
        let told = waiting
            .drain(..)
            .filter(|waiting| !is_unsynced && waiting.send(()).is_ok());
        told.count() > 0
    }

    /// Lets the next daemon write to the file.
    fn release(&mut self) {
        if let Sink::File(file) = &mut self.sink
            && let Err(error) = file.release()
        {
            self.failed(&error);
        }
    }

    /// The last record of a daemon comes after all sums.
    fn add(&mut self, entry: QueuedRecord, is_synchronised: Option<bool>, batch: &mut Batch) {
        let is_last = match &entry {
            QueuedRecord::Daemon(record) | QueuedRecord::Synced(record, ..) => {
                matches!(
                    **record,
                    DaemonRecord::Stop { .. } | DaemonRecord::Handover { .. }
                )
            }
            QueuedRecord::Tunnel(..) | QueuedRecord::Refused(_) => false,
        };
        if is_last {
            self.take_sums(is_synchronised, &mut batch.lines);
        }
        batch.add(entry, is_synchronised);
    }

    /// Returns the next record, or the time at which something is due.
    fn wait(&self, records: &mut mpsc::Receiver<QueuedRecord>) -> Waited {
        let is_unsynced = matches!(&self.sink, Sink::File(file) if file.is_unsynced());
        let until_summed = SUMMED.saturating_sub(self.summed.elapsed());
        let until_synced = if is_unsynced {
            SECOND.saturating_sub(self.synced.elapsed())
        } else {
            until_summed
        };
        let left = until_summed.min(until_synced);
        match self
            .runtime
            .block_on(async { timeout(left, records.recv()).await })
        {
            Ok(next) => next.map_or(Waited::Closed, Waited::Record),
            Err(_) => Waited::Due,
        }
    }

    /// Writes the sums. Takes them only when they can be written; until then they continue to
    /// count.
    fn write_sums_when_due(&mut self, after: Duration, records: &mpsc::Receiver<QueuedRecord>) {
        if self.summed.elapsed() < after {
            return;
        }
        let (is_synchronised, mut lines) = (self.clock.is_synchronised(), Vec::new());
        self.take_sums(is_synchronised, &mut lines);
        self.write_batch(&lines, records);
        self.summed = Instant::now();
    }

    fn take_sums(&self, is_synchronised: Option<bool>, lines: &mut Vec<u8>) {
        let sums = &self.state.sums;
        let refused = sums
            .take()
            .into_iter()
            .map(|record| QueuedRecord::Refused(Box::new(record)));
        let lockouts = sums
            .take_lockouts()
            .into_iter()
            .map(|record| QueuedRecord::Daemon(Box::new(record)));
        refused
            .chain(lockouts)
            .for_each(|entry| entry.write_to(lines, is_synchronised));
    }

    /// Retries until the write succeeds, so no record is lost while the daemon lives and recovery
    /// needs no help. New records wait in the queue meanwhile.
    fn write_batch(&mut self, mut rest: &[u8], records: &mpsc::Receiver<QueuedRecord>) {
        while !rest.is_empty() {
            let Appended { taken, result } = self.write(rest);
            rest = rest.get(taken..).unwrap_or_default();
            match &result {
                Ok(()) if self.has_recovered(rest) => self.state.recovered(),
                Ok(()) => {}
                Err(error) => self.failed(error),
            }
            self.state.tried.store(true, Ordering::Release);
            if result.is_err() {
                if records.is_closed() {
                    // A stopping daemon cannot wait for the disk.
                    return;
                }
                std::thread::sleep(RETRY);
            }
        }
    }

    /// Not before most of the queue is written: on a disk with room for a few lines readiness would
    /// flap.
    fn has_recovered(&self, rest: &[u8]) -> bool {
        !self.is_sync_failing
            && rest.is_empty()
            && self.state.waiting.load(Ordering::Relaxed) <= self.state.waiting_few()
    }

    fn write(&mut self, lines: &[u8]) -> Appended {
        match &mut self.sink {
            Sink::Stream(stream) => match stream.write(lines) {
                Ok(0) => Appended {
                    taken: 0,
                    result: Err(io::ErrorKind::WriteZero.into()),
                },
                Ok(taken) => Appended {
                    taken,
                    result: Ok(()),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Appended {
                    taken: 0,
                    result: Ok(()),
                },
                Err(error) => Appended {
                    taken: 0,
                    result: Err(error),
                },
            },
            Sink::File(file) => {
                let appended = file.append(lines);
                if appended.taken > 0 {
                    self.state.wrote(file.chain());
                }
                appended
            }
        }
    }

    fn sync_when_due(&mut self, after: Duration) {
        let Sink::File(file) = &mut self.sink else {
            return;
        };
        if !file.is_unsynced() || self.synced.elapsed() < after {
            return;
        }
        self.synced = Instant::now();
        match file.sync() {
            Ok(()) => {
                if std::mem::take(&mut self.is_sync_failing) {
                    self.state.recovered();
                }
            }
            Err(error) => {
                self.is_sync_failing = true;
                self.failed(&error);
            }
        }
    }

    fn failed(&self, error: &io::Error) {
        self.state.failed(match &self.sink {
            Sink::Stream(_) => format!("the log stream: {error}"),
            Sink::File(file) => format!("{}: {error}", file.path().display()),
        });
        // An observer of the counter finds the daemon not ready.
        self.failures.increment(1);
    }
}

/// The rest after the queue is empty.
const REST: Duration = Duration::from_millis(10);
/// The size of one write: some hundred records.
const BATCH_BYTES: usize = 64 * 1024;
/// Between attempts after a failed write.
const RETRY: Duration = Duration::from_secs(1);
/// Between two writes of the sums: with the duration of a write, `kill -9` loses less than a second
/// of them.
const SUMMED: Duration = Duration::from_millis(500);
/// The longest time until written bytes are on disk; the clock is read as often.
const SECOND: Duration = Duration::from_secs(1);
