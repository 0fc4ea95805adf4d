//! Dials an upstream from a static source address and from no other.
//!
//! Races several addresses (RFC 8305): an attempt starts when the one before has failed, or after
//! 250 ms. At most three run at once; the second and third need a permit of the process. Resets a
//! socket that it abandons, because a closed one keeps its port in TIME_WAIT for a minute. Never
//! dials a family without an egress address. Compares the connected socket's own address with the
//! source that it was bound to. Never resolves a name: it takes addresses that the guard has
//! passed, and asks the kernel right before connect(2) whether each leads to this host.

mod egress;
mod error;
mod routing;
pub mod warm;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Aborted, abortable};
use futures_util::stream::FuturesUnordered;
use scopeguard::ScopeGuard;

use crate::authority::{Port, UserId};
use crate::limits::{Count, CountPermit};
use crate::policy::guard::{Forbidden, UpstreamAddress};
use crate::reactor::{Reactor, Socket};
use crate::sys;
use crate::sys::routes::RouteKind;
pub use egress::{Egress, Hold, PortPermit, Source};
pub use error::DialError;
pub use routing::Routing;
use warm::Taken;

/// A connected upstream.
#[derive(Debug)]
pub struct Upstream {
    /// The socket; no byte has been sent on it. A drop resets it, until `ScopeGuard::into_inner`
    /// takes it.
    pub socket: ScopeGuard<Socket, fn(Socket)>,
    /// The upstream's address.
    pub address: SocketAddr,
    /// The source address and port.
    pub egress: SocketAddr,
    /// The port's permit.
    pub port: PortPermit,
}

/// The inputs of a dial.
#[derive(Clone, Copy, Debug)]
pub struct Dialler<'a> {
    /// The egress addresses.
    pub egress: &'a Egress,
    /// The user, whose tunnels keep to one egress address.
    pub user: Option<&'a UserId>,
    /// The kernel's routes.
    pub routing: &'a Routing,
    /// This thread's sockets and deadlines.
    pub reactor: &'a Reactor,
    /// Attempts of all tunnels after the first one of each.
    pub attempts: &'a Count,
    /// The most of those attempts.
    pub attempts_max: usize,
}

impl Dialler<'_> {
    /// Connects to the first address that answers, from the user's source address. The caller sets
    /// the deadline; dropping the future ends every attempt.
    ///
    /// # Errors
    /// The first address that leads to this host; otherwise the most specific failure of all
    /// attempts.
    pub async fn connect(
        &self,
        addresses: &[UpstreamAddress],
        port: Port,
    ) -> Result<Upstream, DialError> {
        if let [only] = addresses {
            // Nothing to race.
            let address = SocketAddr::new(only.ip(), port.number());
            return self.attempt(*only, address).await;
        }
        let mut waiting = in_racing_order(addresses);
        let mut running = FuturesUnordered::new();
        let mut started: VecDeque<(Instant, SocketAddr, AbortHandle)> = VecDeque::new();
        let mut worst = DialError::NoFamily;
        loop {
            // At the start, after each failure, and when the last attempt has used its delay.
            let now = self.reactor.now();
            match (waiting.front(), self.attempt_permit(running.len())) {
                (Some(next), Some(permit)) => {
                    let address = SocketAddr::new(next.ip(), port.number());
                    let (attempt, handle) = abortable(self.attempt(*next, address));
                    running.push(async move { (address, attempt.await, permit) });
                    started.push_back((now, address, handle));
                    waiting.pop_front();
                }
                // The oldest attempt yields once its first SYN has been repeated without an answer.
                (Some(_), None) => {
                    if let Some((_, _, oldest)) =
                        started.pop_front_if(|(at, ..)| now >= *at + GIVES_WAY_AFTER)
                    {
                        oldest.abort();
                    }
                }
                (None, _) if running.is_empty() => return Err(worst),
                (None, _) => {}
            }
            tokio::select! {
                Some((address, done, _permit)) = running.next() => {
                    started.retain(|(_, other, _)| *other != address);
                    match done {
                        Ok(Ok(upstream)) => return Ok(upstream),
                        Ok(Err(error @ DialError::Denied(_))) => return Err(error),
                        Ok(Err(error)) => worst = worst.or_worse(error),
                        Err(Aborted) => worst = worst.or_worse(DialError::Timeout(io::ErrorKind::TimedOut.into())),
                    }
                }
                () = self.reactor.sleep_until(now + ATTEMPT_DELAY), if !waiting.is_empty() => {}
            }
        }
    }

    /// Takes a permit for one more attempt. The first attempt uses the tunnel's own upstream
    /// descriptor; the others need a permit. None: it has to wait.
    fn attempt_permit(&self, running: usize) -> Option<Option<CountPermit>> {
        match running {
            0 => Some(None),
            1..IN_FLIGHT_MAX => self.attempts.acquire(self.attempts_max).map(Some),
            _ => None,
        }
    }

    /// Tries one address, from each source in turn while the source is at fault.
    async fn attempt(
        &self,
        to: UpstreamAddress,
        address: SocketAddr,
    ) -> Result<Upstream, DialError> {
        let mut worst = self
            .egress
            .of_family(to.ip())
            .map_or(DialError::NoFamily, DialError::Egress);
        for source in self.egress.in_order(address, self.user) {
            match self.connect_from(&source, to, address).await {
                Err(error @ (DialError::Egress(_) | DialError::Ports(_))) => {
                    worst = worst.or_worse(error)
                }
                done => return done,
            }
        }
        Err(worst)
    }

    async fn connect_from(
        &self,
        from: &Arc<Source>,
        to: UpstreamAddress,
        address: SocketAddr,
    ) -> Result<Upstream, DialError> {
        let (stream, port) = self.begin(from, to, address)?;
        let registered = self.reactor.register(stream).map_err(DialError::Socket)?;
        let socket = scopeguard::guard(registered, give_up as fn(Socket));
        tokio::select! {
            biased;
            connected = socket.connected() => {
                connected.map_err(|error| DialError::of_connect(error, from.address()))?;
            }
            () = lost(&port.hold) => return Err(DialError::Egress(from.address())),
        }
        self.complete(to, socket, (from.address(), address), port)
    }

    /// Starts to connect from this source. Never waits.
    ///
    /// # Errors
    /// Every failure that is known before the first packet has an answer.
    pub fn begin(
        &self,
        from: &Arc<Source>,
        to: UpstreamAddress,
        address: SocketAddr,
    ) -> Result<(TcpStream, PortPermit), DialError> {
        let source = from.address();
        // Without this the kernel would check every port of the range before it fails.
        let (port, is_scarce) = self
            .egress
            .port(from, address)
            .ok_or(DialError::Ports(source))?;
        let bound = sys::upstream_socket(source).map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => {
                // No other dial uses it until housekeeping finds it again.
                from.set_up(false);
                DialError::Egress(source)
            }
            _ => DialError::Socket(error),
        })?;
        if is_scarce {
            // Fails on an old kernel, which then searches longer.
            let _searches_longer = sys::ports::search_all(&bound);
        }
        self.leads_away(source, to, address)?;
        sys::connect(&bound, address).map_err(|error| DialError::of_connect(error, source))?;
        Ok((bound, port))
    }

    /// Uses a connection that [`warm::WarmPool::take`] has returned.
    ///
    /// # Errors
    /// The address leads to this host now, or the source is another one. The socket is reset.
    pub fn adopt(&self, taken: Taken) -> Result<Upstream, DialError> {
        let Taken { to, key, warm } = taken;
        let (stream, port) = warm.into_parts();
        let registered = self.reactor.register(stream).map_err(DialError::Socket)?;
        let socket = scopeguard::guard(registered, give_up as fn(Socket));
        self.complete(to, socket, (key.source, key.upstream), port)
    }

    /// Checks a connected socket: where its packets go, and from which address.
    fn complete(
        &self,
        to: UpstreamAddress,
        socket: ScopeGuard<Socket, fn(Socket)>,
        (source, address): (IpAddr, SocketAddr),
        port: PortPermit,
    ) -> Result<Upstream, DialError> {
        // A new local address may have taken the connection, because the kernel looks the route up
        // at each SYN.
        self.leads_away(source, to, address)?;
        let left_from = socket.local_addr().map_err(DialError::Socket)?;
        if left_from.ip() != source {
            return Err(DialError::Egress(left_from.ip()));
        }
        // A connect to a free port of the own range can meet itself (simultaneous open, RFC 9293
        // section 3.5).
        if left_from == address {
            return Err(DialError::Refused(io::ErrorKind::ConnectionRefused.into()));
        }
        Ok(Upstream {
            socket,
            address,
            egress: left_from,
            port,
        })
    }

    /// Whether the kernel sends these packets to another host now. An address can be local without
    /// an interface that has it, and a rule can make it local for one source, protocol or
    /// destination port only.
    fn leads_away(
        &self,
        source: IpAddr,
        to: UpstreamAddress,
        address: SocketAddr,
    ) -> Result<(), DialError> {
        // A translator may be on this host, or send translated packets back to it.
        for inner in to.holds() {
            let at = SocketAddr::new(inner.into(), address.port());
            let kind = self.kind(Ipv4Addr::UNSPECIFIED.into(), at)?;
            if let Some(class) = forbidden(kind) {
                return Err(Forbidden {
                    address: to.ip(),
                    holds: Some(inner),
                    class,
                }
                .into());
            }
        }
        if to.may_be_own() {
            return Ok(());
        }
        let kind = self.kind(source, address)?;
        if let Some(class) = forbidden(kind) {
            return Err(Forbidden {
                address: to.ip(),
                holds: None,
                class,
            }
            .into());
        }
        match kind {
            RouteKind::None(number) => Err(DialError::of_connect(
                io::Error::from_raw_os_error(number),
                source,
            )),
            _ => Ok(()),
        }
    }

    fn kind(&self, source: IpAddr, to: SocketAddr) -> Result<RouteKind, DialError> {
        self.routing
            .kind(source, to, self.reactor.now())
            .map_err(DialError::Routing)
    }
}

/// Completes when it is polled after the host has lost a source. The caller waits for a socket or a
/// deadline too, and its worker wakes it after each loss ([`Reactor::wake_all`]).
pub async fn lost(hold: &Hold) {
    poll_fn(|_| match hold.is_lost() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// Closes a socket with a reset, so that its port is free at once.
fn give_up(socket: Socket) {
    // Fails only on a dead socket, which holds no port.
    let _holds_no_port = sys::reset_on_close(&socket);
}

/// Why an address with this route must not be dialled; None if it may be.
#[must_use]
pub fn forbidden(kind: RouteKind) -> Option<&'static str> {
    match kind {
        RouteKind::Local => Some("local to this host by its routes"),
        RouteKind::Other => Some("no single host's by this host's routes"),
        RouteKind::Unicast | RouteKind::None(_) => None,
    }
}

/// Families alternate, IPv6 first, so that a broken family costs one delay and no more (RFC 8305, section 4).
fn in_racing_order(addresses: &[UpstreamAddress]) -> VecDeque<UpstreamAddress> {
    let (mut v6, mut v4): (VecDeque<_>, VecDeque<_>) = addresses
        .iter()
        .copied()
        .partition(|address| address.ip().is_ipv6());
    let mut order = VecDeque::with_capacity(addresses.len());
    while !(v6.is_empty() && v4.is_empty()) && order.len() < ADDRESSES_MAX {
        order.extend(v6.pop_front());
        order.extend(v4.pop_front());
    }
    order
}

/// No web service has more, and each may cost a connection. All of them have been judged.
const ADDRESSES_MAX: usize = 16;
/// The most attempts of one dial at a time.
const IN_FLIGHT_MAX: usize = 3;
/// How long an attempt may run while another address waits for its place: the kernel repeats the
/// SYN after a second.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(2);
/// RFC 8305, section 8.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
