//! Counts failed credentials, decides when they become a lock, and slows answers. A lock never
//! rejects a correct secret: it is evidence, and it slows failures. Secrets are random 256-bit
//! tokens, so guessing is hopeless at any rate that the daemon can answer.
//!
//! Failures are counted by client and name, with higher bounds by client and by site. The same
//! wrong secret counts once: a program with an old secret does not guess. Stores keyed 64-bit
//! hashes of names and secrets and writes them nowhere. The table is bounded; a full one forgets
//! the entries with the fewest failures and counts each new one.

mod parked;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::digest::KeyedHash;
use crate::limits::client::ClientNetwork;
use crate::limits::forget_lowest;
use crate::wire::connect::Credentials;

/// Failures of all clients.
#[derive(Debug)]
pub struct Lockout {
    /// Random; goes from one daemon to the next with the table.
    hasher: RwLock<KeyedHash>,
    /// One lock, not a sharded table: a failure counts under three keys, and all three entries
    /// decide one verdict. Only failed credentials take it, for some microseconds.
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

impl Default for Lockout {
    fn default() -> Self {
        let mut key = [0; 32];
        // Without random bytes from the kernel the hashes can be guessed, and no lock is weaker.
        let _guessable = getrandom::fill(&mut key);
        Self {
            hasher: RwLock::new(KeyedHash::new(key)),
            table: Mutex::default(),
        }
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
        let hasher = self
            .hasher
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (name, secret) = match credentials {
            Credentials::Basic { name, secret } => {
                (name.as_str(), hasher.hash(&secret.as_str()).max(1))
            }
            // The same secret again is not a guess; it counts once.
            Credentials::Absent | Credentials::Unusable => ("", 1),
        };
        let key = |scope| match scope {
            Scope::Name => hasher.hash(&(scope, client, name)),
            Scope::Client => hasher.hash(&(scope, client)),
            Scope::Site => hasher.hash(&(scope, client.site())),
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
mod tests;
