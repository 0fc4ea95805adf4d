//! The state of a tunnel while the relay has its sockets, and the only place that counts and
//! records an end. Contains no future and never moves a byte.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::warn;

use super::facts::{ActivePermit, Transferred, TunnelFacts};
use super::{Client, World};
use crate::audit::Refused;
use crate::dial::PortPermit;
use crate::limits::account::{Account, UserPermit};
use crate::limits::client::{ClientNetwork, ClientSite};
use crate::limits::{CountPermit, KeyedPermit};
use crate::live::Phase;
use crate::outcome::{End, Ending};
use crate::policy::guard::OwnAddresses;
use crate::reactor::Socket;
use crate::relay::{self, Backlog, Buffers, Ended, IdleLimits, Owner, Timing, TunnelBytes};
use crate::shared::{Holder, Requester, Snapshot};

/// 7. Flowing: the state of a tunnel while the relay has its sockets. Dropping it frees its
///    permits.
pub struct Flowing {
    pub(super) facts: TunnelFacts,
    pub(super) permits: HeldPermits,
    /// Makes the daemon wait for the tunnel until its record is written.
    pub(super) live: TaskTrackerToken,
}

/// The upstream's side of a tunnel for the relay.
pub(super) struct OpenUpstream {
    pub(super) socket: Socket,
    pub(super) backlog: Backlog,
}

/// Permits among all tunnels, among those of the client, and among those of its site.
pub(super) type TunnelPermits = (
    CountPermit,
    KeyedPermit<Requester>,
    Option<KeyedPermit<ClientSite>>,
);

/// The bounded resources of a flowing tunnel.
pub(super) struct HeldPermits {
    pub(super) _permits: TunnelPermits,
    pub(super) user: Option<UserPermit>,
    /// Held while the tunnel is stalled.
    pub(super) stalled: Option<KeyedPermit<Holder>>,
    pub(super) port: PortPermit,
    pub(super) _active: ActivePermit,
}

/// Passes a tunnel to the relay. Judges a tunnel whose set-up began under an older `generation`
/// first, because its worker may have judged the others already.
pub(super) fn flow(
    client: Client,
    upstream: OpenUpstream,
    mut flowing: Flowing,
    generation: u64,
    world: &World,
) {
    let bytes_moved = flowing.facts.handshake().bytes_moved;
    let mode = flowing.facts.snapshot().config.mode;
    let OpenUpstream { socket, backlog } = upstream;
    let (client, upstream) = (client.socket.into_stream(), socket.into_stream());
    let shared = &world.shared;
    let mut grace = None;
    if generation != shared.generation() {
        let snapshot = shared.snapshot.load_full();
        let is_allowed = flowing.judge(&snapshot, &shared.own_addresses.load(), &mut 1);
        grace = (!is_allowed).then_some(snapshot.config.timeouts.drain);
    }
    let tunnel = relay::Tunnel {
        owner: flowing,
        client,
        upstream,
        mode,
        bytes_moved,
        backlog,
        grace,
    };
    world.relay.borrow_mut().adopt(tunnel);
}

impl std::fmt::Debug for Flowing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flowing")
    }
}

impl Flowing {
    /// Whether this configuration would admit the tunnel. Logs a new refusal while `log_lines` are
    /// left.
    pub fn judge(&mut self, by: &Snapshot, own: &OwnAddresses, log_lines: &mut usize) -> bool {
        let refusal = self.facts.review(by, own).err();
        if let (Some(refusal), None, 1..) = (&refusal, &self.facts.revoked, *log_lines) {
            let (code, name) = (End::from(*refusal).code(), self.name());
            warn!(code, rule = %refusal, "{name} is no longer allowed and will be reset after timeouts.drain");
            *log_lines -= 1;
        }
        self.facts.revoked = refusal.map(Box::new);
        self.facts.revoked.is_none()
    }

    fn holder(&self) -> Holder {
        match self.facts.user() {
            Some(user) => Holder::User(user.clone()),
            None => Holder::Client(ClientNetwork::of(self.facts.client())),
        }
    }

    /// The name of the tunnel in the log.
    #[must_use]
    pub fn name(&self) -> String {
        self.facts.name()
    }
}

impl Owner for Flowing {
    fn idle_limits(&self) -> IdleLimits {
        self.facts.snapshot().config.timeouts.idle_limits
    }

    fn buffers(&self) -> Buffers {
        self.facts.snapshot().config.limits.socket_buffers
    }

    fn account(&self) -> Option<&Arc<Account>> {
        self.permits.user.as_deref()
    }

    fn answered(&self, took: Duration) {
        self.facts
            .shared()
            .evidence
            .metrics
            .first_byte
            .record(took.as_secs_f64());
    }

    fn stalled(&mut self) -> bool {
        let max = self.facts.snapshot().config.limits.stalled_per_user;
        let stalled = &self.facts.shared().limits.stalled;
        self.permits.stalled = stalled.acquire(&self.holder(), max);
        self.permits.stalled.is_some()
    }

    fn still_stalled(&mut self) {
        let stalled = &self.facts.shared().limits.stalled;
        self.permits.stalled = stalled.acquire(&self.holder(), usize::MAX);
    }

    fn unstalled(&mut self) {
        self.permits.stalled = None;
    }

    fn moved(&self, bytes_moved: TunnelBytes, is_half_closed: bool, now: Instant) {
        let visible = self.facts.visible();
        visible.moved(bytes_moved.up.bytes(), bytes_moved.down.bytes(), now);
        if is_half_closed {
            visible.reach(Phase::HalfClosed);
        }
    }

    fn must_end(&self) -> Option<Ending> {
        if self.facts.visible().order().is_some() {
            return Some(Ending::EndedByOperator);
        }
        let is_lost = self.permits.port.hold.is_lost();
        is_lost.then_some(Ending::EgressLost)
    }

    fn ended(self, ended: Ended, bytes_moved: TunnelBytes, timing: Timing) {
        let Self {
            mut facts,
            permits,
            live,
        } = self;
        drop(permits);
        let revoked = facts
            .revoked
            .as_deref()
            .copied()
            .filter(|_| ended.ending == Ending::Revoked);
        let end = match (ended.cause, revoked) {
            (Some(cause), _) => facts.with_cause(cause, ended.ending),
            (None, Some(refusal)) => facts.with_cause(refusal, ended.ending),
            (None, None) if ended.ending == Ending::EgressLost => facts.lost_egress(ended.ending),
            (None, None)
                if [Ending::ResetByClient, Ending::ResetByUpstream].contains(&ended.ending) =>
            {
                facts.with_cause("reset; the kernel gives no more details", ended.ending)
            }
            (None, None) if ended.ending == Ending::EndedByOperator => facts.ordered(ended.ending),
            (None, None) => ended.ending.into(),
        };
        let transferred = Transferred {
            bytes_moved,
            timing: Some(timing),
        };
        conclude_with(facts, end, transferred);
        drop(live);
    }
}

/// [`conclude_with`], for a tunnel that the relay never had.
pub(super) fn conclude(facts: TunnelFacts, end: End) {
    let transferred = facts.handshake();
    conclude_with(facts, end, transferred);
}

/// Counts an end and writes the record. An attempt that ended before a byte went upstream is a
/// refusal, which may be counted in a sum.
pub(super) fn conclude_with(mut facts: TunnelFacts, end: End, transferred: Transferred) {
    let shared = facts.shared();
    shared.evidence.metrics.ended(end);
    facts.ended(end);
    if let End::Ended(_) = end {
        shared
            .evidence
            .metrics
            .tunnel_duration
            .record(facts.age().as_secs_f64());
    }
    let permit = facts.audit_permit.take();
    if facts.is_refused(end) {
        drop(permit);
        return refuse(facts, end, transferred);
    }
    let record = facts.record(end, transferred);
    if let End::Denied(_) | End::Failed(_) = end {
        shared.evidence.refusals.note(&record);
    }
    match permit {
        Some(permit) => permit.send(record),
        None => shared.evidence.metrics.audit_failures.increment(1),
    }
}

fn refuse(facts: TunnelFacts, end: End, transferred: Transferred) {
    let (shared, user) = (facts.shared(), facts.user().cloned());
    let refused = Refused {
        client: facts.client(),
        user: user.as_ref(),
        outcome: end.outcome(),
        code: end.code(),
    };
    shared.evidence.audit.refused(&refused, || {
        let mut record = facts.record(end, transferred);
        record.cut_texts();
        shared.evidence.refusals.note(&record);
        record
    });
}
