//! Replies to a client without a tunnel, and gives the reply time to arrive. Never decides on the
//! reply.

use std::time::Duration;

use super::{Client, World};
use crate::outcome::{End, Failure};
use crate::sys;
use crate::wire::reply;

/// Sends the client its reply and waits for the client to read it: closing with unread bytes sends
/// a reset, which would overtake the reply.
pub(super) async fn farewell(client: &Client, world: &World, end: End) {
    // A reset needs no reply.
    if matches!(
        end,
        End::Ended(_) | End::Failed(Failure::UpstreamReset | Failure::EgressLost)
    ) {
        return;
    }
    let socket = &client.socket;
    let words = reply::farewell(end);
    // The tunnel's permits are free already; a flood of refusals must not hold descriptors without
    // a bound of its own.
    let lingering = world
        .shared
        .limits
        .lingering
        .acquire(world.shared.limits.budget.lingering);
    let last = async {
        // The client does not read its reply.
        if socket.write_all(&words).await.is_ok()
            && sys::shutdown_write(socket).is_ok()
            && lingering.is_some()
        {
            socket.discard(LINGER_BYTES).await;
        }
    };
    let is_out_of_time = world.reactor.timeout(LINGER, last).await.is_err();
    if is_out_of_time && client.origin.declared.is_some() {
        // A terminator holds its client's session until it sees that this connection is gone, which a FIN does not say.
        // Fails only on a dead socket.
        let _set = sys::reset_on_close(socket);
    }
}

/// Enough for the rest of a ClientHello or a small body.
const LINGER_BYTES: usize = 65_536;
/// A refused client takes a round trip to close.
const LINGER: Duration = Duration::from_secs(2);
