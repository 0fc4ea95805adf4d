//! Warm sockets in the life of a tunnel: takes one in place of a dial, dials once more if the upstream had
//! closed it, and opens those that the pool wants. Never sends a byte on one before the hello is judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::facts::TunnelFacts;
use super::{Admitted, World};
use crate::admission::Admission;
use crate::authority::UserId;
use crate::dial::warm::{Closed, Key, TunnelUse, Wanted, WarmSocket};
use crate::dial::{Egress, Upstream};
use crate::outcome::CloseReason;
use crate::policy::guard::UpstreamAddress;
use crate::shared::Snapshot;

/// One more dial for a tunnel with a warm socket.
pub(super) struct Redial {
    /// The addresses of its name.
    addresses: Box<[IpAddr]>,
}

impl Redial {
    pub(super) fn to(addresses: Vec<IpAddr>) -> Self {
        Self {
            addresses: addresses.into(),
        }
    }
}

impl Admitted<'_> {
    /// Takes a warm socket to one of the judged addresses.
    pub(super) fn take_warm(&self, judged: &[UpstreamAddress]) -> Option<Upstream> {
        let world = self.accepted.world;
        let (pool, metrics) = (
            &self.accepted.snapshot.warm,
            &world.shared.evidence.metrics.warm,
        );
        let dialler = self.dialler();
        let wanted = Wanted {
            addresses: judged,
            port: self.authorised.port(),
            sources: &sources(dialler.egress, dialler.user),
        };
        loop {
            let (taken, closed) = pool.take(&wanted, world.reactor.now());
            metrics.closed(closed.each());
            match dialler.adopt(taken?) {
                Ok(upstream) => return Some(upstream),
                // The dial that follows finds and reports the cause.
                Err(_) => metrics.closed(Closed::all(CloseReason::Egress, 1).each()),
            }
        }
    }

    /// Tells the pool of a tunnel with an upstream; `connect` is how long it has waited for TCP, None with a warm socket.
    pub(super) fn record_use(
        &self,
        upstream: &Upstream,
        judged: &[UpstreamAddress],
        connect: Option<Duration>,
    ) {
        let world = self.accepted.world;
        let used = TunnelUse {
            host: self.authorised.host(),
            key: Key {
                source: upstream.egress.ip(),
                upstream: upstream.address,
            },
            addresses: judged,
            port: self.authorised.port(),
            connect,
        };
        let now = world.reactor.now();
        let (was_busy, closed) = self.accepted.snapshot.warm.used(&used, now);
        let metrics = &world.shared.evidence.metrics.warm;
        metrics.closed(closed.each());
        if was_busy && connect.is_some() {
            metrics.misses.increment(1);
        }
        world.warm_due.set(Some(now));
    }

    /// Dials because the upstream has closed the warm socket. The addresses are judged again.
    pub(super) async fn redial(&self, redial: Redial, facts: &mut TunnelFacts) -> Option<Upstream> {
        let Ok(judged) = self.judge(&redial.addresses, facts) else {
            facts.not_redialled("the address guard refuses its addresses now");
            return None;
        };
        let deadline =
            self.accepted.world.reactor.now() + self.accepted.snapshot.config.timeouts.connect;
        let cause = match self.connect_by(&judged, deadline).await {
            Ok(Ok(upstream)) => {
                facts.redialled(&upstream);
                return Some(upstream);
            }
            Ok(Err(error)) => error.to_string(),
            Err(failure) => failure.code().to_owned(),
        };
        facts.not_redialled(&cause);
        None
    }
}

/// The egress addresses that a tunnel may leave from now: those of its user come down to one of each family.
fn sources(egress: &Egress, user: Option<&UserId>) -> Vec<IpAddr> {
    let Some(user) = user else {
        let up = egress.sources().filter(|source| source.is_up());
        return up.map(|source| source.address()).collect();
    };
    let families = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let own = |family| {
        let order = egress.in_order(SocketAddr::new(family, 0), Some(user));
        order.first().map(|source| source.address())
    };
    families.into_iter().filter_map(own).collect()
}

/// Closes unusable warm sockets and opens the missing ones. Returns when to do it again; None: after the next
/// tunnel that uses the pool.
pub fn keep_warm(world: &World) -> Option<Instant> {
    let shared = &world.shared;
    let (snapshot, now) = (shared.snapshot.load_full(), world.reactor.now());
    let metrics = &shared.evidence.metrics.warm;
    if !shared.keeps_warm() {
        let closed = Closed::all(CloseReason::Drain, snapshot.warm.clear());
        metrics.closed(closed.each());
        return None;
    }
    let maintenance = snapshot.warm.maintain(now);
    metrics.closed(maintenance.closed.each());
    for key in maintenance.open {
        if snapshot
            .warm
            .opened(key, open(world, &snapshot, key, now), now)
        {
            metrics.opened();
        }
    }
    maintenance.next
}

/// Starts to connect, if everything that holds for a tunnel holds for this address and source now.
fn open(world: &World, snapshot: &Snapshot, key: Key, now: Instant) -> Option<WarmSocket> {
    let shared = &world.shared;
    if !shared.own_addresses.are_known() {
        return None;
    }
    let admission = Admission::by(&snapshot.config, &snapshot.egress);
    let judged = admission.addresses(&[key.upstream.ip()], &shared.own_addresses.load());
    let to = *judged.ok()?.first()?;
    let mut sources = snapshot.egress.sources();
    let source = sources.find(|source| source.address() == key.source && source.is_up())?;
    let limits = &shared.limits;
    let permits = [
        limits.warm.acquire(limits.budget.warm())?,
        limits.attempts.acquire(limits.budget.attempts)?,
    ];
    let dialler = world.dialler(&snapshot.egress, None);
    let begun = dialler.begin(source, to, key.upstream).ok()?;
    Some(WarmSocket::new(begun, permits, now))
}
