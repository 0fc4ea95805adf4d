//! An open tunnel on its way from one daemon to the next: the former daemon describes it, the next
//! one takes its permits again, judges it by its own configuration, and gives it to a relay. Never
//! ends a tunnel for a limit.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::facts::{BadState, Home, Transferred, TunnelFacts};
use super::flowing::{HeldPermits, TunnelPermits, conclude_with};
use super::{Flowing, World};
use crate::authority::UserId;
use crate::handover::format::Described;
use crate::handover::parking::Packer;
use crate::handover::state::{RelayState, TunnelState};
use crate::limits::client::ClientNetwork;
use crate::outcome::Ending;
use crate::relay::{Adopted, ByteCount, Held, Relay, Timing, TunnelBytes};
use crate::shared::{Shared, Snapshot};

/// A tunnel of another daemon, with its sockets.
#[derive(Debug)]
pub struct Parked {
    /// What the other daemon knew.
    pub state: Box<TunnelState>,
    client: TcpStream,
    upstream: TcpStream,
    held: [Held; 2],
}

/// Why a tunnel of another daemon is not continued.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// Its state is not understood.
    #[error(transparent)]
    State(#[from] BadState),
    /// Its line is not understood.
    #[error("its state is not understood: {0}")]
    Line(String),
    /// A descriptor is missing, or is not what the state says.
    #[error("its sockets are not those of its state: {0}")]
    Sockets(io::Error),
}

/// Where tunnels of another daemon continue.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The state that all tunnels share.
    pub shared: &'a Arc<Shared>,
    /// The listeners, in the order of the configuration.
    pub listeners: &'a [Arc<SocketAddr>],
    /// How long no daemon has had the tunnels.
    pub pause: Duration,
}

/// Puts the tunnels of a relay into a parcel. They stay in the relay.
pub fn park(relay: &Relay<Flowing>, packer: &mut Packer<'_>) {
    let now = Instant::now();
    packer.expect(relay.tunnel_count());
    let describe =
        |owner: &Flowing, state, held: [Option<&[u8]>; 2]| match owner.facts.state(state, now) {
            Some(state) => packer.describe(&state, held),
            None => packer.fail("a tunnel without an upstream"),
        };
    let descriptors = relay.park(describe);
    packer.send(&descriptors, relay.poller().as_fd());
}

impl Parked {
    /// Checks that the descriptors are the sockets of the state.
    ///
    /// # Errors
    /// The state, if it is understood, and what is wrong.
    pub fn of(
        described: Described,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, (Option<Box<TunnelState>>, Unfit)> {
        let Described {
            state, up, down, ..
        } = described;
        let state = state.map_err(|error| (None, Unfit::Line(error)))?;
        match sockets(&state, descriptors, [up, down]) {
            Ok((client, upstream, held)) => Ok(Self {
                state,
                client,
                upstream,
                held,
            }),
            Err(error) => Err((Some(state), Unfit::Sockets(error))),
        }
    }
}

/// The two sockets, and the bytes that wait.
fn sockets(
    state: &TunnelState,
    descriptors: Vec<OwnedFd>,
    [up, down]: [Zeroizing<Vec<u8>>; 2],
) -> io::Result<(TcpStream, TcpStream, [Held; 2])> {
    let mut descriptors = descriptors.into_iter();
    let mut socket = || descriptors.next().map(TcpStream::from);
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let client = socket().ok_or_else(missing)?;
    let upstream = socket().ok_or_else(missing)?;
    let via = state.declared.as_ref().and_then(|declared| declared.via);
    is_between(&client, None, via.unwrap_or(state.client))?;
    is_between(&upstream, Some(state.egress), state.upstream)?;
    let up = Held::of(&state.relay.up, up, &mut descriptors)?;
    let down = Held::of(&state.relay.down, down, &mut descriptors)?;
    match descriptors.next() {
        None => Ok((client, upstream, [up, down])),
        Some(_) => Err(io::Error::other("there is one more")),
    }
}

/// Checks the two addresses of a connection. One that was reset meanwhile has none at its far end.
fn is_between(socket: &TcpStream, near: Option<SocketAddr>, far: SocketAddr) -> io::Result<()> {
    let differs = |is: SocketAddr, wanted: SocketAddr| {
        (is.ip().to_canonical(), is.port()) != (wanted.ip().to_canonical(), wanted.port())
    };
    let peer = match socket.peer_addr() {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
        peer => peer?,
    };
    let is_wrong = match near {
        Some(near) => differs(socket.local_addr()?, near),
        None => false,
    };
    if is_wrong || differs(peer, far) {
        let local = socket.local_addr()?;
        return Err(io::Error::other(format!("{local} is connected to {peer}")));
    }
    Ok(())
}

/// Continues a tunnel: takes its permits, also beyond a limit, judges it by the configuration in
/// force, and gives it to the relay. `log_lines` bounds the lines about refused tunnels.
///
/// # Errors
/// The tunnel's state is not understood; its sockets are reset.
pub fn continue_tunnel(
    parked: Parked,
    destination: Destination<'_>,
    log_lines: &mut usize,
    world: &World,
) -> Result<(), Unfit> {
    let Parked {
        state,
        client,
        upstream,
        held,
    } = parked;
    let shared = destination.shared;
    let snapshot = shared.snapshot.load_full();
    let mut facts = adopt_facts(&state, destination, &snapshot)?;
    let user = facts.user().cloned();
    let port = snapshot
        .egress
        .continue_port(state.egress.ip(), state.upstream);
    let permits = HeldPermits {
        _permits: permits(&facts, user.as_ref(), shared)?,
        user: user.and_then(|user| snapshot.accounts.acquire(&user, usize::MAX)),
        stalled: None,
        port: port.ok_or(BadState("egress"))?,
        _active: facts.continued(),
    };
    let mut flowing = Flowing {
        facts,
        permits,
        live: world.tunnels.token(),
    };
    let is_allowed = flowing.judge(&snapshot, &shared.own_addresses.load(), log_lines);
    let grace = (!is_allowed).then_some(snapshot.config.timeouts.drain);
    world.relay.borrow_mut().continue_tunnel(Adopted {
        owner: flowing,
        client,
        upstream,
        mode: snapshot.config.mode,
        state: state.relay,
        held,
        pause: destination.pause,
        grace,
    });
    Ok(())
}

/// Records a tunnel that no daemon continues.
pub fn record_lost(state: &TunnelState, why: &str, destination: Destination<'_>) {
    let snapshot = destination.shared.snapshot.load_full();
    let Ok(mut facts) = adopt_facts(state, destination, &snapshot) else {
        return destination
            .shared
            .evidence
            .metrics
            .audit_failures
            .increment(1);
    };
    let end = facts.with_cause(why, Ending::HandoverLost);
    conclude_with(facts, end, transferred(&state.relay));
}

fn adopt_facts(
    state: &TunnelState,
    Destination {
        shared,
        listeners,
        pause,
    }: Destination<'_>,
    snapshot: &Arc<Snapshot>,
) -> Result<TunnelFacts, BadState> {
    let home = Home {
        shared,
        snapshot,
        listeners,
    };
    TunnelFacts::adopt(state, pause, &home)
}

/// The bytes and times of a tunnel at the hand-over.
fn transferred(relay: &RelayState) -> Transferred {
    let count = |spliced, copied| ByteCount { spliced, copied };
    Transferred {
        bytes_moved: TunnelBytes {
            up: count(relay.up.spliced, relay.up.copied),
            down: count(relay.down.spliced, relay.down.copied),
        },
        timing: Some(Timing {
            first_byte: relay.first_byte_ms,
            max_gap: relay
                .max_gap_ms
                .max(u32::try_from(relay.quiet_ms).unwrap_or(u32::MAX)),
        }),
    }
}

/// Permits among all tunnels and among those of the client and user.
fn permits(
    facts: &TunnelFacts,
    user: Option<&UserId>,
    shared: &Shared,
) -> Result<TunnelPermits, BadState> {
    let (limits, network) = (&shared.limits, ClientNetwork::of(facts.client()));
    let (Some(all), Some(own)) = (
        limits.tunnels.acquire(usize::MAX),
        limits
            .clients
            .acquire(&(network, user.cloned()), usize::MAX),
    ) else {
        return Err(BadState("permits"));
    };
    let site = Some(network.site()).filter(|site| site.is_ipv6() && user.is_none());
    let site = site.and_then(|site| limits.sites.acquire(&site, usize::MAX));
    Ok((all, own, site))
}
