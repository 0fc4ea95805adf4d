//! The first steps of a tunnel: accepts the connection, reads its request and decides whether it
//! gets a tunnel. Never contacts an upstream.

use std::sync::Arc;

use time::OffsetDateTime;

use super::facts::TunnelFacts;
use super::head::Secret;
use super::pending::{self, Unknown};
use super::{Accepted, Admitted, Client, Declared, Requested, World, head};
use crate::admission::{Admission, AuthMethod, Identity, Refusal};
use crate::auth::User;
use crate::greeting::GreetingError;
use crate::limits::client::ClientNetwork;
use crate::limits::pending::PendingPermit;
use crate::outcome::{DenyReason, End, Failure};
use crate::wire::connect::{Credentials, Head};

impl<'a> Accepted<'a> {
    /// Takes a pending place, that of the peer that declared the client if there is one, unless the
    /// client's address may not connect.
    pub(super) fn accept(
        client: &'a Client,
        world: &'a World,
        declared: Option<PendingPermit>,
    ) -> Result<Self, End> {
        let snapshot = Arc::clone(&client.snapshot);
        let (shared, config) = (&world.shared, &snapshot.config);
        let ip = client.origin.address.ip();
        Admission::by(config, &snapshot.egress).client(ip)?;
        if config.audit_required && shared.evidence.audit.is_failing() {
            return Err(DenyReason::AuditUnavailable.into());
        }
        let (network, max) = (ClientNetwork::of(ip), world.pending_max(&config.limits));
        let pending = declared.and_then(|permit| permit.pass_to(network));
        let pending = pending.unwrap_or_else(|| world.pending.enter(network, max));
        Ok(Self {
            client,
            world,
            snapshot,
            pending,
        })
    }

    /// Reads the whole head within its deadline and size; the connection keeps its pending place.
    /// `start` has the bytes that came with a PROXY header.
    pub(super) async fn request(
        self,
        start: Secret,
        facts: &mut TunnelFacts,
    ) -> Result<Requested<'a>, End> {
        let limits = &self.snapshot.config.limits;
        let deadline = self.client.origin.accepted + self.snapshot.config.timeouts.request;
        let reading = head::read(&self.client.socket, start, limits.head_bytes, facts);
        let read = tokio::select! {
            biased;
            read = self.world.reactor.timeout_at(deadline, reading) => Some(read),
            () = self.pending.given_up() => None,
        };
        let read = read.unwrap_or_else(|| {
            Ok(Err(
                facts.with_cause(pending::GIVEN_UP, DenyReason::ClientLimit)
            ))
        });
        let (head, behind) = read.unwrap_or(Err(Failure::RequestTimeout.into()))?;
        facts.requested(&head.authority);
        Ok(Requested {
            accepted: self,
            head,
            behind,
        })
    }
}

impl<'a> Requested<'a> {
    /// Finds the user of the credentials and the verdict on the authority, then takes the tunnel's
    /// permits.
    pub(super) async fn authorise(self, facts: &mut TunnelFacts) -> Result<Admitted<'a>, End> {
        let Self {
            accepted,
            head: Head {
                authority,
                credentials,
            },
            behind,
        } = self;
        if accepted.world.shared.lifecycle.drain.load().is_some() {
            return Err(DenyReason::Draining.into());
        }
        // With a socket that survives the daemon a restart refuses nobody: accepted clients
        // continue until the drain ends.
        if accepted.world.draining.get() && !accepted.client.origin.is_inherited {
            return Err(DenyReason::Draining.into());
        }
        let identified = accepted.identify(credentials);
        let known = identified.as_ref().ok();
        let known = known.map(|known| known.as_ref().map(|(user, _)| &**user));
        accepted.keeps_pace(known, facts)?;
        let identified = match identified {
            Ok(identified) => identified,
            Err(unknown) => return Err(accepted.refuse(unknown).await),
        };
        let mut user_permit = None;
        let user = identified.map(|(user, auth)| {
            facts.identified(&user.id, auth);
            user
        });
        if let Some(user) = &user {
            user_permit = Some(accepted.user_permit(user)?);
        }
        let admission = accepted.admission();
        let authorised = admission.destination(authority, user.as_deref())?;
        let narrowed = admission.egress_of(user.as_deref());
        let permits = accepted.tunnel_permits(user.as_deref())?;
        accepted.pending.leave();
        facts.reported(authorised.would_deny());
        accepted.promise_record(facts)?;
        let mut memory = accepted.handshake_permit(user.as_deref());
        if !memory.resize(behind.capacity()) {
            return Err(facts.with_cause(GreetingError::HelloMemory, DenyReason::TunnelLimit));
        }
        facts.admitted();
        // Set only here.
        let _only_here = accepted.client.visible.set(facts.enter());
        Ok(Admitted {
            accepted,
            permits,
            authorised,
            narrowed,
            behind,
            user: user_permit,
            memory,
        })
    }
}

/// A user, and what has authenticated it.
type Identified = (Arc<User>, AuthMethod);

/// What `authorise` asks of the snapshot.
impl Accepted<'_> {
    /// The user of these credentials; None if none are required.
    fn identify(&self, credentials: Credentials) -> Result<Option<Identified>, Unknown> {
        let origin = &self.client.origin;
        let declared = origin.declared.as_deref();
        match self.admission().user(
            Identity::Presented(&credentials),
            declared.and_then(Declared::names),
            origin.address.ip(),
            OffsetDateTime::now_utc(),
        ) {
            Err(Refusal::Credentials(DenyReason::AuthFailed)) => Err(self.failed(&credentials)),
            checked => Ok(checked?),
        }
    }

    /// Reserves room for the tunnel's record in the queue of the audit writer. Only an allowed request takes one.
    fn promise_record(&self, facts: &mut TunnelFacts) -> Result<(), DenyReason> {
        facts.audit_permit = self
            .world
            .shared
            .evidence
            .audit
            .reserve(self.client.origin.address.ip());
        if facts.audit_permit.is_none() && self.snapshot.config.audit_required {
            return Err(DenyReason::AuditUnavailable);
        }
        Ok(())
    }

    pub(super) fn admission(&self) -> Admission<'_> {
        Admission::by(&self.snapshot.config, &self.snapshot.egress)
    }
}
