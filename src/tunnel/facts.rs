//! The facts of one tunnel for its audit record and its metrics, recorded as they happen. Never
//! holds credentials or payload, and decides nothing.

mod record;
mod visible;

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use time::OffsetDateTime;
use tracing::{Span, debug, debug_span};

use super::world::Interruption;
use super::{Declared, Origin};
use crate::admission::{Admission, AuthMethod, Facts, Refusal};
use crate::audit::{AuditPermit, HelloRecord, Micros, Protocols, TunnelId, Versions};
use crate::authority::{Authority, Destination, UserId};
use crate::greeting::Greeting;
use crate::greeting::negotiation::Negotiation;
use crate::live::{self, Entry};
use crate::metrics::Phase;
use crate::outcome::{DenyReason, End, Failure, Lookup};
use crate::policy::HelloFacts;
use crate::policy::guard::OwnAddresses;
use crate::relay::{Timing, TunnelBytes};
use crate::shared::{Shared, Snapshot};
use crate::wire::ja4::Ja4;
use crate::wire::server_hello::ServerHello;

/// Logs a stage of one tunnel in its span. Above the debug level there is no span and nothing is
/// formatted.
macro_rules! stage {
    ($facts:expr, $($line:tt)+) => {
        if let Some(span) = $facts.span.as_deref() {
            debug!(parent: span, $($line)+);
        }
    };
}

// After the macro that they use.
mod parked;
mod upstream;
pub(super) use parked::{BadState, Home};
use upstream::Warm;

/// The facts of one tunnel. Kept small, because they are most of the memory of an idle tunnel.
pub(super) struct TunnelFacts {
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    /// The part that operators can see, once the tunnel is listed.
    visible: Arc<live::Facts>,
    /// The span of the stages, at debug. Boxed, because at other levels no tunnel has one.
    span: Option<Box<Span>>,
    listener: Arc<SocketAddr>,
    listener_number: usize,
    /// What a PROXY header says of the client.
    declared: Option<Arc<Declared>>,
    hello: Option<Box<HelloRecord>>,
    judged: Option<HelloFacts>,
    server: Option<ServerHello>,
    hello_retry: Option<bool>,
    would_deny: Option<DenyReason>,
    /// Why the tunnel is no longer allowed. Boxed, because hardly any tunnel has one.
    pub(super) revoked: Option<Box<Refusal>>,
    dns: Option<Micros>,
    connect: Option<Micros>,
    error: Option<Box<str>>,
    /// What has authenticated the user.
    auth: Option<AuthMethod>,
    has_spoken: bool,
    is_established: bool,
    warm: Warm,
    /// Its place in the list that operators see, once the request is allowed.
    entry: Option<Entry>,
    /// The permit for its record, once the request is allowed.
    pub(super) audit_permit: Option<AuditPermit>,
}

/// The bytes of a tunnel, and their times if the relay had it.
#[derive(Clone, Copy)]
pub(super) struct Transferred {
    pub(super) bytes_moved: TunnelBytes,
    pub(super) timing: Option<Timing>,
}

/// Counts a tunnel as active until it is dropped.
pub(super) struct ActivePermit(Arc<Shared>);

impl TunnelFacts {
    pub(super) fn new(origin: &Origin, shared: &Arc<Shared>, snapshot: &Arc<Snapshot>) -> Self {
        let id = shared.ids.next();
        let span = debug_span!(parent: None, "tunnel", %id);
        let facts = Self {
            shared: Arc::clone(shared),
            snapshot: Arc::clone(snapshot),
            visible: Arc::new(live::Facts::new(
                (id.start, id.number),
                origin.accepted,
                origin.address,
            )),
            span: (!span.is_disabled()).then(|| Box::new(span)),
            listener: Arc::clone(&origin.listener),
            listener_number: origin.listener_number,
            declared: origin.declared.clone(),
            hello: None,
            judged: None,
            server: None,
            hello_retry: None,
            would_deny: None,
            revoked: None,
            dns: None,
            connect: None,
            error: None,
            auth: None,
            has_spoken: false,
            is_established: false,
            warm: Warm::No,
            entry: None,
            audit_permit: None,
        };
        let via = facts.via().map(tracing::field::display);
        stage!(facts, client = %origin.address, via, listener = %facts.listener, "accepted");
        facts
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whether this configuration would admit the tunnel; `own` are this host's addresses.
    pub(super) fn review(&self, snapshot: &Snapshot, own: &OwnAddresses) -> Result<(), Refusal> {
        let facts = self.judged_facts().ok_or(Refusal::Unknown)?;
        Admission::by(&snapshot.config, &snapshot.egress).review(
            &facts,
            own,
            OffsetDateTime::now_utc(),
        )
    }

    /// All facts that are judged; None before they are complete.
    fn judged_facts(&self) -> Option<Facts<'_>> {
        let [egress, upstream] = self.visible.ends()?;
        Some(Facts {
            listener: self.listener_number,
            via: self.via().map(|via| via.ip()),
            client: self.client(),
            user: self.user(),
            auth: self.auth.unwrap_or(AuthMethod::Basic),
            certificate: self.declared.as_deref().and_then(Declared::names),
            authority: self.visible.authority()?,
            upstream: upstream.ip(),
            egress: egress.ip(),
            hello: self.judged?,
            answer: self.server.as_ref(),
        })
    }

    /// Records the verdict's facts of a ClientHello, the first or the second.
    pub(super) fn judged(&mut self, hello: HelloFacts) {
        let is_second = self.judged.is_some();
        let sni = self.hello.as_ref().and_then(|hello| hello.sni.as_deref());
        stage!(self, is_second, sni, "hello judged");
        self.judged = Some(self.judged.map_or(hello, |first| first.and(hello)));
    }

    /// The client's address.
    pub(super) fn client(&self) -> IpAddr {
        self.visible.client.ip()
    }

    /// The balancer or terminator that declared the client.
    fn via(&self) -> Option<SocketAddr> {
        self.declared.as_ref().map(|declared| declared.via)
    }

    /// The authenticated user.
    pub(super) fn user(&self) -> Option<&UserId> {
        self.visible.user()
    }

    /// Whether the attempt ended before any byte of the client went upstream.
    pub(super) fn is_refused(&self, end: End) -> bool {
        let [bytes_up, _] = self.visible.bytes();
        !matches!(end, End::Ended(_)) && bytes_up == 0
    }

    /// The time since the accept.
    pub(super) fn age(&self) -> Duration {
        self.visible.accepted.elapsed()
    }

    /// Adds details of an end to those before, and returns the end.
    pub(super) fn with_cause(&mut self, cause: impl Display, end: impl Into<End>) -> End {
        let text = match self.error.take() {
            Some(before) => format!("{before}; {cause}"),
            None => cause.to_string(),
        };
        self.error = Some(text.into());
        end.into()
    }

    /// Records which egress address left the host, and returns the end.
    pub(super) fn lost_egress(&mut self, end: impl Into<End>) -> End {
        let grace = self.snapshot.config.loss_grace;
        match self.visible.ends() {
            Some([egress, _]) => self.with_cause(
                format_args!("{} was away from this host for {grace:?}", egress.ip()),
                end,
            ),
            None => end.into(),
        }
    }

    /// The name of the tunnel in the log.
    pub(super) fn name(&self) -> String {
        let id = TunnelId::of(self.visible.key());
        let user = self
            .user()
            .map(|user| format!(" of {user}"))
            .unwrap_or_default();
        let to = self
            .visible
            .authority()
            .map(|to| format!(" to {}:{}", to.destination, to.port.number()))
            .unwrap_or_default();
        format!(
            "tunnel {id}{user} from {}{to}, {} s old,",
            self.visible.client,
            self.age().as_secs()
        )
    }

    pub(super) fn spoken(&mut self) {
        self.has_spoken = true;
    }

    /// A connection without a byte is not an attempt: balancers and monitors make them all day.
    pub(super) fn is_silent(&self, end: End) -> bool {
        !self.has_spoken
            && matches!(
                end,
                End::Failed(Failure::ClientClosed | Failure::ClientReset)
            )
    }

    /// Records that the 200 is sent: from now on the client speaks TLS.
    pub(super) fn established(&mut self) {
        self.is_established = true;
        self.reach(live::Phase::ClientHello);
    }

    pub(super) fn is_established(&self) -> bool {
        self.is_established
    }

    /// The end of an attempt that is interrupted in set-up; after the 200 no HTTP reply is
    /// possible.
    pub(super) fn interrupted(&mut self, by: Interruption) -> End {
        match by {
            Interruption::Ordered => self.ordered(Failure::EndedByOperator),
            Interruption::Killed if self.is_established => Failure::Drained.into(),
            Interruption::Killed => DenyReason::Draining.into(),
        }
    }

    pub(super) fn requested(&mut self, authority: &Authority) {
        if let Some(visible) = self.unlisted() {
            visible.requested(authority.clone());
        }
        let (host, port) = (&authority.destination, authority.port.number());
        stage!(self, %host, port, "head read");
        self.phase(Phase::Request, self.age());
    }

    pub(super) fn identified(&mut self, user: &UserId, auth: AuthMethod) {
        self.auth = Some(auth);
        if let Some(visible) = self.unlisted() {
            visible.identified(user.clone());
        }
    }

    pub(super) fn resolved(&mut self, took: Duration) {
        self.dns = Some(took.into());
        self.reach(live::Phase::Connecting);
        self.phase(Phase::Dns, took);
    }

    /// Logs that the request has passed every check.
    pub(super) fn admitted(&self) {
        let user = self.user().map(UserId::as_str);
        stage!(self, user, "admitted");
    }

    /// Logs the resolver's answer before it is judged.
    pub(super) fn answered(&self, addresses: &[IpAddr], lookup: Lookup) {
        stage!(self, ?addresses, result = lookup.label(), "resolved");
    }

    pub(super) fn greeted(&mut self, greeting: &Greeting, took: Duration) {
        let hello = &greeting.hello;
        self.hello = Some(Box::new(HelloRecord {
            sni: hello.server_name().map(|name| self.shared_with_host(name)),
            alpn: Protocols::of(hello.alpn()),
            hello_bytes: u32::try_from(greeting.hello_bytes).unwrap_or(u32::MAX),
            hello_records: u32::try_from(hello.records).unwrap_or(u32::MAX),
            ech: hello.ech().is_some(),
            ja4: Ja4::of(hello),
            tls_offered: Versions::of(hello.versions()),
            hello_ms: took.into(),
        }));
        self.phase(Phase::ClientHello, took);
    }

    /// The SNI, sharing the host's memory if they are equal.
    fn shared_with_host(&self, name: &str) -> Arc<str> {
        match self.visible.authority().map(|asked| &asked.destination) {
            Some(Destination::Name(host)) if **host.as_shared() == *name => {
                Arc::clone(host.as_shared())
            }
            _ => name.into(),
        }
    }

    /// Records that the first byte goes upstream.
    pub(super) fn set_up(&self) {
        self.reach(live::Phase::ServerHello);
        self.phase(Phase::Total, self.age());
    }

    /// Records the server's choice, and its delay after the ClientHello.
    pub(super) fn negotiated(&mut self, hello: ServerHello, took: Duration) {
        self.phase(Phase::ServerHello, took);
        stage!(
            self,
            tls_version = hello.version.as_str(),
            "server hello judged"
        );
        self.server = Some(hello);
        let group = hello.group.map(|_| hello.group_name().unwrap_or("other"));
        self.shared
            .evidence
            .metrics
            .negotiated(hello.version.as_str(), group);
    }

    /// Records what a handshake has shown besides the server's choice.
    pub(super) fn followed(&mut self, negotiation: &Negotiation<'_>) {
        self.hello_retry = Some(negotiation.retried);
        self.reported(negotiation.would_deny);
        let second = negotiation.second.into_iter();
        second.for_each(|hello| self.judged(hello));
    }

    /// Records the refusal if names were enforced. Only the first one counts: it would have been
    /// the end.
    pub(super) fn reported(&mut self, verdict: Option<DenyReason>) {
        if let (None, Some(reason)) = (self.would_deny, verdict) {
            self.would_deny = Some(reason);
            self.shared.evidence.metrics.would_deny(reason);
        }
    }

    pub(super) fn opened(&self) -> ActivePermit {
        self.reach(live::Phase::Relaying);
        stage!(self, "relaying");
        self.shared.evidence.metrics.opened.increment(1);
        self.shared.evidence.metrics.active.increment(1.0);
        self.shared.evidence.active.fetch_add(1, Ordering::Relaxed);
        ActivePermit(Arc::clone(&self.shared))
    }

    /// Logs the last stage.
    pub(super) fn ended(&self, end: End) {
        let [bytes_up, bytes_down] = self.visible.bytes();
        let (outcome, code, error) = (end.outcome(), end.code(), self.error.as_deref());
        stage!(self, outcome, code, bytes_up, bytes_down, error, "ended");
    }

    fn phase(&self, phase: Phase, took: Duration) {
        self.shared
            .evidence
            .metrics
            .phase(phase, took.as_secs_f64());
    }
}

impl Drop for ActivePermit {
    fn drop(&mut self) {
        self.0.evidence.metrics.active.decrement(1.0);
        self.0.evidence.active.fetch_sub(1, Ordering::Relaxed);
    }
}
