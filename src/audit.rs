//! Audit records: their fields, and the one writer that puts them on the log stream.
//!
//! One JSON object a line; field names are fixed here. Workers never block on it: a slot in a bounded queue is
//! reserved before an attempt goes on and filled at its end, so a record that was promised can always be handed over.
//! Records hold no credentials, no payload and no header value but the authority.

use std::fmt::{self, Display, Formatter};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use metrics::Counter;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::sync::mpsc::{self, OwnedPermit};

use crate::authority::{Destination, UserId};
use crate::wire::client_hello::TlsVersion;

/// One attempt at a tunnel. What was not known is absent. Holds values, not texts: whoever ends a tunnel has better to
/// do than to print them, the writer has not.
#[derive(Clone, Debug, Serialize)]
pub struct TunnelRecord {
    /// When it ended: RFC 3339, UTC, microseconds.
    #[serde(serialize_with = "as_timestamp")]
    pub ts: OffsetDateTime,
    /// Always `tunnel`.
    pub event: &'static str,
    /// Unique within this process and its start.
    #[serde(serialize_with = "as_text")]
    pub id: TunnelId,
    /// The user whose credentials it had.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_optional_text")]
    pub user: Option<UserId>,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address it came in on.
    pub listener: SocketAddr,
    /// The canonical host, or the address literal.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_optional_text")]
    pub host: Option<Destination>,
    /// The port asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `allowed`, `denied` or `failed`.
    pub outcome: &'static str,
    /// The short code of the end.
    pub code: &'static str,
    /// What the ClientHello said.
    #[serde(flatten)]
    pub hello: Option<Box<HelloRecord>>,
    /// Whether the server asked for a second ClientHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hello_retry: Option<bool>,
    /// What the ServerHello said.
    #[serde(flatten)]
    pub server: Option<ServerRecord>,
    /// The upstream's address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<SocketAddr>,
    /// The source address and port towards it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<SocketAddr>,
    /// The look-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_ms: Option<Micros>,
    /// The connection to the upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<Micros>,
    /// Accept to end, in milliseconds.
    pub duration_ms: f64,
    /// Bytes from client to upstream.
    pub bytes_up: u64,
    /// Bytes from upstream to client.
    pub bytes_down: u64,
    /// Those of `bytes_up` that never entered user space.
    pub spliced_up: u64,
    /// Those of `bytes_down` that never entered user space.
    pub spliced_down: u64,
    /// What went wrong in detail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<str>>,
    /// The hash of the policy in force.
    #[serde(serialize_with = "as_text")]
    pub policy: Arc<str>,
}

/// The part of a record that a ClientHello fills.
#[derive(Clone, Debug, Serialize)]
pub struct HelloRecord {
    /// What it named.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_optional_text")]
    pub sni: Option<Arc<str>>,
    /// The protocols it offered.
    #[serde(skip_serializing_if = "Protocols::is_empty")]
    pub alpn: Protocols,
    /// Its length on the wire.
    pub hello_bytes: u32,
    /// The records it came in.
    pub hello_records: u32,
    /// Whether it had encrypted_client_hello, GREASE included.
    pub ech: bool,
    /// TLS versions it offered.
    pub tls_offered: Versions,
    /// 200 to the whole ClientHello.
    pub hello_ms: Micros,
}

/// The part of a record that a ServerHello fills.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerRecord {
    /// The version that the server chose.
    pub tls_version: &'static str,
    /// The cipher suite that it chose: IANA's name, or the number.
    pub cipher: Named,
    /// The key-share group that it chose: IANA's name, or the number; absent below TLS 1.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Named>,
}

/// ALPN protocols in one piece of memory: thousands of tunnels keep theirs until they end.
#[derive(Clone, Debug)]
pub struct Protocols(Box<str>);

/// TLS versions, each at most once, in the order they were offered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Versions([Option<TlsVersion>; 5]);

/// A number of IANA's, shown by its name if that is known.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// The number.
    pub number: u16,
    /// Its name.
    pub name: Option<&'static str>,
}

/// Which process and which of its tunnels.
#[derive(Clone, Copy, Debug)]
pub struct TunnelId {
    /// When the process started: milliseconds of Unix time.
    pub start: u64,
    /// The tunnel's number.
    pub number: u64,
}

/// Microseconds, shown as milliseconds; 71 minutes at most, which no deadline of the set-up exceeds.
#[derive(Clone, Copy, Debug)]
pub struct Micros(u32);

/// What happened to the daemon as a whole.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum DaemonRecord {
    /// It listens.
    Start {
        /// When.
        ts: String,
        /// Which version.
        version: &'static str,
        /// Which git revision.
        revision: &'static str,
        /// Where clients connect.
        listeners: Vec<SocketAddr>,
        /// Where it is watched.
        #[serde(skip_serializing_if = "Option::is_none")]
        admin: Option<SocketAddr>,
        /// The static source addresses.
        egress: Vec<IpAddr>,
        /// The hash of the policy in force.
        policy: String,
    },
    /// It has read its configuration again.
    Reload {
        /// When.
        ts: String,
        /// `ok` or `failed`; after a failure the old configuration stays in force.
        result: &'static str,
        /// What was wrong.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// The hash of the policy in force before.
        policy_before: String,
        /// The hash of the policy in force now.
        policy: String,
    },
    /// A client address has used up its failed credentials.
    AuthLockout {
        /// When.
        ts: String,
        /// Which one.
        client: IpAddr,
        /// After how many failures.
        failures: u32,
    },
    /// It has stopped.
    Stop {
        /// When.
        ts: String,
        /// Tunnels that outlived the drain and were reset.
        drained: usize,
    },
}

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

/// The time now as records show it.
#[must_use]
pub fn timestamp() -> String {
    text_of(OffsetDateTime::now_utc())
}

fn text_of(at: OffsetDateTime) -> String {
    // Fails only for a format with parts that UTC lacks; this one has none.
    at.format(MICROSECONDS).unwrap_or_default()
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

impl Display for TunnelId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start, self.number)
    }
}

impl Micros {
    /// To the microsecond.
    #[must_use]
    pub fn milliseconds(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

impl From<Duration> for Micros {
    fn from(took: Duration) -> Self {
        Self(u32::try_from(took.as_micros()).unwrap_or(u32::MAX))
    }
}

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.milliseconds())
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name {
            Some(name) => serializer.serialize_str(name),
            None => serializer.collect_str(&format_args!("0x{:04x}", self.number)),
        }
    }
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_optional_text<S: Serializer>(value: &Option<impl Display>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

impl Protocols {
    /// Keeps them, each without control characters.
    #[must_use]
    pub fn of(names: &[String]) -> Self {
        Self(names.join(SEPARATOR).into())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Protocols {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.split(SEPARATOR))
    }
}

impl Versions {
    /// Keeps them; there are no more than five to tell apart.
    #[must_use]
    pub fn of(offered: &[TlsVersion]) -> Self {
        let mut kept = Self::default();
        kept.0.iter_mut().zip(offered).for_each(|(place, version)| *place = Some(*version));
        kept
    }
}

impl Serialize for Versions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().flatten().map(|version| version.as_str()))
    }
}

fn as_timestamp<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text_of(*at))
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

const MICROSECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// In no name of a protocol: those are escaped.
const SEPARATOR: &str = "\0";
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
    use std::sync::Mutex;

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
            hello: None,
            hello_retry: None,
            server: None,
            upstream: None,
            egress: None,
            dns_ms: None,
            connect_ms: Some(Duration::from_micros(1_500).into()),
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
