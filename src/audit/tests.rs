//! The writer, and what refusals and single clients can take of its queue.

use super::file::AuditFile;
use super::*;
use crate::authority::Destination;
use std::io::{self, Write};
use std::net::SocketAddr;
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

fn start(stream: impl Write + Send + 'static, tunnels: usize) -> (Audit, Writer) {
    let (audit, records) = Audit::before_its_writer(&Counter::noop(), tunnels);
    (audit, records.write_to(stream).unwrap())
}

fn lockout() -> DaemonRecord {
    let (client, network) = ("192.0.2.1".parse().unwrap(), "192.0.2.1".to_owned());
    DaemonRecord::AuthLockout {
        ts: timestamp(),
        client,
        network,
        user: None,
        failures: 10,
        count: None,
    }
}

fn denied() -> TunnelRecord {
    let client = "192.0.2.1:49152".parse().unwrap();
    TunnelRecord {
        id: TunnelId {
            start: 0x1a,
            number: 0x2b,
        },
        client: Some(client),
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
    let (audit, writer) = start(page.clone(), TUNNELS);
    let permit = audit.reserve("192.0.2.1".parse().unwrap()).unwrap();
    assert!(audit.daemon(lockout()));
    permit.send(denied());
    drop(audit);
    assert!(writer.finish(Duration::from_secs(5)));
    let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines.first().unwrap()["event"], "auth_lockout");
    let mut tunnel = lines.get(1).unwrap().clone();
    // What depends on this machine.
    let said = tunnel
        .as_object_mut()
        .unwrap()
        .remove("clock_synchronised")
        .unwrap_or(true.into());
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
fn a_failing_stream_is_reported_and_does_not_delay_the_stop() {
    let (audit, writer) = start(Full, TUNNELS);
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
fn an_unwritten_record_is_written_later() {
    let stream = Recovers::default();
    let (audit, writer) = start(stream.clone(), TUNNELS);
    assert!(audit.daemon(lockout()));
    let state = Arc::clone(&audit.state);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while stream.0.0.lock().unwrap().last() != Some(&b'\n') {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    drop(audit);
    assert!(writer.finish(Duration::from_secs(5)));
    assert!(
        !state.failing.load(Ordering::Relaxed),
        "it has recovered by itself"
    );
}

#[test]
fn timestamps_are_rfc_3339_with_microseconds() {
    let ts = timestamp();
    assert!(OffsetDateTime::parse(&ts, &time::format_description::well_known::Rfc3339).is_ok());
    assert_eq!(ts.len(), "2026-11-21T00:00:00.000000Z".len());
}

/// A stream that takes nothing until it is told to.
struct Blocked(std_mpsc::Receiver<()>);

impl Write for Blocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _released = self.0.recv();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn blocked() -> (Audit, Writer, std_mpsc::Sender<()>) {
    let (release, wait) = std_mpsc::channel();
    let (audit, writer) = start(Blocked(wait), TUNNELS);
    (audit, writer, release)
}

#[test]
fn refusals_take_no_slot_however_many_there_are() {
    let (audit, writer, release) = blocked();
    let free = audit.queue.capacity();
    // For half an hour, a hundred a second.
    let start = Instant::now();
    for number in 0..180_000_u32 {
        let client = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number % 1_000));
        let now = start + Duration::from_millis(u64::from(number) * 10);
        audit.refused_at(
            now,
            &Refused {
                client,
                user: None,
                outcome: "denied",
                code: "auth_required",
            },
            denied,
        );
    }
    assert!(
        free - audit.queue.capacity() <= REFUSED_WAITING_MAX,
        "{} are left of {free}",
        audit.queue.capacity()
    );
    assert!(!audit.is_failing() && audit.reserve("192.0.2.1".parse().unwrap()).is_some());
    drop((release, audit));
    assert!(writer.finish(Duration::from_secs(20)));
}

#[test]
fn one_client_has_a_share_of_a_long_queue() {
    let (audit, writer, release) = blocked();
    let [busy, other] = ["2001:db8::1", "2001:db8:1::1"].map(|client| client.parse().unwrap());
    let mut filled = 0;
    while let Some(permit) = audit.reserve(busy) {
        permit.send(TunnelRecord {
            client: Some(SocketAddr::new(busy, 5)),
            ..denied()
        });
        filled += 1;
    }
    assert_eq!(
        filled,
        audit.state.waiting_few() + audit.state.client_waiting_max()
    );
    for neighbour in ["2001:db8::2", "2001:db8:0:1::1"] {
        assert!(
            audit.reserve(neighbour.parse().unwrap()).is_none(),
            "{neighbour} is of the same /48"
        );
    }
    assert!(audit.reserve(other).is_some());
    drop(release);
    while audit.reserve(busy).is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(audit);
    assert!(writer.finish(Duration::from_secs(20)));
}

/// Each live tunnel has reserved room for its record.
#[test]
fn there_is_room_for_the_records_of_as_many_tunnels_as_the_machine_carries() {
    for tunnels in [60_000, 100_000, 1_000_000] {
        let (audit, writer) = start(io::sink(), tunnels);
        let client = "192.0.2.1".parse().unwrap();
        let permits: Vec<_> = (0..tunnels).map_while(|_| audit.reserve(client)).collect();
        assert_eq!(permits.len(), tunnels);
        assert!(!audit.is_failing(), "none of them is behind");
        drop((permits, audit));
        assert!(writer.finish(Duration::from_secs(5)));
    }
}

/// The next daemon opens the file while this one still runs, and finds every line.
#[test]
fn after_the_last_record_the_file_belongs_to_the_next_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let file = AuditFile::open(&path).unwrap();
    let (audit, records) = Audit::before_its_writer(&Counter::noop(), 1);
    let writer = records.write_in(file).unwrap();
    let written = audit.daemon_synced(lockout(), Then::GoesOn).unwrap();
    written.recv().unwrap();
    assert!(matches!(AuditFile::open(&path), Err(file::OpenError::Held)));
    let written = audit.daemon_synced(lockout(), Then::NextDaemon).unwrap();
    written.recv().unwrap();
    // It is told a moment before the file is released.
    let deadline = Instant::now() + Duration::from_secs(20);
    let next = loop {
        match AuditFile::open(&path) {
            Err(file::OpenError::Held) if Instant::now() < deadline => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(next.chain().seq, 2);
    assert!(audit.daemon(lockout()));
    drop(audit);
    assert!(writer.finish(Duration::from_secs(5)));
    let lines = std::fs::read_to_string(&path).unwrap().lines().count();
    assert_eq!(lines, 2, "a record of this daemon came after its last one");
}

#[test]
fn readiness_has_hysteresis() {
    let state = State {
        room: 1_000,
        ..State::default()
    };
    let is_behind = |waiting: usize| {
        state.waiting.store(waiting, Ordering::Relaxed);
        state.update_is_behind()
    };
    let steps = [0, 749, 750, 749, 126, 125, 749];
    assert_eq!(
        steps.map(is_behind),
        [false, false, true, true, true, false, false]
    );
}

const TUNNELS: usize = 20_000;
