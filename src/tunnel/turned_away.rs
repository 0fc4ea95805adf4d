//! Refuses a connection at the least cost: one write with the reason, one read, a close. No future,
//! no registration, no wait.

use std::fmt::Display;
use std::net::TcpStream;

use zeroize::Zeroize;

use super::facts::TunnelFacts;
use super::flowing::conclude;
use super::{Origin, World};
use crate::admission::Refusal;
use crate::outcome::{DenyReason, End};
use crate::sys;
use crate::wire::reply;

/// Refuses a connection for `reason`; `cause` has details. The refusal is counted, and recorded or
/// summed like every other.
pub fn turn_away(
    stream: &TcpStream,
    origin: &Origin,
    reason: DenyReason,
    cause: &str,
    world: &World,
) {
    say(stream, reason.into());
    record(origin, reason, cause, world);
}

/// Refuses a peer that may not declare clients, without a reply and without reading a byte.
pub fn shut_out(origin: &Origin, refusal: Refusal, world: &World) {
    record(origin, End::from(refusal), refusal, world);
}

fn record(origin: &Origin, end: impl Into<End>, cause: impl Display, world: &World) {
    let shared = &world.shared;
    let mut facts = TunnelFacts::new(origin, shared, &shared.snapshot.load_full());
    let end = facts.with_cause(cause, end);
    conclude(facts, end);
}

/// A client that cannot accept a line at once, or is gone, gets none.
fn say(stream: &TcpStream, end: End) {
    if sys::write_and_end(stream, &reply::farewell(end)).is_ok() {
        // Reads the client's bytes: a close with unread bytes sends a reset, which can overtake the
        // reply.
        let mut head = [0; HEAD_BYTES];
        let read = sys::read(stream, &mut head).unwrap_or(0);
        // They may hold credentials.
        head.get_mut(..read).unwrap_or_default().zeroize();
    }
}

/// Most heads have some hundred bytes.
const HEAD_BYTES: usize = 2_048;
