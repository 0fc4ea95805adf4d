//! What all tunnels share: the snapshot of the configuration in force, counters, limits, and the stages of stopping.
//!
//! A tunnel takes one [`Snapshot`] at its start and is set up by no other, so a reload never changes the rules half way.
//! Holds no tunnel's state.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::audit::{Audit, Refusals, TunnelId};
use crate::auth::lockout::Lockout;
use crate::authority::UserId;
use crate::config::Config;
use crate::dial::Egress;
use crate::limits::account::Accounts;
use crate::limits::budget::Budget;
use crate::limits::client::{ClientNetwork, ClientSite};
use crate::limits::handshakes::HandshakeMemory;
use crate::limits::rate::Rates;
use crate::limits::{Count, Table};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::metrics::recent::Recent;
use crate::resolve::Resolver;

/// Shared by all workers, the admin listener and the daemon.
#[derive(Debug)]
pub struct Shared {
    /// The configuration in force; [`Shared::put_in_force`] replaces it.
    pub snapshot: ArcSwap<Snapshot>,
    /// Rises whenever what was let in has to be judged again.
    generation: AtomicU64,
    /// When the daemon started.
    pub started: Instant,
    /// How the last reload went; None: there was none.
    pub last_reload: ArcSwapOption<Reload>,
    /// An operator keeps new tunnels away, whatever is reloaded; None: they are taken.
    pub drain: ArcSwapOption<Drain>,
    /// Counters.
    pub metrics: Metrics,
    /// What they did lately.
    pub recent: Recent,
    /// The last refusals.
    pub refusals: Refusals,
    /// The audit writer.
    pub audit: Audit,
    /// What operators see of each live tunnel.
    pub live: Live,
    /// Each wakes one worker; empty until they run.
    pub workers: OnceLock<Vec<Waker>>,
    /// Tunnels, all together.
    pub tunnels: Count,
    /// Tunnels by client, and by user where there are users.
    pub clients: Table<Requester>,
    /// Tunnels by IPv6 site, where there are no users.
    pub sites: Table<ClientSite>,
    /// Tunnels that have been stalled for a while, by who holds them.
    pub stalled: Table<Holder>,
    /// The memory that unfinished handshakes share.
    pub handshakes: HandshakeMemory<Holder>,
    /// Accepted connections by client.
    pub accepts: Rates,
    /// Accepted connections by IPv6 site.
    pub site_accepts: Rates<ClientSite>,
    /// CONNECT requests by client, and by user where the credentials are right.
    pub connects: Rates<Requester>,
    /// Attempts at upstreams beyond the first one of each tunnel.
    pub attempts: Count,
    /// What the limit on open files allows.
    pub budget: Budget,
    /// Whether accept(2) has found no descriptor left, and none has been found free since.
    pub is_short: AtomicBool,
    /// Refused connections that wait for their peer to close.
    pub lingering: Count,
    /// Tunnels that are open.
    pub active: AtomicUsize,
    /// Failed credentials.
    pub lockout: Lockout,
    /// This host's addresses, which no tunnel may lead to; refreshed by the daemon.
    pub own_addresses: OwnAddresses,
    /// How far stopping has come.
    pub stages: Stages,
    /// Numbers the tunnels.
    pub ids: Ids,
}

impl Shared {
    /// The state of a daemon that starts now.
    #[must_use]
    pub fn new(
        snapshot: Snapshot,
        metrics: Metrics,
        audit: Audit,
        budget: Budget,
        own_addresses: Vec<IpAddr>,
    ) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            generation: AtomicU64::new(0),
            started: Instant::now(),
            last_reload: Default::default(),
            drain: Default::default(),
            metrics,
            recent: Recent::new(Instant::now()),
            refusals: Default::default(),
            audit,
            live: Default::default(),
            workers: Default::default(),
            tunnels: Default::default(),
            clients: Default::default(),
            sites: Default::default(),
            stalled: Default::default(),
            handshakes: Default::default(),
            accepts: Default::default(),
            site_accepts: Default::default(),
            connects: Default::default(),
            attempts: Default::default(),
            budget,
            is_short: Default::default(),
            lingering: Default::default(),
            active: AtomicUsize::new(0),
            lockout: Default::default(),
            own_addresses: OwnAddresses::new(own_addresses),
            stages: Stages::default(),
            ids: Ids::starting_at(u64::try_from(unix_time().as_millis()).unwrap_or(0)),
        }
    }

    /// Puts a configuration in force. Workers judge their tunnels by it in their next turn.
    pub fn put_in_force(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.judge_again();
    }

    /// Has every worker look around now: it finds what it was told meanwhile.
    pub fn wake_workers(&self) {
        let workers = self.workers.get().into_iter().flatten();
        workers.for_each(Waker::wake_by_ref);
    }

    /// Has every worker judge its tunnels again in its next turn.
    pub fn judge_again(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// What tunnels are to be judged by now. Whoever loads the snapshot behind it gets that generation's or a newer one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Tunnels at once: what the configuration allows, as far as the limit on open files carries it.
    #[must_use]
    pub fn tunnels_max(&self) -> usize {
        self.snapshot
            .load()
            .config
            .limits
            .tunnels
            .min(self.budget.tunnels)
    }
}

/// Who asks for tunnels: a client, and its user where there are users. Users that share an address therefore share no
/// bound, neither with each other nor with a stranger.
pub type Requester = (ClientNetwork, Option<UserId>);

/// Who answers for an open tunnel: its user, wherever the user connects from, or its client where there are no users.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// The user.
    User(UserId),
    /// The client.
    Client(ClientNetwork),
}

/// One configuration and what was made from it.
#[derive(Debug)]
pub struct Snapshot {
    /// The configuration.
    pub config: Config,
    /// The static source addresses.
    pub egress: Egress,
    /// What each user has of what is counted.
    pub accounts: Accounts,
    /// Look-ups as this configuration wants them.
    pub resolver: Arc<Resolver>,
}

/// The addresses of this host's interfaces, listed every second.
#[derive(Debug)]
pub struct OwnAddresses {
    list: ArcSwap<Vec<IpAddr>>,
    /// Attempts to list them, one a second, that have failed since the last one that did not.
    failures: AtomicUsize,
}

impl OwnAddresses {
    fn new(list: Vec<IpAddr>) -> Self {
        Self {
            list: ArcSwap::from_pointee(list),
            failures: AtomicUsize::new(0),
        }
    }

    /// The last list.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Vec<IpAddr>>> {
        self.list.load()
    }

    /// Takes a new list.
    pub fn renew(&self, list: Vec<IpAddr>) {
        self.list.store(Arc::new(list));
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Notes that they could not be listed.
    pub fn missed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the last list is still good: less than two attempts have failed since. Where it is not, nothing is
    /// dialled, because an address that is new to this host would not be known.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < MISSED_MAX
    }
}

/// How a reload went.
#[derive(Debug)]
pub struct Reload {
    /// When.
    pub at: OffsetDateTime,
    /// Why it was refused; None: what it read is in force.
    pub error: Option<String>,
}

/// A drain that an operator has begun: new tunnels are refused, live ones go on.
#[derive(Debug)]
pub struct Drain {
    /// When.
    pub at: OffsetDateTime,
    /// Who, as the audit record has it.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

/// Stopping in four steps, each a token that stays cancelled.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// `/readyz` says no; everything else goes on.
    pub leaving: CancellationToken,
    /// No new tunnels; live ones go on.
    pub draining: CancellationToken,
    /// Live tunnels are reset.
    pub kill: CancellationToken,
    /// Whoever is still there is left behind.
    pub gone: CancellationToken,
    /// A worker cannot go on, so the daemon has to end.
    pub failed: CancellationToken,
}

/// The time since the Unix epoch; zero for a clock before it.
#[must_use]
pub fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Makes identifiers that do not repeat across restarts.
#[derive(Debug)]
pub struct Ids {
    start: u64,
    next: AtomicU64,
}

impl Ids {
    /// Identifiers of this process: its start in milliseconds and a number.
    #[must_use]
    pub fn starting_at(unix_ms: u64) -> Self {
        Self {
            start: unix_ms,
            next: AtomicU64::new(1),
        }
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of an identifier of this process, as [`TunnelId`] is written; None: it is none.
    #[must_use]
    pub fn number_of(&self, id: &str) -> Option<u64> {
        let (start, number) = id.split_once('-')?;
        let parse = |digits: &str| {
            let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u64::from_str_radix(digits, 16).ok().filter(|_| is_plain)
        };
        (parse(start)? == self.start).then(|| parse(number))?
    }

    /// The identifier that belongs to a number.
    #[must_use]
    pub fn of(&self, number: u64) -> TunnelId {
        TunnelId {
            start: self.start,
            number,
        }
    }
}

/// Two seconds.
const MISSED_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_leads_back_to_its_number_in_its_own_process_only() {
        let ids = Ids::starting_at(0x1a2);
        assert_eq!(ids.number_of(&ids.of(0x2b).to_string()), Some(0x2b));
        assert_eq!(ids.number_of(&ids.of(u64::MAX).to_string()), Some(u64::MAX));
        for wrong in [
            "",
            "-",
            "1a2",
            "1a2-",
            "-2b",
            "1a3-2b",
            "1a2-+2",
            "+1a2-2b",
            "1a2-2b-3",
            "1a2-g",
            "1a2-10000000000000000",
            " 1a2-2b",
        ] {
            assert_eq!(ids.number_of(wrong), None, "{wrong}");
        }
    }
}
