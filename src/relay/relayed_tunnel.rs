//! The two sockets of one tunnel and its two flows: handles events, and decides how the tunnel
//! ends.
//!
//! A FIN on one side becomes a FIN on the other, after every byte before it; a reset becomes a
//! reset, never a clean end. Never waits and has no timer: it returns when its time is up.

mod backpressure;
mod keepalive;
mod limits;
mod parked;

use std::net::TcpStream;
use std::time::Duration;

use super::flow::{Broken, Endpoints, Flow, RelayContext};
use super::{Ended, IdleLimits, Owner, Timing, Tunnel, TunnelBytes};
use crate::outcome::Ending;
use crate::sys;
use crate::sys::buffers::Locks;
use crate::sys::poller::{Event, Interest};
use backpressure::Backpressure;

/// Two sockets and their flows. Times are milliseconds of the relay's clock.
#[derive(Debug)]
pub(super) struct RelayedTunnel<T> {
    pub(super) owner: T,
    client: Watched,
    upstream: Watched,
    up: Flow,
    down: Flow,
    /// None until bytes have waited, or enough have moved that the kernel may enlarge its buffers:
    /// an idle tunnel does without this memory.
    backpressure: Option<Box<Backpressure>>,
    first_fin: Option<Side>,
    /// A side that failed on a write. Bytes that it has sent are still delivered.
    unwritable: Option<(Side, std::io::Error)>,
    started: u64,
    last_byte: u64,
    half_closed: Option<u64>,
    /// When the tunnel ends because policy no longer allows it.
    revoked: Option<u64>,
    /// Reads nothing until its user may move more bytes.
    pub(super) waits: bool,
    /// The kernel probes a silent upstream.
    has_keepalive: bool,
    /// When reading was last resumed.
    resumed: u64,
    /// The time of the client's first byte, from the start.
    spoke: Option<u32>,
    timing: Timing,
    /// Whether another process may have its sockets open too. Their close is a reset then, unless the tunnel ends here.
    is_shared: bool,
}

/// A socket and the interest that the poller last got for it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) socket: TcpStream,
    /// None before the first interest.
    pub(super) interest: Option<Interest>,
    locks: Locks,
}

/// A side of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Upstream,
}

impl<T: Owner> RelayedTunnel<T> {
    pub(super) fn new(tunnel: Tunnel<T>, now: u64, context: &RelayContext) -> Self {
        let Tunnel {
            owner,
            client,
            upstream,
            mode,
            bytes_moved,
            backlog,
            grace,
        } = tunnel;
        let watched = |socket| Watched {
            socket,
            interest: None,
            locks: Locks::default(),
        };
        let (up, down) = (
            Flow::after(bytes_moved.up, mode, &backlog.up, context),
            Flow::after(bytes_moved.down, mode, &backlog.down, context),
        );
        let mut tunnel = Self {
            owner,
            client: watched(client),
            upstream: watched(upstream),
            up,
            down,
            backpressure: None,
            first_fin: backlog.client_has_ended.then_some(Side::Client),
            unwritable: None,
            started: now,
            last_byte: now,
            half_closed: backlog.client_has_ended.then_some(now),
            revoked: grace.map(|grace| later(now, grace)),
            waits: false,
            has_keepalive: false,
            resumed: now,
            spoke: None,
            timing: Timing::default(),
            is_shared: false,
        };
        for side in Side::BOTH {
            tunnel.note_blocked(side, now);
        }
        tunnel
    }

    /// Moves the bytes that an event on one side allows. Returns the end if the tunnel has ended.
    pub(super) fn on_event(
        &mut self,
        side: Side,
        event: Event,
        now: u64,
        context: &mut RelayContext,
    ) -> Option<Ended> {
        if event.urgent && self.flow(side).is_open() {
            return Some(self.over(side.reset(Some(sys::urgent_data()))));
        }
        if event.writable
            && self.flow(side.other()).is_blocked()
            && let Some(ended) = self.transfer(side.other(), false, now, context)
        {
            return Some(ended);
        }
        if event.readable && self.flow(side).is_open() && !self.waits {
            return self.transfer(side, event.has_ended, now, context);
        }
        // No flow reads this side now, so no read can report the reset.
        event.failed.then(|| {
            let cause = sys::take_error(&self.watched(side).socket).ok().flatten();
            self.over(side.reset(cause))
        })
    }

    /// Moves bytes that come from this side.
    fn transfer(
        &mut self,
        from: Side,
        has_ended: bool,
        now: u64,
        context: &mut RelayContext,
    ) -> Option<Ended> {
        let (flow, from_socket, to_socket) = match from {
            Side::Client => (&mut self.up, &self.client.socket, &self.upstream.socket),
            Side::Upstream => (&mut self.down, &self.upstream.socket, &self.client.socket),
        };
        let before = flow.moved.bytes();
        let transferred = flow.transfer(
            Endpoints {
                from: from_socket,
                to: to_socket,
                has_ended,
            },
            context,
        );
        if transferred.is_err() {
            flow.end();
        }
        let (has_moved, has_ended) = (flow.moved.bytes() > before, flow.has_ended());
        if has_moved {
            self.note_bytes(from, now);
        }
        self.bound_waiting_bytes(from, now, context.rmem_max);
        match transferred {
            Ok(()) if !has_ended => None,
            Ok(()) => self.fin(from, now),
            Err(Broken::From(error)) => Some(self.over(from.reset(Some(error)))),
            Err(Broken::To(error)) => {
                self.unwritable.get_or_insert((from.other(), error));
                self.half_closed.get_or_insert(now);
                self.both_have_ended().then(|| self.over(from.closed()))
            }
            Err(Broken::Inside(error)) => Some(self.over(Ended::inside(error))),
        }
    }

    /// Records that bytes of this side have moved: the silence before them, and how long the client
    /// has waited for its first answer.
    fn note_bytes(&mut self, from: Side, now: u64) {
        self.timing.max_gap = self.timing.max_gap.max(span(self.last_byte, now));
        self.last_byte = now;
        let since_start = span(self.started, now);
        match (from, self.spoke, self.timing.first_byte) {
            (Side::Client, None, _) => self.spoke = Some(since_start),
            (Side::Upstream, Some(spoke), None) => {
                let took = since_start.saturating_sub(spoke);
                self.timing.first_byte = Some(took);
                self.owner.answered(Duration::from_millis(took.into()));
            }
            _ => {}
        }
    }

    /// The times of bytes as of `now`.
    pub(super) fn timing(&self, now: u64) -> Timing {
        Timing {
            max_gap: self.timing.max_gap.max(span(self.last_byte, now)),
            ..self.timing
        }
    }

    /// Handles the FIN of a side after every byte before it is delivered.
    fn fin(&mut self, from: Side, now: u64) -> Option<Ended> {
        let first = *self.first_fin.get_or_insert(from);
        self.half_closed.get_or_insert(now);
        if self.both_have_ended() {
            // Closing both sockets sends the FINs that are still due.
            return Some(self.over(first.closed()));
        }
        if self.unwritable.is_none() {
            // Fails only on a dead socket, whose own flow reports it.
            let _found_out_there = sys::shutdown_write(&self.watched(from.other()).socket);
        }
        None
    }

    fn both_have_ended(&self) -> bool {
        self.up.has_ended() && self.down.has_ended()
    }

    /// Returns this end, unless an earlier reset is the cause.
    fn over(&mut self, ended: Ended) -> Ended {
        self.unwritable
            .take()
            .map_or(ended, |(side, cause)| side.reset(Some(cause)))
    }

    /// Lets the tunnel read again.
    pub(super) fn resume(&mut self, now: u64) {
        (self.waits, self.resumed) = (false, now);
    }

    pub(super) fn is_half_closed(&self) -> bool {
        self.half_closed.is_some()
    }

    /// The bytes moved so far.
    pub(super) fn bytes_moved(&self) -> TunnelBytes {
        TunnelBytes {
            up: self.up.moved,
            down: self.down.moved,
        }
    }

    /// The interest in this side now.
    pub(super) fn wanted(&self, side: Side) -> Interest {
        Interest {
            reads: self.flow(side).is_open() && !self.waits,
            writes: self.flow(side.other()).is_blocked(),
        }
    }

    fn watched(&self, side: Side) -> &Watched {
        match side {
            Side::Client => &self.client,
            Side::Upstream => &self.upstream,
        }
    }

    pub(super) fn watched_mut(&mut self, side: Side) -> &mut Watched {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }

    fn flow(&self, from: Side) -> &Flow {
        match from {
            Side::Client => &self.up,
            Side::Upstream => &self.down,
        }
    }

    /// Closes both sockets; with resets unless the end was clean. Their peers learn of it at once, also if another process has
    /// the sockets open.
    pub(super) fn close(self, ended: &Ended) -> T {
        let is_orderly = ended.ending.is_orderly();
        for socket in [&self.client.socket, &self.upstream.socket] {
            // Fails only on a dead socket, whose peer knows.
            let _peer_knows = match (is_orderly, self.is_shared) {
                (true, false) => Ok(()),
                (true, true) => {
                    sys::options::end_in_order(socket).and_then(|()| sys::shutdown_write(socket))
                }
                (false, false) => sys::reset_on_close(socket),
                (false, true) => sys::options::reset(socket),
            };
        }
        self.owner
    }
}

impl Side {
    pub(super) const BOTH: [Self; 2] = [Self::Client, Self::Upstream];

    fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }

    fn closed(self) -> Ended {
        match self {
            Self::Client => Ending::ClosedByClient.into(),
            Self::Upstream => Ending::ClosedByUpstream.into(),
        }
    }

    fn reset(self, cause: Option<std::io::Error>) -> Ended {
        match self {
            Self::Client => Ended {
                ending: Ending::ResetByClient,
                cause,
            },
            Self::Upstream => Ended {
                ending: Ending::ResetByUpstream,
                cause,
            },
        }
    }
}

/// Milliseconds; 49 days at most.
fn span(from: u64, to: u64) -> u32 {
    u32::try_from(to.saturating_sub(from)).unwrap_or(u32::MAX)
}

fn later(at: u64, by: std::time::Duration) -> u64 {
    at.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX))
}
