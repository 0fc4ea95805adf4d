//! Warm upstream sockets (`dial.warm`): connections that are open before the tunnels which use them, so that a tunnel does
//! not wait for TCP's round trip.
//!
//! Keeps the sockets, decides how many are worth having and which of them a tunnel may use. A pool belongs to one
//! configuration: a reload closes it, and a closed pool takes and gives none. A tunnel gets a socket only for an address
//! that its own answer of DNS has and its guard has passed. At most `dial.warm` for a source and an upstream, opened only
//! after tunnels: at most [`CREDIT`] after each. Never dials, never sends a byte and never logs or counts; it returns
//! what it has closed.

mod close_reason;
mod demand;
mod line;
mod socket;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::authority::{Host, Port};
use crate::policy::guard::UpstreamAddress;
pub use close_reason::{CloseReason, Closed};
use demand::Recent;
use line::{Line, PAUSE};
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
    lines: Vec<Line>,
    /// The line that the next tunnel tries first.
    next_line: usize,
    /// When each socket is looked at next.
    next_sweep: Option<Instant>,
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

/// A tunnel that has an upstream.
#[derive(Clone, Copy, Debug)]
pub struct Used<'a> {
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

/// What a worker has to do for the pool.
#[derive(Debug, Default)]
pub struct Look {
    /// What was closed.
    pub closed: Closed,
    /// The sockets to open. The worker answers each with [`WarmPool::opened`].
    pub open: Vec<Key>,
    /// When to look again; None: when a tunnel has used the pool.
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
        state.lines.iter().map(|line| line.idle.len()).sum()
    }

    /// Takes a socket that `wanted` allows, and closes those on the way that no tunnel may use any more.
    #[must_use]
    pub fn take(&self, wanted: &Wanted<'_>, now: Instant) -> (Option<Taken>, Closed) {
        let mut closed = Closed::default();
        let mut state = self.lock();
        // Round robin, so that all sources and upstreams are used equally.
        state.next_line = state.next_line.wrapping_add(1) % LINES_MAX;
        let (first, count) = (state.next_line, state.lines.len());
        let taken = (0..count).find_map(|nth| {
            let line = state.lines.get_mut((first + nth) % count)?;
            let (to, key) = (wanted.allows(line.key)?, line.key);
            let warm = line.take(now, &mut closed)?;
            Some(Taken { to, key, warm })
        });
        (taken, closed)
    }

    /// Notes a tunnel. Returns whether its name had enough tunnels before for a warm socket, and closes the sockets of the
    /// name's former addresses.
    #[must_use]
    pub fn used(&self, used: &Used<'_>, now: Instant) -> (bool, Closed) {
        let mut closed = Closed::default();
        let mut state = self.lock();
        if state.is_closed {
            return (false, closed);
        }
        for line in &mut state.lines {
            let is_former = line.host == *used.host
                && line.key.upstream.port() == used.port.number()
                && is_former(used.addresses, line.key.upstream.ip());
            if is_former {
                closed.add(CloseReason::Answer, line.idle.len());
                line.idle.clear();
                line.credit = 0;
            }
        }
        let was_busy = state.name_used(used.host, used.port, now);
        state.line_used(used, now);
        (was_busy, closed)
    }

    /// Closes unusable sockets and returns the keys to open. Checks each socket once a second.
    #[must_use]
    pub fn look(&self, now: Instant) -> Look {
        let mut state = self.lock();
        let mut look = Look::default();
        if state.is_closed {
            return look;
        }
        let is_due = state.next_sweep.is_none_or(|at| at <= now);
        if is_due {
            state.next_sweep = Some(now + SWEEP);
            state.lines.retain(|line| line.is_used(now));
        }
        let State { lines, names, .. } = &mut *state;
        for line in lines.iter_mut() {
            line.sweep(is_due, now, &mut look.closed);
            let is_busy = |(host, port, recent): &(Host, Port, Recent)| {
                *host == line.host
                    && port.number() == line.key.upstream.port()
                    && recent.is_busy(now)
            };
            let missing = line.missing(self.per_key_max, now);
            let is_wanted = missing > 0 && names.iter().any(is_busy);
            let wanted = if is_wanted { missing } else { 0 };
            line.opening += wanted;
            line.credit -= wanted;
            look.open.extend(std::iter::repeat_n(line.key, wanted));
        }
        let expiries = lines.iter().filter_map(|line| line.idle.front());
        let earliest = expiries.map(WarmSocket::expires).min();
        let is_busy = earliest.is_some() || !look.open.is_empty();
        let sweep = state.next_sweep.filter(|_| is_busy);
        look.next = earliest.into_iter().chain(sweep).min();
        look
    }

    /// Puts a socket that [`WarmPool::look`] has asked for into the pool; None if it could not be opened. Returns whether
    /// the pool has it; otherwise it is closed.
    pub fn opened(&self, key: Key, warm: Option<WarmSocket>, now: Instant) -> bool {
        let mut state = self.lock();
        let is_closed = state.is_closed;
        let Some(line) = state.lines.iter_mut().find(|line| line.key == key) else {
            return false;
        };
        line.opening = line.opening.saturating_sub(1);
        match warm {
            Some(warm) if !is_closed => {
                line.idle.push_back(warm);
                true
            }
            Some(_) => false,
            None => {
                line.paused_until = Some(now + PAUSE);
                false
            }
        }
    }

    /// Closes all sockets and forgets the tunnels. Returns how many were open.
    pub fn clear(&self) -> usize {
        let mut state = self.lock();
        let lines = std::mem::take(&mut state.lines);
        state.names.clear();
        drop(state);
        lines.iter().map(|line| line.idle.len()).sum()
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
    fn name_used(&mut self, host: &Host, port: Port, now: Instant) -> bool {
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

    fn line_used(&mut self, used: &Used<'_>, now: Instant) {
        if !self.lines.iter().any(|line| line.key == used.key) {
            if self.lines.len() >= LINES_MAX {
                self.lines.retain(|line| line.is_used(now));
            }
            if self.lines.len() >= LINES_MAX {
                return;
            }
            self.lines.push(Line::new(used.key, used.host));
        }
        let Some(line) = self.lines.iter_mut().find(|line| line.key == used.key) else {
            return;
        };
        line.recent.add(now);
        line.host.clone_from(used.host);
        line.credit = CREDIT;
        if let Some(took) = used.connect {
            let is_first = line.rtt.is_zero();
            line.rtt = if is_first {
                took
            } else {
                (line.rtt + took) / 2
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
const LINES_MAX: usize = 64;
/// The most sockets that are opened for a key between two tunnels: four of a busy key or the pair of a quiet one, renewed
/// until it is 24 s old. So a provider gets few connections that carry nothing.
pub const CREDIT: usize = 6;
/// Between two looks at each socket. A tunnel looks at its own before it uses it.
const SWEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
