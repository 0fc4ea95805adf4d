//! Open tunnels that are described to the next daemon while they flow, and what has changed when they stand still. They stay
//! in the relay.

use std::os::fd::AsFd;
use std::time::Instant;

use super::Flowing;
use crate::handover::ahead::TUNNELS_OF_MESSAGE;
use crate::handover::packing::Contents;
use crate::handover::parking::{Asked, Packer, Parking};
use crate::handover::state::{Change, RelayState, SOCKETS};
use crate::relay::{Leaving, Relay};

/// The tunnels of one worker that are described ahead.
#[derive(Debug)]
pub struct Ahead {
    asked: Asked,
    /// The keys of those that are not described yet.
    left: Vec<usize>,
    noted: Vec<Noted>,
    /// Whether all are described, or nobody wants them.
    is_done: bool,
}

/// A described tunnel.
#[derive(Debug)]
struct Noted {
    key: usize,
    /// The two parts of its identifier: another tunnel can have its key later.
    id: (u64, u64),
    place: usize,
    /// What the description says; None: it changes too often, or bytes wait in it.
    state: Option<RelayState>,
}

impl Ahead {
    /// Starts to describe the tunnels of this relay.
    #[must_use]
    pub fn begin(asked: Asked, relay: &Relay<Flowing>) -> Self {
        Self {
            asked,
            left: relay.keys(),
            noted: Vec::with_capacity(relay.tunnel_count()),
            is_done: false,
        }
    }

    /// What asked for it.
    #[must_use]
    pub fn asked(&self) -> Asked {
        self.asked
    }

    /// Whether there is nothing left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Describes some more, so that the others flow between two calls.
    pub fn go_on(&mut self, relay: &Relay<Flowing>, parking: &Parking) {
        let some = self.left.len().saturating_sub(TUNNELS_OF_TURN);
        let some = self.left.split_off(some);
        for part in some.chunks(TUNNELS_OF_MESSAGE) {
            if !self.describe(part, relay, parking) {
                self.is_done = true;
                return;
            }
        }
        if self.left.is_empty() {
            parking.is_described(self.asked);
            self.is_done = true;
        }
    }

    fn describe(&mut self, keys: &[usize], relay: &Relay<Flowing>, parking: &Parking) -> bool {
        let at = self.asked.at;
        let (mut contents, mut sockets) = (Contents::default(), Vec::new());
        contents.expect(keys.len());
        let first = self.noted.len();
        for key in keys {
            let Some(Leaving {
                owner,
                state,
                descriptors,
                ..
            }) = relay.leaving(*key, at)
            else {
                continue;
            };
            // Without an upstream it is no open tunnel, and its lack is found later.
            let Some(mut described) = owner.facts.state(state.clone(), at) else {
                continue;
            };
            described.descriptors = SOCKETS;
            contents.describe(&described, [None; 2]);
            sockets.extend(descriptors.into_iter().take(SOCKETS));
            self.noted.push(Noted {
                key: *key,
                id: owner.facts.id(),
                place: 0,
                state: Some(state).filter(|state| state.is_empty() && state.quiet_ms > 0),
            });
        }
        let Some(place) = parking.put_ahead(self.asked, contents, &sockets) else {
            return false;
        };
        let described = self.noted.iter_mut().skip(first);
        for (place, noted) in (place..).zip(described) {
            noted.place = place;
        }
        true
    }

    /// Puts what has changed into the parcel.
    pub fn complete(&self, relay: &Relay<Flowing>, packer: &mut Packer<'_>) {
        let now = Instant::now();
        let (mut pipes, mut live) = (Vec::new(), 0);
        for Noted {
            key,
            id,
            place,
            state,
        } in &self.noted
        {
            let leaving = relay.leaving(*key, self.asked.at);
            let Some(then) = leaving.filter(|one| one.owner.facts.id() == *id) else {
                packer.contents.end(*place);
                continue;
            };
            live += 1;
            if state.as_ref() == Some(&then.state) {
                continue;
            }
            let Some(leaving) = relay.leaving(*key, now) else {
                continue;
            };
            let quiet = leaving.owner.facts.silence(now);
            let change = Change {
                of: *place,
                quiet_ms: u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX),
                descriptors: leaving.state.pipe_ends(),
                relay: leaving.state,
            };
            packer.contents.change(&change, leaving.held);
            pipes.extend(leaving.descriptors.into_iter().skip(SOCKETS));
        }
        if live != relay.tunnel_count() {
            packer.fail("a tunnel was not described");
        }
        packer.send(&pipes, relay.poller().as_fd());
    }
}

/// The most tunnels that are described between two looks at the sockets: a millisecond or two.
const TUNNELS_OF_TURN: usize = 4 * TUNNELS_OF_MESSAGE;
