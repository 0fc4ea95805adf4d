//! Names → addresses: fixed answers first, then DNS with TTLs; an answer outlives its TTL for a bounded while when
//! DNS is down.
//!
//! Asks only for the families that have an egress address. Runs on the runtime of DNS, never on a worker. What peers
//! can cause is bounded: the bytes remembered (`answers`), the look-ups in flight and the share of one user or client
//! (`turns`), the sockets of each (`exchange`) and its answers (`message`); a look-up ends with the last tunnel that
//! waits for it (`flights`). Never judges an address; the guard does. TTLs follow RFC 1035, stale answers RFC 8767.

mod answers;
mod exchange;
mod flights;
mod message;
mod turns;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::net::NetError;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::authority::{Host, UserId};
use crate::limits::client::{ClientNetwork, ClientSite};
use crate::outcome::Lookup;
use answers::{Answers, Key};
use exchange::Exchange;
pub use exchange::ServerError;
use flights::Flights;
pub use message::AnswerError;
use message::Found;
use turns::{Turn, Turns};

/// Address families that may be dialled: those with an egress address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Families {
    /// A records are asked for.
    pub v4: bool,
    /// AAAA records are asked for.
    pub v6: bool,
}

/// How names are looked up.
#[derive(Clone, Debug, Default)]
pub struct DnsConfig {
    /// Name servers; empty: those of resolv.conf(5).
    pub servers: Vec<SocketAddr>,
    /// For one look-up, retries included.
    pub timeout: Duration,
    /// Fixed answers.
    pub hosts: HashMap<Host, Vec<IpAddr>>,
}

/// Who asks, and for what kind of name.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Whose share of the look-ups in flight it takes.
    pub holder: Holder,
    /// Whether the operator wrote the name. Others are made up by peers: of a wildcard, or in report mode.
    pub is_named: bool,
}

/// Who has one share of the look-ups in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A user, wherever it connects from.
    User(UserId),
    /// Where there are no users, an IPv4 address.
    Client(ClientNetwork),
    /// Where there are no users, an IPv6 /48: one holder can have all of its /64s.
    Site(ClientSite),
}

impl Holder {
    /// The user if there is one, else who has this address.
    #[must_use]
    pub fn of(user: Option<&UserId>, address: IpAddr) -> Self {
        let client = ClientNetwork::of(address);
        match user {
            Some(user) => Self::User(user.clone()),
            None if client.site().is_ipv6() => Self::Site(client.site()),
            None => Self::Client(client),
        }
    }
}

/// Looks names up; shared by all workers.
#[derive(Debug)]
pub struct Resolver {
    config: DnsConfig,
    exchange: Exchange,
    runtime: Handle,
    answers: Mutex<Answers>,
    flights: Arc<Flights>,
    turns: Arc<Turns>,
}

/// An answer and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// At least one address.
    pub addresses: Vec<IpAddr>,
    /// [`Lookup::Ok`], [`Lookup::Fixed`] or [`Lookup::Stale`].
    pub lookup: Lookup,
}

/// The resolver's configuration cannot be read or used.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SetupError(#[from] NetError);

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
    /// `known` carry over: a reload while DNS is down loses none. So do the look-ups in flight: they count until they
    /// end.
    ///
    /// # Errors
    /// When the system's resolver configuration cannot be read.
    pub fn new(
        config: DnsConfig,
        runtime: Handle,
        look_ups_max: usize,
        known: Option<&Self>,
    ) -> Result<Arc<Self>, SetupError> {
        let exchange = Exchange::new(&config)?;
        let answers =
            known.map(|known| known.remembered(|answers| answers.only_stale(Instant::now())));
        let turns = known.map_or_else(
            || Arc::new(Turns::new(look_ups_max)),
            |known| Arc::clone(&known.turns),
        );
        let (answers, flights) = (Mutex::new(answers.unwrap_or_default()), Arc::default());
        Ok(Arc::new(Self {
            config,
            exchange,
            runtime,
            answers,
            flights,
            turns,
        }))
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
        if let Some(fixed) = self.config.hosts.get(host) {
            let addresses = fixed
                .iter()
                .copied()
                .filter(|address| families.has(*address))
                .collect();
            return answer(addresses, Lookup::Fixed);
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
        let limit = self.config.timeout;
        let asked = timeout(limit, self.exchange.ask(&key.host, key.families)).await;
        let asked = asked.unwrap_or(Err(ResolveError::Timeout(limit)));
        let answer = self.remember_or_recall(key, is_named, asked);
        drop(turn);
        answer
    }

    /// An answer is remembered; a failure of DNS itself recalls the last good one. A name that is gone is gone: that
    /// is an answer too. So is one that exceeds a bound, but not one to remember.
    fn remember_or_recall(
        &self,
        key: Key,
        is_named: bool,
        asked: Result<Found, ResolveError>,
    ) -> Result<Answer, ResolveError> {
        let now = Instant::now();
        self.remembered(|answers| match asked {
            Ok(Found { addresses, ttl }) => {
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
        act(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
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

impl Families {
    const BOTH: Self = Self { v4: true, v6: true };

    /// The families of these egress addresses.
    #[must_use]
    pub fn of(egress: impl Iterator<Item = IpAddr>) -> Self {
        egress.fold(
            Self {
                v4: false,
                v6: false,
            },
            |found, address| Self {
                v4: found.v4 || address.is_ipv4(),
                v6: found.v6 || address.is_ipv6(),
            },
        )
    }

    /// Whether there is none, so that nothing may be dialled.
    #[must_use]
    pub fn is_empty(self) -> bool {
        !(self.v4 || self.v6)
    }

    fn has(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}
