//! Audit records, and the one writer that puts them on the log stream; their fields are in
//! `audit/record.rs` and `audit/daemon_record.rs`.
//!
//! One JSON object a line. Workers never block on it: a slot in a bounded queue is
//! reserved before an attempt goes on and filled at its end, so a record that was promised can always be handed over.
//! Records hold no credentials, no payload and no header value but the authority.

pub mod chain;
mod daemon_record;
mod record;
mod refusals;
pub mod verify;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use metrics::Counter;
use tokio::sync::mpsc::{self, OwnedPermit};

pub use daemon_record::DaemonRecord;
pub use record::{
    HelloRecord, Micros, Named, Protocols, ServerRecord, TunnelId, TunnelRecord, Versions, time_text, timestamp,
};
pub use refusals::{Refusal, Refusals};

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
    failing: Arc<AtomicBool>,
}

/// The promise that one record can be handed over.
#[derive(Debug)]
pub struct Slot(OwnedPermit<Entry>);

/// The writer's far end: it hangs up when the last record is written.
#[derive(Debug)]
pub struct Writer(std_mpsc::Receiver<()>);

impl Audit {
    /// Starts the writer on `stream`; `failures` counts records it could not write.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(stream: impl Write + Send + 'static, failures: Counter) -> io::Result<(Self, Writer)> {
        let (queue, records) = mpsc::channel(QUEUE_RECORDS);
        let failing = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&failing);
        let (at_work, done) = std_mpsc::channel();
        let thread = std::thread::Builder::new().name("audit".into());
        thread.spawn(move || {
            write_all(records, stream, &flag, &failures);
            drop(at_work);
        })?;
        Ok((Self { queue, failing }, Writer(done)))
    }

    /// A slot for one record; None while the queue is full: the stream is not read.
    #[must_use]
    pub fn reserve(&self) -> Option<Slot> {
        self.queue.clone().try_reserve_owned().ok().map(Slot)
    }

    /// Whether the last write failed, or the queue is full.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed) || self.queue.capacity() == 0
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

impl Entry {
    /// Appends its line.
    fn write_to(&self, lines: &mut Vec<u8>) {
        // Fails only for maps with keys that are no strings, and no record has a map.
        let _never_fails = match self {
            Self::Tunnel(record) => serde_json::to_writer(&mut *lines, record),
            Self::Daemon(record) => serde_json::to_writer(&mut *lines, record),
        };
        lines.push(b'\n');
    }
}

/// Writes records in order, as many at once as there are. Between two writes it rests: a worker that hands a record
/// over need not wake it then, and a wake-up costs more than the record.
fn write_all(mut records: mpsc::Receiver<Entry>, mut stream: impl Write, failing: &AtomicBool, failures: &Counter) {
    let mut lines = Vec::new();
    while let Some(first) = records.blocking_recv() {
        first.write_to(&mut lines);
        while let Ok(next) = records.try_recv() {
            next.write_to(&mut lines);
            if lines.len() >= BATCH_BYTES {
                break;
            }
        }
        write_batch(&lines, &records, &mut stream, failing, failures);
        lines.clear();
        if !records.is_closed() {
            std::thread::sleep(REST);
        }
    }
}

/// What cannot be written is tried again until it can, so that none is lost while the daemon lives and recovery needs
/// no help; what comes meanwhile waits in the queue.
fn write_batch(
    mut rest: &[u8],
    records: &mpsc::Receiver<Entry>,
    stream: &mut impl Write,
    failing: &AtomicBool,
    failures: &Counter,
) {
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(written) if written > 0 => {
                failing.store(false, Ordering::Relaxed);
                rest = rest.get(written..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => {
                failures.increment(1);
                failing.store(true, Ordering::Relaxed);
                if records.is_closed() {
                    // The daemon has stopped and cannot wait for the stream.
                    return;
                }
                std::thread::sleep(RETRY);
            }
        }
    }
}

/// Between two writes.
const REST: Duration = Duration::from_millis(10);
/// One write's worth: some hundred records.
const BATCH_BYTES: usize = 64 * 1024;
/// Between attempts to write a record that could not be written.
const RETRY: Duration = Duration::from_secs(1);
/// Beyond every limit on tunnels, so that live tunnels never fill it; about 100 MB if the stream is stuck and all
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
            ts: OffsetDateTime::UNIX_EPOCH,
            event: "tunnel",
            id: TunnelId { start: 0x1a, number: 0x2b },
            user: None,
            client,
            listener: client,
            host: Some(Destination::Address(client.ip())),
            port: Some(443),
            outcome: "denied",
            code: "ip_literal_denied",
            would_deny: None,
            hello: None,
            hello_retry: None,
            server: None,
            upstream: None,
            egress: None,
            dns_ms: None,
            connect_ms: Some(Duration::from_micros(1_500).into()),
            first_byte_ms: None,
            max_gap_ms: None,
            duration_ms: 2.0,
            bytes_up: 0,
            bytes_down: 0,
            spliced_up: 0,
            spliced_down: 0,
            error: None,
            policy: "hash".into(),
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
        let tunnel = lines.get(1).unwrap();
        let known = serde_json::json!({
            "ts": "1970-01-01T00:00:00.000000Z", "event": "tunnel", "id": "1a-2b", "client": "192.0.2.1:49152",
            "listener": "192.0.2.1:49152", "host": "192.0.2.1", "port": 443, "outcome": "denied",
            "code": "ip_literal_denied", "connect_ms": 1.5, "duration_ms": 2.0, "bytes_up": 0, "bytes_down": 0,
            "spliced_up": 0, "spliced_down": 0, "policy": "hash",
        });
        assert_eq!(*tunnel, known, "what is not known is absent");
    }

    #[test]
    fn a_stream_that_cannot_be_written_shows_and_does_not_hold_up_the_end() {
        let (audit, writer) = Audit::start(Full, Counter::noop()).unwrap();
        assert!(audit.daemon(lockout()));
        let failing = Arc::clone(&audit.failing);
        drop(audit);
        assert!(writer.finish(Duration::from_secs(5)));
        assert!(failing.load(Ordering::Relaxed));
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
        let failing = Arc::clone(&audit.failing);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while stream.0.0.lock().unwrap().last() != Some(&b'\n') {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        drop(audit);
        assert!(writer.finish(Duration::from_secs(5)));
        assert!(!failing.load(Ordering::Relaxed), "it has recovered by itself");
    }

    #[test]
    fn timestamps_are_rfc_3339_with_microseconds() {
        let ts = timestamp();
        assert!(OffsetDateTime::parse(&ts, &time::format_description::well_known::Rfc3339).is_ok());
        assert_eq!(ts.len(), "2026-11-21T00:00:00.000000Z".len());
    }
}
