//! Accepts connections, bounded by each client's rate. When no descriptor is free it refuses
//! clients with the help of a reserve descriptor. Never spins, never exits.
//!
//! All workers share one listening socket per address and take turns: a connection wakes one of
//! them (epoll_ctl(2), `EPOLLEXCLUSIVE`). One socket per worker would need `SO_REUSEPORT`, and then
//! any other process of the same user could bind another one and receive some of the connections.
//! Sockets opened before the start of the daemon work alike.

use std::cell::OnceCell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::admission::{Admission, Refusal};
use crate::limits::client::ClientNetwork;
use crate::limits::rate::{Pace, count_connection};
use crate::outcome::DenyReason;
use crate::reactor::Reactor;
use crate::shared::Snapshot;
use crate::sys;
use crate::sys::poller::{Event, Interest, Poller};
use crate::tunnel::{Client, Origin, World, shut_out, turn_away};

/// A listening socket and its address.
#[derive(Debug)]
pub struct Bound {
    socket: TcpListener,
    address: Arc<SocketAddr>,
    /// Its place in the configuration.
    number: usize,
    /// The socket existed before the daemon and survives it.
    is_inherited: bool,
    /// Other workers use it too.
    is_shared: bool,
}

/// A listening socket that the poller watches.
#[derive(Debug)]
pub(super) struct Listener {
    bound: Bound,
    key: u64,
    /// A client waits.
    called: bool,
    /// The end of a pause; None if it accepts at once.
    resumes_at: Option<Instant>,
    /// Connections accepted since this worker's turn began.
    turn: usize,
    /// Closed for a moment when no descriptor is free, to refuse a client.
    reserve: Option<OwnedFd>,
}

/// Divides the sockets of one address among this many workers: each worker gets at least one, and
/// each socket a worker. `number` is the listener's place in the configuration; `is_inherited` says
/// whether the sockets survive the daemon.
///
/// # Errors
/// No descriptor is free.
pub fn share(
    sockets: &[TcpListener],
    number: usize,
    workers: usize,
    is_inherited: bool,
) -> io::Result<Vec<Vec<Bound>>> {
    let mut shares: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
    let pairs = sockets.len().max(workers);
    for (socket, pair) in sockets.iter().cycle().zip(0..pairs) {
        let socket = socket.try_clone()?;
        let bound = Bound {
            address: Arc::new(socket.local_addr()?),
            socket,
            number,
            is_inherited,
            is_shared: sockets.len() < workers,
        };
        if let Some(share) = shares.get_mut(pair % workers) {
            share.push(bound);
        }
    }
    Ok(shares)
}

impl Bound {
    /// The address that clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        *self.address
    }
}

impl Listener {
    pub(super) fn watch(bound: Bound, key: u64, poller: &Poller) -> io::Result<Self> {
        let reserve = Some(sys::spare_descriptor()?);
        let listener = Self {
            bound,
            key,
            called: false,
            resumes_at: None,
            turn: 0,
            reserve,
        };
        listener.begin(poller)?;
        Ok(listener)
    }

    fn begin(&self, poller: &Poller) -> io::Result<()> {
        if self.bound.is_shared {
            return poller.watch_in_turn(&self.bound.socket, self.key);
        }
        poller.watch(
            &self.bound.socket,
            Interest {
                reads: true,
                writes: false,
            },
            self.key,
        )
    }

    /// Whether its queue of clients survives the daemon.
    pub(super) fn stays(&self) -> bool {
        self.bound.is_inherited
    }

    pub(super) fn on_event(&mut self, event: Event) {
        self.called |= event.key == self.key;
    }

    /// Whether a client waits, or a pause has ended.
    pub(super) fn is_called(&self, now: Instant) -> bool {
        self.resumes_at.map_or(self.called, |at| now >= at)
    }

    pub(super) fn resumes_at(&self) -> Option<Instant> {
        self.resumes_at
    }

    /// Accepts at most `most` clients. Level-triggered epoll reports the others again.
    pub(super) fn accept(
        &mut self,
        most: usize,
        poller: &Poller,
        world: &World,
        clients: &mut Vec<Client>,
    ) {
        self.called = false;
        for _ in 0..most {
            match sys::accept(&self.bound.socket)
                .and_then(|(stream, address)| self.admit(stream, address, world))
            {
                Ok(client) => {
                    self.resume(poller);
                    self.give_way(poller, world);
                    clients.extend(client);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.resume(poller);
                }
                Err(error) => {
                    world.shared.evidence.metrics.accept_errors.increment(1);
                    if sys::is_out_of_descriptors(&error) && self.shed(world) {
                        continue;
                    }
                    // The client gave up while it waited; the next one is not affected.
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) {
                        return self.pause(&error, poller, &world.reactor);
                    }
                }
            }
        }
    }

    /// Admits a connection, unless its peer may not declare clients, its client is too fast or no
    /// other descriptor is free.
    fn admit(
        &mut self,
        stream: TcpStream,
        address: SocketAddr,
        world: &World,
    ) -> io::Result<Option<Client>> {
        let origin = self.origin(address);
        let generation = world.shared.generation();
        let snapshot = world.shared.snapshot.load_full();
        let is_proxied = match proxied(&origin, &snapshot) {
            Ok(is_proxied) => is_proxied,
            Err(refusal) => {
                shut_out(&origin, refusal, world);
                return Ok(None);
            }
        };
        if world.shared.limits.is_short.load(Ordering::Relaxed) && !self.restore_reserve(world) {
            turn_away(&stream, &origin, DenyReason::TunnelLimit, NONE_LEFT, world);
            return Ok(None);
        }
        // A terminator connects as often as all its clients together.
        if !is_proxied && pace_of(&origin, &snapshot, world) == Pace::Exceeded {
            turn_away(&stream, &origin, DenyReason::ClientLimit, TOO_FAST, world);
            return Ok(None);
        }
        Ok(Some(Client {
            socket: world.reactor.register(stream)?,
            origin,
            generation,
            snapshot,
            visible: OnceCell::new(),
        }))
    }

    fn origin(&self, address: SocketAddr) -> Origin {
        Origin {
            address,
            listener: Arc::clone(&self.bound.address),
            is_inherited: self.bound.is_inherited,
            listener_number: self.bound.number,
            declared: None,
            accepted: Instant::now(),
        }
    }

    /// Stops watching the socket. Closing it is not enough, because other processes or workers have
    /// it open (epoll(7)).
    pub(super) fn stop(&self, poller: &Poller) {
        // A pausing socket is not watched.
        let _as_well = poller.forget(&self.bound.socket);
    }

    /// Ends this worker's turn, so that the next client wakes another worker: all tunnels on one
    /// worker would mean all traffic on one core. With few tunnels a turn is one connection; with
    /// many it is longer, because a change costs two system calls.
    fn give_way(&mut self, poller: &Poller, world: &World) {
        self.turn += 1;
        let turn_max = (1 + world.tunnels.len() / TUNNELS_TO_A_TURN).min(TURN_MAX);
        if self.bound.is_shared && self.resumes_at.is_none() && self.turn >= turn_max {
            self.turn = 0;
            // After it is watched again it is the last in turn; epoll reports it again if a client
            // still waits.
            let again = poller
                .forget(&self.bound.socket)
                .and_then(|()| self.begin(poller));
            if again.is_err() {
                // The kernel has no memory; tried again after a pause.
                self.resumes_at = Some(Instant::now() + BACK_OFF);
            }
        }
    }

    /// Whether a descriptor is free besides the accepted one, which needs a second one, and the
    /// reserve. So no other client, of any worker, keeps the descriptor that was given up for this
    /// one.
    fn restore_reserve(&mut self, world: &World) -> bool {
        if self.reserve.is_none() {
            self.reserve = sys::spare_descriptor().ok();
        }
        let restore_reserve = self.reserve.is_some() && sys::spare_descriptor().is_ok();
        if restore_reserve && world.shared.limits.is_short.swap(false, Ordering::Relaxed) {
            info!("file descriptors are free again: new connections are accepted");
        }
        restore_reserve
    }

    /// Refuses the next client with the help of the reserve when no descriptor is free. Returns
    /// false if there is no reserve now, or no client.
    fn shed(&mut self, world: &World) -> bool {
        if !world.shared.limits.is_short.swap(true, Ordering::Relaxed) {
            warn!(
                "no file descriptor is free: new connections are refused until one is; raise LimitNOFILE"
            );
        }
        drop(self.reserve.take());
        let shed = sys::accept(&self.bound.socket).map(|(stream, address)| {
            let origin = self.origin(address);
            match proxied(&origin, &world.shared.snapshot.load()) {
                Ok(_) => turn_away(&stream, &origin, DenyReason::TunnelLimit, NONE_LEFT, world),
                Err(refusal) => shut_out(&origin, refusal, world),
            }
        });
        self.reserve = sys::spare_descriptor().ok();
        shed.is_ok()
    }

    /// Other errors do not pass at once. Logs them once until they pass.
    fn pause(&mut self, error: &io::Error, poller: &Poller, reactor: &Reactor) {
        if self.resumes_at.is_none() {
            warn!(%error, "cannot accept connections; trying again every {} ms", BACK_OFF.as_millis());
            // Removing a socket that is not watched fails, which is harmless.
            let _as_well = poller.forget(&self.bound.socket);
        }
        self.resumes_at = Some(reactor.now() + BACK_OFF);
    }

    fn resume(&mut self, poller: &Poller) {
        if self.resumes_at.take().is_some() && self.begin(poller).is_err() {
            // The kernel has no memory; tried again after a pause.
            self.resumes_at = Some(Instant::now() + BACK_OFF);
        }
    }
}

/// Whether the peer speaks for other clients.
fn proxied(origin: &Origin, snapshot: &Snapshot) -> Result<bool, Refusal> {
    let admission = Admission::by(&snapshot.config, &snapshot.egress);
    let protocol = admission.peer(origin.listener_number, origin.address.ip())?;
    Ok(protocol.is_some())
}

/// Whether the connection is within the rates of its client and, for IPv6, of its site.
fn pace_of(origin: &Origin, snapshot: &Snapshot, world: &World) -> Pace {
    let (shared, client) = (&world.shared, ClientNetwork::of(origin.address.ip()));
    let rate = snapshot.config.limits.accept_rate;
    let (clients, sites) = (&shared.limits.accepts, &shared.limits.site_accepts);
    count_connection(clients, sites, client, rate, origin.accepted)
}

const TOO_FAST: &str = "more connections than limits.accept_rate";
const NONE_LEFT: &str = "no descriptor is left";
/// A turn has one more connection per this many tunnels, which shifts the balance by an eighth at
/// most.
const TUNNELS_TO_A_TURN: usize = 8;
/// From this turn length on a change costs less than a hundredth of a set-up.
const TURN_MAX: usize = 8;
/// Long enough for tunnels to end, short enough for a client to wait.
const BACK_OFF: Duration = Duration::from_millis(100);
