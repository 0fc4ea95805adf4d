//! Warm upstream sockets (`dial.warm`): connections that are open before the tunnels which use them, so that a tunnel does
//! not wait for TCP's round trip.
//!
//! Keeps the sockets, decides how many are worth having and which of them a tunnel may use. A pool belongs to one
//! configuration: a reload closes it, and a closed pool takes and gives none. A tunnel gets a socket only for an address
//! that its own answer of DNS has and its guard has passed. At most `dial.warm` for a source and an upstream, opened only
//! after tunnels: at most [`CREDIT`] after each. Never dials, never sends a byte and never logs or counts; it returns
//! what it has closed.

mod closed;
mod demand;
mod key_pool;
mod socket;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::authority::{Host, Port};
use crate::outcome::CloseReason;
use crate::policy::guard::UpstreamAddress;
pub use closed::Closed;
use demand::Recent;
use key_pool::{KeyPool, PAUSE};
pub use socket::WarmSocket;

/// The warm sockets of one configuration, shared by all workers.
#[derive(Debug)]
pub struct WarmPool {
    /// `dial.warm`; 0: off.
    per_key_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    names: Vec<(Host, Port, Recent)>,
    pools: Vec<KeyPool>,
    /// The pool that the next tunnel tries first.
    next_pool: usize,
    /// When each socket is checked next.
    next_check: Option<Instant>,
}

/// What a warm socket is good for: tunnels from this source to this upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The egress address.
    pub source: IpAddr,
    /// The upstream's address and port.
    pub upstream: SocketAddr,
}

/// What a tunnel may use.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The addresses of its name that the guard has passed.
    pub addresses: &'a [UpstreamAddress],
    /// The port.
    pub port: Port,
    /// The egress addresses that it may leave from, each on this host.
    pub sources: &'a [IpAddr],
}

/// A socket for a tunnel, which has received nothing yet and has sent nothing.
#[derive(Debug)]
pub struct Taken {
    /// The address as the guard has passed it for this tunnel.
    pub to: UpstreamAddress,
    /// Source and upstream.
    pub key: Key,
    /// The socket.
    pub warm: WarmSocket,
}

/// A tunnel that has an upstream, for the demand.
#[derive(Clone, Copy, Debug)]
pub struct TunnelUse<'a> {
    /// Its name.
    pub host: &'a Host,
    /// Source and upstream.
    pub key: Key,
    /// All addresses of the name that the guard has passed.
    pub addresses: &'a [UpstreamAddress],
    /// The port.
    pub port: Port,
    /// How long it has waited for TCP; None if its socket was warm.
    pub connect: Option<Duration>,
}

/// What a worker does for the pool.
#[derive(Debug, Default)]
pub struct Maintenance {
    /// What was closed.
    pub closed: Closed,
    /// The sockets to open. The worker answers each with [`WarmPool::opened`].
    pub open: Vec<Key>,
    /// When to do it again; None: after the next tunnel that uses the pool.
    pub next: Option<Instant>,
}

impl WarmPool {
    /// A pool with at most `per_key_max` sockets of a key; 0 turns it off.
    #[must_use]
    pub fn new(per_key_max: usize) -> Self {
        Self {
            per_key_max,
            state: Mutex::default(),
        }
    }

    /// Whether `dial.warm` is set.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.per_key_max > 0
    }

    /// The number of open sockets.
    #[must_use]
    pub fn open(&self) -> usize {
        let state = self.lock();
        state.pools.iter().map(|pool| pool.idle.len()).sum()
    }

    /// Takes a socket that `wanted` allows, and closes those on the way that no tunnel may use any more.
    #[must_use]
    pub fn take(&self, wanted: &Wanted<'_>, now: Instant) -> (Option<Taken>, Closed) {
        let mut closed = Closed::default();
        let mut state = self.lock();
        // Round robin, so that all sources and upstreams are used equally.
        state.next_pool = state.next_pool.wrapping_add(1) % KEYS_MAX;
        let (first, count) = (state.next_pool, state.pools.len());
        let taken = (0..count).find_map(|nth| {
            let pool = state.pools.get_mut((first + nth) % count)?;
            let (to, key) = (wanted.allows(pool.key)?, pool.key);
            let warm = pool.take(now, &mut closed)?;
            Some(Taken { to, key, warm })
        });
        (taken, closed)
    }

    /// Notes a tunnel. Returns whether its name had enough tunnels before for a warm socket, and closes the sockets of the
    /// name's former addresses.
    #[must_use]
    pub fn used(&self, used: &TunnelUse<'_>, now: Instant) -> (bool, Closed) {
        let mut closed = Closed::default();
        let mut state = self.lock();
        if state.is_closed {
            return (false, closed);
        }
        for pool in &mut state.pools {
            let is_former = pool.host == *used.host
                && pool.key.upstream.port() == used.port.number()
                && is_former(used.addresses, pool.key.upstream.ip());
            if is_former {
                closed.add(CloseReason::Answer, pool.idle.len());
                pool.idle.clear();
                pool.credit = 0;
            }
        }
        let was_busy = state.add_to_name(used.host, used.port, now);
        state.add_to_key(used, now);
        (was_busy, closed)
    }

    /// Closes unusable sockets and returns the keys to open. Checks each socket once a second.
    #[must_use]
    pub fn maintain(&self, now: Instant) -> Maintenance {
        let mut state = self.lock();
        let mut due = Maintenance::default();
        if state.is_closed {
            return due;
        }
        let is_due = state.next_check.is_none_or(|at| at <= now);
        if is_due {
            state.next_check = Some(now + CHECK_INTERVAL);
            state.pools.retain(|pool| pool.is_used(now));
        }
        let State { pools, names, .. } = &mut *state;
        for pool in pools.iter_mut() {
            pool.check(is_due, now, &mut due.closed);
            let is_busy = |(host, port, recent): &(Host, Port, Recent)| {
                *host == pool.host
                    && port.number() == pool.key.upstream.port()
                    && recent.is_busy(now)
            };
            let missing = pool.missing(self.per_key_max, now);
            let is_wanted = missing > 0 && names.iter().any(is_busy);
            let wanted = if is_wanted { missing } else { 0 };
            pool.opening += wanted;
            pool.credit -= wanted;
            due.open.extend(std::iter::repeat_n(pool.key, wanted));
        }
        let expiries = pools.iter().filter_map(|pool| pool.idle.front());
        let earliest = expiries.map(WarmSocket::expires).min();
        let is_busy = earliest.is_some() || !due.open.is_empty();
        let check = state.next_check.filter(|_| is_busy);
        due.next = earliest.into_iter().chain(check).min();
        due
    }

    /// Puts a socket that [`WarmPool::maintain`] has asked for into the pool; None if it could not be opened. Returns whether
    /// the pool has it; otherwise it is closed.
    pub fn opened(&self, key: Key, warm: Option<WarmSocket>, now: Instant) -> bool {
        let mut state = self.lock();
        let is_closed = state.is_closed;
        let Some(pool) = state.pools.iter_mut().find(|pool| pool.key == key) else {
            return false;
        };
        pool.opening = pool.opening.saturating_sub(1);
        match warm {
            Some(warm) if !is_closed => {
                pool.idle.push_back(warm);
                true
            }
            Some(_) => false,
            None => {
                pool.paused_until = Some(now + PAUSE);
                false
            }
        }
    }

    /// Closes all sockets and forgets the tunnels. Returns how many were open.
    pub fn clear(&self) -> usize {
        let mut state = self.lock();
        let pools = std::mem::take(&mut state.pools);
        state.names.clear();
        drop(state);
        pools.iter().map(|pool| pool.idle.len()).sum()
    }

    /// Does the same for good: no socket enters the pool any more.
    pub fn close(&self) -> usize {
        self.lock().is_closed = true;
        self.clear()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds a tunnel to a name and returns whether there were many before.
    fn add_to_name(&mut self, host: &Host, port: Port, now: Instant) -> bool {
        let known = self
            .names
            .iter()
            .position(|(known, at, _)| known == host && *at == port);
        let known = known.unwrap_or_else(|| {
            if self.names.len() >= NAMES_MAX {
                let oldest = self.names.iter().enumerate();
                let oldest = oldest.min_by_key(|(_, (.., recent))| recent.last());
                if let Some((oldest, _)) = oldest {
                    self.names.swap_remove(oldest);
                }
            }
            self.names.push((host.clone(), port, Recent::default()));
            self.names.len() - 1
        });
        let Some((.., recent)) = self.names.get_mut(known) else {
            return false;
        };
        let was_busy = recent.is_busy(now);
        recent.add(now);
        was_busy
    }

    fn add_to_key(&mut self, used: &TunnelUse<'_>, now: Instant) {
        if !self.pools.iter().any(|pool| pool.key == used.key) {
            if self.pools.len() >= KEYS_MAX {
                self.pools.retain(|pool| pool.is_used(now));
            }
            if self.pools.len() >= KEYS_MAX {
                return;
            }
            self.pools.push(KeyPool::new(used.key, used.host));
        }
        let Some(pool) = self.pools.iter_mut().find(|pool| pool.key == used.key) else {
            return;
        };
        pool.recent.add(now);
        pool.host.clone_from(used.host);
        pool.credit = CREDIT;
        if let Some(took) = used.connect {
            let is_first = pool.rtt.is_zero();
            pool.rtt = if is_first {
                took
            } else {
                (pool.rtt + took) / 2
            };
        }
    }
}

impl Wanted<'_> {
    /// The judged address behind a key; None if the tunnel may not use it.
    #[must_use]
    pub fn allows(&self, key: Key) -> Option<UpstreamAddress> {
        let fits = self.sources.contains(&key.source) && key.upstream.port() == self.port.number();
        let mut judged = self.addresses.iter().filter(|_| fits);
        judged
            .find(|judged| judged.ip() == key.upstream.ip())
            .copied()
    }
}

/// Whether an answer no longer has an address. One without any address of its family says nothing: the tunnel may not have
/// asked for that family.
fn is_former(answer: &[UpstreamAddress], ip: IpAddr) -> bool {
    let mut of_family = answer
        .iter()
        .filter(|address| address.ip().is_ipv4() == ip.is_ipv4())
        .peekable();
    of_family.peek().is_some() && !of_family.any(|address| address.ip() == ip)
}

/// The most names, and the most keys: clients choose names within the policy.
const NAMES_MAX: usize = 64;
const KEYS_MAX: usize = 64;
/// The most sockets that are opened for a key between two tunnels: four of a busy key or the pair of a quiet one, renewed
/// until it is 24 s old. So a provider gets few connections that carry nothing.
pub const CREDIT: usize = 6;
/// Between two checks of each socket. A tunnel checks its own before it uses it.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
