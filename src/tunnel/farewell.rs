//! A client's last words from the daemon: what it is told when there is no tunnel, and time for it to hear. Never decides
//! what that is.

use std::time::Duration;

use super::{Client, World};
use crate::outcome::{End, Failure};
use crate::sys;
use crate::wire::reply;

/// Tells the client its end and lets the words arrive: a close with unread bytes is a reset, which would overtake them.
pub(super) async fn farewell(client: &Client, world: &World, end: End) {
    // A reset says it all.
    if matches!(
        end,
        End::Ended(_) | End::Failed(Failure::UpstreamReset | Failure::EgressLost)
    ) {
        return;
    }
    let socket = &client.socket;
    let words = reply::farewell(end);
    // The permits of the tunnel are back already; a flood of refusals must not hold descriptors without a bound of
    // its own.
    let lingering = world
        .shared
        .lingering
        .acquire(world.shared.budget.lingering);
    let last = async {
        // Whoever does not want to hear why is told nothing.
        if socket.write_all(&words).await.is_ok()
            && sys::shutdown_write(socket).is_ok()
            && lingering.is_some()
        {
            socket.discard(LINGER_BYTES).await;
        }
    };
    // Out of time: the client has had its chance.
    let _out_of_time = world.reactor.timeout(LINGER, last).await;
}

/// Enough for the rest of a ClientHello or of a small body to pass.
const LINGER_BYTES: usize = 65_536;
/// A refused client takes a round trip to close.
const LINGER: Duration = Duration::from_secs(2);
