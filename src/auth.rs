//! Credentials: finds the user of a presented name and secret; [`lockout`] counts failures.
//!
//! Secrets are random 256-bit tokens stored as SHA-256; a slow password hash for each CONNECT would
//! let clients burn the CPU. An unknown user, a wrong first byte and a wrong last byte cost the
//! same work. Never stores, logs or returns a secret.

pub mod changes;
pub mod lockout;
mod secret;
mod unfit;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use subtle::{Choice, ConstantTimeEq};
use time::OffsetDateTime;

use crate::authority::UserId;
use crate::outcome::DenyReason;
use crate::policy::NameRules;
use crate::wire::connect::Credentials;
pub use secret::SecretHash;
pub use unfit::Unfit;

/// The parsed users file.
#[derive(Clone, Debug, Default)]
pub struct Users {
    by_name: HashMap<String, Arc<User>>,
    /// Each name of a certificate has one user.
    by_certificate: HashMap<Box<str>, Arc<User>>,
    /// The expiry times of all users, in order.
    expiries: Vec<OffsetDateTime>,
}

/// A certificate has names of several users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoUsers;

/// One user and its restrictions.
#[derive(Clone, Debug)]
pub struct User {
    /// The name.
    pub id: UserId,
    /// One or two live secrets. An unused slot is zero, which is not the hash of any secret.
    pub secrets: [SecretHash; 2],
    /// The names of the certificates that authenticate the user, in the form of
    /// [`terminator::name`](crate::wire::terminator::name).
    pub certificates: Vec<Box<str>>,
    /// When the credentials expire.
    pub expires: Option<OffsetDateTime>,
    /// Whether the credentials are disabled.
    pub disabled: bool,
    /// Rules that must allow a destination in addition to the policy.
    pub allow: Option<NameRules>,
    /// Where the user may connect from; empty: anywhere.
    pub sources: Vec<IpNet>,
    /// The user's egress addresses; empty: all.
    pub egress: Vec<IpAddr>,
    /// The most tunnels at once; None: `limits.tunnels_per_user`.
    pub tunnels: Option<usize>,
    /// Bytes a second over both directions and all tunnels; None: unlimited.
    pub bytes_per_second: Option<u64>,
}

impl Users {
    /// All the users of a file.
    #[must_use]
    pub fn new(users: impl IntoIterator<Item = User>) -> Self {
        Self::of(users.into_iter().map(Arc::new))
    }

    /// These users, shared with another set.
    #[must_use]
    pub fn of(users: impl IntoIterator<Item = Arc<User>>) -> Self {
        let by_name: HashMap<_, _> = users
            .into_iter()
            .map(|user| (user.id.as_str().to_owned(), user))
            .collect();
        let mut expiries: Vec<_> = by_name.values().filter_map(|user| user.expires).collect();
        expiries.sort_unstable();
        let names = |user: &Arc<User>| user.certificates.clone();
        let by_certificate = by_name
            .values()
            .flat_map(|user| names(user).into_iter().map(|name| (name, Arc::clone(user))))
            .collect();
        Self {
            by_name,
            by_certificate,
            expiries,
        }
    }

    /// The number of users.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// How many of them have expired at `now`; a binary search.
    #[must_use]
    pub fn expired(&self, now: OffsetDateTime) -> usize {
        self.expiries.partition_point(|expires| *expires <= now)
    }

    /// The users, unordered, to be shared.
    pub fn arcs(&self) -> impl Iterator<Item = &Arc<User>> {
        self.by_name.values()
    }

    /// The users, unordered.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.by_name.values().map(Arc::as_ref)
    }

    /// Returns the user of these credentials if they are live and valid at the client's address.
    ///
    /// # Errors
    /// [`DenyReason::AuthRequired`] without credentials, [`DenyReason::AuthFailed`] for wrong,
    /// expired or disabled ones, [`DenyReason::ClientDenied`] for correct ones from another
    /// address.
    pub fn check(
        &self,
        credentials: &Credentials,
        client: IpAddr,
        now: OffsetDateTime,
    ) -> Result<Arc<User>, DenyReason> {
        let (name, secret) = match credentials {
            Credentials::Absent => return Err(DenyReason::AuthRequired),
            Credentials::Unusable => return Err(DenyReason::AuthFailed),
            Credentials::Basic { name, secret } => (name, secret),
        };
        let presented = SecretHash::of(secret);
        let user = self.by_name.get(name.as_str());
        let slots = user.map_or(&DECOY, |user| &user.secrets);
        let matched = slots
            .iter()
            .fold(Choice::from(0), |any, slot| any | slot.ct_eq(&presented));
        let user = user
            .filter(|_| bool::from(matched))
            .ok_or(DenyReason::AuthFailed)?;
        user.is_fit(client, now).map_err(Unfit::reason)?;
        Ok(Arc::clone(user))
    }

    /// Returns the user that a certificate with these names authenticates, live or not; None if no
    /// user has one of the names.
    ///
    /// # Errors
    /// [`TwoUsers`] if its names belong to several.
    pub fn holder(&self, names: &[Box<str>]) -> Result<Option<&Arc<User>>, TwoUsers> {
        let mut holders = names
            .iter()
            .filter_map(|name| self.by_certificate.get(name));
        let first = holders.next();
        match first {
            Some(user) if holders.any(|other| other.id != user.id) => Err(TwoUsers),
            first => Ok(first),
        }
    }

    /// Returns the user with this name, live or not.
    #[must_use]
    pub fn named(&self, id: &UserId) -> Option<&Arc<User>> {
        self.by_name.get(id.as_str())
    }
}

impl User {
    /// Whether the user may have a tunnel at `now` from this client address, without regard to the
    /// secret.
    ///
    /// # Errors
    /// The reason against it.
    pub fn is_fit(&self, client: IpAddr, now: OffsetDateTime) -> Result<(), Unfit> {
        if self.disabled {
            return Err(Unfit::Disabled);
        }
        if self.has_expired(now) {
            return Err(Unfit::Expired);
        }
        let may_come =
            self.sources.is_empty() || self.sources.iter().any(|net| net.contains(&client));
        if may_come {
            Ok(())
        } else {
            Err(Unfit::ClientAddress)
        }
    }

    /// Whether `expires` has passed.
    #[must_use]
    pub fn has_expired(&self, now: OffsetDateTime) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }
}

/// Compared in place of the secrets of an unknown user.
const DECOY: [SecretHash; 2] = [SecretHash::UNUSED; 2];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn user(name: &str, secrets: [&str; 2]) -> User {
        let slot = |secret: &str| {
            if secret.is_empty() {
                SecretHash::default()
            } else {
                SecretHash::of(secret)
            }
        };
        User {
            id: UserId::parse(name).unwrap(),
            secrets: secrets.map(slot),
            certificates: Vec::new(),
            expires: None,
            disabled: false,
            allow: None,
            sources: Vec::new(),
            egress: Vec::new(),
            tunnels: None,
            bytes_per_second: None,
        }
    }

    fn basic(name: &str, secret: &str) -> Credentials {
        Credentials::Basic {
            name: name.to_owned().into(),
            secret: secret.to_owned().into(),
        }
    }

    fn check(user: User, credentials: &Credentials) -> Result<(), DenyReason> {
        Users::new([user])
            .check(credentials, CLIENT, OffsetDateTime::now_utc())
            .map(drop)
    }

    #[test]
    fn only_a_live_secret_is_accepted() {
        let alice = || user("alice", ["one", "two"]);
        assert_eq!(check(alice(), &basic("alice", "one")), Ok(()));
        assert_eq!(check(alice(), &basic("alice", "two")), Ok(()));
        for (name, secret) in [
            ("alice", "on"),
            ("alice", ""),
            ("alice", "onee"),
            ("bob", "one"),
            ("", "one"),
            ("ALICE", "one"),
        ] {
            assert_eq!(
                check(alice(), &basic(name, secret)),
                Err(DenyReason::AuthFailed),
                "{name}:{secret}"
            );
        }
        assert_eq!(
            check(user("alice", ["one", "one"]), &basic("alice", "one")),
            Ok(()),
            "the same in both slots"
        );
        assert_eq!(
            check(user("alice", ["one", ""]), &basic("alice", "")),
            Err(DenyReason::AuthFailed)
        );
        assert_eq!(
            check(alice(), &Credentials::Absent),
            Err(DenyReason::AuthRequired)
        );
        assert_eq!(
            check(alice(), &Credentials::Unusable),
            Err(DenyReason::AuthFailed)
        );
    }

    #[test]
    fn credentials_end_at_their_expiry_and_not_after_it() {
        let mut alice = user("alice", ["one", ""]);
        let expires = OffsetDateTime::now_utc();
        alice.expires = Some(expires);
        let users = Users::new([alice]);
        let nanosecond = Duration::from_nanos(1);
        for (now, wanted, expired) in [
            (expires - nanosecond, Ok(()), 0),
            (expires, Err(DenyReason::AuthFailed), 1),
            (expires + nanosecond, Err(DenyReason::AuthFailed), 1),
        ] {
            let checked = users.check(&basic("alice", "one"), CLIENT, now).map(drop);
            assert_eq!((checked, users.expired(now)), (wanted, expired), "{now}");
        }
    }

    /// Otherwise the reply would tell a stranger which names exist and where they may connect from.
    #[test]
    fn a_wrong_secret_learns_nothing_about_its_user() {
        let mut elsewhere = user("alice", ["one", ""]);
        elsewhere.sources = vec!["198.51.100.0/24".parse().unwrap()];
        let users = Users::new([elsewhere]);
        for (name, secret) in [("alice", "two"), ("alice", ""), ("bob", "one")] {
            let now = OffsetDateTime::now_utc();
            let checked = users.check(&basic(name, secret), CLIENT, now).map(drop);
            assert_eq!(checked, Err(DenyReason::AuthFailed), "{name}:{secret}");
        }
    }

    #[test]
    fn expired_disabled_and_misplaced_users_are_refused() {
        let now = OffsetDateTime::now_utc();
        let mut gone = user("alice", ["one", ""]);
        gone.expires = Some(now - Duration::from_secs(1));
        assert_eq!(
            check(gone, &basic("alice", "one")),
            Err(DenyReason::AuthFailed)
        );
        let mut off = user("alice", ["one", ""]);
        off.disabled = true;
        assert_eq!(
            check(off, &basic("alice", "one")),
            Err(DenyReason::AuthFailed)
        );
        let mut elsewhere = user("alice", ["one", ""]);
        elsewhere.sources = vec!["198.51.100.0/24".parse().unwrap()];
        assert_eq!(
            check(elsewhere, &basic("alice", "one")),
            Err(DenyReason::ClientDenied)
        );
    }
}
