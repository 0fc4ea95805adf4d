//! Resolves the host, judges its addresses and connects to one of them, or takes a warm socket to it. Never sends a byte upstream.

use std::net::IpAddr;
use std::time::Instant;

use super::facts::TunnelFacts;
use super::{Accepted, Admitted, Dialled, Redial, ends};
use crate::dial::{DialError, Dialler, Upstream};
use crate::outcome::{End, Failure, Lookup};
use crate::policy::guard::UpstreamAddress;
use crate::reactor::Gone;
use crate::resolve::{Asker, Families, Holder, ResolveError, Resolved};

impl<'a> Admitted<'a> {
    /// Connects to the upstream within one deadline, unless the client has gone meanwhile.
    pub(super) async fn dial(self, facts: &mut TunnelFacts) -> Result<Dialled<'a>, End> {
        let Accepted {
            world, snapshot, ..
        } = &self.accepted;
        let deadline = world.reactor.now() + snapshot.config.timeouts.connect;
        let reached = tokio::select! {
            biased;
            // The client needs no upstream any more: after its FIN it cannot finish a TLS
            // handshake.
            gone = self.accepted.client.socket.gone() => Err(match gone {
                Gone::Ended => Failure::ClientClosed.into(),
                Gone::Failed => Failure::ClientReset.into(),
            }),
            reached = self.reach(deadline, facts) => reached,
        };
        let (upstream, redial) = reached?;
        facts.dialled(&upstream);
        Ok(Dialled {
            admitted: self,
            upstream,
            redial,
        })
    }

    /// Resolves, judges and connects: it dials exactly the judged addresses, or takes a warm socket to one of them.
    async fn reach(
        &self,
        deadline: Instant,
        facts: &mut TunnelFacts,
    ) -> Result<(Upstream, Option<Redial>), End> {
        let answer = self.resolve(deadline, facts).await?;
        let judged = self.judge(&answer.addresses, facts)?;
        let is_warm = self.accepted.snapshot.warm.is_on();
        if is_warm && let Some(upstream) = self.take_warm(&judged) {
            facts.taken();
            self.record_use(&upstream, &judged, None);
            return Ok((upstream, Some(Redial::to(answer.addresses))));
        }
        let started = Instant::now();
        let upstream = self.connect(&judged, deadline, facts).await?;
        if is_warm {
            self.record_use(&upstream, &judged, Some(started.elapsed()));
        }
        Ok((upstream, None))
    }

    /// Judges addresses by the guard, with this host's addresses of this moment.
    pub(super) fn judge(
        &self,
        addresses: &[IpAddr],
        facts: &mut TunnelFacts,
    ) -> Result<Vec<UpstreamAddress>, End> {
        let own_addresses = &self.accepted.world.shared.own_addresses;
        if !own_addresses.are_known() {
            return Err(facts.with_cause(
                "this host's addresses cannot be listed",
                Failure::EgressUnavailable,
            ));
        }
        let own = own_addresses.load();
        let judged = self.accepted.admission().addresses(addresses, &own);
        judged.map_err(|refusal| facts.with_cause(refusal, refusal))
    }

    /// Looks up the host's addresses in the families of the egress addresses.
    async fn resolve(&self, deadline: Instant, facts: &mut TunnelFacts) -> Result<Resolved, End> {
        let Accepted {
            world, snapshot, ..
        } = &self.accepted;
        let egress = self.narrowed.as_ref().unwrap_or(&snapshot.egress);
        let families = Families::of(egress.addresses());
        if families.is_empty() {
            return Err(facts.with_cause(
                "none of this user's egress addresses is configured",
                Failure::EgressUnavailable,
            ));
        }
        let asked = Instant::now();
        let host = self.authorised.host();
        let user = self.user.as_ref().map(|permit| permit.user());
        let holder = Holder::of(user, self.accepted.client.origin.address.ip());
        let asker = Asker {
            holder,
            is_named: snapshot.config.policy.names().has(host),
        };
        let resolving = snapshot.resolver.resolve(host, families, asker);
        let resolved = world.reactor.timeout_at(deadline, resolving).await;
        facts.resolved(asked.elapsed());
        let answer = resolved.map_err(|_| Failure::ConnectTimeout)?;
        world.shared.evidence.metrics.dns_lookup(
            answer
                .as_ref()
                .map_or_else(ResolveError::lookup, |answer| answer.lookup),
        );
        let answer = answer.map_err(|error| {
            let timed_out = error.lookup() == Lookup::Timeout;
            facts.with_cause(
                error,
                if timed_out {
                    Failure::DnsTimeout
                } else {
                    Failure::DnsFailed
                },
            )
        })?;
        facts.answered(&answer.addresses, answer.lookup);
        Ok(answer)
    }

    /// Connects to one of the judged addresses.
    async fn connect(
        &self,
        judged: &[UpstreamAddress],
        deadline: Instant,
        facts: &mut TunnelFacts,
    ) -> Result<Upstream, End> {
        let started = Instant::now();
        let connected = self.connect_by(judged, deadline).await;
        facts.connected(started.elapsed());
        connected?.map_err(|error| {
            let end = ends::of_dial(&error);
            facts.with_cause(error, end)
        })
    }

    /// Connects, and records nothing.
    pub(super) async fn connect_by(
        &self,
        judged: &[UpstreamAddress],
        deadline: Instant,
    ) -> Result<Result<Upstream, DialError>, Failure> {
        let dialler = self.dialler();
        let connecting = dialler.connect(judged, self.authorised.port());
        let reactor = &self.accepted.world.reactor;
        let connected = reactor.timeout_at(deadline, connecting).await;
        connected.map_err(|_| Failure::ConnectTimeout)
    }

    /// What dials for this tunnel.
    pub(super) fn dialler(&self) -> Dialler<'_> {
        let egress = self.narrowed.as_ref();
        let egress = egress.unwrap_or(&self.accepted.snapshot.egress);
        let user = self.user.as_ref().map(|permit| permit.user());
        self.accepted.world.dialler(egress, user)
    }
}
