//! Bytes of a relayed tunnel that wait in the kernel: bounds them, and records how long they wait.
//!
//! Most tunnels move small answers that no side keeps waiting. The state is allocated for the
//! others, so that an idle tunnel does without it. Ends nothing itself: the relay asks when a limit
//! is due.

use super::{Ended, Owner, RelayedTunnel, Side, later};
use crate::handover::state::{FlowState, RelayState};
use crate::outcome::Ending;
use crate::relay::buffers::{Bound, FIRST_LOOK_BYTES, FlowBuffers, Locked};
use crate::relay::stall::{STALL_NOTED, Stall};

/// The waiting bytes of both directions.
#[derive(Debug, Default)]
pub(super) struct Backpressure {
    up: Direction,
    down: Direction,
    /// Whether the owner counts this tunnel as stalled.
    pub(super) is_stall_noted: bool,
}

#[derive(Debug, Default)]
struct Direction {
    buffers: FlowBuffers,
    stall: Stall,
}

impl Backpressure {
    fn direction_mut(&mut self, from: Side) -> &mut Direction {
        match from {
            Side::Client => &mut self.up,
            Side::Upstream => &mut self.down,
        }
    }

    /// When each direction stalled.
    fn stalls(&self) -> impl Iterator<Item = u64> {
        [&self.up.stall, &self.down.stall]
            .into_iter()
            .filter_map(Stall::since)
    }

    /// When the tunnel will count as stalled for its owner; never, if no bytes wait.
    fn stalled_long_at(&self) -> u64 {
        self.stalls()
            .min()
            .map_or(u64::MAX, |since| later(since, STALL_NOTED))
    }
}

impl Backpressure {
    /// Adds what the next daemon has to know of one direction.
    pub(super) fn describe(&self, from: Side, flow: &mut FlowState, now: u64) {
        let direction = match from {
            Side::Client => &self.up,
            Side::Upstream => &self.down,
        };
        flow.stalled = direction.stall.state(now);
        direction.buffers.describe(flow);
    }

    /// Continues that of another daemon; None if it had none.
    pub(super) fn adopt(state: &RelayState, now: u64) -> Option<Box<Self>> {
        let direction = |flow: &FlowState| Direction {
            buffers: FlowBuffers::adopt(flow),
            stall: Stall::adopt(flow.stalled, now),
        };
        let has_any = |flow: &FlowState| flow.stalled.is_some() || flow.checked_at > 0;
        (has_any(&state.up) || has_any(&state.down)).then(|| {
            Box::new(Self {
                up: direction(&state.up),
                down: direction(&state.down),
                is_stall_noted: state.is_stall_noted,
            })
        })
    }
}

impl<T: Owner> RelayedTunnel<T> {
    /// Records whether bytes from this side wait.
    pub(super) fn note_blocked(&mut self, from: Side, now: u64) {
        let flow = self.flow(from);
        let (is_blocked, moved) = (flow.is_blocked(), flow.moved.bytes());
        if is_blocked || self.backpressure.is_some() {
            let backpressure = self.backpressure.get_or_insert_default();
            let stall = &mut backpressure.direction_mut(from).stall;
            stall.note(is_blocked, moved, now);
        }
    }

    /// Bounds the bytes from this side that wait in the kernel, and records how long they have
    /// waited.
    pub(super) fn bound_waiting_bytes(&mut self, from: Side, now: u64, rmem_max: usize) {
        let flow = self.flow(from);
        let (is_blocked, moved) = (flow.is_blocked(), flow.moved.bytes());
        if self.backpressure.is_none() && !is_blocked && moved < FIRST_LOOK_BYTES {
            return;
        }
        let bound = Bound {
            buffers: self.owner.buffers(),
            rmem_max,
        };
        let backpressure = self.backpressure.get_or_insert_default();
        let (source, sink) = match from {
            Side::Client => (&mut self.client, &mut self.upstream),
            Side::Upstream => (&mut self.upstream, &mut self.client),
        };
        let direction = backpressure.direction_mut(from);
        direction.stall.note(is_blocked, moved, now);
        let source = Locked {
            socket: &source.socket,
            locks: &mut source.locks,
        };
        let sink = Locked {
            socket: &sink.socket,
            locks: &mut sink.locks,
        };
        let buffers = &mut direction.buffers;
        buffers.bound(moved, is_blocked, source, sink, bound);
        if backpressure.is_stall_noted && now < backpressure.stalled_long_at() {
            backpressure.is_stall_noted = false;
            self.owner.unstalled();
        }
    }

    /// Whether bytes wait for a side that does not take them.
    pub(in crate::relay) fn is_held_up(&self) -> bool {
        self.up.is_blocked() || self.down.is_blocked()
    }

    /// When the owner has to count the tunnel as stalled; never, if no bytes wait or it counts it
    /// already.
    pub(in crate::relay) fn stall_due(&self) -> u64 {
        let uncounted = self.backpressure.as_ref();
        uncounted
            .filter(|backpressure| !backpressure.is_stall_noted)
            .map_or(u64::MAX, |backpressure| backpressure.stalled_long_at())
    }

    /// Makes its owner count it if it is due. Returns false when the owner has too many such
    /// tunnels.
    pub(in crate::relay) fn note_stall(&mut self, now: u64) -> bool {
        if self.stall_due() > now {
            return true;
        }
        let is_counted = self.owner.stalled();
        if let Some(backpressure) = &mut self.backpressure {
            backpressure.is_stall_noted = is_counted;
        }
        is_counted
    }

    /// When each direction stalled.
    pub(super) fn stalls(&self) -> impl Iterator<Item = u64> {
        self.backpressure
            .iter()
            .flat_map(|backpressure| backpressure.stalls())
    }

    /// The end of a tunnel with a side that has taken too little for too long.
    pub(in crate::relay) fn stall_ended(&self) -> Ended {
        self.stalled(format!(
            "{} takes none, or hardly any, of the bytes that wait for it",
            self.stalled_side()
        ))
    }

    /// The end of a stalled tunnel whose owner has the most stalled tunnels already.
    pub(in crate::relay) fn one_stall_too_many(&self) -> Ended {
        self.stalled(format!(
            "{} takes too few of the bytes that wait for it, and so it is in limits.stalled_per_user other tunnels",
            self.stalled_side()
        ))
    }

    fn stalled(&self, cause: String) -> Ended {
        Ended {
            ending: Ending::Stalled,
            cause: Some(std::io::Error::other(cause)),
        }
    }

    /// The side that has taken too little for longest.
    fn stalled_side(&self) -> &'static str {
        let since = |direction: fn(&Backpressure) -> &Direction| {
            let backpressure = self.backpressure.as_ref()?;
            direction(backpressure).stall.since()
        };
        match (since(|both| &both.up), since(|both| &both.down)) {
            (Some(up), down) if down.is_none_or(|down| up <= down) => "the upstream",
            _ => "the client",
        }
    }
}
