//! What is known of one tunnel so far: facts for its audit record and its metrics, noted as they happen. Never holds
//! credentials or payload, and decides nothing.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Client;
use crate::audit::{TunnelRecord, timestamp};
use crate::authority::{Authority, UserId};
use crate::dial::Upstream;
use crate::greeting::Greeting;
use crate::greeting::negotiation::Outcome;
use crate::metrics::Phase;
use crate::outcome::{DenyReason, End, Failure};
use crate::relay::Meter;
use crate::shared::{Shared, Snapshot};

/// One tunnel's facts.
pub(super) struct Story {
    shared: Arc<Shared>,
    record: TunnelRecord,
    accepted: Instant,
    has_spoken: bool,
    is_established: bool,
    pub(super) up: Meter,
    pub(super) down: Meter,
}

/// Counts a tunnel as active until it is dropped.
pub(super) struct Active(Arc<Shared>);

impl Story {
    pub(super) fn new(client: &Client, shared: &Arc<Shared>, snapshot: &Snapshot) -> Self {
        let metrics = &shared.metrics;
        let meter = |direction: &metrics::Counter| {
            Meter::new(direction.clone(), metrics.spliced.clone(), metrics.copied.clone())
        };
        let record = TunnelRecord {
            event: "tunnel",
            id: shared.ids.next(),
            client: client.address.to_string(),
            listener: client.listener.to_string(),
            policy: snapshot.config.policy.hash().to_owned(),
            ..TunnelRecord::default()
        };
        let (up, down) = (meter(&metrics.bytes_up), meter(&metrics.bytes_down));
        Self {
            shared: Arc::clone(shared),
            record,
            accepted: client.accepted,
            has_spoken: false,
            is_established: false,
            up,
            down,
        }
    }

    /// Notes the detail behind an end, after what was noted before, and returns the end.
    pub(super) fn because(&mut self, cause: impl Display, end: impl Into<End>) -> End {
        let before = self.record.error.take().map(|before| before + "; ").unwrap_or_default();
        self.record.error = Some(before + &cause.to_string());
        end.into()
    }

    pub(super) fn spoken(&mut self) {
        self.has_spoken = true;
    }

    /// A connection that came and went without a word was no attempt: balancers and monitors do that all day.
    pub(super) fn is_silent(&self, end: End) -> bool {
        !self.has_spoken && matches!(end, End::Failed(Failure::ClientClosed | Failure::ClientReset))
    }

    /// The 200 has been said: from now on the client speaks TLS.
    pub(super) fn established(&mut self) {
        self.is_established = true;
    }

    /// How the kill ends an attempt that is still being set up: behind the 200 nothing can be told in HTTP.
    pub(super) fn killed(&self) -> End {
        if self.is_established { Failure::Drained.into() } else { DenyReason::Draining.into() }
    }

    pub(super) fn requested(&mut self, authority: &Authority) {
        self.record.host = Some(authority.destination.to_string());
        self.record.port = Some(authority.port.number());
        self.phase(Phase::Request, self.accepted.elapsed());
    }

    pub(super) fn identified(&mut self, user: &UserId) {
        self.record.user = Some(user.to_string());
    }

    pub(super) fn resolved(&mut self, took: Duration) {
        self.record.dns_ms = Some(milliseconds(took));
        self.phase(Phase::Dns, took);
    }

    pub(super) fn connected(&mut self, took: Duration) {
        self.record.connect_ms = Some(milliseconds(took));
        self.phase(Phase::Connect, took);
    }

    pub(super) fn dialled(&mut self, upstream: &Upstream) {
        self.record.upstream = Some(upstream.address);
        self.record.egress = Some(upstream.egress);
    }

    pub(super) fn greeted(&mut self, greeting: &Greeting, took: Duration) {
        let hello = &greeting.hello;
        self.record.sni.clone_from(&hello.server_name);
        self.record.alpn.clone_from(&hello.alpn);
        self.record.hello_bytes = Some(greeting.hello_bytes);
        self.record.hello_records = Some(hello.records);
        self.record.ech = Some(hello.ech);
        self.record.tls_offered = hello.versions.iter().map(|version| version.as_str()).collect();
        self.record.hello_ms = Some(milliseconds(took));
        self.phase(Phase::ClientHello, took);
    }

    /// The first byte goes upstream.
    pub(super) fn set_up(&self) {
        self.phase(Phase::Total, self.accepted.elapsed());
    }

    /// The handshake in clear is over, one way or the other.
    pub(super) fn negotiated(&mut self, outcome: Outcome, took: Duration) {
        self.phase(Phase::ServerHello, took);
        match outcome {
            Outcome::Negotiated(hello) => {
                let group = hello.group_name();
                self.record.tls_version = Some(hello.version.as_str());
                self.record.cipher = Some(hello.cipher_name());
                self.record.group =
                    hello.group.map(|number| group.map_or_else(|| format!("0x{number:04x}"), str::to_owned));
                let group = if hello.group.is_some() { group.or(Some("other")) } else { None };
                self.shared.metrics.negotiated(hello.version.as_str(), group);
            }
            Outcome::FatalAlert(description) => {
                self.record.error = Some(format!("the upstream answered with TLS alert {description}"));
            }
        }
    }

    pub(super) fn retried(&mut self, retried: bool) {
        self.record.hello_retry = Some(retried);
    }

    pub(super) fn opened(&self) -> Active {
        self.shared.metrics.opened.increment(1);
        self.shared.metrics.active.increment(1.0);
        self.shared.active.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(&self.shared))
    }

    pub(super) fn record(mut self, end: End) -> TunnelRecord {
        self.record.ts = timestamp();
        self.record.outcome = end.outcome();
        self.record.code = end.code();
        self.record.duration_ms = milliseconds(self.accepted.elapsed());
        self.record.bytes_up = self.up.bytes();
        self.record.bytes_down = self.down.bytes();
        self.record.spliced_up = self.up.spliced_bytes();
        self.record.spliced_down = self.down.spliced_bytes();
        self.record
    }

    fn phase(&self, phase: Phase, took: Duration) {
        self.shared.metrics.phase(phase, took.as_secs_f64());
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.metrics.active.decrement(1.0);
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// To the microsecond.
fn milliseconds(took: Duration) -> f64 {
    took.as_micros() as f64 / 1_000.0
}
