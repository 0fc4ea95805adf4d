//! The life of one tunnel, from accept to audit record, top to bottom.
//!
//! Each step takes the state before it and returns the next one, or the [`End`]. Only [`crate::admission`] makes an
//! `Authorised`, only an authorised destination is dialled, only a judged hello goes upstream. [`run`] takes it to the
//! relay, which knows no task and no future; [`Flowing`] is what stays of a tunnel there. Both end in one place that
//! counts and writes the record. No byte of the client goes upstream before its hello is judged, and no other socket
//! than the one bound to a static address ever does the sending.

mod ends;
mod facts;
mod farewell;
mod flowing;
mod handshake;
mod head;
mod pending;
mod turned_away;
mod world;

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use scopeguard::ScopeGuard;
use time::OffsetDateTime;

use crate::admission::{Admission, Identity, Refusal};
use crate::auth::User;
use crate::dial::{Dialler, Egress, Upstream};
use crate::greeting::negotiation::Negotiation;
use crate::greeting::{self, GreetingError};
use crate::limits::account::Seat;
use crate::limits::client::ClientNetwork;
use crate::limits::handshakes::HandshakePermit;
use crate::limits::pending::PendingPermit;
use crate::live::Facts;
use crate::outcome::{DenyReason, End, Failure, Lookup};
use crate::policy::Authorised;
use crate::reactor::{Gone, Socket};
use crate::relay::Backlog;
use crate::resolve::{Asker, Families, Holder, ResolveError};
use crate::shared::{self, Snapshot};
use crate::sys;
use crate::wire::connect::{Credentials, Head};
use crate::wire::reply;
use facts::TunnelFacts;
use farewell::farewell;
pub use flowing::Flowing;
use flowing::{OpenUpstream, Places, TunnelPermits, conclude, flow};
use handshake::{Handshake, Interrupted};
use pending::Unknown;
pub use turned_away::turn_away;
pub use world::World;

/// A connection that a listener has accepted.
#[derive(Debug)]
pub struct Client {
    /// Its socket.
    pub socket: Socket,
    /// Where it comes from.
    pub origin: Origin,
    /// What operators see of it, once its request is allowed.
    pub visible: OnceCell<Arc<Facts>>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The client's address.
    pub address: SocketAddr,
    /// The address it came in on.
    pub listener: SocketAddr,
    /// Whether that is a socket that outlives the daemon.
    pub is_inherited: bool,
    /// When.
    pub accepted: Instant,
}

/// 1. Accepted: one of the pending connections, of which nothing is known yet.
struct Accepted<'a> {
    client: &'a Client,
    world: &'a World,
    snapshot: Arc<Snapshot>,
    pending: PendingPermit,
}

/// 2. Requested: the CONNECT head is whole and well-formed.
struct Requested<'a> {
    accepted: Accepted<'a>,
    head: Head,
    /// What came behind the head: the start of the ClientHello.
    behind: BytesMut,
}

/// 3. Admitted: the user is known, policy allows the destination, and the bounds on tunnels have room.
struct Admitted<'a> {
    accepted: Accepted<'a>,
    permits: TunnelPermits,
    authorised: Authorised,
    /// The user's own share of the egress addresses, if it has one.
    narrowed: Option<Egress>,
    behind: BytesMut,
    user: Option<Seat>,
    /// The memory of the handshake, as far as it takes more than real ones.
    memory: HandshakePermit<'a, shared::Holder>,
}

/// 4. Dialled: an upstream is connected from a static address; it has not been sent a byte.
struct Dialled<'a> {
    admitted: Admitted<'a>,
    upstream: Upstream,
}

/// 5. Greeted: the hello is judged and lies with all behind it ready to go upstream.
struct Greeted<'a> {
    dialled: Dialled<'a>,
    greeting: BytesMut,
    hello_bytes: usize,
    early_data: bool,
}

/// 6. Negotiated: the server has answered, and policy allows what it chose.
struct Negotiated<'a> {
    dialled: Dialled<'a>,
    backlog: Backlog,
}

/// Sets one tunnel up and hands it to the relay; or tells the client why not.
pub async fn run(client: Client, world: Rc<World>) {
    let live = world.tunnels.token();
    let shared = &world.shared;
    // In this order: a configuration that comes between the two is found out when the tunnel flows.
    let generation = shared.generation();
    let snapshot = shared.snapshot.load_full();
    let mut facts = TunnelFacts::new(client.origin, shared, &snapshot);
    let set_up = tokio::select! {
        biased;
        set_up = set_up(&client, &world, snapshot, &mut facts) => set_up,
        interruption = world.interruption(&client.visible) => Err(facts.interrupted(interruption)),
    };
    let end = match set_up {
        Ok((upstream, places)) => {
            let flowing = Flowing {
                facts,
                places,
                live,
            };
            return flow(client, upstream, flowing, generation, &world);
        }
        Err(end) => end,
    };
    if facts.is_silent(end) {
        facts.ended(end);
        return;
    }
    let is_cut = end == Failure::EndedByOperator.into() && facts.is_established();
    conclude(facts, end);
    if is_cut {
        // Fails on a dead socket only, whose peer knows.
        let _peer_knows = sys::reset_on_close(&client.socket);
    } else {
        farewell(&client, &world, end).await;
    }
}

/// The story: each line is a step, each `?` an end.
async fn set_up(
    client: &Client,
    world: &World,
    snapshot: Arc<Snapshot>,
    facts: &mut TunnelFacts,
) -> Result<(OpenUpstream, Places), End> {
    let accepted = Accepted::accept(client, world, snapshot)?;
    let requested = accepted.request(facts).await?;
    let admitted = requested.authorise(facts).await?;
    let dialled = admitted.dial(facts).await?;
    let greeted = dialled.greet(facts).await?;
    let negotiated = greeted.negotiate(facts).await?;
    Ok(negotiated.open(facts))
}

impl<'a> Accepted<'a> {
    /// Takes a place among the pending connections, unless the client may not connect at all.
    fn accept(client: &'a Client, world: &'a World, snapshot: Arc<Snapshot>) -> Result<Self, End> {
        let (shared, config) = (&world.shared, &snapshot.config);
        let ip = client.origin.address.ip();
        Admission::by(config, &snapshot.egress).client(ip)?;
        if config.audit_required && shared.audit.is_failing() {
            return Err(DenyReason::AuditUnavailable.into());
        }
        let pending = world
            .pending
            .enter(ClientNetwork::of(ip), world.pending_max(&config.limits));
        Ok(Self {
            client,
            world,
            snapshot,
            pending,
        })
    }

    /// Reads the whole head within its deadline and its size, while the connection keeps its place.
    async fn request(self, facts: &mut TunnelFacts) -> Result<Requested<'a>, End> {
        let limits = &self.snapshot.config.limits;
        let deadline = self.client.origin.accepted + self.snapshot.config.timeouts.request;
        let reading = head::read(&self.client.socket, limits.head_bytes, facts);
        let read = tokio::select! {
            biased;
            read = self.world.reactor.timeout_at(deadline, reading) => Some(read),
            () = self.pending.given_up() => None,
        };
        let read = read.unwrap_or_else(|| {
            Ok(Err(
                facts.with_cause(pending::GIVEN_UP, DenyReason::ClientLimit)
            ))
        });
        let (head, behind) = read.unwrap_or(Err(Failure::RequestTimeout.into()))?;
        facts.requested(&head.authority);
        Ok(Requested {
            accepted: self,
            head,
            behind,
        })
    }
}

impl<'a> Requested<'a> {
    /// Credentials to user, authority to verdict, and then to a place among the tunnels.
    async fn authorise(self, facts: &mut TunnelFacts) -> Result<Admitted<'a>, End> {
        let Self {
            accepted,
            head: Head {
                authority,
                credentials,
            },
            behind,
        } = self;
        if accepted.world.shared.drain.load().is_some() {
            return Err(DenyReason::Draining.into());
        }
        // Behind a socket that stays, a restart refuses nobody: who was let in goes on until the drain is over.
        if accepted.world.draining.get() && !accepted.client.origin.is_inherited {
            return Err(DenyReason::Draining.into());
        }
        let identified = accepted.identify(credentials);
        accepted.keeps_pace(identified.as_ref().ok(), facts)?;
        let user = match identified {
            Ok(user) => user,
            Err(unknown) => return Err(accepted.refuse(unknown).await),
        };
        let mut seat = None;
        if let Some(user) = &user {
            facts.identified(&user.id);
            seat = Some(accepted.seat(user)?);
        }
        let admission = accepted.admission();
        let authorised = admission.destination(authority, user.as_deref())?;
        let narrowed = admission.egress_of(user.as_deref());
        let permits = accepted.tunnel_permits(user.as_deref())?;
        accepted.pending.leave();
        facts.reported(authorised.would_deny());
        accepted.promise_record(facts)?;
        let mut memory = accepted.handshake_permit(user.as_deref());
        if !memory.covers(behind.capacity()) {
            return Err(facts.with_cause(GreetingError::HelloMemory, DenyReason::TunnelLimit));
        }
        facts.admitted();
        if let Some(visible) = facts.enter() {
            // Set here only.
            let _only_here = accepted.client.visible.set(visible);
        }
        Ok(Admitted {
            accepted,
            permits,
            authorised,
            narrowed,
            behind,
            user: seat,
            memory,
        })
    }
}

/// What `authorise` asks of the snapshot.
impl Accepted<'_> {
    /// Whose credentials these are; None where none are asked for.
    fn identify(&self, credentials: Credentials) -> Result<Option<Arc<User>>, Unknown> {
        let client = self.client.origin.address.ip();
        match self.admission().user(
            Identity::Presented(&credentials),
            client,
            OffsetDateTime::now_utc(),
        ) {
            Err(Refusal::Credentials(DenyReason::AuthFailed)) => Err(self.failed(&credentials)),
            checked => Ok(checked?),
        }
    }

    /// Reserves the slot for the tunnel's record. Only who is let in takes one.
    fn promise_record(&self, facts: &mut TunnelFacts) -> Result<(), DenyReason> {
        facts.slot = self
            .world
            .shared
            .audit
            .reserve(self.client.origin.address.ip());
        if facts.slot.is_none() && self.snapshot.config.audit_required {
            return Err(DenyReason::AuditUnavailable);
        }
        Ok(())
    }

    fn admission(&self) -> Admission<'_> {
        Admission::by(&self.snapshot.config, &self.snapshot.egress)
    }
}

impl<'a> Admitted<'a> {
    /// Reaches the upstream within one deadline, unless the client has gone meanwhile.
    async fn dial(self, facts: &mut TunnelFacts) -> Result<Dialled<'a>, End> {
        let Accepted {
            world, snapshot, ..
        } = &self.accepted;
        let deadline = world.reactor.now() + snapshot.config.timeouts.connect;
        let reached = tokio::select! {
            biased;
            // Nobody waits for the upstream any more: who has ended its side cannot finish a TLS handshake.
            gone = self.accepted.client.socket.gone() => Err(match gone {
                Gone::Ended => Failure::ClientClosed.into(),
                Gone::Failed => Failure::ClientReset.into(),
            }),
            reached = self.reach(deadline, facts) => reached,
        };
        let upstream = reached?;
        facts.dialled(&upstream);
        Ok(Dialled {
            admitted: self,
            upstream,
        })
    }

    /// Resolves, judges and connects: the addresses that were judged are those that are dialled.
    #[allow(clippy::too_many_lines, reason = "one step of a tunnel, in its order")]
    async fn reach(&self, deadline: Instant, facts: &mut TunnelFacts) -> Result<Upstream, End> {
        let Accepted {
            world, snapshot, ..
        } = &self.accepted;
        let egress = self.narrowed.as_ref().unwrap_or(&snapshot.egress);
        let families = Families::of(egress.addresses());
        if families.is_empty() {
            return Err(facts.with_cause(
                "this user has no egress address that is configured",
                Failure::EgressUnavailable,
            ));
        }
        let asked = Instant::now();
        let host = self.authorised.host();
        let user = self.user.as_ref().map(|seat| seat.user());
        let holder = Holder::of(user, self.accepted.client.origin.address.ip());
        let asker = Asker {
            holder,
            is_named: snapshot.config.policy.names().has(host),
        };
        let resolving = snapshot.resolver.resolve(host, families, asker);
        let resolved = world.reactor.timeout_at(deadline, resolving).await;
        facts.resolved(asked.elapsed());
        let answer = resolved.map_err(|_| Failure::ConnectTimeout)?;
        world.shared.metrics.dns_lookup(
            answer
                .as_ref()
                .map_or_else(ResolveError::lookup, |answer| answer.lookup),
        );
        let answer = answer.map_err(|error| {
            let timed_out = error.lookup() == Lookup::Timeout;
            facts.with_cause(
                error,
                if timed_out {
                    Failure::DnsTimeout
                } else {
                    Failure::DnsFailed
                },
            )
        })?;
        facts.answered(&answer.addresses, answer.lookup);
        if !world.shared.own_addresses.are_known() {
            return Err(facts.with_cause(
                "this host's addresses cannot be listed",
                Failure::EgressUnavailable,
            ));
        }
        let own = world.shared.own_addresses.load();
        let judged = self.accepted.admission().addresses(&answer.addresses, &own);
        let judged = judged.map_err(|refusal| facts.with_cause(refusal, refusal))?;
        let user = self.user.as_ref().map(|seat| seat.user());
        let (attempts, attempts_max) = (&world.shared.attempts, world.shared.budget.attempts);
        let dialler = Dialler {
            egress,
            user,
            routing: &world.routing,
            reactor: &world.reactor,
            attempts,
            attempts_max,
        };
        let started = Instant::now();
        let connecting = dialler.connect(&judged, self.authorised.port());
        let connected = world.reactor.timeout_at(deadline, connecting).await;
        facts.connected(started.elapsed());
        connected
            .map_err(|_| Failure::ConnectTimeout)?
            .map_err(|error| {
                let end = ends::of_dial(&error);
                facts.with_cause(error, end)
            })
    }
}

impl<'a> Dialled<'a> {
    /// Says 200, reads the whole hello and judges it. Until then the upstream has got nothing.
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
                |bytes| memory.covers(bytes),
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
    /// Sends the hello exactly as it came and follows the handshake until the real ServerHello; a second hello is
    /// judged like the first.
    #[allow(clippy::too_many_lines, reason = "one step of a tunnel, in its order")]
    async fn negotiate(self, facts: &mut TunnelFacts) -> Result<Negotiated<'a>, End> {
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
        let visible = &client.visible;
        let (client, upstream) = (&client.socket, &*dialled.upstream.socket);
        let mut handshake = Handshake::new(client, upstream, greeting, hello_bytes);
        facts.set_up();
        let following = handshake.follow(&mut negotiation, &mut dialled.admitted.memory);
        // The kill is heard here too, for what has moved is to be told of. No step waits after this one, so none can let a
        // tunnel into a relay that the kill has emptied.
        let followed = tokio::select! {
            biased;
            interruption = world.interruption(visible) => Ok(Err(Interrupted::From(interruption))),
            followed = world.reactor.timeout(config.timeouts.server_hello, following) => followed,
        };
        let followed = followed.unwrap_or_else(|_| Err(handshake.late(&negotiation)));
        facts.bytes_moved = handshake.bytes_moved();
        world.byte_counters.add(facts.bytes_moved);
        if let Some(account) = &dialled.admitted.user {
            account.spend(facts.bytes_moved.bytes(), world.reactor.now());
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
    /// Every judgement is passed: releases the upstream's socket, and what the tunnel holds.
    fn open(self, facts: &TunnelFacts) -> (OpenUpstream, Places) {
        let Self { dialled, backlog } = self;
        let Dialled { admitted, upstream } = dialled;
        let Admitted { permits, user, .. } = admitted;
        let Upstream { socket, port, .. } = upstream;
        let socket = ScopeGuard::into_inner(socket);
        (
            OpenUpstream { socket, backlog },
            Places {
                _permits: permits,
                user,
                stalled: None,
                _port: port,
                _active: facts.opened(),
            },
        )
    }
}
