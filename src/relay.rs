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
    /// Keys of tunnels that are ordered to end.
    ordered: Vec<usize>,
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
            ordered: Vec::new(),
            epoch,
            turn: epoch,
            now: 0,
            next_sweep: u64::MAX,
        }
    }

    /// Takes over a tunnel.
    pub fn adopt(&mut self, tunnel: Tunnel<T>) {
        // An order may have come during the set-up.
        let is_ordered = tunnel.owner.is_ordered_to_end();
        let tunnel = RelayedTunnel::new(tunnel, self.now, &self.context);
        let key = self.tunnels.insert(tunnel);
        self.ordered.extend(is_ordered.then_some(key));
        if let Some(ended) = self.update_interest(key) {
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
        self.now = u64::try_from(now.saturating_duration_since(self.epoch).as_millis())
            .unwrap_or(u64::MAX);
    }

    /// Ends a turn: updates the totals, resumes tunnels whose user may move bytes again, and ends
    /// expired tunnels.
    pub fn finish_turn(&mut self) {
        self.count();
        self.end_ordered();
        let tunnels = &self.tunnels;
        for key in self.waiting.due(self.turn, |key| {
            tunnels.get(key).is_some_and(|tunnel| tunnel.waits)
        }) {
            self.resume(key);
        }
        if self.now >= self.next_sweep {
            self.sweep();
        }
    }

    /// When the next tunnel may expire or resume.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let swept = (self.next_sweep < u64::MAX)
            .then(|| self.epoch + Duration::from_millis(self.next_sweep));
        let ordered = (!self.ordered.is_empty()).then_some(self.turn);
        let others = swept.into_iter().chain(self.waiting.resumes_at());
        others.chain(ordered).min()
    }

    /// The owners of all tunnels.
    pub fn owners(&self) -> impl Iterator<Item = &T> {
        self.tunnels.iter().map(|(_, tunnel)| &tunnel.owner)
    }

    /// Resets every tunnel.
    pub fn end_all(&mut self, ending: Ending) {
        self.end_where(ending, |_| true);
    }

    /// Resets every tunnel whose owner `is_over` selects.
    pub fn end_where(&mut self, ending: Ending, is_over: impl Fn(&T) -> bool) {
        let over = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| is_over(&tunnel.owner));
        let keys: Vec<usize> = over.map(|(key, _)| key).collect();
        for key in keys {
            self.end(key, ending.into());
        }
    }

    /// Finds the tunnels that are ordered to end. A turn ends some of them, so that the others do
    /// not wait.
    pub fn find_ordered(&mut self) {
        let ordered = self.tunnels.iter();
        let ordered = ordered.filter(|(_, tunnel)| tunnel.owner.is_ordered_to_end());
        self.ordered = ordered.map(|(key, _)| key).collect();
    }

    fn end_ordered(&mut self) {
        let left = self.ordered.len().saturating_sub(ORDERED_A_TURN);
        for key in self.ordered.split_off(left) {
            // Another tunnel may use the key by now.
            let is_it = |tunnel: &RelayedTunnel<T>| tunnel.owner.is_ordered_to_end();
            if self.tunnels.get(key).is_some_and(is_it) {
                self.end(key, Ending::EndedByOperator.into());
            }
        }
    }

    /// Asks each owner whether its tunnel is still allowed. A tunnel that is not ends as revoked
    /// after `grace`, unless it is allowed again before.
    pub fn judge_all(&mut self, mut is_allowed: impl FnMut(&mut T) -> bool, grace: Duration) {
        for (_, tunnel) in &mut self.tunnels {
            let is_allowed = is_allowed(&mut tunnel.owner);
            tunnel.judge(is_allowed, self.now, grace);
        }
        self.next_sweep = self.now;
        self.waiting.reckon();
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

    /// Ends expired tunnels, sets keepalive where it is due and computes the next deadline. There is no timer per tunnel: most
    /// deadlines move before they expire, and checking all tunnels now and then costs less than
    /// moving a timer with each chunk.
    fn sweep(&mut self) {
        let mut next = u64::MAX;
        let mut late = Vec::new();
        for (key, tunnel) in &mut self.tunnels {
            match tunnel.deadline(tunnel.owner.idle_limits()) {
                (deadline, Ending::Stalled) if deadline <= self.now => {
                    late.push((key, tunnel.stall_ended()))
                }
                (deadline, ending) if deadline <= self.now => late.push((key, ending.into())),
                _ if !tunnel.note_stall(self.now) => late.push((key, tunnel.one_stall_too_many())),
                _ => match tunnel.keep_alive(self.now) {
                    Ok(()) => next = next.min(tunnel.due(tunnel.owner.idle_limits())),
                    Err(error) => late.push((key, Ended::inside(error))),
                },
            }
        }
        self.next_sweep = next.max(self.now + SWEEP_MS);
        for (key, ended) in late {
            self.end(key, ended);
        }
    }

    fn end(&mut self, key: usize, ended: Ended) {
        // The totals include the tunnel's bytes before its owner learns of the end.
        self.count();
        if let Some(tunnel) = self.tunnels.try_remove(key) {
            let (bytes_moved, timing) = (tunnel.bytes_moved(), tunnel.timing(self.now));
            tunnel.close(&ended).ended(ended, bytes_moved, timing);
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

/// One end takes some 30 µs: two resets, two closes, a record.
const ORDERED_A_TURN: usize = 32;
/// Checking ten thousand tunnels takes half a millisecond.
const SWEEP_MS: u64 = 100;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
