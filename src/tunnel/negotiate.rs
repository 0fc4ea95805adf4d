//! The last steps of the set-up: reads and judges the ClientHello, follows the handshake to the
//! ServerHello, and releases the sockets to the relay. Never sends a byte upstream that is not
//! judged.

use std::pin::{Pin, pin};
use std::time::Instant;

use scopeguard::ScopeGuard;

use super::facts::TunnelFacts;
use super::flowing::{HeldPermits, OpenUpstream};
use super::handshake::{self, Follower, Handshake, Interrupted};
use super::world::Interruption;
use super::{Accepted, Admitted, Dialled, Greeted, Negotiated, ends};
use crate::dial::{self, Upstream};
use crate::greeting::negotiation::Negotiation;
use crate::greeting::{self, GreetingError};
use crate::outcome::{End, Failure};
use crate::reactor::{Gone, Socket};
use crate::relay::TunnelBytes;
use crate::sys;
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
        let read = world
            .reactor
            .timeout(config.timeouts.client_hello, exchange);
        let upstream = &*self.upstream.socket;
        let read = {
            let mut read = pin!(read);
            unless_gone(read.as_mut(), upstream, self.redial.is_some()).await
        };
        let read = read.map_err(|gone| handshake::lost_upstream(gone, &client.socket, facts))?;
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
    /// second hello like the first. Records the bytes moved when an `interruption` ends it, too. If a
    /// warm upstream closes before its first byte, another connection is dialled and gets the same hello.
    pub(super) async fn negotiate(
        self,
        facts: &mut TunnelFacts,
        interruption: impl Future<Output = Interruption>,
    ) -> Result<Negotiated<'a>, End> {
        let Dialled {
            mut admitted,
            mut upstream,
            redial,
        } = self.dialled;
        let accepted = &admitted.accepted;
        let (client, config) = (&accepted.client.socket, &accepted.snapshot.config);
        let (reactor, sent) = (&accepted.world.reactor, Instant::now());
        let (authorised, bytes_max) = (&admitted.authorised, config.limits.client_hello_bytes);
        let mut negotiation =
            Negotiation::new(&config.policy, authorised, bytes_max, self.early_data);
        let mut handshake =
            Handshake::new(client, &upstream.socket, self.greeting, self.hello_bytes);
        let limit = config.timeouts.server_hello;
        let interruption = pin!(interruption);
        let mut follower = Follower::new(reactor, limit, interruption);
        facts.set_up();
        let memory = &mut admitted.memory;
        handshake.keep_hello(redial.is_some());
        let mut followed = if redial.is_some() && has_gone(&upstream.socket) {
            Err(Interrupted::UpstreamClosed)
        } else {
            let first = follower.follow(&mut handshake, &mut negotiation, memory, &upstream);
            first.await
        };
        if let (Some(redial), Err(interrupted)) = (redial, &followed)
            && let Some(unanswered) = handshake.unanswered(interrupted, &negotiation)
        {
            // Rare, so on the heap: every connection's task has room for its largest stage.
            let dial = Box::pin(admitted.redial(redial, facts));
            match follower.dial(client, dial).await {
                Ok(Some(dialled)) => {
                    upstream = dialled;
                    handshake = Handshake::again(client, &upstream.socket, unanswered);
                    let (again, memory) = (&mut handshake, &mut admitted.memory);
                    let again = follower.follow(again, &mut negotiation, memory, &upstream);
                    followed = Box::pin(again).await;
                }
                Ok(None) => {}
                Err(interrupted) => followed = Err(interrupted),
            }
        }
        admitted.moved(handshake.bytes_moved(), facts);
        facts.followed(&negotiation);
        match followed {
            Ok(hello) => facts.negotiated(hello, sent.elapsed()),
            Err(interrupted) => {
                let told = interrupted.tell(client, &upstream.socket, reactor, facts);
                return Err(told.await);
            }
        }
        let backlog = handshake.into_backlog();
        Ok(Negotiated {
            admitted,
            upstream,
            backlog,
        })
    }
}

impl Admitted<'_> {
    /// Counts the bytes of the handshake.
    fn moved(&self, bytes_moved: TunnelBytes, facts: &TunnelFacts) {
        let world = self.accepted.world;
        let now = world.reactor.now();
        facts.shook_hands(bytes_moved, now);
        world.byte_counters.add(bytes_moved);
        if let Some(account) = &self.user {
            account.spend(bytes_moved.bytes(), now);
        }
    }
}

/// Awaits the hello while the upstream stays. A warm one may go: another is dialled once the hello is here.
async fn unless_gone<T>(
    mut hello: Pin<&mut impl Future<Output = T>>,
    upstream: &Socket,
    is_warm: bool,
) -> Result<T, Gone> {
    tokio::select! {
        biased;
        hello = &mut hello => Ok(hello),
        gone = upstream.gone() => match is_warm && has_gone(upstream) {
            true => Ok(hello.await),
            false => Err(gone),
        },
    }
}

/// Whether the upstream closed, or the connection failed, before a byte arrived.
fn has_gone(upstream: &Socket) -> bool {
    upstream.is_gone() && !sys::has_byte(upstream).is_ok_and(|has_byte| has_byte)
}

impl Negotiated<'_> {
    /// Every check has passed: releases the upstream's socket and the tunnel's permits.
    pub(super) fn open(self, facts: &TunnelFacts) -> (OpenUpstream, HeldPermits) {
        let Self {
            admitted,
            upstream,
            backlog,
        } = self;
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
