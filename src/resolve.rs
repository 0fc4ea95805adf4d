//! Names → addresses: fixed answers first, then DNS with TTLs; an answer outlives its TTL for a bounded while when DNS is down.
//!
//! Asks only for the families that have an egress address. Runs on the service thread's runtime, never on a worker. Never judges an address;
//! the guard does. Answers are cached by the resolver library for their TTL (RFC 1035); serving them stale follows RFC 8767.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use tokio::runtime::Handle;

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

#[derive(Debug)]
struct Remembered {
    addresses: Vec<IpAddr>,
    since: Instant,
}

impl Resolver {
    /// Sets up the look-ups on the runtime `service`.
    ///
    /// # Errors
    /// When the system's resolver configuration cannot be read.
    pub fn new(config: DnsConfig, service: Handle) -> Result<Arc<Self>, NetError> {
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
        Ok(Arc::new(Self { config, dns, service, stale: Mutex::default() }))
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
        let (resolver, name) = (Arc::clone(self), host.clone());
        let look_up = self.service.spawn(async move {
            let limit = resolver.config.timeout;
            let asked = tokio::time::timeout(limit, resolver.ask(&name, families)).await;
            resolver.remember_or_recall(&name, families, asked.unwrap_or(Err(ResolveError::Timeout(limit))))
        });
        look_up.await.unwrap_or(Err(ResolveError::Stopped))
    }

    async fn ask(&self, host: &Host, families: Families) -> Result<Vec<IpAddr>, ResolveError> {
        // The final dot keeps the search list of resolv.conf out of it.
        let name = format!("{host}.");
        let v4 = async { if families.v4 { self.dns.ipv4_lookup(name.as_str()).await.map(Some) } else { Ok(None) } };
        let v6 = async { if families.v6 { self.dns.ipv6_lookup(name.as_str()).await.map(Some) } else { Ok(None) } };
        let (v4, v6) = tokio::join!(v4, v6);
        let mut addresses = Vec::new();
        let mut failure = None;
        for family in [v6, v4] {
            match family {
                Ok(lookup) => {
                    let records = lookup.iter().flat_map(|lookup| lookup.answers());
                    addresses.extend(records.filter_map(|record| address_of(&record.data)));
                }
                Err(error) if error.is_no_records_found() || error.is_nx_domain() => {}
                Err(NetError::Timeout) => failure = Some(ResolveError::Timeout(self.config.timeout)),
                Err(error) => failure = Some(ResolveError::Failed(error)),
            }
        }
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() { Err(failure.unwrap_or(ResolveError::NoAddress)) } else { Ok(addresses) }
    }

    /// A good answer is remembered; a failure of DNS itself recalls the last one. A name that is gone is gone: that is an answer too.
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
                    stale.insert(host.clone(), Remembered { addresses: addresses.clone(), since: Instant::now() });
                }
                Ok(Answer { addresses, lookup: Lookup::Ok })
            }
            Err(ResolveError::NoAddress) => {
                stale.remove(host);
                Err(ResolveError::NoAddress)
            }
            Err(error) => {
                let known = stale.get(host).filter(|known| known.since.elapsed() < STALE_MAX);
                let mut addresses = known.map(|known| known.addresses.clone()).unwrap_or_default();
                addresses.retain(|address| families.has(*address));
                if addresses.is_empty() { Err(error) } else { Ok(Answer { addresses, lookup: Lookup::Stale }) }
            }
        }
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
    pub fn of(egress: &[IpAddr]) -> Self {
        Self { v4: egress.iter().any(IpAddr::is_ipv4), v6: egress.iter().any(IpAddr::is_ipv6) }
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

/// RFC 8767 suggests one to three days; a rotated address must not be dialled that long.
const STALE_MAX: Duration = Duration::from_secs(3_600);
/// A wildcard lets peers choose names, so the number is bounded.
const STALE_NAMES_MAX: usize = 4_096;
/// The same, for the resolver's own cache of answers.
const CACHED_NAMES_MAX: u64 = 4_096;
/// A thousand clients may ask at once when they all come back after a restart.
const ACTIVE_REQUESTS_MAX: usize = 1_024;
/// More is no web service; each one costs a judgement and perhaps a connection.
const ADDRESSES_MAX: usize = 32;
