//! Names → addresses: fixed answers of the configuration and of hosts(5) first, then DNS with TTLs; an answer outlives
//! its TTL for a bounded while when DNS is down. Follows `/etc/resolv.conf` and `/etc/hosts` as they change.
//!
//! Asks only for the families that have an egress address. Runs on the runtime of DNS, never on a worker. What peers
//! can cause is bounded: the bytes remembered (`answers`), the look-ups in flight and the share of one user or client
//! (`turns`), the sockets of each (`exchange`) and its answers (`message`); a look-up ends with the last tunnel that
//! waits for it (`flights`). Never judges an address; the guard does. TTLs follow RFC 1035, stale answers RFC 8767.

mod answers;
mod asker;
mod exchange;
mod flights;
mod hosts;
mod message;
mod resolv_conf;
mod server;
mod system;
mod turns;

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
use answers::{Answers, Key};
pub use asker::{Asker, Families, Holder};
use exchange::Exchange;
pub use exchange::ServerError;
use flights::Flights;
use hosts::HostsFile;
pub use message::AnswerError;
use message::Found;
use resolv_conf::ResolvConf;
pub use server::{Server, ServerTextError};
use system::{Followed, Look};
pub use system::{Notice, NoticeKind, SystemFile};
use turns::{Turn, Turns};

/// How names are looked up.
#[derive(Clone, Debug, Default)]
pub struct DnsConfig {
    /// Name servers; empty: those of resolv.conf(5).
    pub servers: Vec<Server>,
    /// For one look-up, retries included.
    pub timeout: Duration,
    /// The longest time for which a name without addresses is not asked for again.
    pub negative_ttl_max: Duration,
    /// Fixed answers.
    pub hosts: HashMap<Host, Vec<IpAddr>>,
}

/// Looks names up; shared by all workers.
#[derive(Debug)]
pub struct Resolver {
    config: DnsConfig,
    /// The servers in force; look-ups in flight go on with new ones.
    exchange: watch::Sender<Arc<Exchange>>,
    hosts: ArcSwap<HostsFile>,
    /// None: the configuration names the servers, so the machine's files are not read.
    files: Option<Mutex<Files>>,
    runtime: Handle,
    answers: Mutex<Answers>,
    flights: Arc<Flights>,
    turns: Arc<Turns>,
}

/// The machine's files.
#[derive(Clone, Debug)]
struct Files {
    resolv_conf: Followed<ResolvConf>,
    hosts: Followed<HostsFile>,
    /// Not reported yet.
    notices: Vec<Notice>,
}

/// What a look at the machine's files found.
#[derive(Debug, Default)]
pub struct Looked {
    /// To be reported, each once.
    pub notices: Vec<Notice>,
    /// A file has changed a moment ago and is read at the next look.
    pub is_settling: bool,
}

/// An answer and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// At least one address.
    pub addresses: Vec<IpAddr>,
    /// [`Lookup::Ok`], [`Lookup::Fixed`] or [`Lookup::Stale`].
    pub lookup: Lookup,
}

/// Why a name has no usable address.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    /// No answer in time.
    #[error("no answer from DNS within {0:?}")]
    Timeout(Duration),
    /// No turn in time: the look-ups of other names, or of the same client, are slow.
    #[error("too many look-ups wait for DNS; this one had no turn within {0:?}")]
    Busy(Duration),
    /// The name does not exist, or has no address of a family with an egress address.
    #[error("the name has no address of a family that has an egress address")]
    NoAddress,
    /// The answer exceeds a bound.
    #[error("DNS: {0}")]
    Refused(#[from] AnswerError),
    /// The servers answered with an error, or could not be asked.
    #[error("DNS: {0}")]
    Failed(#[from] ServerError),
    /// The thread of DNS has gone; the daemon is stopping.
    #[error("the resolver has stopped")]
    Stopped,
}

impl Resolver {
    /// Sets up the look-ups on the runtime `runtime`, at most `look_ups_max` of them at once. The last good answers of
    /// `known` carry over: a reload while DNS is down loses none. So does what its files said last: a reload while one of
    /// them is broken changes nothing. So do the look-ups in flight: they count until they end.
    ///
    /// Reads the machine's files, unless the configuration names servers. None of them can make it fail.
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
        let mut answers = known
            .map(|known| known.remembered(|answers| answers.clone()))
            .unwrap_or_default();
        answers.make_stale(Instant::now());
        let turns = known.map_or_else(
            || Arc::new(Turns::new(look_ups_max)),
            |known| Arc::clone(&known.turns),
        );
        Arc::new(Self {
            config,
            exchange: watch::Sender::new(Arc::new(exchange)),
            hosts: ArcSwap::new(hosts),
            files: files.map(Mutex::new),
            runtime,
            answers: Mutex::new(answers),
            flights: Arc::default(),
            turns,
        })
    }

    /// Looks whether `/etc/resolv.conf` or `/etc/hosts` has changed, and puts in force what has. Answers of the servers before
    /// are used from then on only when DNS fails, and look-ups in flight begin again. Blocks on the file system.
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
            self.remembered(|answers| {
                self.exchange.send_replace(exchange);
                answers.make_stale(Instant::now());
            });
        } else if looks.1 == Look::Changed {
            // For look-ups in flight: their name may be fixed now.
            self.exchange.send_modify(|_| ());
        }
        Looked {
            notices: std::mem::take(&mut files.notices),
            is_settling: looks.0 == Look::Settling || looks.1 == Look::Settling,
        }
    }

    /// Where the fixed addresses of a name come from, if they are fixed: DNS is not asked for it.
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

    /// The addresses of a name within `dns.timeout`, and as long again when a turn has to be waited for.
    ///
    /// # Errors
    /// One [`ResolveError`] for each way to have none.
    pub async fn resolve(
        self: &Arc<Self>,
        host: &Host,
        families: Families,
        asker: Asker,
    ) -> Result<Answer, ResolveError> {
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
        let turn = match self.turns.try_take(&asker) {
            Some(turn) => turn,
            None => {
                let turn = self.wait_for_turn(asker).await?;
                // Somebody else may have had the same question and the answer meanwhile.
                if let Some(known) = self.known(&key) {
                    return known;
                }
                turn
            }
        };
        let look_up = Arc::clone(self).look_up(key.clone(), is_named, turn);
        self.flights
            .join_or_start(key, &self.runtime, look_up)
            .await
    }

    /// The addresses of a name that are fixed: by the configuration, else by the hosts file, else by its nature. They are
    /// its whole answer.
    fn fixed(&self, host: &Host, families: Families) -> Option<Result<Answer, ResolveError>> {
        let file = self.hosts.load();
        let fixed = self.config.hosts.get(host).map(Vec::as_slice);
        let fixed = fixed.or_else(|| file.addresses(host));
        let fixed = fixed.or_else(|| hosts::special(host))?;
        let usable = fixed.iter().copied();
        let usable = usable.filter(|address| families.has(*address));
        Some(answer(usable.collect(), Lookup::Fixed))
    }

    /// What is remembered of a name and may be used without a question.
    fn known(&self, key: &Key) -> Option<Result<Answer, ResolveError>> {
        let now = Instant::now();
        self.remembered(|answers| {
            let fresh = answers
                .fresh(key, now)
                .map(|addresses| answer(addresses, Lookup::Ok));
            fresh.or_else(|| {
                answers
                    .while_down(key, now)
                    .map(|addresses| answer(addresses, Lookup::Stale))
            })
        })
    }

    /// On the runtime of DNS, for its clock.
    async fn wait_for_turn(&self, asker: Asker) -> Result<Turn, ResolveError> {
        let (turns, limit) = (Arc::clone(&self.turns), self.config.timeout);
        let waiting = self
            .runtime
            .spawn(async move { timeout(limit, turns.take(&asker)).await });
        let waited = AbortOnDropHandle::new(waiting)
            .await
            .map_err(|_| ResolveError::Stopped)?;
        waited.map_err(|_| ResolveError::Busy(limit))
    }

    /// The task of a look-up. It holds its turn until its sockets are closed.
    async fn look_up(
        self: Arc<Self>,
        key: Key,
        is_named: bool,
        turn: Turn,
    ) -> Result<Answer, ResolveError> {
        let answer = self.ask(key, is_named).await;
        drop(turn);
        answer
    }

    /// Asks the servers in force, and begins again if they change meanwhile: a tunnel that waits for servers that are dead need
    /// not wait for their end.
    async fn ask(&self, key: Key, is_named: bool) -> Result<Answer, ResolveError> {
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

    /// An answer is remembered; a failure of DNS itself recalls the last good one. A name that is gone is gone: that
    /// is an answer too. So is one that exceeds a bound, but not one to remember. What servers say that are not in force
    /// any more is used once.
    fn remember_or_recall(
        &self,
        key: Key,
        is_named: bool,
        asked: Result<Found, ResolveError>,
        by: &Arc<Exchange>,
    ) -> Result<Answer, ResolveError> {
        let now = Instant::now();
        self.remembered(|answers| match asked {
            Ok(Found { addresses, ttl }) => {
                let ttl = if !Arc::ptr_eq(by, &self.exchange.borrow()) {
                    Duration::ZERO
                } else if addresses.is_empty() {
                    // A name that is created must not stay unknown for as long as its zone says.
                    ttl.min(self.config.negative_ttl_max)
                } else {
                    ttl
                };
                answers.insert(key, is_named, &addresses, ttl, now);
                answer(addresses, Lookup::Ok)
            }
            Err(error @ (ResolveError::NoAddress | ResolveError::Refused(_))) => Err(error),
            Err(error) => answers
                .recall(&key, now)
                .map_or(Err(error), |addresses| answer(addresses, Lookup::Stale)),
        })
    }

    fn remembered<T>(&self, act: impl FnOnce(&mut Answers) -> T) -> T {
        act(&mut lock(&self.answers))
    }
}

impl Files {
    fn start() -> Self {
        let mut notices = Vec::new();
        let resolv_conf = Followed::start(SystemFile::ResolvConf.path(), &mut notices);
        let hosts = Followed::start(SystemFile::Hosts.path(), &mut notices);
        Self {
            resolv_conf,
            hosts,
            notices,
        }
    }

    fn look_now(mut self) -> Self {
        self.resolv_conf.look_now(&mut self.notices);
        self.hosts.look_now(&mut self.notices);
        self
    }

    fn exchange(&self, limit: Duration) -> Exchange {
        let said = self.resolv_conf.value();
        Exchange::new(said.servers(), said, limit)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(addresses: Vec<IpAddr>, lookup: Lookup) -> Result<Answer, ResolveError> {
    if addresses.is_empty() {
        Err(ResolveError::NoAddress)
    } else {
        Ok(Answer { addresses, lookup })
    }
}

impl ResolveError {
    /// The label of `sealway_dns_lookups_total`.
    #[must_use]
    pub fn lookup(&self) -> Lookup {
        match self {
            Self::Timeout(_) | Self::Busy(_) => Lookup::Timeout,
            Self::NoAddress => Lookup::NoAddress,
            Self::Refused(_) | Self::Failed(_) | Self::Stopped => Lookup::Failed,
        }
    }
}

/// How often one look-up begins again because the servers have changed.
const CHANGES_MAX: usize = 3;
