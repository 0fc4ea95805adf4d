//! The one thread that writes audit records: what waits in the queue becomes lines, on the log stream or in the audit
//! file. What cannot be written is tried again until it can; nobody waits for it meanwhile.

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use metrics::Counter;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::file::{Appended, AuditFile};
use super::{DaemonRecord, Entry, State, WAITING_FEW, append_json, line};
use crate::limits::Permit;
use crate::sys;

/// Where records go.
#[derive(Debug)]
pub(super) enum Sink<W> {
    Stream(W),
    File(Box<AuditFile>),
}

/// The thread's own.
#[derive(Debug)]
pub(super) struct Pen<W> {
    pub(super) sink: Sink<W>,
    pub(super) state: Arc<State>,
    pub(super) failures: Counter,
    /// For its timer only.
    pub(super) runtime: Runtime,
    pub(super) clock: Clock,
    /// When the file was synced last, or that was tried.
    pub(super) synced: Instant,
    pub(super) is_sync_failing: bool,
    /// When the sums were written last.
    pub(super) summed: Instant,
}

/// Whether the clock is synchronised, asked once a second at most.
#[derive(Debug)]
pub(super) struct Clock {
    asked: Option<Instant>,
    is_synchronised: Option<bool>,
}

/// What the thread has waited for.
enum Waited {
    Record(Entry),
    /// It is time to write the sums, or to sync the file.
    Due,
    Closed,
}

/// Lines that are written at once, and what is free again after that.
#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    tunnels: usize,
    refused: usize,
    shares: Vec<Permit<IpAddr>>,
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

impl Entry {
    /// Appends its line.
    fn write_to(&self, lines: &mut Vec<u8>, is_clock_synchronised: Option<bool>) {
        match self {
            Self::Tunnel(record, _) | Self::Refused(record) => line::append(record, lines),
            Self::Daemon(record) => append_json(record, lines),
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
    fn add(&mut self, entry: Entry, is_clock_synchronised: Option<bool>) {
        entry.write_to(&mut self.lines, is_clock_synchronised);
        match entry {
            Entry::Tunnel(_, share) => {
                self.tunnels += 1;
                self.shares.extend(share);
            }
            Entry::Refused(_) => self.refused += 1,
            Entry::Daemon(_) => {}
        }
    }

    /// Empties it after its lines were written.
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
    /// Writes records in order, as many at once as there are, until nobody can make one any more. It rests when it has emptied
    /// the queue: a worker that hands a record over need not wake it then, and a wake-up costs more than the record. With a
    /// full batch there is more, and no rest.
    pub(super) fn write_all(mut self, mut records: mpsc::Receiver<Entry>) {
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

    /// The record that the daemon stops is the last one: sums come before it.
    fn add(&mut self, entry: Entry, is_synchronised: Option<bool>, batch: &mut Batch) {
        if matches!(&entry, Entry::Daemon(record) if matches!(**record, DaemonRecord::Stop { .. }))
        {
            self.take_sums(is_synchronised, &mut batch.lines);
        }
        batch.add(entry, is_synchronised);
    }

    /// The next record, or the time at which something is due.
    fn wait(&self, records: &mut mpsc::Receiver<Entry>) -> Waited {
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

    /// Writes what was summed up. Sums are taken when they can be written: until then they go on counting.
    fn write_sums_when_due(&mut self, after: Duration, records: &mpsc::Receiver<Entry>) {
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
            .map(|record| Entry::Refused(Box::new(record)));
        let lockouts = sums
            .take_lockouts()
            .into_iter()
            .map(|record| Entry::Daemon(Box::new(record)));
        refused
            .chain(lockouts)
            .for_each(|entry| entry.write_to(lines, is_synchronised));
    }

    /// What cannot be written is tried again until it can, so that none is lost while the daemon lives and recovery
    /// needs no help; what comes meanwhile waits in the queue.
    fn write_batch(&mut self, mut rest: &[u8], records: &mpsc::Receiver<Entry>) {
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
                    // The daemon has stopped and cannot wait for the disk.
                    return;
                }
                std::thread::sleep(RETRY);
            }
        }
    }

    /// Not before the most of what waited is written: a disk with room for a few lines would make readiness flap.
    fn has_recovered(&self, rest: &[u8]) -> bool {
        !self.is_sync_failing
            && rest.is_empty()
            && self.state.waiting.load(Ordering::Relaxed) <= WAITING_FEW
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
                if self.state.look_again.swap(false, Ordering::Relaxed) {
                    file.look_again();
                }
                file.append(lines)
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
        // Whoever sees it counted finds the daemon not ready.
        self.failures.increment(1);
    }
}

/// After the queue was emptied.
const REST: Duration = Duration::from_millis(10);
/// One write's worth: some hundred records.
const BATCH_BYTES: usize = 64 * 1024;
/// Between attempts to write a record that could not be written.
const RETRY: Duration = Duration::from_secs(1);
/// Between two times that sums are written: with what a write takes, `kill -9` loses less than a second of them.
const SUMMED: Duration = Duration::from_millis(500);
/// What is in the file is on disk after that long at most; the clock is asked as often.
const SECOND: Duration = Duration::from_secs(1);
