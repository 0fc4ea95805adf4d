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
use super::{Ahead, Flowing, World};
use crate::authority::UserId;
use crate::handover::format::Described;
use crate::handover::parking::Packer;
use crate::handover::state::{self, RelayState, TunnelState};
use crate::limits::client::ClientNetwork;
use crate::outcome::Ending;
use crate::relay::{Adopted, ByteCount, Held, Mode, Relay, Timing, TunnelBytes};
use crate::shared::{Shared, Snapshot};

/// A tunnel of another daemon, with its sockets.
#[derive(Debug)]
pub struct Parked {
    /// What the other daemon knew.
    pub state: Box<TunnelState>,
    client: TcpStream,
    upstream: TcpStream,
    waiting: Waiting,
}

/// Bytes that wait: in buffers, of the client and of the upstream, and in pipes.
#[derive(Debug, Default)]
struct Waiting {
    buffers: [Zeroizing<Vec<u8>>; 2],
    pipes: Vec<OwnedFd>,
}

/// A tunnel of another daemon with everything that it needs here. It does not flow yet.
#[derive(Debug)]
pub struct Ready {
    parked: Parked,
    flowing: Flowing,
    mode: Mode,
    /// The time after which it ends as revoked. None: policy allows it.
    grace: Option<Duration>,
}

/// What has become of a tunnel since it was described, with the ends of its pipes.
pub type Change = (Described<state::Change>, Vec<OwnedFd>);

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

/// The state of a tunnel that is not continued, if it is understood, and the reason.
pub type Unusable = (Option<Box<TunnelState>>, Unfit);

/// Where tunnels of another daemon continue.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The state that all tunnels share.
    pub shared: &'a Arc<Shared>,
    /// The listeners, in the order of the configuration.
    pub listeners: &'a [Arc<SocketAddr>],
    /// When the states of the tunnels were these.
    pub described: Instant,
}

/// Puts the tunnels of a relay into a parcel, or what has changed since they were described ahead. They stay in the relay.
pub fn park(relay: &Relay<Flowing>, ahead: Option<&Ahead>, packer: &mut Packer<'_>) {
    if let Some(asked) = packer.completes() {
        return match ahead.filter(|ahead| ahead.asked() == asked) {
            Some(ahead) => ahead.complete(relay, packer),
            None => packer.fail("a worker has not described its tunnels"),
        };
    }
    let now = Instant::now();
    packer.contents.expect(relay.tunnel_count());
    let describe =
        |owner: &Flowing, state, held: [Option<&[u8]>; 2]| match owner.facts.state(state, now) {
            Some(state) => packer.contents.describe(&state, held),
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
    pub fn of(described: Described, descriptors: Vec<OwnedFd>) -> Result<Self, Unusable> {
        let Described {
            state, up, down, ..
        } = described;
        let state = state.map_err(|error| (None, Unfit::Line(error)))?;
        match sockets(&state, descriptors) {
            Ok((client, upstream, pipes)) => Ok(Self {
                state,
                client,
                upstream,
                waiting: Waiting {
                    buffers: [up, down],
                    pipes,
                },
            }),
            Err(error) => Err((Some(state), Unfit::Sockets(error))),
        }
    }

    /// Takes its permits, also beyond a limit, and judges it by the configuration in force. `log_lines` bounds the lines about
    /// refused tunnels.
    ///
    /// # Errors
    /// The tunnel's state is not understood; its sockets are reset.
    pub fn admit(
        self,
        destination: Destination<'_>,
        log_lines: &mut usize,
        world: &World,
    ) -> Result<Ready, Unusable> {
        match self.admitted(destination, log_lines, world) {
            Ok((flowing, snapshot, is_allowed)) => Ok(Ready {
                parked: self,
                flowing,
                mode: snapshot.config.mode,
                grace: (!is_allowed).then_some(snapshot.config.timeouts.drain),
            }),
            Err(error) => Err((Some(self.state), error.into())),
        }
    }

    fn admitted(
        &self,
        destination: Destination<'_>,
        log_lines: &mut usize,
        world: &World,
    ) -> Result<(Flowing, Arc<Snapshot>, bool), BadState> {
        let (state, shared) = (&self.state, destination.shared);
        let snapshot = shared.snapshot.load_full();
        let mut facts = adopt_facts(state, destination, &snapshot)?;
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
        Ok((flowing, snapshot, is_allowed))
    }
}

impl Ready {
    /// How long the relay had it when it was described.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.parked.state.relay.age_ms)
    }

    /// The same tunnel after nothing has happened to it for this time, and then perhaps this.
    ///
    /// # Errors
    /// The state, and what is not understood.
    pub fn after(mut self, time: Duration, change: Option<Change>) -> Result<Self, Unusable> {
        let Parked { state, waiting, .. } = &mut self.parked;
        state.age(time);
        if let Some((described, pipes)) = change {
            let buffers = [described.up, described.down];
            match described.state {
                Ok(change) => state.change(*change),
                Err(why) => return Err((Some(self.parked.state), Unfit::Line(why))),
            }
            *waiting = Waiting { buffers, pipes };
        }
        Ok(self)
    }

    /// Gives it to the relay, after no daemon has had it for `pause`.
    ///
    /// # Errors
    /// Its state, and what does not fit to it. It is reset.
    pub fn flow(self, pause: Duration, world: &World) -> Result<(), Unusable> {
        let Parked {
            state,
            client,
            upstream,
            waiting,
        } = self.parked;
        let held = match waiting.of(&state.relay) {
            Ok(held) => held,
            Err(error) => return Err((Some(state), Unfit::Sockets(error))),
        };
        self.flowing.facts.flow_on(&state);
        world.relay.borrow_mut().continue_tunnel(Adopted {
            owner: self.flowing,
            client,
            upstream,
            mode: self.mode,
            state: state.relay,
            held,
            pause,
            grace: self.grace,
        });
        Ok(())
    }
}

impl Waiting {
    /// The bytes of both directions.
    fn of(self, state: &RelayState) -> io::Result<[Held; 2]> {
        let [up, down] = self.buffers;
        let mut pipes = self.pipes.into_iter();
        let held = [
            Held::of(&state.up, up, &mut pipes)?,
            Held::of(&state.down, down, &mut pipes)?,
        ];
        match pipes.next() {
            None => Ok(held),
            Some(_) => Err(io::Error::other("there is one more")),
        }
    }
}

/// The two sockets, and the other descriptors.
fn sockets(
    state: &TunnelState,
    descriptors: Vec<OwnedFd>,
) -> io::Result<(TcpStream, TcpStream, Vec<OwnedFd>)> {
    let mut descriptors = descriptors.into_iter();
    let mut socket = || descriptors.next().map(TcpStream::from);
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let client = socket().ok_or_else(missing)?;
    let upstream = socket().ok_or_else(missing)?;
    let via = state.declared.as_ref().and_then(|declared| declared.via);
    is_between(&client, None, via.unwrap_or(state.client))?;
    is_between(&upstream, Some(state.egress), state.upstream)?;
    Ok((client, upstream, descriptors.collect()))
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
        described,
    }: Destination<'_>,
    snapshot: &Arc<Snapshot>,
) -> Result<TunnelFacts, BadState> {
    let home = Home {
        shared,
        snapshot,
        listeners,
    };
    TunnelFacts::adopt(state, described, &home)
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
