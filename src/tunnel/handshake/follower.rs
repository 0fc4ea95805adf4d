//! Follows a handshake until it is over: within its time, unless the daemon, an operator or the loss of the egress address
//! ends it. Judges nothing.

use std::pin::Pin;
use std::time::Duration;

use super::{Handshake, Interrupted};
use crate::dial::{self, Upstream};
use crate::greeting::negotiation::Negotiation;
use crate::limits::handshakes::HandshakePermit;
use crate::reactor::{Reactor, Socket};
use crate::shared::Holder;
use crate::tunnel::world::Interruption;
use crate::wire::server_hello::ServerHello;

/// What ends the handshakes of one tunnel.
pub(in crate::tunnel) struct Follower<'f, I> {
    reactor: &'f Reactor,
    limit: Duration,
    interruption: Pin<&'f mut I>,
}

impl<'f, I: Future<Output = Interruption>> Follower<'f, I> {
    /// For handshakes that may take `limit` each.
    pub(in crate::tunnel) fn new(
        reactor: &'f Reactor,
        limit: Duration,
        interruption: Pin<&'f mut I>,
    ) -> Self {
        Self {
            reactor,
            limit,
            interruption,
        }
    }

    /// Sends the hello and follows the handshake to its outcome.
    pub(in crate::tunnel) async fn follow(
        &mut self,
        handshake: &mut Handshake<'_>,
        negotiation: &mut Negotiation<'_>,
        memory: &mut HandshakePermit<'_, Holder>,
        upstream: &Upstream,
    ) -> Result<ServerHello, Interrupted> {
        let following = handshake.follow(negotiation, memory);
        // No step waits after this one, so no tunnel enters a relay that the kill has emptied.
        let followed = tokio::select! {
            biased;
            by = self.interruption.as_mut() => Ok(Err(Interrupted::From(by))),
            () = dial::lost(&upstream.port.hold) => Ok(Err(Interrupted::EgressLost)),
            followed = self.reactor.timeout(self.limit, following) => followed,
        };
        followed.unwrap_or_else(|_| Err(handshake.late(negotiation)))
    }

    /// Awaits a dial, unless the client goes or the set-up is interrupted.
    pub(in crate::tunnel) async fn dial<T>(
        &mut self,
        client: &Socket,
        dial: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        tokio::select! {
            biased;
            by = self.interruption.as_mut() => Err(Interrupted::From(by)),
            error = client.failed() => Err(Interrupted::Client(error)),
            dialled = dial => Ok(dialled),
        }
    }
}
