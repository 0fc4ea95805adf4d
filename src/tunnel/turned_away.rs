//! A connection that nothing may be spent on: one write that says why, one read, a close. No future, no registration, no
//! wait.

use std::net::TcpStream;

use zeroize::Zeroize;

use super::flowing::conclude;
use super::story::Story;
use super::{Origin, World};
use crate::outcome::{DenyReason, End};
use crate::sys;
use crate::wire::reply;

/// Refuses a connection for `reason`. It is always counted; a record is written where there is a `cause`, its detail, for
/// a flood must not flood the audit stream.
pub fn turn_away(stream: &TcpStream, origin: Origin, reason: DenyReason, cause: Option<&str>, world: &World) {
    say(stream, reason.into());
    let shared = &world.shared;
    match cause {
        Some(cause) => {
            let mut story = Story::new(origin, shared, &shared.snapshot.load_full());
            let end = story.because(cause, reason);
            conclude(story, shared.audit.reserve(), end);
        }
        None => shared.metrics.ended(reason.into()),
    }
}

/// A client that cannot take a line at once, or is gone, is told nothing.
fn say(stream: &TcpStream, end: End) {
    if sys::write_and_end(stream, &reply::farewell(end)).is_ok() {
        // What the client has said already is taken: a close on unread bytes is a reset, which can overtake the answer.
        let mut head = [0; HEAD_BYTES];
        let read = sys::read(stream, &mut head).unwrap_or(0);
        // It may hold credentials.
        head.get_mut(..read).unwrap_or_default().zeroize();
    }
}

/// Most heads are some hundred bytes.
const HEAD_BYTES: usize = 2_048;
