//! Accepts connections, no faster from one client than it may. When no descriptor is left it tells clients so, with the
//! help of one that was kept for that; never spins, never dies.
//!
//! All workers share one listening socket for each address and take turns: a connection wakes one of them (epoll_ctl(2),
//! `EPOLLEXCLUSIVE`). A socket for each worker would need `SO_REUSEPORT`, and then any other process of the same user could
//! bind one more and get its share of the connections. Sockets that were open before the daemon started are used alike.

use std::cell::OnceCell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::limits::client::ClientNetwork;
use crate::limits::rate::Pace;
use crate::outcome::DenyReason;
use crate::reactor::Reactor;
use crate::sys;
use crate::sys::poller::{Event, Interest, Poller};
use crate::tunnel::{Client, Origin, World, turn_away};

/// A listening socket and its address.
#[derive(Debug)]
pub struct Bound {
    socket: TcpListener,
    address: SocketAddr,
    /// It was there before the daemon, and will be after it.
    is_inherited: bool,
    /// Other workers have it too.
    is_shared: bool,
}

/// A listening socket that is watched.
#[derive(Debug)]
pub(super) struct Listener {
    bound: Bound,
    key: u64,
    /// A client waits.
    called: bool,
    /// Not before; None: whenever a client comes.
    resumes_at: Option<Instant>,
    /// Connections accepted since this worker last gave way to the others.
    turn: usize,
    /// Given up for a moment when no descriptor is left, to tell a client so.
    reserve: Option<OwnedFd>,
}

/// One socket bound to `address`, for so many workers; a port of 0 becomes one that is free.
///
/// # Errors
/// What bind(2) or listen(2) said.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<Vec<Bound>>> {
    divide(&[sys::listen(address)?], workers, false)
}

/// Sockets that were open before, all of one address, for so many workers.
///
/// # Errors
/// When no descriptor is left.
pub fn share(sockets: &[TcpListener], workers: usize) -> io::Result<Vec<Vec<Bound>>> {
    divide(sockets, workers, true)
}

/// Each worker gets one socket at least, and each socket has a worker.
fn divide(
    sockets: &[TcpListener],
    workers: usize,
    is_inherited: bool,
) -> io::Result<Vec<Vec<Bound>>> {
    let mut shares: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
    let pairs = sockets.len().max(workers);
    for (socket, number) in sockets.iter().cycle().zip(0..pairs) {
        let socket = socket.try_clone()?;
        let bound = Bound {
            address: socket.local_addr()?,
            socket,
            is_inherited,
            is_shared: sockets.len() < workers,
        };
        if let Some(share) = shares.get_mut(number % workers) {
            share.push(bound);
        }
    }
    Ok(shares)
}

impl Bound {
    /// The address that clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
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

    /// Whether its queue of clients outlives the daemon.
    pub(super) fn stays(&self) -> bool {
        self.bound.is_inherited
    }

    pub(super) fn on_event(&mut self, event: Event) {
        self.called |= event.key == self.key;
    }

    /// Whether a client waits, or the time of a pause is over.
    pub(super) fn is_called(&self, now: Instant) -> bool {
        self.resumes_at.map_or(self.called, |at| now >= at)
    }

    pub(super) fn resumes_at(&self) -> Option<Instant> {
        self.resumes_at
    }

    /// Accepts at most `most` clients. Level-triggered epoll reports the remaining ones again.
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
                    world.shared.metrics.accept_errors.increment(1);
                    if sys::is_out_of_descriptors(&error) && self.shed(world) {
                        continue;
                    }
                    // A client that gave up while it waited is its own affair.
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

    /// Takes a connection in, unless its client comes too fast or it holds the last descriptor.
    fn admit(
        &mut self,
        stream: TcpStream,
        address: SocketAddr,
        world: &World,
    ) -> io::Result<Option<Client>> {
        let origin = self.origin(address);
        if world.shared.is_short.load(Ordering::Relaxed) && !self.restore_reserve(world) {
            turn_away(&stream, origin, DenyReason::TunnelLimit, NONE_LEFT, world);
            return Ok(None);
        }
        match pace_of(origin, world) {
            Pace::Kept => Ok(Some(Client {
                socket: world.reactor.register(stream)?,
                origin,
                visible: OnceCell::new(),
            })),
            Pace::Exceeded => {
                turn_away(&stream, origin, DenyReason::ClientLimit, TOO_FAST, world);
                Ok(None)
            }
        }
    }

    fn origin(&self, address: SocketAddr) -> Origin {
        let Bound {
            address: listener,
            is_inherited,
            ..
        } = self.bound;
        Origin {
            address,
            listener,
            is_inherited,
            accepted: Instant::now(),
        }
    }

    /// Stops watching the socket. To close it here is not enough, because it stays open elsewhere (epoll(7)).
    pub(super) fn stop(&self, poller: &Poller) {
        // One that pauses is not watched.
        let _as_well = poller.forget(&self.bound.socket);
    }

    /// Lets the next client wake another worker when this one has had its turn: all tunnels on one would be all traffic on
    /// one core. Few tunnels go round one by one; among many a turn is longer, because giving way takes two system calls.
    fn give_way(&mut self, poller: &Poller, world: &World) {
        self.turn += 1;
        let turn_max = (1 + world.tunnels.len() / TUNNELS_TO_A_TURN).min(TURN_MAX);
        if self.bound.is_shared && self.resumes_at.is_none() && self.turn >= turn_max {
            self.turn = 0;
            // Watched again it is the last in turn, and reported again if a client still waits.
            let again = poller
                .forget(&self.bound.socket)
                .and_then(|()| self.begin(poller));
            if again.is_err() {
                // Out of memory in the kernel: tried again after a pause.
                self.resumes_at = Some(Instant::now() + BACK_OFF);
            }
        }
    }

    /// Whether a descriptor is left beside that of the connection at hand, which needs a second one, and the reserve.
    /// What is given up for one client is thereby never kept by another, of whichever worker.
    fn restore_reserve(&mut self, world: &World) -> bool {
        if self.reserve.is_none() {
            self.reserve = sys::spare_descriptor().ok();
        }
        let restore_reserve = self.reserve.is_some() && sys::spare_descriptor().is_ok();
        if restore_reserve && world.shared.is_short.swap(false, Ordering::Relaxed) {
            info!("descriptors are free again");
        }
        restore_reserve
    }

    /// No descriptor is left: tells the client that waits, with the help of the reserve. False when there is no reserve
    /// now, or nobody to tell.
    fn shed(&mut self, world: &World) -> bool {
        if !world.shared.is_short.swap(true, Ordering::Relaxed) {
            warn!("no descriptor is left for a connection; refusing new ones until one is free");
        }
        drop(self.reserve.take());
        let shed = sys::accept(&self.bound.socket).map(|(stream, address)| {
            turn_away(
                &stream,
                self.origin(address),
                DenyReason::TunnelLimit,
                NONE_LEFT,
                world,
            );
        });
        self.reserve = sys::spare_descriptor().ok();
        shed.is_ok()
    }

    /// Anything else will not pass by itself at once. Said once until it passes.
    fn pause(&mut self, error: &io::Error, poller: &Poller, reactor: &Reactor) {
        if self.resumes_at.is_none() {
            warn!(%error, "cannot accept connections; trying again every {} ms", BACK_OFF.as_millis());
            // What is not watched cannot be forgotten, which is as well.
            let _as_well = poller.forget(&self.bound.socket);
        }
        self.resumes_at = Some(reactor.now() + BACK_OFF);
    }

    fn resume(&mut self, poller: &Poller) {
        if self.resumes_at.take().is_some() && self.begin(poller).is_err() {
            // Out of memory in the kernel: tried again after a pause.
            self.resumes_at = Some(Instant::now() + BACK_OFF);
        }
    }
}

/// Whether a connection keeps within the rate of its client and, for IPv6, of its site.
fn pace_of(origin: Origin, world: &World) -> Pace {
    let (shared, client) = (&world.shared, ClientNetwork::of(origin.address.ip()));
    let rate = shared.snapshot.load().config.limits.accept_rate;
    let (pace, site) = (
        shared.accepts.count(client, rate, origin.accepted),
        client.site(),
    );
    if pace != Pace::Kept || !site.is_ipv6() {
        return pace;
    }
    shared
        .site_accepts
        .count(site, rate.saturating_mul(SITE_CLIENTS), origin.accepted)
}

/// A site may connect as fast as so many clients: more than any has that does not try each of its 65,536 networks.
const SITE_CLIENTS: u32 = 8;
const TOO_FAST: &str = "more connections than limits.accept_rate";
const NONE_LEFT: &str = "no descriptor is left";
/// A turn has one connection more for each so many tunnels: it moves the balance by an eighth at most.
const TUNNELS_TO_A_TURN: usize = 8;
/// From there on giving way costs a set-up less than one in a hundred.
const TURN_MAX: usize = 8;
/// Long enough for tunnels to end, short enough for a client to wait.
const BACK_OFF: Duration = Duration::from_millis(100);
