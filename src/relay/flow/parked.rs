//! A direction of a tunnel on its way from one daemon to the next.

use super::{Flow, FlowState, RelayContext};
use crate::handover::state::{FlowState as State, Stage};
use crate::relay::pipes::Buffer;
use crate::relay::{ByteCount, Held, Mode};

impl Flow {
    /// Its state for the next daemon.
    pub(in crate::relay) fn state(&self) -> State {
        let ByteCount { spliced, copied } = self.moved;
        let buffer = self.buffer();
        let holds = buffer.map_or(0, |buffer| buffer.holds() as u64);
        let is_piped = buffer.is_some_and(Buffer::is_spliced);
        State {
            spliced,
            copied,
            state: match self.state {
                FlowState::Open => Stage::Open,
                FlowState::Blocked(_) => Stage::Blocked,
                FlowState::Ended => Stage::Ended,
            },
            in_bulk: self.in_bulk,
            piped: if is_piped { holds } else { 0 },
            held: if is_piped { 0 } else { holds },
            ..State::default()
        }
    }

    /// The bytes that wait for the sink.
    pub(in crate::relay) fn buffer(&self) -> Option<&Buffer> {
        match &self.state {
            FlowState::Blocked(buffer) => Some(buffer),
            FlowState::Open | FlowState::Ended => None,
        }
    }

    /// Continues a direction of another daemon.
    pub(in crate::relay) fn adopt(
        state: &State,
        held: Held,
        mode: Mode,
        context: &RelayContext,
    ) -> Self {
        let (spliced, copied) = (state.spliced, state.copied);
        Self {
            state: match state.state {
                Stage::Open => FlowState::Open,
                Stage::Blocked => FlowState::Blocked(context.pipes.adopt(held)),
                Stage::Ended => FlowState::Ended,
            },
            mode,
            in_bulk: state.in_bulk,
            moved: ByteCount { spliced, copied },
        }
    }
}
