//! The static source addresses: which of them the host has now, and how many ports of each are in
//! use towards each upstream.
//!
//! Both ends identify a connection (RFC 9293, section 3.3.10), so one address has the kernel's
//! whole ephemeral range for each upstream address and port (ip(7), `ip_local_port_range`). Counts
//! the tunnels of this daemon, and the ports that the kernel still holds for closed connections
//! (`TIME_WAIT`), as of the last dump. Counts losses of a source, so that the tunnels from before a
//! loss can be ended. Never sends a byte.

mod hold;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use crate::authority::UserId;
use crate::limits::{KeyedPermit, Table};
use crate::sys;

/// The addresses of one configuration.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    v4: Arc<[Arc<Source>]>,
    v6: Arc<[Arc<Source>]>,
    /// Addresses of earlier configurations; tunnels may still use them.
    retired: Arc<[Arc<Source>]>,
    /// Addresses that another host may have instead.
    floating: Arc<[IpAddr]>,
    next: Arc<AtomicUsize>,
    ports_max: Arc<AtomicUsize>,
}

/// One static address.
#[derive(Debug)]
pub struct Source {
    address: IpAddr,
    is_up: AtomicBool,
    /// How often the host has lost it for longer than the grace.
    losses: AtomicU64,
    ports: Table<SocketAddr>,
    /// Ports that the kernel holds for closed connections, by upstream.
    closing: ArcSwap<HashMap<SocketAddr, usize>>,
}

/// A port of a source towards one upstream, held until it is dropped.
#[derive(Debug)]
pub struct PortPermit {
    permit: KeyedPermit<SocketAddr>,
    /// Tells whether the host has lost the source since then.
    pub hold: Hold,
}

/// Tells whether the host has lost a source since a moment.
#[derive(Clone, Debug)]
pub struct Hold {
    source: Arc<Source>,
    /// The losses of the source at that moment.
    losses: u64,
}

impl Egress {
    /// Creates the sources of these addresses. Keeps the state of those in `before`; new ones count
    /// as up until [`Egress::look`]. `ports_max` is the number of ports that the kernel has for one
    /// source and one upstream.
    #[must_use]
    pub fn new(addresses: &[IpAddr], before: Option<&Self>, ports_max: usize) -> Self {
        let known: Vec<_> = before.into_iter().flat_map(Self::all).collect();
        let source = |address: &IpAddr| match known.iter().find(|source| source.address == *address)
        {
            Some(source) => Arc::clone(source),
            None => Arc::new(Source::new(*address)),
        };
        let (v4, v6): (Vec<_>, Vec<_>) = addresses
            .iter()
            .map(source)
            .partition(|source| source.address.is_ipv4());
        let retired = known
            .iter()
            .filter(|source| !addresses.contains(&source.address))
            .map(|source| Arc::clone(source));
        let retired = retired.collect();
        let next = before
            .map(|before| Arc::clone(&before.next))
            .unwrap_or_default();
        Self {
            v4: v4.into(),
            v6: v6.into(),
            retired,
            floating: Arc::default(),
            next,
            ports_max: Arc::new(ports_max.into()),
        }
    }

    /// Adds addresses of an earlier daemon's configuration; tunnels still use them.
    #[must_use]
    pub fn with_former(mut self, addresses: &[IpAddr]) -> Self {
        let is_new = |address: &&IpAddr| !self.all().any(|known| known.address == **address);
        let former = addresses.iter().filter(is_new);
        let former = former.map(|address| Arc::new(Source::new(*address)));
        let retired = self.retired.iter().map(Arc::clone).chain(former);
        self.retired = retired.collect();
        self
    }

    /// Takes the port of a connection that another daemon has opened, also beyond the bound; None if
    /// the source is unknown.
    #[must_use]
    pub fn continue_port(&self, source: IpAddr, upstream: SocketAddr) -> Option<PortPermit> {
        let source = self.all().find(|known| known.address == source)?;
        source.port(upstream, usize::MAX)
    }

    /// Sets the addresses that another host may have instead of this one.
    #[must_use]
    pub fn with_floating(mut self, floating: &[IpAddr]) -> Self {
        self.floating = floating.into();
        self
    }

    /// Whether another host may have the address, so that its absence is normal.
    #[must_use]
    pub fn is_floating(&self, address: IpAddr) -> bool {
        self.floating.contains(&address)
    }

    /// Whether the host lacks a floating address, which may come at any moment.
    #[must_use]
    pub fn awaits_floating(&self) -> bool {
        self.sources()
            .any(|source| !source.is_up() && self.is_floating(source.address))
    }

    /// The configured addresses; without any, the source of the default route, an IPv4 address if
    /// there is one, because a second family that is not on the key's allowlist blocks keys.
    #[must_use]
    pub fn wanted(configured: &[IpAddr]) -> Vec<IpAddr> {
        if !configured.is_empty() {
            return configured.to_vec();
        }
        let of_default_route = sys::default_route_sources().into_iter().next();
        vec![of_default_route.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))]
    }

    /// The addresses after a reload, if neither the old nor the new configuration names any: the
    /// pinned address stays while the host has it, and while no other can replace it. A default
    /// route that is momentarily missing or different changes nothing. A loopback address was
    /// pinned for lack of a route, and gives way to any other.
    #[must_use]
    pub fn still_wanted(&self) -> Vec<IpAddr> {
        let pinned: Vec<IpAddr> = self.addresses().collect();
        let was_for_want = pinned.iter().all(IpAddr::is_loopback);
        if !was_for_want && self.can_leave_from(&[]) {
            return pinned;
        }
        let of_default_route = sys::default_route_sources().into_iter().next();
        of_default_route.map_or(pinned, |address| vec![address])
    }

    /// The addresses that a user may use.
    #[must_use]
    pub fn only(&self, allowed: &[IpAddr]) -> Self {
        let kept = |family: &[Arc<Source>]| {
            family
                .iter()
                .filter(|source| allowed.contains(&source.address))
                .map(Arc::clone)
                .collect()
        };
        Self {
            v4: kept(&self.v4),
            v6: kept(&self.v6),
            ..self.clone()
        }
    }

    /// The sources in force.
    pub fn sources(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.v4.iter().chain(self.v6.iter())
    }

    /// The sources in force and those of earlier configurations.
    fn all(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.sources().chain(self.retired.iter())
    }

    /// The sources of earlier configurations that tunnels still use.
    pub fn retired_in_use(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.retired
            .iter()
            .filter(|source| source.ports.total() > 0)
    }

    /// The addresses in force.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.sources().map(|source| source.address)
    }

    /// The number of ports that the kernel has for one source and one upstream.
    #[must_use]
    pub fn ports_max(&self) -> usize {
        self.ports_max.load(Ordering::Relaxed)
    }

    /// Sets the number of ports that the kernel has for one source and one upstream.
    pub fn set_ports_max(&self, ports_max: usize) {
        self.ports_max.store(ports_max, Ordering::Relaxed);
    }

    /// Updates which sources the host has, according to `is_here`. A source about which it cannot
    /// tell keeps its state.
    pub fn look(&self, is_here: impl Fn(IpAddr) -> io::Result<bool>) {
        for source in self.sources() {
            if let Ok(is_up) = is_here(source.address) {
                source.set_up(is_up);
            }
        }
    }

    /// Whether one of these addresses can be used, or any if the list is empty.
    #[must_use]
    pub fn can_leave_from(&self, allowed: &[IpAddr]) -> bool {
        self.sources().any(|source| {
            source.is_up() && (allowed.is_empty() || allowed.contains(&source.address))
        })
    }

    /// The addresses of each family in which every present source has almost no port left towards
    /// some upstream.
    #[must_use]
    pub fn nearly_exhausted(&self) -> Vec<IpAddr> {
        let ports_max = self.ports_max();
        let is_full =
            |source: &Arc<Source>| source.busiest() * 100 >= ports_max * PORTS_NEARLY_PERCENT;
        [&self.v4, &self.v6]
            .into_iter()
            .map(|family| family.iter().filter(|source| source.is_up()))
            .filter(|up| up.clone().next().is_some() && up.clone().all(is_full))
            .flat_map(|up| up.map(|source| source.address))
            .collect()
    }

    /// The sources for this upstream in the order of preference: the user's own first, so that a
    /// user keeps to one address; without a user, the one with the fewest ports in use. Omits
    /// sources that the host does not have.
    #[must_use]
    pub fn in_order(&self, upstream: SocketAddr, user: Option<&UserId>) -> Vec<Arc<Source>> {
        let family = if upstream.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        let first = match user {
            Some(user) => own_place(user),
            None => self.next.fetch_add(1, Ordering::Relaxed),
        };
        let turned = family
            .iter()
            .cycle()
            .skip(first % family.len().max(1))
            .take(family.len());
        let mut order: Vec<_> = turned
            .filter(|source| source.is_up())
            .map(Arc::clone)
            .collect();
        if user.is_none() && order.len() > 1 {
            order.sort_by_cached_key(|source| {
                source.ports.count(&upstream) + source.closing_towards(&upstream)
            });
        }
        order
    }

    /// Whether the upstream's family has a source, up or not.
    pub(super) fn of_family(&self, upstream: IpAddr) -> Option<IpAddr> {
        let family = if upstream.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        family.first().map(|source| source.address)
    }

    /// Takes a port of `source` towards `upstream`; None when all are in use. Returns too whether so many are in use that the
    /// kernel's usual search for a free one is long.
    pub(super) fn port(
        &self,
        source: &Arc<Source>,
        upstream: SocketAddr,
    ) -> Option<(PortPermit, bool)> {
        let (all, closing) = (self.ports_max(), source.closing_towards(&upstream));
        let port = source.port(upstream, all.saturating_sub(closing))?;
        let in_use = port.permit.count() + closing;
        Some((port, in_use * 100 >= all * PORTS_SCARCE_PERCENT))
    }
}

impl Source {
    fn new(address: IpAddr) -> Self {
        Self {
            address,
            is_up: true.into(),
            losses: AtomicU64::default(),
            ports: Table::default(),
            closing: ArcSwap::default(),
        }
    }

    /// Takes one of this many ports towards `upstream`.
    fn port(self: &Arc<Self>, upstream: SocketAddr, ports_max: usize) -> Option<PortPermit> {
        let permit = self.ports.acquire(&upstream, ports_max)?;
        Some(PortPermit {
            permit,
            hold: Hold {
                source: Arc::clone(self),
                losses: self.losses.load(Ordering::Acquire),
            },
        })
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether the host had it at the last look.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Sets whether the host has it.
    pub fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
    }

    /// Counts a loss: every connection from this source until now is over.
    pub fn lose(&self) {
        self.losses.fetch_add(1, Ordering::Release);
    }

    /// The number of its ports that tunnels, including those in set-up, and warm sockets hold.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.ports.total()
    }

    /// Sets the ports that the kernel holds for closed connections, by upstream.
    pub fn set_closing(&self, closing: HashMap<SocketAddr, usize>) {
        self.closing.store(Arc::new(closing));
    }

    fn closing_towards(&self, upstream: &SocketAddr) -> usize {
        self.closing.load().get(upstream).copied().unwrap_or(0)
    }

    /// Ports in use towards all upstreams, including those that the kernel holds.
    #[must_use]
    pub fn ports_in_use(&self) -> usize {
        self.ports.total() + self.closing.load().values().sum::<usize>()
    }

    /// Ports in use towards the upstream with the most.
    #[must_use]
    pub fn busiest(&self) -> usize {
        let both =
            |(upstream, closing): (&SocketAddr, &usize)| closing + self.ports.count(upstream);
        let with_closing = self.closing.load().iter().map(both).max().unwrap_or(0);
        with_closing.max(self.ports.busiest())
    }
}

/// The same number for a user at any time, in any process.
fn own_place(user: &UserId) -> usize {
    let mut hasher = DefaultHasher::new();
    user.as_str().hash(&mut hasher);
    hasher.finish() as usize
}

/// From this share on, three of four ports of the parity that the kernel tries first are in use.
const PORTS_SCARCE_PERCENT: usize = 37;
/// From this share on the daemon is not ready.
const PORTS_NEARLY_PERCENT: usize = 95;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
