//! A connection before its user is known: its permits, its rates, and the consequences of failed
//! credentials. Never decides which credentials are correct.

use std::time::{Duration, Instant};

use super::facts::TunnelFacts;
use super::flowing::TunnelPermits;
use super::{Accepted, Credentials};
use crate::admission::Refusal;
use crate::audit::{DaemonRecord, timestamp};
use crate::auth::lockout::{Bounds, Scope};
use crate::auth::{User, Users};
use crate::authority::UserId;
use crate::limits::account::UserPermit;
use crate::limits::client::ClientNetwork;
use crate::limits::handshakes::HandshakePermit;
use crate::limits::rate::Pace;
use crate::outcome::{DenyReason, End};
use crate::shared::{Holder, Requester, Snapshot};

/// Why the user of these credentials is not known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unknown {
    end: End,
    /// Whether to delay the answer.
    is_slowed: bool,
}

impl Accepted<'_> {
    /// Whether the request is within its rate. Requests of a known user are counted apart from all
    /// others of the same client.
    pub(super) fn keeps_pace(
        &self,
        known: Option<Option<&User>>,
        facts: &mut TunnelFacts,
    ) -> Result<(), End> {
        let rate = self.snapshot.config.limits.connect_rate;
        let requester = self.requester(known.flatten());
        match self
            .world
            .shared
            .limits
            .connects
            .count(requester, rate, self.world.reactor.now())
        {
            Pace::Kept => Ok(()),
            Pace::Exceeded => Err(facts.with_cause(
                "more requests than limits.connect_rate",
                DenyReason::ClientLimit,
            )),
        }
    }

    /// Takes a permit among the tunnels of its user.
    pub(super) fn user_permit(&self, user: &User) -> Result<UserPermit, DenyReason> {
        let Snapshot {
            accounts, config, ..
        } = &*self.snapshot;
        let of_each = || {
            config.limits.of_one_user(
                self.tunnels_max(),
                config.auth.users.as_deref().map_or(0, Users::count),
            )
        };
        accounts
            .acquire(&user.id, user.tunnels.unwrap_or_else(of_each))
            .ok_or(DenyReason::UserLimit)
    }

    /// Takes permits among all tunnels and among those of this client and user. Without users an
    /// IPv6 site has a bound too, because it may be any number of clients.
    pub(super) fn tunnel_permits(&self, user: Option<&User>) -> Result<TunnelPermits, DenyReason> {
        let (shared, limits, max) = (
            &self.world.shared,
            &self.snapshot.config.limits,
            self.tunnels_max(),
        );
        let all = shared
            .limits
            .tunnels
            .acquire(max)
            .ok_or(DenyReason::TunnelLimit)?;
        let own = shared
            .limits
            .clients
            .acquire(&self.requester(user), limits.of_one_client(max));
        let own = own.ok_or(DenyReason::ClientLimit)?;
        let site = match self.network().site() {
            site if site.is_ipv6() && user.is_none() => Some(
                shared
                    .limits
                    .sites
                    .acquire(&site, limits.of_one_site(max))
                    .ok_or(DenyReason::ClientLimit)?,
            ),
            _ => None,
        };
        Ok((all, own, site))
    }

    /// The most tunnels at once under the configuration of this connection.
    fn tunnels_max(&self) -> usize {
        self.snapshot
            .config
            .limits
            .tunnels
            .min(self.world.shared.limits.budget.tunnels)
    }

    /// Counts failed credentials and records the locks that they start.
    pub(super) fn failed(&self, credentials: &Credentials) -> Unknown {
        let (shared, auth) = (&self.world.shared, &self.snapshot.config.auth);
        let (address, client) = (self.client.origin.address.ip(), self.network());
        let bounds = Bounds {
            failures: auth.lockout_failures,
            window: auth.lockout_window,
        };
        let verdict = shared
            .limits
            .lockout
            .failed(client, credentials, bounds, Instant::now());
        if let Some(scope) = verdict.begun {
            let network = if scope == Scope::Site {
                client.site().to_string()
            } else {
                client.to_string()
            };
            let user = if scope == Scope::Name {
                self.configured(credentials)
            } else {
                None
            };
            let failures = scope.bound(auth.lockout_failures);
            let (ts, client) = (timestamp(), address);
            shared.evidence.audit.lockout(DaemonRecord::AuthLockout {
                ts,
                client,
                network,
                user,
                failures,
                count: None,
            });
        }
        let reason = if verdict.is_locked {
            DenyReason::AuthLocked
        } else {
            DenyReason::AuthFailed
        };
        Unknown {
            end: reason.into(),
            is_slowed: verdict.is_slowed,
        }
    }

    /// Refuses credentials. A delayed answer waits in the connection's pending place and takes
    /// nothing from others; when the place is needed the answer comes at once.
    pub(super) async fn refuse(&self, unknown: Unknown) -> End {
        if unknown.is_slowed {
            // Either ends the wait.
            let _needed_or_over = self
                .world
                .reactor
                .timeout(SLOWED_BY, self.pending.given_up())
                .await;
        }
        unknown.end
    }

    /// The name in the credentials if a user has it; any other text may be a misplaced secret.
    fn configured(&self, credentials: &Credentials) -> Option<String> {
        let Credentials::Basic { name, .. } = credentials else {
            return None;
        };
        let id = UserId::parse(name)?;
        self.snapshot
            .config
            .auth
            .users
            .as_ref()?
            .named(&id)
            .map(|user| user.id.as_str().to_owned())
    }

    fn network(&self) -> ClientNetwork {
        ClientNetwork::of(self.client.origin.address.ip())
    }

    fn requester(&self, user: Option<&User>) -> Requester {
        (self.network(), user.map(|user| user.id.clone()))
    }
}

impl<'a> Accepted<'a> {
    /// Takes a permit for the memory of this connection's handshake.
    pub(super) fn handshake_permit(&self, user: Option<&User>) -> HandshakePermit<'a, Holder> {
        let holder = match user {
            Some(user) => Holder::User(user.id.clone()),
            None => Holder::Client(self.network()),
        };
        self.world.shared.limits.handshakes.permit(holder)
    }
}

impl From<Refusal> for Unknown {
    fn from(refusal: Refusal) -> Self {
        Self {
            end: refusal.into(),
            is_slowed: false,
        }
    }
}

pub(super) const GIVEN_UP: &str = "limits.pending was reached and this client held the most";
/// Long enough to spoil guessing, short enough for a typing error.
const SLOWED_BY: Duration = Duration::from_secs(1);
