//! State that all tunnels share: the snapshot of the configuration in force, counters, limits, and
//! the stages of stopping.
//!
//! Set-up reads one [`Snapshot`] from start to end, so a reload never changes the rules half way.
//! This module holds no state of a single tunnel.

mod limits;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::audit::{Audit, Refusals, TunnelId};
use crate::config::Config;
use crate::dial::Egress;
use crate::dial::warm::{Closed, WarmPool};
use crate::handover::parking::Parking;
use crate::limits::account::Accounts;
use crate::limits::budget::Budget;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::metrics::recent::Recent;
use crate::outcome::CloseReason;
use crate::policy::guard::OwnAddresses;
use crate::resolve::Resolver;
pub use limits::{Holder, Limits, Requester};

/// State of the workers, the admin listener and the daemon.
#[derive(Debug)]
pub struct Shared {
    /// The configuration in force; [`Shared::put_in_force`] replaces it.
    pub snapshot: ArcSwap<Snapshot>,
    /// Incremented when workers have to judge their tunnels again.
    generation: AtomicU64,
    /// Rises when an egress address is lost.
    losses: AtomicU64,
    /// The bounds of tunnels and clients.
    pub limits: Limits,
    /// What the daemon counts and records.
    pub evidence: Evidence,
    /// Start, reload, drain and stop.
    pub lifecycle: Lifecycle,
    /// The addresses of this host, which no tunnel may reach; the daemon refreshes them.
    pub own_addresses: KnownOwnAddresses,
    /// The live tunnels, for operators.
    pub live: Live,
    /// Allocates the numbers of tunnels.
    pub ids: Ids,
    /// One waker for each worker; empty until the workers are prepared.
    pub workers: OnceLock<Vec<Waker>>,
}

/// What the daemon counts and records.
#[derive(Debug)]
pub struct Evidence {
    /// The counters of `/metrics`.
    pub metrics: Metrics,
    /// Recent history of the counters, for `/status`.
    pub recent: Recent,
    /// The number of open tunnels.
    pub active: AtomicUsize,
    /// The last refusals, for `/status`.
    pub refusals: Refusals,
    /// The audit writer.
    pub audit: Audit,
}

/// Start, reload, drain and stop.
#[derive(Debug)]
pub struct Lifecycle {
    /// When the daemon started.
    pub started: Instant,
    /// The result of the last reload; None before the first.
    pub last_reload: ArcSwapOption<Reload>,
    /// Set while an operator drains the daemon; a reload does not clear it.
    pub drain: ArcSwapOption<Drain>,
    /// The stages of stopping.
    pub stages: Stages,
    /// Set when the daemon hands its tunnels over: it accepts no more connections.
    pub parking: OnceLock<Arc<Parking>>,
    /// The tunnels that this daemon has continued; None if no other daemon handed any over.
    pub takeover: ArcSwapOption<Takeover>,
}

/// The result of a hand-over for the daemon that continues the tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// When the last tunnel was continued.
    pub at: OffsetDateTime,
    /// Continued tunnels.
    pub adopted: usize,
    /// Tunnels that could not be continued, and were reset.
    pub refused: usize,
    /// Tunnels of the list on disk that did not come.
    pub lost: usize,
    /// How long no daemon had the tunnels.
    pub pause: Duration,
}

impl Shared {
    /// Creates the state of a daemon at its start.
    #[must_use]
    pub fn new(
        snapshot: Snapshot,
        metrics: Metrics,
        audit: Audit,
        budget: Budget,
        own_addresses: Vec<IpAddr>,
    ) -> Self {
        let started = Instant::now();
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            generation: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            limits: Limits::new(budget),
            evidence: Evidence {
                metrics,
                recent: Recent::new(started),
                active: AtomicUsize::new(0),
                refusals: Refusals::default(),
                audit,
            },
            lifecycle: Lifecycle {
                started,
                last_reload: ArcSwapOption::empty(),
                drain: ArcSwapOption::empty(),
                stages: Stages::default(),
                parking: OnceLock::new(),
                takeover: ArcSwapOption::empty(),
            },
            own_addresses: KnownOwnAddresses::new(own_addresses),
            live: Live::default(),
            ids: Ids::starting_at(u64::try_from(unix_time().as_millis()).unwrap_or(0)),
            workers: OnceLock::new(),
        }
    }

    /// Replaces the configuration in force. Workers judge their tunnels by it in their next turn. Returns the warm sockets
    /// that it has closed.
    #[must_use]
    pub fn put_in_force(&self, snapshot: Snapshot) -> Closed {
        let former = self.snapshot.swap(Arc::new(snapshot));
        self.judge_again();
        Closed::all(CloseReason::Reload, former.warm.close())
    }

    /// Closes the warm sockets for good, and counts them.
    pub fn close_warm(&self, reason: CloseReason) {
        let closed = Closed::all(reason, self.snapshot.load().warm.close());
        self.evidence.metrics.warm.closed(closed.each());
    }

    /// Whether the daemon admits tunnels; otherwise it keeps no warm sockets.
    #[must_use]
    pub fn keeps_warm(&self) -> bool {
        let Lifecycle {
            drain,
            stages,
            parking,
            ..
        } = &self.lifecycle;
        drain.load().is_none() && !stages.draining.is_cancelled() && parking.get().is_none()
    }

    /// Wakes every worker, so that it notices orders and generations at once.
    pub fn wake_workers(&self) {
        let workers = self.workers.get().into_iter().flatten();
        workers.for_each(Waker::wake_by_ref);
    }

    /// Makes every worker judge its tunnels again in its next turn.
    pub fn judge_again(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The generation of the configuration. A worker that reads this first and then loads the
    /// snapshot gets that generation or a newer one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes every worker end the tunnels of lost egress addresses in its next turn.
    pub fn note_loss(&self) {
        self.losses.fetch_add(1, Ordering::Release);
    }

    /// How often an egress address has been lost.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// The most tunnels at once: the configured limit, or less if the limit on open files is too
    /// low for it.
    #[must_use]
    pub fn tunnels_max(&self) -> usize {
        self.snapshot
            .load()
            .config
            .limits
            .tunnels
            .min(self.limits.budget.tunnels)
    }
}

/// One configuration and the state built from it.
#[derive(Debug)]
pub struct Snapshot {
    /// The configuration.
    pub config: Config,
    /// The static source addresses.
    pub egress: Egress,
    /// The counts of each user.
    pub accounts: Accounts,
    /// The resolver that this configuration describes.
    pub resolver: Arc<Resolver>,
    /// The warm sockets. Only tunnels of this configuration use them.
    pub warm: WarmPool,
}

/// The last list of [`OwnAddresses`]. The daemon renews it every second.
#[derive(Debug)]
pub struct KnownOwnAddresses {
    list: ArcSwap<OwnAddresses>,
    /// Failed attempts to list the addresses since the last success.
    failures: AtomicUsize,
}

impl KnownOwnAddresses {
    fn new(list: Vec<IpAddr>) -> Self {
        Self {
            list: ArcSwap::from_pointee(OwnAddresses::new(list)),
            failures: AtomicUsize::new(0),
        }
    }

    /// Returns the last list.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<OwnAddresses>> {
        self.list.load()
    }

    /// Stores a new list.
    pub fn renew(&self, list: Vec<IpAddr>) {
        self.list.store(Arc::new(OwnAddresses::new(list)));
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Counts a failed attempt.
    pub fn missed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the last list is current: fewer than two attempts in a row have failed. Otherwise
    /// nothing is dialled, because the list may lack a new address of this host.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < MISSED_MAX
    }
}

/// The result of a reload.
#[derive(Debug)]
pub struct Reload {
    /// When the reload ended.
    pub at: OffsetDateTime,
    /// The reason for a refusal; None if the new configuration is in force.
    pub error: Option<String>,
}

/// An operator's drain: the daemon refuses new tunnels, live tunnels continue.
#[derive(Debug)]
pub struct Drain {
    /// When the operator drained the daemon.
    pub at: OffsetDateTime,
    /// The operator, as in the audit record.
    pub by: String,
    /// The reason that the operator gave.
    pub reason: Option<String>,
}

/// The stages of stopping, each a token that stays cancelled.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// `/readyz` reports 503; everything else continues.
    pub leaving: CancellationToken,
    /// The daemon refuses new tunnels; live tunnels continue.
    pub draining: CancellationToken,
    /// Attempts in set-up end.
    pub set_ups_end: CancellationToken,
    /// Workers reset live tunnels.
    pub kill: CancellationToken,
    /// Workers end, even if tunnels remain.
    pub gone: CancellationToken,
    /// A worker has failed, so the daemon stops.
    pub failed: CancellationToken,
}

/// The time since the Unix epoch; zero for a clock before it.
#[must_use]
pub fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Allocates identifiers that do not repeat after a restart.
#[derive(Debug)]
pub struct Ids {
    start: u64,
    next: AtomicU64,
}

impl Ids {
    /// Starts the identifiers of this process at its start time, in milliseconds.
    #[must_use]
    pub fn starting_at(unix_ms: u64) -> Self {
        Self {
            start: unix_ms,
            next: AtomicU64::new(1),
        }
    }

    /// Allocates the next identifier.
    pub fn next(&self) -> TunnelId {
        TunnelId {
            start: self.start,
            number: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Attempts; one takes place each second.
const MISSED_MAX: usize = 2;
