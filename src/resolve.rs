//! Names → addresses: fixed answers first, then DNS with TTLs; an answer outlives its TTL for a bounded while when
//! DNS is down.
//!
//! Asks only for the families that have an egress address. Runs on the service thread's runtime, never on a worker.
//! Never judges an address; the guard does. Answers are cached by the resolver library for their TTL (RFC 1035);
//! serving them stale follows RFC 8767.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::authority::Host;
use crate::outcome::Lookup;

/// Address families that may be dialled: those with an egress address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Looks names up; shared by all workers.
#[derive(Debug)]
pub struct Resolver {
    config: DnsConfig,
    dns: TokioResolver,
    service: Handle,
    stale: Mutex<HashMap<Host, Remembered>>,
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
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No answer in time.
    #[error("no answer from DNS within {0:?}")]
    Timeout(Duration),
    /// The name does not exist, or has no address of a family with an egress address.
    #[error("the name has no address of a family that has an egress address")]
    NoAddress,
    /// The servers answered with an error, or could not be asked.
    #[error("DNS: {0}")]
    Failed(#[source] NetError),
    /// The service thread has gone; the daemon is stopping.
    #[error("the resolver has stopped")]
    Stopped,
}

#[derive(Clone, Debug)]
struct Remembered {
    addresses: Vec<IpAddr>,
    since: Instant,
    /// DNS has failed for this name; until then it is not asked again.
    down_until: Option<Instant>,
}

impl Resolver {
    /// Sets up the look-ups on the runtime `service`. The last good answers of `known` carry over: a reload while DNS
    /// is down loses none.
    ///
    /// # Errors
    /// When the system's resolver configuration cannot be read.
    pub fn new(config: DnsConfig, service: Handle, known: Option<&Self>) -> Result<Arc<Self>, SetupError> {
        let mut builder = if config.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = config.servers.iter().map(|server| name_server(*server)).collect();
            let mut builder = TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(servers),
                TokioRuntimeProvider::default(),
            );
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        };
        let options = builder.options_mut();
        options.timeout = (config.timeout / 2).max(Duration::from_millis(100));
        options.max_active_requests = ACTIVE_REQUESTS_MAX;
        options.cache_size = CACHED_NAMES_MAX;
        let dns = builder.build()?;
        let stale = known.map(|known| known.stale.lock().unwrap_or_else(PoisonError::into_inner).clone());
        Ok(Arc::new(Self { config, dns, service, stale: Mutex::new(stale.unwrap_or_default()) }))
    }

    /// The addresses of a name within `dns.timeout`.
    ///
    /// # Errors
    /// One [`ResolveError`] for each way to have none.
    pub async fn resolve(self: &Arc<Self>, host: &Host, families: Families) -> Result<Answer, ResolveError> {
        if let Some(fixed) = self.config.hosts.get(host) {
            let addresses: Vec<_> = fixed.iter().copied().filter(|address| families.has(*address)).collect();
            let answer = Answer { addresses, lookup: Lookup::Fixed };
            return if answer.addresses.is_empty() { Err(ResolveError::NoAddress) } else { Ok(answer) };
        }
        if let Some(answer) = self.recall_while_down(host, families) {
            return Ok(answer);
        }
        let (resolver, name) = (Arc::clone(self), host.clone());
        let look_up = self.service.spawn(async move {
            let limit = resolver.config.timeout;
            let asked = timeout(limit, resolver.ask(&name, families)).await;
            resolver.remember_or_recall(&name, families, asked.unwrap_or(Err(ResolveError::Timeout(limit))))
        });
        look_up.await.unwrap_or(Err(ResolveError::Stopped))
    }

    /// Both families at once. When one has addresses, the other gets a moment and no more: some servers drop
    /// questions they do not know.
    async fn ask(&self, host: &Host, families: Families) -> Result<Vec<IpAddr>, ResolveError> {
        let v4 = self.ask_family(host, RecordType::A, families.v4);
        let v6 = self.ask_family(host, RecordType::AAAA, families.v6);
        tokio::pin!(v4, v6);
        let (v6, v4) = tokio::select! {
            v4 = &mut v4 => (self.within(self.patience(&v4), v6).await, v4),
            v6 = &mut v6 => {
                let v4 = self.within(self.patience(&v6), v4).await;
                (v6, v4)
            }
        };
        match (v6, v4) {
            (Ok(mut addresses), Ok(more)) => {
                addresses.extend(more);
                if addresses.is_empty() { Err(ResolveError::NoAddress) } else { Ok(addresses) }
            }
            (Ok(addresses), Err(_)) | (Err(_), Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    /// One family; none where it may not be dialled.
    async fn ask_family(&self, host: &Host, kind: RecordType, wanted: bool) -> Result<Vec<IpAddr>, ResolveError> {
        if !wanted {
            return Ok(Vec::new());
        }
        // The final dot keeps the search list of resolv.conf out of it.
        // From ASCII: read as Unicode, a name with an underscore is none.
        let name = Name::from_ascii(format!("{host}.")).map_err(|error| ResolveError::Failed(error.into()))?;
        match self.dns.lookup(name, kind).await {
            Ok(lookup) => Ok(lookup.answers().iter().filter_map(|record| address_of(&record.data)).collect()),
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => Ok(Vec::new()),
            Err(NetError::Timeout) => Err(ResolveError::Timeout(self.config.timeout)),
            Err(error) => Err(ResolveError::Failed(error)),
        }
    }

    async fn within(
        &self,
        patience: Duration,
        asked: impl Future<Output = Result<Vec<IpAddr>, ResolveError>>,
    ) -> Result<Vec<IpAddr>, ResolveError> {
        timeout(patience, asked).await.unwrap_or(Err(ResolveError::Timeout(self.config.timeout)))
    }

    /// How long the other family is waited for.
    fn patience(&self, first: &Result<Vec<IpAddr>, ResolveError>) -> Duration {
        let has_addresses = first.as_ref().is_ok_and(|addresses| !addresses.is_empty());
        if has_addresses { RESOLUTION_DELAY } else { self.config.timeout }
    }

    /// A good answer is remembered; a failure of DNS itself recalls the last one. A name that is gone is gone: that
    /// is an answer too.
    fn remember_or_recall(
        &self,
        host: &Host,
        families: Families,
        asked: Result<Vec<IpAddr>, ResolveError>,
    ) -> Result<Answer, ResolveError> {
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        match asked {
            Ok(addresses) => {
                if stale.len() >= STALE_NAMES_MAX {
                    stale.retain(|_, known| known.since.elapsed() < STALE_MAX);
                }
                if stale.len() < STALE_NAMES_MAX || stale.contains_key(host) {
                    stale.insert(
                        host.clone(),
                        Remembered { addresses: addresses.clone(), since: Instant::now(), down_until: None },
                    );
                }
                Ok(Answer { addresses, lookup: Lookup::Ok })
            }
            Err(ResolveError::NoAddress) => {
                stale.remove(host);
                Err(ResolveError::NoAddress)
            }
            Err(error) => {
                let known = stale.get_mut(host).filter(|known| known.since.elapsed() < STALE_MAX);
                let answer = known.and_then(|known| {
                    known.down_until = Some(Instant::now() + DOWN);
                    known.recall(families)
                });
                answer.ok_or(error)
            }
        }
    }

    /// The last good answer, when DNS has just failed to give a new one.
    fn recall_while_down(&self, host: &Host, families: Families) -> Option<Answer> {
        let stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        let known = stale.get(host).filter(|known| known.down_until.is_some_and(|until| Instant::now() < until))?;
        known.recall(families)
    }
}

impl Remembered {
    fn recall(&self, families: Families) -> Option<Answer> {
        let addresses: Vec<_> = self.addresses.iter().copied().filter(|address| families.has(*address)).collect();
        (!addresses.is_empty()).then_some(Answer { addresses, lookup: Lookup::Stale })
    }
}

impl ResolveError {
    /// The label of `sealway_dns_lookups_total`.
    #[must_use]
    pub fn lookup(&self) -> Lookup {
        match self {
            Self::Timeout(_) => Lookup::Timeout,
            Self::NoAddress => Lookup::NoAddress,
            Self::Failed(_) | Self::Stopped => Lookup::Failed,
        }
    }
}

impl Families {
    /// The families of these egress addresses.
    #[must_use]
    pub fn of(egress: impl Iterator<Item = IpAddr>) -> Self {
        egress.fold(Self { v4: false, v6: false }, |found, address| Self {
            v4: found.v4 || address.is_ipv4(),
            v6: found.v6 || address.is_ipv6(),
        })
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

fn name_server(server: SocketAddr) -> NameServerConfig {
    let mut udp = ConnectionConfig::udp();
    let mut tcp = ConnectionConfig::tcp();
    udp.port = server.port();
    tcp.port = server.port();
    NameServerConfig::new(server.ip(), true, vec![udp, tcp])
}

fn address_of(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(v4) => Some(IpAddr::V4(v4.0)),
        RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
        _ => None,
    }
}

/// How long one family waits for the other (RFC 8305, section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// While DNS is down one tunnel in this time finds out whether it is back; the others do not wait (RFC 8767, section
/// 5).
const DOWN: Duration = Duration::from_secs(10);
/// RFC 8767 suggests one to three days; a rotated address must not be dialled that long.
const STALE_MAX: Duration = Duration::from_secs(3_600);
/// A wildcard lets peers choose names, so the number is bounded.
const STALE_NAMES_MAX: usize = 4_096;
/// The same, for the resolver's own cache of answers.
const CACHED_NAMES_MAX: u64 = 4_096;
/// A thousand clients may ask at once when they all come back after a restart.
const ACTIVE_REQUESTS_MAX: usize = 1_024;
