//! What the hop reports to the daemon's audit: refused handshakes, cleartext on a TLS port, revoked sessions, starts and
//! reloads.
//!
//! Strangers choose how many events there are, so equal ones are counted together, the table is bounded, and few are sent
//! a second. An event that the daemon does not take waits. Never blocks a handshake.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::header;
use crate::metrics::Metrics;
use crate::shared::Target;
use crate::verify::Refused;

/// The kind of an event. The first kinds are sent first: strangers choose how many of the last ones
/// there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The hop has started.
    HopStarted,
    /// The hop has read its files again, or could not.
    HopReloaded,
    /// A new revocation list ended a live session.
    CertificateRevoked,
    /// A request in cleartext came to a TLS port; its credentials may have crossed the network in clear.
    TlsRequired,
    /// A handshake did not become a session.
    HandshakeRefused,
}

/// An event, and what counts as the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// The kind.
    pub kind: Kind,
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
pub struct Events(Mutex<BTreeMap<Event, u64>>);

impl Kind {
    /// The name in the audit record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HandshakeRefused => "handshake_refused",
            Self::CertificateRevoked => "certificate_revoked",
            Self::TlsRequired => "tls_required",
            Self::HopStarted => "hop_started",
            Self::HopReloaded => "hop_reloaded",
        }
    }
}

impl Event {
    /// An event of the hop itself.
    #[must_use]
    pub fn of_hop(kind: Kind, reason: impl Into<Cow<'static, str>>) -> Self {
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
        kind: Kind,
        reason: &'static str,
        client: IpAddr,
        certificate: Option<Refused>,
    ) -> Self {
        let Refused {
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
            "kind": self.kind.name(),
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Sends events until the task is dropped, a few a second.
    pub async fn send_all(&self, target: impl Fn() -> Option<Target>, metrics: &Metrics) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.send_some(&target, metrics).await;
        }
    }

    /// Sends as many events as one tick may, and stops at the first that the daemon does not take.
    pub async fn send_some(&self, target: impl Fn() -> Option<Target>, metrics: &Metrics) {
        for _ in 0..EVENTS_A_TICK {
            let first = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_first();
            let Some((event, count)) = first else {
                return;
            };
            let sent = match target() {
                Some(target) => timeout(PATIENCE, send(&event.json(count), &target)).await,
                None => return self.merge(event, count, metrics),
            };
            match sent {
                Ok(Ok(())) => {}
                // To send it again would keep all others waiting.
                Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    let kind = event.kind.name();
                    tracing::warn!(
                        kind,
                        count,
                        "the daemon rejects an event of the hop; is it older than the hop?"
                    );
                }
                _ => return self.merge(event, count, metrics),
            }
        }
    }

    fn merge(&self, mut event: Event, count: u64, metrics: &Metrics) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Hands one event to the daemon, which ends the connection when it has read it.
async fn send(json: &str, target: &Target) -> io::Result<()> {
    let bytes = header::of_event(json, &target.token).map_err(io::Error::other)?;
    let mut core = TcpStream::connect(target.address).await?;
    core.write_all(&bytes).await?;
    core.shutdown().await?;
    match core.read(&mut [0; 1]).await? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
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
            for kind in [Kind::HandshakeRefused, Kind::TlsRequired] {
                events.add(Event::of_client(kind, "malformed", client, None), &metrics);
            }
        }
        assert_eq!(events.waiting(), KINDS_MAX + 2);
        let table = events.0.lock().unwrap();
        assert_eq!(table.values().sum::<u64>(), 20_000);
    }

    #[test]
    fn refusals_of_strangers_are_sent_last() {
        let (events, metrics) = (Events::default(), Metrics::default());
        let client = "192.0.2.1".parse().unwrap();
        let late = [
            Kind::HandshakeRefused,
            Kind::TlsRequired,
            Kind::CertificateRevoked,
        ];
        for kind in late {
            events.add(Event::of_client(kind, "x", client, None), &metrics);
        }
        events.add(Event::of_hop(Kind::HopReloaded, String::new()), &metrics);
        let table = events.0.lock().unwrap();
        let kinds: Vec<_> = table.keys().map(|event| event.kind).collect();
        let wanted = [
            Kind::HopReloaded,
            Kind::CertificateRevoked,
            Kind::TlsRequired,
        ];
        assert_eq!(kinds[..3], wanted);
    }

    #[test]
    fn an_event_fits_into_a_header_whatever_its_reason() {
        let reason = "\u{1}".repeat(10_000);
        let json = Event::of_hop(Kind::HopReloaded, reason).json(u64::MAX);
        assert!(json.len() <= 4_096, "{}", json.len());
        let client = "2001:db8::7".parse().unwrap();
        let refused = Refused {
            fingerprint: "ab".repeat(32),
            serial: "01".into(),
        };
        let event = Event::of_client(Kind::HandshakeRefused, "crl_expired", client, Some(refused));
        let value: serde_json::Value = serde_json::from_str(&event.json(3)).unwrap();
        assert_eq!(value["kind"], "handshake_refused");
        assert_eq!(
            (value["client"].as_str(), value["count"].as_u64()),
            (Some("2001:db8::7"), Some(3))
        );
        assert_eq!(value["serial"], "01");
    }
}
