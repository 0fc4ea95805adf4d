//! Admission: the only place that decides whether a configuration lets a client, its user, its
//! destination and its handshake pass.
//!
//! It decides at two points. A new connection passes the steps one by one, as its facts become
//! known. [`Admission::review`] checks all of them at once for an open tunnel, using the facts that
//! the tunnel keeps, whenever a configuration comes into force or a user expires.
//!
//! Pure: reads no clock, socket or counter. Limits, locks and DNS results are not permissions:
//! admission does not judge them, and their change ends no open tunnel.

use std::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;

use crate::auth::{TwoUsers, Unfit, User};
use crate::authority::{Authority, UserId};
use crate::config::Config;
use crate::config::proxy_protocol::ProxyProtocol;
use crate::dial::Egress;
use crate::outcome::{DenyReason, End, Failure};
use crate::policy::guard::{Forbidden, OwnAddresses, UpstreamAddress};
use crate::policy::{Authorised, HelloFacts, Verdict};
use crate::wire::connect::Credentials;
use crate::wire::server_hello::ServerHello;

/// Admission under one configuration.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    config: &'a Config,
    egress: &'a Egress,
}

/// Where the user's identity comes from.
#[derive(Clone, Copy, Debug)]
pub enum Identity<'a> {
    /// The credentials of a new connection.
    Presented(&'a Credentials),
    /// The user of an open tunnel; None if it was opened without credentials.
    Known(Option<&'a UserId>, AuthMethod),
}

/// What has authenticated a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// Name and secret.
    Basic,
    /// The certificate that a TLS terminator has verified.
    Certificate,
    /// Both.
    Both,
}

impl AuthMethod {
    /// The audit record's `auth`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Certificate => "certificate",
            Self::Both => "both",
        }
    }
}

/// The facts of an open tunnel: everything that was judged when it was set up.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The place of its listener in the configuration.
    pub listener: usize,
    /// The address of the balancer or terminator that declared the client; None: the client
    /// connected itself.
    pub via: Option<IpAddr>,
    /// The client's address.
    pub client: IpAddr,
    /// The user whose credentials it presented.
    pub user: Option<&'a UserId>,
    /// What has authenticated the user.
    pub auth: AuthMethod,
    /// The names of the client's certificate; None: it has none.
    pub certificate: Option<&'a [Box<str>]>,
    /// The destination of the CONNECT.
    pub authority: &'a Authority,
    /// The upstream address that it is connected to.
    pub upstream: IpAddr,
    /// Its source address.
    pub egress: IpAddr,
    /// The facts of its ClientHellos.
    pub hello: HelloFacts,
    /// The ServerHello; None if the server answered with an alert.
    pub answer: Option<&'a ServerHello>,
}

/// Why a configuration does not let something pass. The text is for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The listener has `proxy_protocol`, and `from` does not hold the peer's address.
    #[error("proxy_protocol.from of this listener does not hold the peer's address")]
    Peer,
    /// An open tunnel came with a PROXY header and its listener takes none any more, or without and
    /// its listener requires one.
    #[error("proxy_protocol of this listener was added or removed")]
    Declaration,
    /// `auth.clients` does not hold the client's address.
    #[error("auth.clients does not contain the client's address")]
    Client,
    /// The credentials are missing or wrong, or the user may not log in.
    #[error("{}", End::from(*.0).cause())]
    Credentials(DenyReason),
    /// The certificate belongs to no user, has names of two users, or belongs to another user than
    /// the credentials.
    #[error("the client's certificate does not authenticate one user, the one of the credentials")]
    Certificate,
    /// The user of an open tunnel is not in the users file.
    #[error("the user is not in the users file")]
    NoUser,
    /// The user is in the users file, but may not log in.
    #[error("{0}")]
    User(Unfit),
    /// The destination, a ClientHello or a ServerHello.
    #[error("{}", End::from(*.0).cause())]
    Policy(DenyReason),
    /// The upstream address.
    #[error("{0}")]
    Address(Forbidden),
    /// The tunnel's source address is no longer in the configuration, or no longer allowed to its
    /// user.
    #[error("egress.addresses or the user's egress no longer contains {0}")]
    Egress(IpAddr),
    /// The facts of the tunnel are missing. Such a tunnel never opens.
    #[error("the facts of the tunnel are missing")]
    Unknown,
}

impl<'a> Admission<'a> {
    /// Creates admission under `config`, with the source addresses `egress`.
    #[must_use]
    pub fn by(config: &'a Config, egress: &'a Egress) -> Self {
        Self { config, egress }
    }

    /// Checks whether a peer may connect to this listener. Returns the PROXY protocol if the listener
    /// requires it.
    ///
    /// # Errors
    /// [`Refusal::Peer`].
    pub fn peer(
        &self,
        listener: usize,
        peer: IpAddr,
    ) -> Result<Option<&'a ProxyProtocol>, Refusal> {
        let listener = self.config.listeners.get(listener);
        match listener.and_then(|listener| listener.proxy_protocol.as_deref()) {
            Some(protocol) if !protocol.trusts(peer) => Err(Refusal::Peer),
            trusted => Ok(trusted),
        }
    }

    /// Checks whether a client at this address may connect at all.
    ///
    /// # Errors
    /// [`Refusal::Client`].
    pub fn client(&self, address: IpAddr) -> Result<(), Refusal> {
        if self.config.auth.lets_in(address) {
            Ok(())
        } else {
            Err(Refusal::Client)
        }
    }

    /// Identifies the client's user, by credentials, by the names of its certificate or by both; None
    /// if the configuration requires no credentials. With a certificate and credentials both must
    /// name one user; a user without `certificates` may present any.
    ///
    /// # Errors
    /// Why the client may not act as that user, from this address at this time.
    pub fn user(
        &self,
        identity: Identity<'_>,
        certificate: Option<&[Box<str>]>,
        client: IpAddr,
        now: OffsetDateTime,
    ) -> Result<Option<(Arc<User>, AuthMethod)>, Refusal> {
        let Some(users) = &self.config.auth.users else {
            return Ok(None);
        };
        let holder = users.holder(certificate.unwrap_or_default());
        let holder = holder.map_err(|TwoUsers| Refusal::Certificate)?;
        let by_certificate =
            |holder: &Arc<User>| Ok(Some((Arc::clone(holder), AuthMethod::Certificate)));
        let user = match (identity, holder) {
            (Identity::Presented(Credentials::Absent), None) if certificate.is_some() => {
                return Err(Refusal::Certificate);
            }
            (Identity::Presented(Credentials::Absent), Some(holder)) => {
                holder.is_fit(client, now).map_err(Refusal::User)?;
                return by_certificate(holder);
            }
            (Identity::Presented(credentials), _) => users
                .check(credentials, client, now)
                .map_err(Refusal::Credentials)?,
            (Identity::Known(None, _), _) => {
                return Err(Refusal::Credentials(DenyReason::AuthRequired));
            }
            (Identity::Known(Some(id), auth), holder) => {
                let user = users.named(id).ok_or(Refusal::NoUser)?;
                user.is_fit(client, now).map_err(Refusal::User)?;
                if auth == AuthMethod::Certificate {
                    let holder = holder.filter(|holder| holder.id == user.id);
                    return by_certificate(holder.ok_or(Refusal::Certificate)?);
                }
                Arc::clone(user)
            }
        };
        match holder {
            Some(holder) if holder.id == user.id => Ok(Some((user, AuthMethod::Both))),
            None if certificate.is_none() || user.certificates.is_empty() => {
                Ok(Some((user, AuthMethod::Basic)))
            }
            _ => Err(Refusal::Certificate),
        }
    }

    /// Checks whether this user may connect to the destination.
    ///
    /// # Errors
    /// [`Refusal::Policy`].
    pub fn destination(
        &self,
        authority: Authority,
        user: Option<&User>,
    ) -> Result<Authorised, Refusal> {
        match self
            .config
            .policy
            .judge(authority, user.and_then(|user| user.allow.as_ref()))
        {
            Verdict::Allow(authorised) => Ok(authorised),
            Verdict::Deny(reason) => Err(Refusal::Policy(reason)),
        }
    }

    /// Checks whether all these addresses may be dialled. `own` are the addresses of this host.
    ///
    /// # Errors
    /// [`Refusal::Address`] with the first forbidden one.
    pub fn addresses(
        &self,
        answer: &[IpAddr],
        own: &OwnAddresses,
    ) -> Result<Vec<UpstreamAddress>, Refusal> {
        self.config
            .policy
            .guard
            .judge(answer, own)
            .map_err(Refusal::Address)
    }

    /// The egress addresses of this user; None if the user may leave from any of them.
    #[must_use]
    pub fn egress_of(&self, user: Option<&User>) -> Option<Egress> {
        let own = user
            .map(|user| user.egress.as_slice())
            .filter(|own| !own.is_empty());
        own.map(|own| self.egress.only(own))
    }

    /// Checks whether the configuration would let an open tunnel in. Ignores limits.
    ///
    /// # Errors
    /// The first step that refuses it, in the order of the steps for a new connection.
    pub fn review(
        &self,
        facts: &Facts<'_>,
        own: &OwnAddresses,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let protocol = self.peer(facts.listener, facts.via.unwrap_or(facts.client))?;
        if protocol.is_some() != facts.via.is_some() {
            return Err(Refusal::Declaration);
        }
        self.client(facts.client)?;
        let names = facts.certificate;
        let names = names.filter(|_| protocol.is_some_and(|protocol| protocol.identity));
        let known = Identity::Known(facts.user, facts.auth);
        let user = self.user(known, names, facts.client, now)?;
        let user = user.as_ref().map(|(user, _)| &**user);
        self.destination(facts.authority.clone(), user)?;
        self.addresses(&[facts.upstream], own)?;
        let narrowed = self.egress_of(user);
        if !narrowed
            .as_ref()
            .unwrap_or(self.egress)
            .addresses()
            .any(|address| address == facts.egress)
        {
            return Err(Refusal::Egress(facts.egress));
        }
        let policy = &self.config.policy;
        policy
            .judge_hello_facts(facts.hello)
            .map_err(Refusal::Policy)?;
        facts
            .answer
            .map_or(Ok(()), |answer| policy.judge_server_hello(answer))
            .map_err(Refusal::Policy)
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Peer | Refusal::Declaration | Refusal::Client | Refusal::Unknown => {
                DenyReason::ClientDenied.into()
            }
            Refusal::Credentials(reason) | Refusal::Policy(reason) => reason.into(),
            Refusal::NoUser | Refusal::Certificate => DenyReason::AuthFailed.into(),
            Refusal::User(unfit) => unfit.reason().into(),
            Refusal::Address(_) => DenyReason::DestinationDenied.into(),
            Refusal::Egress(_) => Failure::EgressUnavailable.into(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
