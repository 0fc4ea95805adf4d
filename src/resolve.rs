//! Resolves names to addresses: fixed answers from the configuration and hosts(5) first, then DNS
//! with TTLs. When DNS is down, an answer stays usable for a bounded time after its TTL. Follows
//! `/etc/resolv.conf` and `/etc/hosts` as they change.
//!
//! Queries only the address families that have an egress address. Runs on the DNS runtime, never on
//! a worker. Everything that peers can cause is bounded: the bytes remembered (`cache`), the
//! look-ups in flight and the share of one user or client (`permits`), the sockets of a look-up
//! (`exchange`) and the size of its answers (`message`). A look-up is cancelled when the last
//! tunnel that waits for it ends (`flights`). Never judges an address; the address guard does. TTLs
//! follow RFC 1035, stale answers RFC 8767.

mod asker;
mod cache;
mod exchange;
mod files;
mod flights;
mod hosts;
mod message;
mod permits;
mod resolv_conf;
mod server;
mod system;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::authority::Host;
use crate::outcome::Lookup;
pub use asker::{Asker, Families, Holder};
use cache::{AnswerCache, Key};
use exchange::Exchange;
pub use exchange::ServerError;
use files::Files;
pub use files::Looked;
use flights::Flights;
use hosts::HostsFile;
pub use message::AnswerError;
use message::Found;
use permits::{LookupPermit, LookupPermits};
use resolv_conf::ResolvConf;
pub use server::{Server, ServerTextError};
use system::Look;
pub use system::{Notice, NoticeKind, SystemFile};

/// How names are looked up.
#[derive(Clone, Debug, Default)]
pub struct DnsConfig {
    /// Name servers in the order in which they are queried; empty: those of resolv.conf(5).
    pub servers: Vec<Server>,
    /// The limit for one look-up, retries included (`dns.timeout`).
    pub timeout: Duration,
    /// The longest time for which the resolver remembers that a name has no addresses.
    pub negative_ttl_max: Duration,
    /// Fixed answers (`dns.hosts`).
    pub hosts: HashMap<Host, Vec<IpAddr>>,
}

/// Resolves names; shared by all workers.
#[derive(Debug)]
pub struct Resolver {
    config: DnsConfig,
    /// The servers in force. A look-up in flight restarts when they change.
    exchange: watch::Sender<Arc<Exchange>>,
    hosts: ArcSwap<HostsFile>,
    /// None when the configuration names the servers; then the machine's files are not read.
    files: Option<Mutex<Files>>,
    runtime: Handle,
    cache: Mutex<AnswerCache>,
    flights: Arc<Flights>,
    permits: Arc<LookupPermits>,
}

/// The addresses of a name, and their source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// At least one address.
    pub addresses: Vec<IpAddr>,
    /// [`Lookup::Ok`], [`Lookup::Fixed`] or [`Lookup::Stale`].
    pub lookup: Lookup,
}

/// Why a name has no usable address.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    /// No server answered in time.
    #[error("no answer from DNS within {0:?}")]
    Timeout(Duration),
    /// The look-up got no permit in time, because other look-ups, or those of the same client, are
    /// slow.
    #[error("too many look-ups are in flight: this one could not start within {0:?}")]
    Busy(Duration),
    /// The name does not exist, or has no address of a family that has an egress address.
    #[error("the name has no address of a family that has an egress address")]
    NoAddress,
    /// The answer exceeds a bound.
    #[error("DNS: {0}")]
    Refused(#[from] AnswerError),
    /// The servers answered with an error, or could not be queried.
    #[error("DNS: {0}")]
    Failed(#[from] ServerError),
    /// The DNS thread has ended; the daemon is stopping.
    #[error("the resolver has stopped")]
    Stopped,
}

impl Resolver {
    /// Creates a resolver that queries on `runtime`, with at most `look_ups_max` look-ups at once.
    ///
    /// Three things carry over from `known`, the resolver before a reload: its last good answers,
    /// so a reload while DNS is down loses none; the last usable contents of the files, so a broken
    /// file changes nothing; and its permits, so that its look-ups in flight count until they end.
    ///
    /// Reads the machine's files, unless the configuration names servers. A broken or missing file
    /// never makes it fail.
    pub fn new(
        config: DnsConfig,
        runtime: Handle,
        look_ups_max: usize,
        known: Option<&Self>,
    ) -> Arc<Self> {
        let files = config.servers.is_empty().then(|| {
            let followed = known.and_then(|known| Some(lock(known.files.as_ref()?).clone()));
            followed.map_or_else(Files::start, Files::look_now)
        });
        let (hosts, exchange) = match &files {
            Some(files) => (
                Arc::clone(files.hosts.value()),
                files.exchange(config.timeout),
            ),
            None => {
                let servers = config.servers.clone();
                let exchange = Exchange::new(servers, &ResolvConf::default(), config.timeout);
                (Arc::default(), exchange)
            }
        };
        let mut cache = known
            .map(|known| known.remembered(|cache| cache.clone()))
            .unwrap_or_default();
        cache.make_stale(Instant::now());
        let permits = known.map_or_else(
            || Arc::new(LookupPermits::new(look_ups_max)),
            |known| Arc::clone(&known.permits),
        );
        Arc::new(Self {
            config,
            exchange: watch::Sender::new(Arc::new(exchange)),
            hosts: ArcSwap::new(hosts),
            files: files.map(Mutex::new),
            runtime,
            cache: Mutex::new(cache),
            flights: Arc::default(),
            permits,
        })
    }

    /// Checks whether `/etc/resolv.conf` or `/etc/hosts` has changed, and applies the change. After
    /// a change of servers, earlier answers are used only when DNS fails, and look-ups in flight
    /// restart. Blocks on the file system.
    pub fn look_at_files(&self) -> Looked {
        let Some(files) = &self.files else {
            return Looked::default();
        };
        let mut files = lock(files);
        let files = &mut *files;
        let looks = (
            files.resolv_conf.look(&mut files.notices),
            files.hosts.look(&mut files.notices),
        );
        if looks.1 == Look::Changed {
            self.hosts.store(Arc::clone(files.hosts.value()));
        }
        if looks.0 == Look::Changed {
            let exchange = Arc::new(files.exchange(self.config.timeout));
            self.remembered(|cache| {
                self.exchange.send_replace(exchange);
                cache.make_stale(Instant::now());
            });
        } else if looks.1 == Look::Changed {
            // Wakes the look-ups in flight, because the file may fix their names now.
            self.exchange.send_modify(|_| ());
        }
        Looked {
            notices: std::mem::take(&mut files.notices),
            is_settling: looks.0 == Look::Settling || looks.1 == Look::Settling,
        }
    }

    /// The source of a name's fixed addresses. Returns None if the name has none and DNS is
    /// queried.
    #[must_use]
    pub fn fixed_in(&self, host: &Host) -> Option<&'static str> {
        if self.config.hosts.contains_key(host) {
            Some("dns.hosts")
        } else if self.hosts.load().addresses(host).is_some() {
            Some(SystemFile::Hosts.path())
        } else {
            hosts::special(host).map(|_| "RFC 6761")
        }
    }

    /// Resolves a name within `dns.timeout`, plus the same time again to wait for a permit.
    ///
    /// # Errors
    /// One [`ResolveError`] for each reason why there is no address.
    pub async fn resolve(
        self: &Arc<Self>,
        host: &Host,
        families: Families,
        asker: Asker,
    ) -> Result<Resolved, ResolveError> {
        if let Some(fixed) = self.fixed(host, families) {
            return fixed;
        }
        let key = Key {
            host: host.clone(),
            families,
        };
        if let Some(known) = self.known(&key) {
            return known;
        }
        if let Some(flight) = self.flights.join(&key) {
            return flight.await;
        }
        let is_named = asker.is_named;
        let permit = match self.permits.try_acquire(&asker) {
            Some(permit) => permit,
            None => {
                let permit = self.wait_for_permit(asker).await?;
                // Another look-up may have answered the same question during the wait.
                if let Some(known) = self.known(&key) {
                    return known;
                }
                permit
            }
        };
        let look_up = Arc::clone(self).look_up(key.clone(), is_named, permit);
        self.flights
            .join_or_start(key, &self.runtime, look_up)
            .await
    }

    /// The fixed addresses of a name: from the configuration, otherwise from the hosts file,
    /// otherwise as a special-use name. DNS adds none to them.
    fn fixed(&self, host: &Host, families: Families) -> Option<Result<Resolved, ResolveError>> {
        let file = self.hosts.load();
        let fixed = self.config.hosts.get(host).map(Vec::as_slice);
        let fixed = fixed.or_else(|| file.addresses(host));
        let fixed = fixed.or_else(|| hosts::special(host))?;
        let usable = fixed.iter().copied();
        let usable = usable.filter(|address| families.has(*address));
        Some(resolved(usable.collect(), Lookup::Fixed))
    }

    /// The remembered answer, if it may be used without a query.
    fn known(&self, key: &Key) -> Option<Result<Resolved, ResolveError>> {
        let now = Instant::now();
        self.remembered(|cache| {
            let fresh = cache
                .fresh(key, now)
                .map(|addresses| resolved(addresses, Lookup::Ok));
            fresh.or_else(|| {
                cache
                    .while_down(key, now)
                    .map(|addresses| resolved(addresses, Lookup::Stale))
            })
        })
    }

    /// Waits for a permit in a task of the DNS runtime, because only that runtime drives the timer.
    async fn wait_for_permit(&self, asker: Asker) -> Result<LookupPermit, ResolveError> {
        let (permits, limit) = (Arc::clone(&self.permits), self.config.timeout);
        let waiting = self
            .runtime
            .spawn(async move { timeout(limit, permits.acquire(&asker)).await });
        let waited = AbortOnDropHandle::new(waiting)
            .await
            .map_err(|_| ResolveError::Stopped)?;
        waited.map_err(|_| ResolveError::Busy(limit))
    }

    /// The task of a look-up. It holds its permit until its sockets are closed.
    async fn look_up(
        self: Arc<Self>,
        key: Key,
        is_named: bool,
        permit: LookupPermit,
    ) -> Result<Resolved, ResolveError> {
        let answer = self.ask(key, is_named).await;
        drop(permit);
        answer
    }

    /// Queries the servers in force, and restarts when they change, so that a tunnel does not wait
    /// for the time-out of dead servers.
    async fn ask(&self, key: Key, is_named: bool) -> Result<Resolved, ResolveError> {
        let limit = self.config.timeout;
        let mut servers = self.exchange.subscribe();
        let mut changes = CHANGES_MAX;
        loop {
            let exchange = Arc::clone(&servers.borrow_and_update());
            let asking = timeout(limit, exchange.ask(&key.host, key.families));
            tokio::select! {
                asked = asking => {
                    let asked = asked.unwrap_or(Err(ResolveError::Timeout(limit)));
                    return self.remember_or_recall(key, is_named, asked, &exchange);
                }
                Ok(()) = servers.changed(), if changes > 0 => changes -= 1,
            }
            if let Some(fixed) = self.fixed(&key.host, key.families) {
                return fixed;
            }
        }
    }

    /// Remembers an answer. If DNS itself fails, returns the last good answer instead. "No such
    /// name" is an answer. An answer that exceeds a bound is an error and is not remembered. An
    /// answer from servers that are no longer in force is used once and not remembered as fresh.
    fn remember_or_recall(
        &self,
        key: Key,
        is_named: bool,
        asked: Result<Found, ResolveError>,
        by: &Arc<Exchange>,
    ) -> Result<Resolved, ResolveError> {
        let now = Instant::now();
        self.remembered(|cache| match asked {
            Ok(Found { addresses, ttl }) => {
                let ttl = if !Arc::ptr_eq(by, &self.exchange.borrow()) {
                    Duration::ZERO
                } else if addresses.is_empty() {
                    // A newly created name must not stay unknown for as long as its zone's SOA
                    // allows.
                    ttl.min(self.config.negative_ttl_max)
                } else {
                    ttl
                };
                cache.insert(key, is_named, &addresses, ttl, now);
                resolved(addresses, Lookup::Ok)
            }
            Err(error @ (ResolveError::NoAddress | ResolveError::Refused(_))) => Err(error),
            Err(error) => cache
                .recall(&key, now)
                .map_or(Err(error), |addresses| resolved(addresses, Lookup::Stale)),
        })
    }

    fn remembered<T>(&self, act: impl FnOnce(&mut AnswerCache) -> T) -> T {
        act(&mut lock(&self.cache))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn resolved(addresses: Vec<IpAddr>, lookup: Lookup) -> Result<Resolved, ResolveError> {
    if addresses.is_empty() {
        Err(ResolveError::NoAddress)
    } else {
        Ok(Resolved { addresses, lookup })
    }
}

impl ResolveError {
    /// The `result` label of `sealway_dns_lookups_total`.
    #[must_use]
    pub fn lookup(&self) -> Lookup {
        match self {
            Self::Timeout(_) | Self::Busy(_) => Lookup::Timeout,
            Self::NoAddress => Lookup::NoAddress,
            Self::Refused(_) | Self::Failed(_) | Self::Stopped => Lookup::Failed,
        }
    }
}

/// The most restarts of one look-up after changes of the servers.
const CHANGES_MAX: usize = 3;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
