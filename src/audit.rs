//! Audit records, and the one writer that puts them on the log stream or in a file; their fields are in
//! `audit/record.rs` and `audit/daemon_record.rs`.
//!
//! One JSON object a line. Workers never block on it: a slot in a bounded queue is
//! reserved before an attempt goes on and filled at its end, so a record that was promised can always be handed over.
//! Records hold no credentials, no payload and no header value but the authority.

pub mod chain;
mod daemon_record;
pub mod file;
mod line;
mod record;
mod refusals;
pub mod report;
pub mod verify;
mod writer;

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
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
    HelloRecord, Micros, Named, Protocols, ServerRecord, TunnelId, TunnelRecord, Versions, time_text, timestamp,
};
pub use refusals::{Refusal, Refusals};
use writer::{Clock, Pen, Sink};

/// What waits to be written.
#[derive(Debug)]
enum Entry {
    Tunnel(Box<TunnelRecord>),
    Daemon(Box<DaemonRecord>),
}

/// The writer's near end.
#[derive(Clone, Debug)]
pub struct Audit {
    queue: mpsc::Sender<Entry>,
    state: Arc<State>,
}

/// The promise that one record can be handed over.
#[derive(Debug)]
pub struct Slot(OwnedPermit<Entry>);

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
}

impl Audit {
    /// Starts the writer on `stream`; `failures` counts records it could not write.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(stream: impl Write + Send + 'static, failures: Counter) -> io::Result<(Self, Writer)> {
        Self::start_with(Sink::Stream(stream), failures)
    }

    /// The same on the audit file.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_in(file: AuditFile, failures: Counter) -> io::Result<(Self, Writer)> {
        Self::start_with(Sink::<io::Sink>::File(Box::new(file)), failures)
    }

    fn start_with<W: Write + Send + 'static>(sink: Sink<W>, failures: Counter) -> io::Result<(Self, Writer)> {
        let (queue, records) = mpsc::channel(QUEUE_RECORDS);
        let state = Arc::new(State::default());
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let (clock, synced) = (Clock::new(), Instant::now());
        let pen = Pen { sink, state: Arc::clone(&state), failures, runtime, clock, synced, is_sync_failing: false };
        let (at_work, done) = std_mpsc::channel();
        let thread = std::thread::Builder::new().name("audit".into());
        thread.spawn(move || {
            pen.write_all(records);
            drop(at_work);
        })?;
        Ok((Self { queue, state }, Writer(done)))
    }

    /// A slot for one record; None while the queue is full: nothing can be written.
    #[must_use]
    pub fn reserve(&self) -> Option<Slot> {
        self.queue.clone().try_reserve_owned().ok().map(Slot)
    }

    /// Whether the last write failed, or the queue is full.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state.failing.load(Ordering::Relaxed) || self.queue.capacity() == 0
    }

    /// Whether it is known yet that records can be written, or cannot.
    #[must_use]
    pub fn has_tried(&self) -> bool {
        self.state.tried.load(Ordering::Acquire)
    }

    /// Why the last write failed, if it did.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the writer look, before it writes again, whether the audit file was renamed or removed.
    pub fn look_again(&self) {
        self.state.look_again.store(true, Ordering::Relaxed);
    }

    /// Writes a record about the daemon; false when the queue is full.
    pub fn daemon(&self, record: DaemonRecord) -> bool {
        self.reserve().map(|slot| slot.0.send(Entry::Daemon(Box::new(record)))).is_some()
    }
}

impl Slot {
    /// Hands the record over.
    pub fn fill(self, record: TunnelRecord) {
        self.0.send(Entry::Tunnel(Box::new(record)));
    }
}

impl Writer {
    /// Waits until all is written. Every [`Audit`] and [`Slot`] must be gone. False when records were left after
    /// `patience`.
    #[must_use]
    pub fn finish(self, patience: Duration) -> bool {
        matches!(self.0.recv_timeout(patience), Err(std_mpsc::RecvTimeoutError::Disconnected))
    }
}

impl State {
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

/// Beyond every limit on tunnels, so that live tunnels never fill it; about 100 MB if nothing can be written and all
/// slots are full.
const QUEUE_RECORDS: usize = 65_536;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::authority::Destination;
    use std::sync::Mutex;
    use time::OffsetDateTime;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lockout() -> DaemonRecord {
        DaemonRecord::AuthLockout { ts: timestamp(), client: "192.0.2.1".parse().unwrap(), failures: 10 }
    }

    fn denied() -> TunnelRecord {
        let client = "192.0.2.1:49152".parse().unwrap();
        TunnelRecord {
            id: TunnelId { start: 0x1a, number: 0x2b },
            client,
            listener: client,
            host: Some(Destination::Address(client.ip())),
            port: Some(443),
            code: "ip_literal_denied",
            connect_ms: Some(Duration::from_micros(1_500).into()),
            duration_ms: 2.0,
            ..record::tests::bare()
        }
    }

    #[test]
    fn records_are_one_json_object_a_line_in_order() {
        let page = Page::default();
        let (audit, writer) = Audit::start(page.clone(), Counter::noop()).unwrap();
        let slot = audit.reserve().unwrap();
        assert!(audit.daemon(lockout()));
        slot.fill(denied());
        drop(audit);
        assert!(writer.finish(Duration::from_secs(5)));
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines.first().unwrap()["event"], "auth_lockout");
        let mut tunnel = lines.get(1).unwrap().clone();
        // What depends on this machine.
        let said = tunnel.as_object_mut().unwrap().remove("clock_synchronised").unwrap_or(true.into());
        assert_eq!(said, serde_json::json!(crate::sys::is_clock_synchronised()));
        let known = serde_json::json!({
            "ts": "1970-01-01T00:00:00.000000Z", "event": "tunnel", "id": "1a-2b", "client": "192.0.2.1:49152",
            "listener": "192.0.2.1:49152", "host": "192.0.2.1", "port": 443, "outcome": "denied",
            "code": "ip_literal_denied", "connect_ms": 1.5, "duration_ms": 2.0, "bytes_up": 0, "bytes_down": 0,
            "spliced_up": 0, "spliced_down": 0, "policy": "hash",
        });
        assert_eq!(tunnel, known, "what is not known is absent");
    }

    #[test]
    fn a_stream_that_cannot_be_written_shows_and_does_not_hold_up_the_end() {
        let (audit, writer) = Audit::start(Full, Counter::noop()).unwrap();
        assert!(audit.daemon(lockout()));
        let state = Arc::clone(&audit.state);
        drop(audit);
        assert!(writer.finish(Duration::from_secs(5)));
        assert!(state.failing.load(Ordering::Relaxed));
    }

    /// Fails once, then takes everything, a few bytes at a time.
    #[derive(Clone, Default)]
    struct Recovers(Page, Arc<AtomicBool>);

    impl Write for Recovers {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.1.swap(true, Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.write(bytes.get(..7).unwrap_or(bytes))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_record_that_could_not_be_written_is_written_when_it_can() {
        let stream = Recovers::default();
        let (audit, writer) = Audit::start(stream.clone(), Counter::noop()).unwrap();
        assert!(audit.daemon(lockout()));
        let state = Arc::clone(&audit.state);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while stream.0.0.lock().unwrap().last() != Some(&b'\n') {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        drop(audit);
        assert!(writer.finish(Duration::from_secs(5)));
        assert!(!state.failing.load(Ordering::Relaxed), "it has recovered by itself");
    }

    #[test]
    fn timestamps_are_rfc_3339_with_microseconds() {
        let ts = timestamp();
        assert!(OffsetDateTime::parse(&ts, &time::format_description::well_known::Rfc3339).is_ok());
        assert_eq!(ts.len(), "2026-11-21T00:00:00.000000Z".len());
    }
}
