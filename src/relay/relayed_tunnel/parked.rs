//! A relayed tunnel on its way from one daemon to the next: describes it, and continues one.
//!
//! The clock of a relay begins with its daemon, so the description has spans of time and no times.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::backpressure::Backpressure;
use super::{RelayedTunnel, Side, Watched};
use crate::handover::state::{LocksState, RelayState, SideState};
use crate::relay::flow::{Flow, RelayContext};
use crate::relay::{Adopted, Owner, Timing};
use crate::sys;
use crate::sys::buffers::Locks;

impl<T: Owner> RelayedTunnel<T> {
    /// Its state for the next daemon.
    pub(in crate::relay) fn state(&self, now: u64) -> RelayState {
        let since = |at: u64| now.saturating_sub(at);
        let (mut up, mut down) = (self.up.state(), self.down.state());
        if let Some(backpressure) = &self.backpressure {
            backpressure.describe(Side::Client, &mut up, now);
            backpressure.describe(Side::Upstream, &mut down, now);
        }
        RelayState {
            up,
            down,
            age_ms: since(self.started),
            quiet_ms: since(self.last_byte),
            half_closed_ms: self.half_closed.map(since),
            revoked_in_ms: self.revoked.map(|at| at.saturating_sub(now)),
            waits: self.waits,
            has_keepalive: self.has_keepalive,
            resumed_ms: since(self.resumed),
            spoke_ms: self.spoke,
            first_byte_ms: self.timing.first_byte,
            max_gap_ms: self.timing.max_gap,
            first_fin: self.first_fin.map(named),
            unwritable: self
                .unwritable
                .as_ref()
                .map(|(side, error)| (named(*side), error.raw_os_error().unwrap_or_default())),
            client_locks: described(self.client.locks),
            upstream_locks: described(self.upstream.locks),
            is_stall_noted: self
                .backpressure
                .as_ref()
                .is_some_and(|both| both.is_stall_noted),
        }
    }

    /// Its descriptors, in the order in which the next daemon takes them.
    pub(in crate::relay) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let pipes = [&self.up, &self.down].map(|flow| flow.buffer()?.pipe_ends());
        let pipes = pipes.into_iter().flatten().flatten();
        self.sockets().into_iter().chain(pipes)
    }

    /// The client's socket and the upstream's.
    pub(in crate::relay) fn sockets(&self) -> [BorrowedFd<'_>; 2] {
        [self.client.socket.as_fd(), self.upstream.socket.as_fd()]
    }

    /// The bytes in its buffers that are not in pipes: of the client, and of the upstream.
    pub(in crate::relay) fn held(&self) -> [Option<&[u8]>; 2] {
        [&self.up, &self.down].map(|flow| flow.buffer()?.bytes())
    }

    /// Makes the end of the last process that holds them a reset of both sockets. If the tunnel ends here, its close undoes it.
    pub(in crate::relay) fn reset_if_lost(&mut self) {
        if !std::mem::replace(&mut self.is_shared, true) {
            for socket in self.sockets() {
                // Fails only on a dead socket.
                let _dead = sys::reset_on_close(socket);
            }
        }
    }

    /// Continues a tunnel of another daemon.
    pub(in crate::relay) fn adopt(adopted: Adopted<T>, now: u64, context: &RelayContext) -> Self {
        let Adopted {
            owner,
            client,
            upstream,
            mode,
            state,
            held: [up_held, down_held],
            pause,
            grace,
        } = adopted;
        let watched = |socket, locks: LocksState| Watched {
            socket,
            interest: None,
            locks: Locks {
                receive: locks.receive,
                send: locks.send,
            },
        };
        let before = |since: u64| now.saturating_sub(since);
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let until = |left: u64| now.saturating_add(left);
        let grace = grace.map(|grace| super::later(now, grace));
        let mut tunnel = Self {
            owner,
            client: watched(client, state.client_locks),
            upstream: watched(upstream, state.upstream_locks),
            up: Flow::adopt(&state.up, up_held, mode, context),
            down: Flow::adopt(&state.down, down_held, mode, context),
            backpressure: Backpressure::adopt(&state, now),
            first_fin: state.first_fin.map(side),
            unwritable: state
                .unwritable
                .map(|(failed, error)| (side(failed), io::Error::from_raw_os_error(error))),
            started: before(state.age_ms.saturating_add(pause_ms)),
            last_byte: before(state.quiet_ms),
            half_closed: state.half_closed_ms.map(before),
            // The former daemon may have begun the grace.
            revoked: grace.map(|grace| state.revoked_in_ms.map_or(grace, until).min(grace)),
            waits: state.waits,
            has_keepalive: state.has_keepalive,
            resumed: before(state.resumed_ms),
            spoke: state.spoke_ms,
            timing: Timing {
                first_byte: state.first_byte_ms,
                max_gap: state.max_gap_ms,
            },
            // The former daemon ends a little later.
            is_shared: true,
        };
        for side in Side::BOTH {
            tunnel.note_blocked(side, now);
        }
        tunnel
    }
}

fn named(side: Side) -> SideState {
    match side {
        Side::Client => SideState::Client,
        Side::Upstream => SideState::Upstream,
    }
}

fn side(side: SideState) -> Side {
    match side {
        SideState::Client => Side::Client,
        SideState::Upstream => Side::Upstream,
    }
}

fn described(Locks { receive, send }: Locks) -> LocksState {
    LocksState { receive, send }
}
