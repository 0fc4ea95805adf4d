//! Admission: the one place that decides whether a configuration lets a client, its user, its destination and its handshake
//! pass.
//!
//! It decides at two doors. A new connection meets the steps one by one, as its facts become known. An open tunnel meets
//! all of them at once in [`Admission::review`], over the facts that it has kept, when a configuration is put in force or
//! a user expires. Pure: reads no clock, no socket and no counter. Limits, locks and what a name resolves to are no
//! permissions, so they are not judged here and take nothing back.

use std::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;

use crate::auth::{Unfit, User};
use crate::authority::{Authority, UserId};
use crate::config::Config;
use crate::dial::Egress;
use crate::outcome::{DenyReason, End, Failure};
use crate::policy::guard::{Forbidden, UpstreamAddress};
use crate::policy::{Authorised, HelloFacts, Verdict};
use crate::wire::connect::Credentials;
use crate::wire::server_hello::ServerHello;

/// One configuration as admission reads it.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    config: &'a Config,
    egress: &'a Egress,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum Identity<'a> {
    /// A new connection, with these credentials.
    Presented(&'a Credentials),
    /// An open tunnel of this user; None: it was opened without credentials.
    Known(Option<&'a UserId>),
}

/// What is kept of an open tunnel: all that was judged when it was set up.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// Whose credentials it had.
    pub user: Option<&'a UserId>,
    /// What the CONNECT asked for.
    pub authority: &'a Authority,
    /// The address it was connected to.
    pub upstream: IpAddr,
    /// The address it leaves from.
    pub egress: IpAddr,
    /// What its ClientHellos said.
    pub hello: HelloFacts,
    /// What the server chose; None: it refused with an alert.
    pub answer: Option<&'a ServerHello>,
}

/// Why a configuration does not let something pass. The text is for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `auth.clients` does not hold the client's address.
    #[error("auth.clients does not hold the client's address")]
    Client,
    /// The credentials are absent, wrong, or those of a user who is not fit.
    #[error("{}", End::from(*.0).cause_and_cure().0)]
    Credentials(DenyReason),
    /// The user of an open tunnel is not in the users file.
    #[error("the user is not in the users file")]
    NoUser,
    /// The user is in the users file, and is not let in.
    #[error("{0}")]
    User(Unfit),
    /// The destination, a hello or an answer.
    #[error("{}", End::from(*.0).cause_and_cure().0)]
    Policy(DenyReason),
    /// The address guard.
    #[error("{0}")]
    Address(Forbidden),
    /// The tunnel leaves from an address that is not one of the configuration, or not one of the user's.
    #[error("neither egress.addresses nor the user's egress has {0} any more")]
    Egress(IpAddr),
    /// Nothing is known of how it was let in: such a tunnel is not open, and would not stay so.
    #[error("nothing is known of how it was let in")]
    Unknown,
}

impl<'a> Admission<'a> {
    /// Admission by this configuration, whose sources are `egress`.
    #[must_use]
    pub fn by(config: &'a Config, egress: &'a Egress) -> Self {
        Self { config, egress }
    }

    /// Whether a client at this address may connect at all.
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

    /// Who the client is; None where no credentials are asked for.
    ///
    /// # Errors
    /// Why it may not be that user here and now.
    pub fn user(
        &self,
        identity: Identity<'_>,
        client: IpAddr,
        now: OffsetDateTime,
    ) -> Result<Option<Arc<User>>, Refusal> {
        let Some(users) = &self.config.auth.users else {
            return Ok(None);
        };
        let user = match identity {
            Identity::Presented(credentials) => users
                .check(credentials, client, now)
                .map_err(Refusal::Credentials)?,
            Identity::Known(None) => return Err(Refusal::Credentials(DenyReason::AuthRequired)),
            Identity::Known(Some(id)) => {
                let user = users.named(id).ok_or(Refusal::NoUser)?;
                user.is_fit(client, now).map_err(Refusal::User)?;
                Arc::clone(user)
            }
        };
        Ok(Some(user))
    }

    /// Whether this user may go there.
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

    /// Whether all these addresses may be dialled; `own` are those of this host.
    ///
    /// # Errors
    /// [`Refusal::Address`], for the first that may not.
    pub fn addresses(
        &self,
        answer: &[IpAddr],
        own: &[IpAddr],
    ) -> Result<Vec<UpstreamAddress>, Refusal> {
        self.config
            .policy
            .guard
            .judge(answer, own)
            .map_err(Refusal::Address)
    }

    /// The user's own share of the egress addresses; None: it leaves from any of them.
    #[must_use]
    pub fn egress_of(&self, user: Option<&User>) -> Option<Egress> {
        let own = user
            .map(|user| user.egress.as_slice())
            .filter(|own| !own.is_empty());
        own.map(|own| self.egress.only(own))
    }

    /// Whether an open tunnel would be let in, whatever limits say.
    ///
    /// # Errors
    /// The first step that refuses it, in the order of a new connection.
    pub fn review(
        &self,
        facts: &Facts<'_>,
        own: &[IpAddr],
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        self.client(facts.client)?;
        let user = self.user(Identity::Known(facts.user), facts.client, now)?;
        let user = user.as_deref();
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
            .map_or(Ok(()), |answer| policy.judge_answer(answer))
            .map_err(Refusal::Policy)
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Client | Refusal::Unknown => DenyReason::ClientDenied.into(),
            Refusal::Credentials(reason) | Refusal::Policy(reason) => reason.into(),
            Refusal::NoUser => DenyReason::AuthFailed.into(),
            Refusal::User(unfit) => unfit.reason().into(),
            Refusal::Address(_) => DenyReason::DestinationDenied.into(),
            Refusal::Egress(_) => Failure::EgressUnavailable.into(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
