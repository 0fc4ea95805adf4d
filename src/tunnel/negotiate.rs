//! The last steps of the set-up: reads and judges the ClientHello, follows the handshake to the
//! ServerHello, and releases the sockets to the relay. Never sends a byte upstream that is not
//! judged.

use std::time::Instant;

use scopeguard::ScopeGuard;

use super::facts::TunnelFacts;
use super::flowing::{HeldPermits, OpenUpstream};
use super::handshake::{self, Handshake, Interrupted};
use super::world::Interruption;
use super::{Accepted, Admitted, Dialled, Greeted, Negotiated, ends};
use crate::dial::{self, Upstream};
use crate::greeting::negotiation::Negotiation;
use crate::greeting::{self, GreetingError};
use crate::outcome::{End, Failure};
use crate::wire::reply;

impl<'a> Dialled<'a> {
    /// [`Dialled::greet`], unless the host loses the egress address meanwhile.
    pub(super) async fn greet_while_here(
        self,
        facts: &mut TunnelFacts,
    ) -> Result<Greeted<'a>, End> {
        let client = self.admitted.accepted.client;
        let hold = self.upstream.port.hold.clone();
        let greeted = tokio::select! {
            biased;
            greeted = self.greet(facts) => Some(greeted),
            () = dial::lost(&hold) => None,
        };
        greeted.unwrap_or_else(|| {
            handshake::reset(&client.socket);
            Err(facts.lost_egress(Failure::EgressLost))
        })
    }

    /// Sends the 200, then reads and judges the whole hello. Until then the upstream receives
    /// nothing.
    async fn greet(mut self, facts: &mut TunnelFacts) -> Result<Greeted<'a>, End> {
        let Accepted {
            client,
            world,
            snapshot,
            ..
        } = &self.admitted.accepted;
        let config = &snapshot.config;
        let mut buffer = std::mem::take(&mut self.admitted.behind);
        let memory = &mut self.admitted.memory;
        let established = Instant::now();
        facts.established();
        let exchange = async {
            client
                .socket
                .write_all(reply::ESTABLISHED)
                .await
                .map_err(GreetingError::Read)?;
            greeting::read_hello(
                &client.socket,
                &mut buffer,
                config.limits.client_hello_bytes,
                |bytes| memory.resize(bytes),
            )
            .await
        };
        let read = tokio::select! {
            biased;
            read = world.reactor.timeout(config.timeouts.client_hello, exchange) => read,
            gone = self.upstream.socket.gone() => {
                return Err(handshake::lost_upstream(gone, &client.socket, facts));
            }
        };
        let read = read.map_err(|_| Failure::ClientHelloTimeout)?;
        let read = read.map_err(|error| {
            let end = ends::of_greeting(&error);
            facts.with_cause(error, end)
        })?;
        facts.greeted(&read, established.elapsed());
        let judged = config
            .policy
            .judge_hello(&self.admitted.authorised, read.hello)?;
        facts.reported(judged.would_deny);
        facts.judged(judged.facts);
        let (hello_bytes, early_data) = (read.hello_bytes, judged.hello.has_early_data());
        Ok(Greeted {
            dialled: self,
            greeting: buffer,
            hello_bytes,
            early_data,
        })
    }
}

impl<'a> Greeted<'a> {
    /// Sends the hello unchanged and follows the handshake until the final ServerHello; judges a
    /// second hello like the first. Records the bytes moved when an `interruption` ends it, too.
    pub(super) async fn negotiate(
        self,
        facts: &mut TunnelFacts,
        interruption: impl Future<Output = Interruption>,
    ) -> Result<Negotiated<'a>, End> {
        let Self {
            mut dialled,
            greeting,
            hello_bytes,
            early_data,
        } = self;
        let Accepted {
            client,
            world,
            snapshot,
            ..
        } = &dialled.admitted.accepted;
        let config = &snapshot.config;
        let sent = Instant::now();
        let (authorised, hello_bytes_max) = (
            &dialled.admitted.authorised,
            config.limits.client_hello_bytes,
        );
        let mut negotiation =
            Negotiation::new(&config.policy, authorised, hello_bytes_max, early_data);
        let (client, upstream) = (&client.socket, &*dialled.upstream.socket);
        let mut handshake = Handshake::new(client, upstream, greeting, hello_bytes);
        facts.set_up();
        let following = handshake.follow(&mut negotiation, &mut dialled.admitted.memory);
        // No step waits after this one, so no tunnel enters a relay that the kill has emptied.
        let followed = tokio::select! {
            biased;
            interruption = interruption => Ok(Err(Interrupted::From(interruption))),
            () = dial::lost(&dialled.upstream.port.hold) => Ok(Err(Interrupted::EgressLost)),
            followed = world.reactor.timeout(config.timeouts.server_hello, following) => followed,
        };
        let followed = followed.unwrap_or_else(|_| Err(handshake.late(&negotiation)));
        let bytes_moved = handshake.bytes_moved();
        facts.shook_hands(bytes_moved, world.reactor.now());
        world.byte_counters.add(bytes_moved);
        if let Some(account) = &dialled.admitted.user {
            account.spend(bytes_moved.bytes(), world.reactor.now());
        }
        facts.retried(negotiation.retried);
        facts.reported(negotiation.would_deny);
        negotiation
            .second
            .into_iter()
            .for_each(|hello| facts.judged(hello));
        match followed {
            Ok(hello) => facts.negotiated(hello, sent.elapsed()),
            Err(interrupted) => {
                return Err(interrupted
                    .tell(client, upstream, &world.reactor, facts)
                    .await);
            }
        }
        let backlog = handshake.into_backlog();
        Ok(Negotiated { dialled, backlog })
    }
}

impl Negotiated<'_> {
    /// Every check has passed: releases the upstream's socket and the tunnel's permits.
    pub(super) fn open(self, facts: &TunnelFacts) -> (OpenUpstream, HeldPermits) {
        let Self { dialled, backlog } = self;
        let Dialled { admitted, upstream } = dialled;
        let Admitted { permits, user, .. } = admitted;
        let Upstream { socket, port, .. } = upstream;
        let socket = ScopeGuard::into_inner(socket);
        (
            OpenUpstream { socket, backlog },
            HeldPermits {
                _permits: permits,
                user,
                stalled: None,
                port,
                _active: facts.opened(),
            },
        )
    }
}
