//! The life of one tunnel, from accept to audit record.
//!
//! Each step takes the state before it and returns the next one, or the [`End`]. Only
//! [`crate::admission`] makes an `Authorised`; only an authorised destination is dialled; no byte
//! of the client goes upstream before its hello is judged. [`run`] passes the tunnel to the relay,
//! which uses no task and no future; [`Flowing`] is its state there. One function counts and
//! records every end. Upstream bytes are sent only from a socket that is bound to a static address.

mod admit;
mod ahead;
mod declared;
mod ends;
mod facts;
mod farewell;
mod flowing;
mod handshake;
mod head;
mod negotiate;
mod parked;
mod pending;
mod reach;
mod turned_away;
mod warm;
mod world;

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use crate::dial::{Egress, Upstream};
use crate::limits::account::UserPermit;
use crate::limits::handshakes::HandshakePermit;
use crate::limits::pending::PendingPermit;
use crate::live::Facts;
use crate::outcome::{End, Failure};
use crate::policy::Authorised;
use crate::reactor::Socket;
use crate::relay::Backlog;
use crate::shared::{self, Snapshot};
use crate::sys;
use crate::wire::connect::{Credentials, Head};
use crate::wire::terminator::RECORDED;
pub use ahead::Ahead;
pub use declared::Declared;
use declared::{Opening, Start};
use facts::TunnelFacts;
use farewell::farewell;
pub use flowing::Flowing;
use flowing::{HeldPermits, OpenUpstream, TunnelPermits, conclude, flow};
pub use parked::{Change, Destination, Parked, Ready, Unfit, Unusable, park, record_lost};
pub use turned_away::{shut_out, turn_away};
use warm::Redial;
pub use warm::keep_warm;
use world::Interruption;
pub use world::World;

/// A connection that a listener has accepted.
#[derive(Debug)]
pub struct Client {
    /// The client's socket.
    pub socket: Socket,
    /// The addresses of the connection.
    pub origin: Origin,
    /// The generation and the configuration at the accept, in this order: a configuration that takes
    /// effect in between is noticed when the tunnel flows.
    pub generation: u64,
    /// See `generation`.
    pub snapshot: Arc<Snapshot>,
    /// The entry that operators see, once the request is allowed.
    pub visible: OnceCell<Arc<Facts>>,
}

/// The addresses of a connection.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client's address: that of the peer, until a PROXY header declares another.
    pub address: SocketAddr,
    /// The listener's address, which all its connections share.
    pub listener: Arc<SocketAddr>,
    /// The listener's place in the configuration.
    pub listener_number: usize,
    /// What the PROXY header says; None if the client connects itself.
    pub declared: Option<Arc<Declared>>,
    /// Whether the listening socket survives the daemon.
    pub is_inherited: bool,
    /// When the connection was accepted.
    pub accepted: Instant,
}

/// 1. Accepted: a pending connection without a request.
struct Accepted<'a> {
    client: &'a Client,
    world: &'a World,
    snapshot: Arc<Snapshot>,
    pending: PendingPermit,
}

/// 2. Requested: the CONNECT head is complete and well-formed.
struct Requested<'a> {
    accepted: Accepted<'a>,
    head: Head,
    /// The bytes after the head: the start of the ClientHello.
    behind: BytesMut,
}

/// 3. Admitted: the user is known, the policy allows the destination, and the tunnel holds its
///    permits.
struct Admitted<'a> {
    accepted: Accepted<'a>,
    permits: TunnelPermits,
    authorised: Authorised,
    /// The user's own egress addresses, if the users file names any.
    narrowed: Option<Egress>,
    behind: BytesMut,
    user: Option<UserPermit>,
    /// The permit for handshake memory beyond that of real handshakes.
    memory: HandshakePermit<'a, shared::Holder>,
}

/// 4. Dialled: an upstream is connected from a static address and has received no byte.
struct Dialled<'a> {
    admitted: Admitted<'a>,
    upstream: Upstream,
    /// How to dial once more, if the socket was warm.
    redial: Option<Redial>,
}

/// 5. Greeted: the hello is judged; it and the bytes after it are ready to go upstream.
struct Greeted<'a> {
    dialled: Dialled<'a>,
    greeting: BytesMut,
    hello_bytes: usize,
    early_data: bool,
}

/// 6. Negotiated: the server has answered, and the policy allows its choice.
struct Negotiated<'a> {
    admitted: Admitted<'a>,
    upstream: Upstream,
    backlog: Backlog,
}

/// Sets one tunnel up and passes it to the relay, or replies to the client.
pub async fn run(mut client: Client, world: Rc<World>) {
    let live = world.tunnels.token();
    let shared = &world.shared;
    let generation = client.generation;
    let mut facts;
    let mut is_answered = true;
    let set_up = {
        let mut interruption = pin!(world.interruption(&client.visible));
        let (origin, snapshot) = (&mut client.origin, &client.snapshot);
        let until = interruption.as_mut();
        let opening = declared::open(&client.socket, origin, &world, snapshot, until).await;
        facts = TunnelFacts::new(origin, shared, snapshot);
        match opening {
            Opening::Client(start) => {
                set_up(&client, &world, start, &mut facts, interruption).await
            }
            Opening::Refused(refused) => {
                is_answered = refused.is_answered;
                Err(refused.end(&mut facts))
            }
            Opening::HealthCheck => return shared.evidence.metrics.health_checks.increment(1),
            Opening::Event(is_recorded) => return confirm(&client, is_recorded),
        }
    };
    let end = match set_up {
        Ok((upstream, permits)) => {
            let flowing = Flowing {
                facts,
                permits,
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
        // Fails only on a dead socket, whose peer knows.
        let _peer_knows = sys::reset_on_close(&client.socket);
    } else if is_answered {
        farewell(&client, &world, end).await;
    }
}

/// Answers an event of the terminator, which sends it again without an answer; so each may fail.
fn confirm(client: &Client, is_recorded: bool) {
    let _again = match is_recorded {
        true => client.socket.try_write(&[RECORDED]).map(drop),
        false => sys::reset_on_close(&client.socket),
    };
}

/// The set-up: each line is a step, each `?` an end. An interruption ends any of them.
async fn set_up(
    client: &Client,
    world: &World,
    start: Start,
    facts: &mut TunnelFacts,
    mut interruption: Pin<&mut impl Future<Output = Interruption>>,
) -> Result<(OpenUpstream, HeldPermits), End> {
    let greeted = tokio::select! {
        biased;
        greeted = greet(client, world, start, facts) => greeted?,
        by = &mut interruption => return Err(facts.interrupted(by)),
    };
    let negotiated = greeted.negotiate(facts, interruption).await?;
    Ok(negotiated.open(facts))
}

/// The steps until the ClientHello is judged.
async fn greet<'a>(
    client: &'a Client,
    world: &'a World,
    start: Start,
    facts: &mut TunnelFacts,
) -> Result<Greeted<'a>, End> {
    let accepted = Accepted::accept(client, world, start.pending)?;
    let requested = accepted.request(start.bytes, facts).await?;
    let admitted = requested.authorise(facts).await?;
    let dialled = admitted.dial(facts).await?;
    dialled.greet_while_here(facts).await
}
