//! Counts failed credentials, decides when they become a lock, and slows answers. A lock never
//! rejects a correct secret: it is evidence, and it slows failures. Secrets are random 256-bit
//! tokens, so guessing is hopeless at any rate that the daemon can answer.
//!
//! Failures are counted by client and name, with higher bounds by client and by site. The same
//! wrong secret counts once: a program with an old secret does not guess. Stores keyed 64-bit
//! hashes of names and secrets and writes them nowhere. The table is bounded; a full one forgets
//! the entries with the fewest failures and counts each new one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::client::ClientNetwork;
use crate::limits::forget_lowest;
use crate::wire::connect::Credentials;

/// Failures of all clients.
#[derive(Debug, Default)]
pub struct Lockout {
    /// Random, for this process only.
    hasher: RandomState,
    table: Mutex<HashMap<u64, Failures>>,
}

/// The thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Different wrong secrets for one name from one client. A client may have ten times as many in
    /// all, and a site a hundred times.
    pub failures: u32,
    /// How long failures count, and how long a lock lasts.
    pub window: Duration,
}

/// The consequence of a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether a lock was in force before this failure.
    pub is_locked: bool,
    /// Whether to delay the answer: these credentials, or others from there, have failed too often.
    pub is_slowed: bool,
    /// The lock that this failure starts; the widest if it starts several.
    pub begun: Option<Scope>,
}

/// The scope of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One name from one client.
    Name,
    /// All names from one client.
    Client,
    /// All names from one site.
    Site,
}

#[derive(Debug)]
struct Failures {
    /// Different secrets, as far as the entry remembers them.
    secrets: u32,
    /// All failures, including repeated secrets.
    tries: u32,
    is_locked: bool,
    /// When the first of them happened, or the one that locked.
    since: Instant,
    /// Keyed hashes of the last wrong secrets; 0: unused.
    last: [u64; REMEMBERED],
}

impl Scope {
    const ALL: [Self; 3] = [Self::Name, Self::Client, Self::Site];

    /// The number of failures that lock this scope, if `failures` lock a name.
    #[must_use]
    pub fn bound(self, failures: u32) -> u32 {
        failures.saturating_mul(match self {
            Self::Name => 1,
            Self::Client => 10,
            Self::Site => 100,
        })
    }
}

impl Lockout {
    /// Counts failed credentials.
    pub fn failed(
        &self,
        client: ClientNetwork,
        credentials: &Credentials,
        bounds: Bounds,
        now: Instant,
    ) -> Verdict {
        let (name, secret) = match credentials {
            Credentials::Basic { name, secret } => {
                (name.as_str(), self.hasher.hash_one(secret.as_str()).max(1))
            }
            // The same secret again is not a guess; it counts once.
            Credentials::Absent | Credentials::Unusable => ("", 1),
        };
        let key = |scope| match scope {
            Scope::Name => self.hasher.hash_one((scope, client, name)),
            Scope::Client => self.hasher.hash_one((scope, client)),
            Scope::Site => self.hasher.hash_one((scope, client.site())),
        };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut verdict = Verdict::default();
        let mut is_new = true;
        for scope in Scope::ALL {
            let bound = scope.bound(bounds.failures);
            let entry = entry(&mut table, key(scope), bounds.window, now);
            if entry.is_locked {
                // The wider lock includes the narrower one.
                verdict = Verdict {
                    is_locked: true,
                    begun: None,
                    ..verdict
                };
            }
            if scope == Scope::Name {
                is_new = entry.remember(secret);
                verdict.is_slowed |= entry.tries > bound;
            }
            if is_new && entry.locks(bound, now) {
                verdict.begun = Some(scope);
            }
        }
        verdict.is_slowed |= verdict.is_locked;
        verdict
    }
}

/// Returns the entry of this key with the failures that still count and room for a new one.
fn entry(
    table: &mut HashMap<u64, Failures>,
    key: u64,
    window: Duration,
    now: Instant,
) -> &mut Failures {
    let counts = |failures: &Failures| now.saturating_duration_since(failures.since) < window;
    if table.len() >= ENTRIES_MAX && !table.contains_key(&key) {
        forget_lowest(table, |f| (counts(f), f.is_locked, f.secrets, f.since));
    }
    let first = || Failures {
        secrets: 0,
        tries: 0,
        is_locked: false,
        since: now,
        last: [0; REMEMBERED],
    };
    let entry = table.entry(key).or_insert_with(first);
    if !counts(entry) {
        *entry = first();
    }
    entry
}

impl Failures {
    /// Counts an attempt. Returns false if this secret is one of the last ones.
    fn remember(&mut self, secret: u64) -> bool {
        self.tries = self.tries.saturating_add(1);
        if self.last.contains(&secret) {
            return false;
        }
        self.last.rotate_right(1);
        let [newest, ..] = &mut self.last;
        *newest = secret;
        true
    }

    /// Counts a failure. Returns true if it locks; the lock lasts a whole window from now.
    fn locks(&mut self, bound: u32, now: Instant) -> bool {
        self.secrets = self.secrets.saturating_add(1);
        let locks = !self.is_locked && self.secrets >= bound;
        if locks {
            (self.is_locked, self.since) = (true, now);
        }
        locks
    }
}

/// This many programs behind one address may each use another old secret of one user.
const REMEMBERED: usize = 4;
/// About 10 MB.
const ENTRIES_MAX: usize = 65_536;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    fn client(address: &str) -> ClientNetwork {
        ClientNetwork::of(address.parse().unwrap())
    }

    fn v6(site: u16, network: u16) -> ClientNetwork {
        ClientNetwork::of(Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 1).into())
    }

    fn basic(name: &str, secret: &str) -> Credentials {
        Credentials::Basic {
            name: name.to_owned().into(),
            secret: secret.to_owned().into(),
        }
    }

    /// The result of `tries` new secrets.
    fn guesses(
        lockout: &Lockout,
        client: ClientNetwork,
        name: &str,
        tries: usize,
        now: Instant,
    ) -> Vec<Verdict> {
        let guess = |number| {
            lockout.failed(
                client,
                &basic(name, &format!("{now:?} {number}")),
                BOUNDS,
                now,
            )
        };
        (0..tries).map(guess).collect()
    }

    const BOUNDS: Bounds = Bounds {
        failures: 3,
        window: Duration::from_secs(60),
    };

    #[test]
    fn a_name_is_locked_by_different_secrets_and_for_the_window() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        let home = client("192.0.2.7");
        let verdicts = guesses(&lockout, home, "alice", 5, now);
        let begun: Vec<_> = verdicts.iter().map(|verdict| verdict.begun).collect();
        assert_eq!(begun, [None, None, Some(Scope::Name), None, None], "once");
        assert_eq!(
            verdicts
                .iter()
                .map(|verdict| verdict.is_locked)
                .collect::<Vec<_>>(),
            [false, false, false, true, true]
        );
        assert!(
            !guesses(&lockout, home, "bob", 1, now)[0].is_locked,
            "another name is not"
        );
        assert!(
            !guesses(&lockout, client("192.0.2.8"), "alice", 1, now)[0].is_locked,
            "nor is another address"
        );
        let (nearly, over) = (now + Duration::from_secs(59), now + Duration::from_secs(60));
        assert!(guesses(&lockout, home, "alice", 1, nearly)[0].is_locked);
        assert!(
            !guesses(&lockout, home, "alice", 1, over)[0].is_locked,
            "the window has passed"
        );
        let first = client("2001:db8::1");
        guesses(&lockout, first, "alice", 3, now);
        assert!(
            guesses(&lockout, client("2001:db8::2"), "alice", 1, now)[0].is_locked,
            "one host has the whole /64"
        );
    }

    #[test]
    fn the_same_secret_counts_once_and_is_slowed() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        let home = client("192.0.2.7");
        let old = ["one", "two"].map(|secret| basic("alice", secret));
        let tries = || {
            (0..50)
                .flat_map(|_| &old)
                .map(|old| lockout.failed(home, old, BOUNDS, now))
        };
        let verdicts: Vec<_> = tries().collect();
        assert!(
            verdicts
                .iter()
                .all(|verdict| !verdict.is_locked && verdict.begun.is_none())
        );
        assert_eq!(
            verdicts.iter().position(|verdict| verdict.is_slowed),
            Some(3),
            "the fourth try, and all behind it"
        );
        assert!(
            lockout
                .failed(home, &basic("alice", "three"), BOUNDS, now)
                .begun
                .is_some(),
            "the third secret locks"
        );
        let unusable = (0..50).map(|_| lockout.failed(home, &Credentials::Unusable, BOUNDS, now));
        assert!(unusable.into_iter().all(|verdict| !verdict.is_locked));
    }

    #[test]
    fn many_names_lock_the_client_and_many_clients_the_site() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        let begun =
            |client: ClientNetwork, name: &str| guesses(&lockout, client, name, 1, now)[0].begun;
        let names: Vec<_> = (0..30)
            .map(|number| begun(v6(1, 0), &format!("user{number}")))
            .collect();
        assert_eq!(
            names.iter().position(|begun| *begun == Some(Scope::Client)),
            Some(29),
            "ten times as many"
        );
        let more = guesses(&lockout, v6(1, 0), "nobody yet", 5, now);
        assert!(
            more.iter()
                .all(|verdict| verdict.is_locked && verdict.begun.is_none()),
            "no record for each name then"
        );
        let networks: Vec<_> = (1..300)
            .map(|network| begun(v6(1, network), "alice"))
            .collect();
        assert!(
            networks.contains(&Some(Scope::Site)),
            "a hundred times as many"
        );
        assert!(guesses(&lockout, v6(1, 999), "alice", 1, now)[0].is_locked);
        assert!(
            !guesses(&lockout, v6(2, 0), "alice", 1, now)[0].is_locked,
            "another site is not"
        );
    }

    #[test]
    fn a_full_table_is_bounded_counts_newcomers_and_keeps_locks() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        let locked = v6(9, 0);
        guesses(&lockout, locked, "alice", 3, now);
        // More networks of one site than the table holds, each with one failure.
        for network in 0..=u16::MAX {
            lockout.failed(v6(1, network), &basic("alice", "x"), BOUNDS, now);
        }
        assert!(lockout.table.lock().unwrap().len() <= ENTRIES_MAX);
        assert!(
            guesses(&lockout, locked, "alice", 1, now)[0].is_locked,
            "a lock is not pushed out by single failures"
        );
        let newcomer = guesses(&lockout, v6(2, 0), "alice", 3, now);
        assert_eq!(
            newcomer[2].begun,
            Some(Scope::Name),
            "a newcomer is counted"
        );
        assert!(
            guesses(&lockout, v6(1, 7), "alice", 1, now)[0].is_locked,
            "and the site has long been locked"
        );
    }

    #[test]
    fn a_table_full_of_locks_still_counts() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        let bounds = Bounds {
            failures: 1,
            ..BOUNDS
        };
        for network in 0..=u16::MAX {
            lockout.failed(v6(network, network), &basic("alice", "x"), bounds, now);
        }
        assert!(lockout.table.lock().unwrap().len() <= ENTRIES_MAX);
        let later = now + Duration::from_secs(1);
        assert!(!guesses(&lockout, client("192.0.2.7"), "alice", 3, later)[1].is_locked);
        assert!(guesses(&lockout, client("192.0.2.7"), "alice", 1, later)[0].is_locked);
    }

    #[test]
    fn a_reload_of_the_number_of_failures_neither_opens_nor_makes_a_lock() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        let home = client("192.0.2.7");
        let failed = |secret: usize, failures: u32| {
            lockout.failed(
                home,
                &basic("alice", &secret.to_string()),
                Bounds { failures, ..BOUNDS },
                now,
            )
        };
        assert!(failed(0, 1).begun.is_some());
        assert!(failed(1, 5).is_locked, "raised");
        let later = now + BOUNDS.window;
        let failed = |secret: usize, failures: u32| {
            lockout.failed(
                home,
                &basic("alice", &secret.to_string()),
                Bounds { failures, ..BOUNDS },
                later,
            )
        };
        assert!((0..4).all(|secret| failed(secret, 5).begun.is_none()));
        let lowered = failed(4, 2);
        assert!(
            !lowered.is_locked && lowered.begun.is_some(),
            "lowered: the next one locks, and is told of"
        );
    }
}
