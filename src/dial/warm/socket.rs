//! One warm socket: what it holds, and whether a tunnel may use it now. Never sends a byte or takes one from the kernel.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use scopeguard::ScopeGuard;

use crate::dial::PortPermit;
use crate::limits::CountPermit;
use crate::outcome::CloseReason;
use crate::sys;

/// A connection that no tunnel uses yet. A drop resets it.
#[derive(Debug)]
pub struct WarmSocket {
    stream: ScopeGuard<TcpStream, fn(TcpStream)>,
    port: PortPermit,
    /// Its descriptor's part of the limit on open files, and its place among all warm sockets.
    _permits: [CountPermit; 2],
    opened: Instant,
}

/// The state of a warm socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketState {
    /// The upstream has not answered yet.
    Connecting,
    /// A tunnel may use it.
    Usable,
    /// It has to be closed.
    Unusable(CloseReason),
}

/// What recv(2) with `MSG_PEEK` finds in a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peeked {
    /// Neither a byte nor an end.
    Nothing,
    /// A byte, an end or a reset. A server says nothing before a ClientHello.
    Something,
    /// The connect failed.
    Failed,
}

impl WarmSocket {
    /// Holds a socket whose connect(2) has begun.
    #[must_use]
    pub fn new(
        (stream, port): (TcpStream, PortPermit),
        permits: [CountPermit; 2],
        opened: Instant,
    ) -> Self {
        Self {
            stream: scopeguard::guard(stream, give_up as fn(TcpStream)),
            port,
            _permits: permits,
            opened,
        }
    }

    /// The socket and its port, for a tunnel.
    pub(crate) fn into_parts(self) -> (TcpStream, PortPermit) {
        (ScopeGuard::into_inner(self.stream), self.port)
    }

    /// When it must be closed.
    pub(super) fn expires(&self) -> Instant {
        self.opened + AGE_MAX
    }

    /// Its state now. Costs two system calls.
    pub(super) fn state(&self, now: Instant) -> SocketState {
        let peeked = match sys::has_byte(&*self.stream) {
            Ok(_) => Peeked::Something,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Peeked::Nothing,
                io::ErrorKind::ConnectionReset => Peeked::Something,
                _ => Peeked::Failed,
            },
        };
        let is_connected = self.stream.peer_addr().is_ok();
        let has_source = self.port.hold.is_up() && !self.port.hold.is_lost();
        state_of(peeked, is_connected, has_source, now < self.expires())
    }
}

/// The rule of [`WarmSocket::state`].
pub(super) fn state_of(
    peeked: Peeked,
    is_connected: bool,
    has_source: bool,
    is_young: bool,
) -> SocketState {
    match (peeked, is_connected) {
        _ if !has_source => SocketState::Unusable(CloseReason::Egress),
        (Peeked::Failed, _) => SocketState::Unusable(CloseReason::Failed),
        (Peeked::Something, _) => SocketState::Unusable(CloseReason::Upstream),
        (Peeked::Nothing, false) if !is_young => SocketState::Unusable(CloseReason::Failed),
        (Peeked::Nothing, true) if !is_young => SocketState::Unusable(CloseReason::Expired),
        (Peeked::Nothing, false) => SocketState::Connecting,
        (Peeked::Nothing, true) => SocketState::Usable,
    }
}

/// Closes a socket with a reset, so that its port is free at once.
fn give_up(stream: TcpStream) {
    // Fails only on a dead socket, which holds no port.
    let _holds_no_port = sys::reset_on_close(&stream);
}

/// Front ends close silent connections after ten seconds and more; nobody documents a shorter time.
pub(super) const AGE_MAX: Duration = Duration::from_secs(8);
