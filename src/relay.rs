//! The relay: moves bytes between client and upstream through pipes, inside the kernel, until both
//! sides have ended.
//!
//! Level-triggered epoll(7): one wait, then one splice in and one out per event. A tunnel is an
//! entry in the table of its thread; while it is silent it has no task, no timer and no pipe. A
//! chunk takes no lock and no allocation. In splice mode no byte enters user space; in adaptive
//! mode small transfers are copied through a buffer of the thread, which is wiped. Never waits; the
//! worker does. Never looks at a byte. See splice(2) and tcp(7).

mod buffers;
mod byte_count;
mod flow;
mod owner;
mod parked;
mod pass;
mod passes;
mod pipes;
mod relayed_tunnel;
mod stall;
mod waiting;

use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use slab::Slab;

use crate::outcome::Ending;
use crate::sys::poller::{Event, Poller};
pub use buffers::Buffers;
pub use byte_count::{ByteCount, ByteCounters, TunnelBytes};
use flow::RelayContext;
pub use owner::{Ended, IdleLimits, Owner, Timing};
pub use parked::{Adopted, Held, Leaving};
use pass::Pass;
pub use pipes::Bounds;
use relayed_tunnel::{RelayedTunnel, Side};
pub use stall::{STALL_BYTES, STALL_NOTED};
use waiting::Waiting;

/// How bytes move from one socket to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Through a pipe, never through user space.
    #[default]
    Splice,
    /// Small transfers through a buffer that is wiped, the others through a pipe.
    Adaptive,
}

/// A tunnel ready to relay.
#[derive(Debug)]
pub struct Tunnel<T> {
    /// The owner, which takes its end.
    pub owner: T,
    /// The client's socket: non-blocking and registered.
    pub client: TcpStream,
    /// The upstream's socket: non-blocking and registered.
    pub upstream: TcpStream,
    /// How its bytes move.
    pub mode: Mode,
    /// Bytes moved so far.
    pub bytes_moved: TunnelBytes,
    /// Bytes to send before those of the sockets.
    pub backlog: Backlog,
    /// The time after which a tunnel that policy no longer allows ends as revoked. None: policy allows it.
    pub grace: Option<Duration>,
}

/// What the set-up leaves to the relay.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Bytes of the client, to be sent first.
    pub up: BytesMut,
    /// Bytes of the upstream, to be sent first.
    pub down: BytesMut,
    /// The client has sent its FIN. The relay finds it again and passes it on.
    pub client_has_ended: bool,
}

/// The tunnels of one thread.
#[derive(Debug)]
pub struct Relay<T> {
    poller: Rc<Poller>,
    tunnels: Slab<RelayedTunnel<T>>,
    context: RelayContext,
    byte_counters: ByteCounters,
    /// Bytes moved since the totals were last updated.
    uncounted: TunnelBytes,
    waiting: Waiting,
    /// One more than the greatest key in use since the table was last empty.
    keys: usize,
    /// Ends tunnels whose time is up.
    sweep: Pass,
    /// Ends tunnels that must end.
    search: Pass,
    /// Asks whether tunnels are still allowed.
    judgement: Pass,
    epoch: Instant,
    /// The time of this turn, and the same in milliseconds since the relay's epoch.
    turn: Instant,
    now: u64,
    next_sweep: u64,
}

impl<T: Owner> Relay<T> {
    /// Creates a relay without tunnels; `poller` watches its sockets.
    #[must_use]
    pub fn new(poller: Rc<Poller>, pipes: Bounds, byte_counters: ByteCounters) -> Self {
        let epoch = Instant::now();
        Self {
            poller,
            tunnels: Slab::new(),
            context: RelayContext::new(pipes),
            byte_counters,
            uncounted: TunnelBytes::default(),
            waiting: Waiting::default(),
            keys: 0,
            sweep: Pass::default(),
            search: Pass::default(),
            judgement: Pass::default(),
            epoch,
            turn: epoch,
            now: 0,
            next_sweep: u64::MAX,
        }
    }

    /// Takes over a tunnel. Ends it at once if it must end, because a search may have passed its
    /// key.
    pub fn adopt(&mut self, tunnel: Tunnel<T>) {
        let must_end = tunnel.owner.must_end().map(Ended::from);
        let tunnel = RelayedTunnel::new(tunnel, self.now, &self.context);
        let key = self.tunnels.insert(tunnel);
        self.keys = self.keys.max(key + 1);
        if let Some(ended) = must_end.or_else(|| self.update_interest(key)) {
            self.end(key, ended);
        }
        self.note_deadline(key);
    }

    /// Moves the bytes that an event allows.
    pub fn on_event(&mut self, event: Event) {
        let (key, side) = unpack(event.key);
        // None: the tunnel ended in this turn.
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        self.context.allowance = match tunnel.owner.account() {
            None => u64::MAX,
            Some(account) => account.allowance(self.turn),
        };
        if self.context.allowance == 0
            && event.readable
            && !std::mem::replace(&mut tunnel.waits, true)
        {
            tunnel
                .owner
                .account()
                .into_iter()
                .for_each(|account| self.waiting.add(account, key));
        }
        let (before, was_half_closed, was_held_up) = (
            tunnel.bytes_moved(),
            tunnel.is_half_closed(),
            tunnel.is_held_up(),
        );
        let ended = tunnel.on_event(side, event, self.now, &mut self.context);
        let is_half_closed = tunnel.is_half_closed();
        let has_new_deadline =
            (is_half_closed && !was_half_closed) || (tunnel.is_held_up() && !was_held_up);
        let bytes_moved = tunnel.bytes_moved();
        let moved = bytes_moved.since(before);
        self.uncounted.add(moved);
        if moved.bytes() > 0 || has_new_deadline {
            tunnel.owner.moved(bytes_moved, is_half_closed, self.turn);
        }
        if let Some(account) = tunnel.owner.account() {
            account.spend(moved.bytes(), self.turn);
        }
        if let Some(ended) = ended.or_else(|| self.update_interest(key)) {
            return self.end(key, ended);
        }
        if has_new_deadline {
            self.note_deadline(key);
        }
    }

    /// Sets the clock of this turn.
    pub fn tick(&mut self, now: Instant) {
        self.turn = now;
        self.now = self.clock(now);
    }

    /// Milliseconds since the relay's epoch.
    fn clock(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Ends a turn: updates the totals, resumes tunnels whose user may move bytes again, and ends
    /// some of the tunnels that must end or have expired.
    pub fn finish_turn(&mut self) {
        self.count();
        self.end_found();
        let tunnels = &self.tunnels;
        for key in self.waiting.due(self.turn, |key| {
            tunnels.get(key).is_some_and(|tunnel| tunnel.waits)
        }) {
            self.resume(key);
        }
        self.sweep();
    }

    /// When the next tunnel may expire or resume; at once if a pass over the tunnels is under way.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let passes = [&self.sweep, &self.search, &self.judgement];
        if passes.into_iter().any(Pass::is_under_way) {
            return Some(self.turn);
        }
        let swept = (self.next_sweep < u64::MAX)
            .then(|| self.epoch + Duration::from_millis(self.next_sweep));
        swept.into_iter().chain(self.waiting.resumes_at()).min()
    }

    /// The owners of all tunnels.
    pub fn owners(&self) -> impl Iterator<Item = &T> {
        self.tunnels.iter().map(|(_, tunnel)| &tunnel.owner)
    }

    /// Resets every tunnel, in this turn.
    pub fn end_all(&mut self, ending: Ending) {
        for key in 0..self.keys {
            self.end(key, ending.into());
        }
    }

    /// Whether the relay has no tunnels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tunnels.is_empty()
    }

    /// Updates the poller's interest in both sockets where it has changed.
    fn update_interest(&mut self, key: usize) -> Option<Ended> {
        let tunnel = self.tunnels.get_mut(key)?;
        for side in Side::BOTH {
            let wanted = tunnel.wanted(side);
            let watched = tunnel.watched_mut(side);
            if watched.interest != Some(wanted) {
                watched.interest = Some(wanted);
                if let Err(error) = self.poller.change(&watched.socket, wanted, pack(key, side)) {
                    return Some(Ended::inside(error));
                }
            }
        }
        None
    }

    fn resume(&mut self, key: usize) {
        if let Some(tunnel) = self.tunnels.get_mut(key) {
            tunnel.resume(self.now);
        }
        self.note_deadline(key);
        if let Some(ended) = self.update_interest(key) {
            self.end(key, ended);
        }
    }

    fn note_deadline(&mut self, key: usize) {
        if let Some(tunnel) = self.tunnels.get(key) {
            let due = tunnel.due(tunnel.owner.idle_limits());
            self.next_sweep = self.next_sweep.min(due);
        }
    }

    fn end(&mut self, key: usize, ended: Ended) {
        // The totals include the tunnel's bytes before its owner learns of the end.
        self.count();
        if let Some(tunnel) = self.tunnels.try_remove(key) {
            let (bytes_moved, timing) = (tunnel.bytes_moved(), tunnel.timing(self.now));
            tunnel.close(&ended).ended(ended, bytes_moved, timing);
        }
        if self.tunnels.is_empty() {
            self.keys = 0;
        }
    }

    fn count(&mut self) {
        self.byte_counters.add(std::mem::take(&mut self.uncounted));
    }
}

fn pack(key: usize, side: Side) -> u64 {
    (key as u64) << 1 | u64::from(side == Side::Upstream)
}

fn unpack(packed: u64) -> (usize, Side) {
    let side = if packed & 1 == 0 {
        Side::Client
    } else {
        Side::Upstream
    };
    (usize::try_from(packed >> 1).unwrap_or(usize::MAX), side)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
