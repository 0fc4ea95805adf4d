//! The facts of an open tunnel on their way from one daemon to the next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{debug, debug_span};

use super::{ActivePermit, Declared, TunnelFacts, Warm};
use crate::admission::AuthMethod;
use crate::audit::{HelloRecord, Micros, TunnelId};
use crate::authority::{Authority, Destination, UserId};
use crate::digest::Digest;
use crate::handover::state::{
    CertificateState, DeclaredState, JudgedState, RelayState, ServerState, TunnelState,
};
use crate::live::{self, Phase};
use crate::outcome::DenyReason;
use crate::policy::HelloFacts;
use crate::shared::{Shared, Snapshot};
use crate::wire::client_hello::TlsVersion;
use crate::wire::server_hello::ServerHello;
use crate::wire::terminator::{Certificate, Statement};

/// What a tunnel of another daemon continues in.
pub(in crate::tunnel) struct Home<'a> {
    pub(in crate::tunnel) shared: &'a Arc<Shared>,
    pub(in crate::tunnel) snapshot: &'a Arc<Snapshot>,
    /// The listeners of this daemon, in the order of the configuration.
    pub(in crate::tunnel) listeners: &'a [Arc<SocketAddr>],
}

/// A state that does not describe an open tunnel, by the field that is wrong.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("its state is not understood: {0}")]
pub struct BadState(pub(in crate::tunnel) &'static str);

impl TunnelFacts {
    /// The state for the next daemon; None if the tunnel is not open.
    pub(in crate::tunnel) fn state(&self, relay: RelayState, now: Instant) -> Option<TunnelState> {
        let [egress, upstream] = self.visible.ends()?;
        let authority = self.visible.authority()?;
        let quiet = self.visible.silence(now).as_millis();
        let age = now.saturating_duration_since(self.visible.accepted);
        Some(TunnelState {
            id: TunnelId::of(self.visible.key()).to_string(),
            client: self.visible.client,
            listener: *self.listener,
            authority: written(authority),
            upstream,
            egress,
            age_us: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
            quiet_ms: u64::try_from(quiet).unwrap_or(u64::MAX),
            descriptors: relay.descriptors(),
            relay,
            user: self.user().map(ToString::to_string),
            auth: self.auth.map(|auth| auth.as_str().to_owned()),
            declared: self.declared.as_deref().map(declared_state),
            hello: self.hello.as_deref().map(HelloRecord::state),
            judged: self.judged.map(judged_state),
            server: self.server.map(|server| ServerState {
                version: server.version.number(),
                cipher: server.cipher,
                group: server.group,
            }),
            hello_retry: self.hello_retry,
            would_deny: self.would_deny.map(|reason| reason.code().to_owned()),
            dns_us: self.dns.map(Micros::number),
            connect_us: self.connect.map(Micros::number),
            warm: self.warm.taken(),
            redialled: self.warm.redialled(),
            error: self.error.as_deref().map(str::to_owned),
        })
    }

    /// The two parts of its identifier.
    pub(in crate::tunnel) fn id(&self) -> (u64, u64) {
        self.visible.key()
    }

    /// How long no byte has moved.
    pub(in crate::tunnel) fn silence(&self, now: Instant) -> Duration {
        self.visible.silence(now)
    }

    /// Continues the facts of another daemon, which were these at `described`.
    pub(in crate::tunnel) fn adopt(
        state: &TunnelState,
        described: Instant,
        home: &Home<'_>,
    ) -> Result<Self, BadState> {
        let id = TunnelId::parse(&state.id).ok_or(BadState("id"))?;
        let age = Duration::from_micros(state.age_us);
        let accepted = described.checked_sub(age).unwrap_or(described);
        let mut visible = live::Facts::new((id.start, id.number), accepted, state.client);
        let authority = Authority::parse(&state.authority).map_err(|_| BadState("authority"))?;
        visible.requested(authority);
        if let Some(user) = &state.user {
            visible.identified(UserId::parse(user).ok_or(BadState("user"))?);
        }
        visible.connected(state.egress, state.upstream);
        let listeners = home.listeners.iter();
        let number = listeners
            .clone()
            .position(|known| **known == state.listener);
        let listener = number.and_then(|number| home.listeners.get(number));
        let span = debug_span!(parent: None, "tunnel", %id);
        Ok(Self {
            shared: Arc::clone(home.shared),
            snapshot: Arc::clone(home.snapshot),
            visible: Arc::new(visible),
            span: (!span.is_disabled()).then(|| Box::new(span)),
            listener: listener.map_or_else(|| Arc::new(state.listener), Arc::clone),
            // One that no configuration has, if the listener is gone.
            listener_number: number.unwrap_or(usize::MAX),
            declared: declared(state.declared.as_ref())?.map(Arc::new),
            hello: match state.hello.clone() {
                None => None,
                Some(hello) => Some(Box::new(HelloRecord::of(hello).ok_or(BadState("hello"))?)),
            },
            judged: state.judged.as_ref().map(judged).transpose()?,
            server: state.server.map(server).transpose()?,
            hello_retry: state.hello_retry,
            would_deny: state.would_deny.as_deref().and_then(DenyReason::of_code),
            revoked: None,
            dns: state.dns_us.map(Micros::of),
            connect: state.connect_us.map(Micros::of),
            error: state.error.as_deref().map(Into::into),
            auth: state.auth.as_deref().map(auth).transpose()?,
            has_spoken: true,
            is_established: true,
            warm: Warm::of(state.warm, state.redialled),
            entry: None,
            audit_permit: home.shared.evidence.audit.reserve_at_once(),
        })
    }

    /// Continues its bytes and times of this state from now on.
    pub(in crate::tunnel) fn flow_on(&self, state: &TunnelState) {
        let now = Instant::now();
        let quiet = Duration::from_millis(state.quiet_ms);
        let flows = [&state.relay.up, &state.relay.down];
        let [up, down] = flows.map(|flow| flow.spliced.saturating_add(flow.copied));
        let last_byte = now.checked_sub(quiet).unwrap_or(now);
        self.visible.moved(up, down, last_byte);
        self.visible.reach(match state.relay.half_closed_ms {
            Some(_) => Phase::HalfClosed,
            None => Phase::Relaying,
        });
    }

    /// Counts a tunnel of another daemon as open, and not as newly opened.
    pub(in crate::tunnel) fn continued(&mut self) -> ActivePermit {
        self.enter();
        stage!(self, "continued after a hand-over");
        self.shared.evidence.metrics.active.increment(1.0);
        self.shared.evidence.active.fetch_add(1, Ordering::Relaxed);
        ActivePermit(Arc::clone(&self.shared))
    }
}

fn auth(method: &str) -> Result<AuthMethod, BadState> {
    let known = [AuthMethod::Basic, AuthMethod::Certificate, AuthMethod::Both];
    let named = known.into_iter().find(|known| known.as_str() == method);
    named.ok_or(BadState("auth"))
}

fn version(number: u16) -> Result<TlsVersion, BadState> {
    TlsVersion::from_wire(number).ok_or(BadState("version"))
}

fn server(state: ServerState) -> Result<ServerHello, BadState> {
    Ok(ServerHello {
        version: version(state.version)?,
        cipher: state.cipher,
        group: state.group,
    })
}

fn judged_state(facts: HelloFacts) -> JudgedState {
    let (mismatch, newest, ech) = facts.parts();
    JudgedState {
        mismatch: mismatch.map(|reason| reason.code().to_owned()),
        newest: newest.map(TlsVersion::number),
        ech,
    }
}

fn judged(state: &JudgedState) -> Result<HelloFacts, BadState> {
    let known = |code: &str| DenyReason::of_code(code).ok_or(BadState("judged"));
    Ok(HelloFacts::kept(
        state.mismatch.as_deref().map(known).transpose()?,
        state.newest.map(version).transpose()?,
        state.ech,
    ))
}

fn declared_state(declared: &Declared) -> DeclaredState {
    let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
    let Statement {
        version,
        cipher,
        group,
        certificate,
    } = &declared.statement;
    let described = |certificate: &Certificate| CertificateState {
        names: certificate.names.iter().map(ToString::to_string).collect(),
        fingerprint: certificate.fingerprint.map(|digest| digest.to_string()),
        serial: text(&certificate.serial),
    };
    DeclaredState {
        via: Some(declared.via),
        version: text(version),
        cipher: text(cipher),
        group: text(group),
        certificate: certificate.as_ref().map(described),
    }
}

fn declared(state: Option<&DeclaredState>) -> Result<Option<Declared>, BadState> {
    let Some(state) = state else {
        return Ok(None);
    };
    let text = |text: &Option<String>| text.as_deref().map(Into::into);
    let certificate = |state: &CertificateState| {
        let fingerprint = state.fingerprint.as_deref();
        let digest = |digits| Digest::parse(digits).ok_or(BadState("fingerprint"));
        Ok(Certificate {
            names: state
                .names
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            fingerprint: fingerprint.map(digest).transpose()?,
            serial: text(&state.serial),
        })
    };
    Ok(Some(Declared {
        via: state.via.ok_or(BadState("via"))?,
        statement: Statement {
            version: text(&state.version),
            cipher: text(&state.cipher),
            group: text(&state.group),
            certificate: state.certificate.as_ref().map(certificate).transpose()?,
        },
    }))
}

/// As in a CONNECT request.
fn written(Authority { destination, port }: &Authority) -> String {
    match destination {
        Destination::Name(host) => format!("{}:{}", host.as_str(), port.number()),
        Destination::Address(address) => SocketAddr::new(*address, port.number()).to_string(),
    }
}
