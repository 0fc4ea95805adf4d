//! What the hop reports to the daemon's audit: refused handshakes, cleartext on a TLS port, revoked sessions, starts and
//! reloads.
//!
//! Strangers choose how many events there are, so equal ones are counted together, the table is bounded, and few are sent
//! a second. An event waits until the daemon confirms its record. Never blocks a handshake.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sealway::wire::terminator::{EventKind, RECORDED};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::header;
use crate::metrics::Metrics;
use crate::shared::Target;
use crate::verify::RefusedCertificate;

/// An event, and what counts as the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// The kind.
    pub kind: EventKind,
    /// A code, or why a reload failed.
    pub reason: Cow<'static, str>,
    /// The client.
    pub client: Option<IpAddr>,
    /// SHA-256 of its certificate, in hexadecimal digits.
    pub certificate: String,
    /// The serial number of its certificate, in hexadecimal digits.
    pub serial: String,
}

/// Events that wait for the daemon.
#[derive(Debug, Default)]
pub struct Events {
    /// Each with its count.
    table: Mutex<BTreeMap<Event, u64>>,
    /// Held while an event is on its way, so that [`Events::flush`] misses none. Whether the last attempt failed.
    sending: tokio::sync::Mutex<bool>,
}

/// What the daemon did with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// It has recorded the event.
    Recorded,
    /// It does not know such an event.
    Rejected,
    /// It closed the connection without an answer.
    Unconfirmed,
}

impl Event {
    /// An event of the hop itself.
    #[must_use]
    pub fn of_hop(kind: EventKind, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            reason: reason.into(),
            client: None,
            certificate: String::new(),
            serial: String::new(),
        }
    }

    /// An event of a client.
    #[must_use]
    pub fn of_client(
        kind: EventKind,
        reason: &'static str,
        client: IpAddr,
        certificate: Option<RefusedCertificate>,
    ) -> Self {
        let RefusedCertificate {
            fingerprint,
            serial,
        } = certificate.unwrap_or_default();
        Self {
            kind,
            reason: reason.into(),
            client: Some(client.to_canonical()),
            certificate: fingerprint,
            serial,
        }
    }

    fn json(&self, count: u64) -> String {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        json!({
            "kind": self.kind,
            "reason": bounded(&self.reason),
            "client": self.client.map(|client| client.to_string()),
            "certificate": given(&self.certificate),
            "serial": given(&self.serial),
            "count": count,
        })
        .to_string()
    }
}

impl Events {
    /// Adds an event.
    pub fn add(&self, event: Event, metrics: &Metrics) {
        self.merge(event, 1, metrics);
    }

    /// How many different events wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.table().len()
    }

    /// Sends events until the task is dropped, a few a second.
    pub async fn send_all(&self, target: impl Fn() -> Option<Target>, metrics: &Metrics) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.send_some(&target, EVENTS_A_TICK, metrics).await;
        }
    }

    /// Sends every event that waits, at the end of the program. Stops at the first that the daemon does not take. The
    /// caller has a deadline.
    pub async fn flush(&self, target: impl Fn() -> Option<Target>, metrics: &Metrics) {
        self.send_some(&target, usize::MAX, metrics).await;
    }

    async fn send_some(&self, target: impl Fn() -> Option<Target>, most: usize, metrics: &Metrics) {
        let mut has_failed = self.sending.lock().await;
        for _ in 0..most {
            let first = self.table().pop_first();
            let Some((event, count)) = first else {
                return;
            };
            // Keeps the event if this future is dropped on the way.
            let mut waiting = Waiting {
                events: self,
                metrics,
                event: Some((event, count)),
            };
            let Some(target) = target() else {
                return;
            };
            let json = waiting.json();
            let sent = timeout(PATIENCE, send(&json, &target)).await;
            let sent = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let failed = match sent {
                Ok(Delivery::Recorded) => None,
                Ok(Delivery::Rejected) => {
                    tracing::warn!(
                        json,
                        "the daemon rejects an event of the hop; is it older than the hop?"
                    );
                    None
                }
                Ok(Delivery::Unconfirmed) => Some(UNCONFIRMED.to_owned()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = failed {
                if !*has_failed {
                    tracing::warn!(reason, core = %target.address, "the daemon does not take events of the hop; they wait");
                }
                *has_failed = true;
                return;
            }
            // To send a rejected one again would keep all others waiting.
            waiting.event = None;
            *has_failed = false;
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Event, u64>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn merge(&self, mut event: Event, count: u64, metrics: &Metrics) {
        let mut table = self.table();
        if table.len() >= KINDS_MAX && !table.contains_key(&event) {
            (event.client, event.certificate, event.serial) = (None, String::new(), String::new());
            metrics.event_merged();
        }
        match table.entry(event) {
            Entry::Occupied(mut known) => *known.get_mut() += count,
            Entry::Vacant(new) => {
                new.insert(count);
            }
        }
    }
}

/// An event on its way. Dropped, it waits again.
struct Waiting<'e> {
    events: &'e Events,
    metrics: &'e Metrics,
    event: Option<(Event, u64)>,
}

impl Waiting<'_> {
    fn json(&self) -> String {
        let json = |(event, count): &(Event, u64)| event.json(*count);
        self.event.as_ref().map(json).unwrap_or_default()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some((event, count)) = self.event.take() {
            self.events.merge(event, count, self.metrics);
        }
    }
}

/// Whether the daemon accepts the token of `target`, which it shows by a record of the reload.
pub async fn is_accepted(target: &Target) -> bool {
    let json = Event::of_hop(EventKind::HopReloaded, NEW_TOKEN).json(1);
    let sent = timeout(PATIENCE, send(&json, target)).await;
    // A rejected event has a token that the daemon knows.
    matches!(sent, Ok(Ok(Delivery::Recorded | Delivery::Rejected)))
}

/// Hands one event to the daemon, which answers one byte when it has recorded it.
async fn send(json: &str, target: &Target) -> io::Result<Delivery> {
    let bytes = header::of_event(json, &target.token).map_err(io::Error::other)?;
    let mut core = TcpStream::connect(target.address).await?;
    core.write_all(&bytes).await?;
    core.shutdown().await?;
    let mut answer = [0; 1];
    Ok(match core.read(&mut answer).await? {
        0 => Delivery::Unconfirmed,
        _ if answer == [RECORDED] => Delivery::Recorded,
        _ => Delivery::Rejected,
    })
}

/// The first characters of a text, so that an event fits into a header.
fn bounded(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).collect()
}

const TICK: Duration = Duration::from_millis(500);
/// 16 records a second at most.
const EVENTS_A_TICK: usize = 8;
/// For the daemon to read one event.
const PATIENCE: Duration = Duration::from_secs(2);
const NEW_TOKEN: &str = "ok: the daemon accepts the new token";
const UNCONFIRMED: &str = "it closes the connection without an answer: it does not know the token of tls.token_file, or its audit queue is full";
/// Different events that wait; beyond it they lose client and certificate, which leaves one for each kind and reason.
const KINDS_MAX: usize = 256;
/// Each character is at most six bytes of JSON.
const REASON_CHARS_MAX: usize = 512;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_bounded_and_no_event_is_lost() {
        let (events, metrics) = (Events::default(), Metrics::default());
        for number in 0..10_000u32 {
            let client = IpAddr::V4(std::net::Ipv4Addr::from_bits(0xc000_0200 + number));
            for kind in [EventKind::HandshakeRefused, EventKind::TlsRequired] {
                events.add(Event::of_client(kind, "malformed", client, None), &metrics);
            }
        }
        assert_eq!(events.waiting(), KINDS_MAX + 2);
        let table = events.table();
        assert_eq!(table.values().sum::<u64>(), 20_000);
    }

    #[test]
    fn refusals_of_strangers_are_sent_last() {
        let (events, metrics) = (Events::default(), Metrics::default());
        let client = "192.0.2.1".parse().unwrap();
        let late = [
            EventKind::HandshakeRefused,
            EventKind::TlsRequired,
            EventKind::CertificateRevoked,
        ];
        for kind in late {
            events.add(Event::of_client(kind, "x", client, None), &metrics);
        }
        events.add(
            Event::of_hop(EventKind::HopReloaded, String::new()),
            &metrics,
        );
        let table = events.table();
        let kinds: Vec<_> = table.keys().map(|event| event.kind).collect();
        let wanted = [
            EventKind::HopReloaded,
            EventKind::CertificateRevoked,
            EventKind::TlsRequired,
        ];
        assert_eq!(kinds[..3], wanted);
    }

    #[test]
    fn an_event_fits_into_a_header_whatever_its_reason() {
        let reason = "\u{1}".repeat(10_000);
        let json = Event::of_hop(EventKind::HopReloaded, reason).json(u64::MAX);
        assert!(json.len() <= 4_096, "{}", json.len());
        let client = "2001:db8::7".parse().unwrap();
        let refused = RefusedCertificate {
            fingerprint: "ab".repeat(32),
            serial: "01".into(),
        };
        let event = Event::of_client(
            EventKind::HandshakeRefused,
            "crl_expired",
            client,
            Some(refused),
        );
        let value: serde_json::Value = serde_json::from_str(&event.json(3)).unwrap();
        assert_eq!(value["kind"], "handshake_refused");
        assert_eq!(
            (value["client"].as_str(), value["count"].as_u64()),
            (Some("2001:db8::7"), Some(3))
        );
        assert_eq!(value["serial"], "01");
    }
}
