//! Socket options of connections whose peer may stop to read or to answer: those of the admin listener, which strangers
//! hold, and those of the agent to its upstreams. Sets options and decides nothing.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockRef, TcpKeepalive};

/// Bounds what the kernel keeps for a peer that does not read: this many bytes in the send queue
/// (socket(7), `SO_SNDBUF`), for this long (tcp(7), `TCP_USER_TIMEOUT`), and nothing after a close
/// (`SO_LINGER` 0), until [`end_in_order`].
///
/// # Errors
/// The peer has gone.
pub fn keep_little_unread(socket: impl AsFd, bytes: usize, time: Duration) -> io::Result<()> {
    let socket = socket.as_fd();
    let socket = SockRef::from(&socket);
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_send_buffer_size(bytes)?;
    socket.set_tcp_user_timeout(Some(time))
}

/// Makes a close send the queued bytes and a FIN, within the time given to [`keep_little_unread`].
///
/// # Errors
/// None that a socket can cause.
pub fn end_in_order(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_linger(None)
}

/// Resets the connection now, whatever other process has the socket open (connect(2), `AF_UNSPEC`).
///
/// # Errors
/// None that a connected socket can cause.
pub fn reset(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::connect_unspec(socket)?)
}

/// The largest segment that the kernel sends on a connection now (tcp(7), `TCP_MAXSEG`), in bytes of data.
///
/// # Errors
/// None that a connected socket can cause.
pub fn segment_bytes(socket: impl AsFd) -> io::Result<u32> {
    SockRef::from(&socket.as_fd()).tcp_mss()
}

/// The largest packet that the kernel sends on a connection now (ip(7), `IP_MTU`; ipv6(7), `IPV6_MTU`), in bytes: the MTU of
/// the route, or what a router's ICMP message said.
///
/// # Errors
/// None that a connected socket of this family can cause.
pub fn path_bytes(socket: impl AsFd, is_v4: bool) -> io::Result<u32> {
    Ok(match is_v4 {
        true => rustix::net::sockopt::ip_mtu(socket)?,
        false => rustix::net::sockopt::ipv6_mtu(socket)?,
    })
}

/// Ends a connection with ETIMEDOUT once bytes were sent and not acknowledged for this long (tcp(7), `TCP_USER_TIMEOUT`).
///
/// # Errors
/// None that a connected socket can cause.
pub fn give_up_after(socket: impl AsFd, time: Duration) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_tcp_user_timeout(Some(time))
}

/// Asks the peer of a connection that was silent for `time` whether it is there (tcp(7), `SO_KEEPALIVE`), three times.
///
/// # Errors
/// The peer has gone.
pub fn probe_when_silent(socket: impl AsFd, time: Duration) -> io::Result<()> {
    let probes = TcpKeepalive::new().with_time(time).with_retries(3);
    SockRef::from(&socket.as_fd()).set_tcp_keepalive(&probes.with_interval(Duration::from_secs(1)))
}

/// Whether a connection waits in the queue of a listening socket (poll(2)). accept(2) cannot tell
/// when no descriptor is free, because it returns EMFILE before it looks.
#[must_use]
pub fn has_waiting(listener: impl AsFd) -> bool {
    let mut watched = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Makes the next peek of a Unix socket begin at this offset in bytes (socket(7), `SO_PEEK_OFF`).
///
/// # Errors
/// None that a Unix socket can cause.
pub(super) fn peek_from(socket: impl AsFd, offset: i32) -> io::Result<()> {
    Ok(setsockopt(&socket, PeekOffset, &offset)?)
}

/// `SO_PEEK_OFF`, which nix does not define.
#[derive(Clone, Copy, Debug)]
struct PeekOffset;

nix::setsockopt_impl!(
    PeekOffset,
    libc::SOL_SOCKET,
    libc::SO_PEEK_OFF,
    i32,
    sockopt::SetStruct<'_, i32>
);

/// Whether a socket could not be opened because this process has as many descriptors as it may have (`RLIMIT_NOFILE`).
#[must_use]
pub fn is_own_limit(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMFILE)
}

/// Whether the error of accept(2) concerns only the connection that it took from the queue
/// (accept(2), "Error handling"); the next one may succeed.
#[must_use]
pub fn is_of_one_connection(error: &io::Error) -> bool {
    use nix::errno::Errno as E;
    let one = [
        E::ECONNABORTED,
        E::ECONNRESET,
        E::ENETDOWN,
        E::EPROTO,
        E::ENOPROTOOPT,
        E::EHOSTDOWN,
        E::ENONET,
        E::EHOSTUNREACH,
        E::EOPNOTSUPP,
        E::ENETUNREACH,
        E::EPERM,
    ];
    error
        .raw_os_error()
        .is_some_and(|raw| one.contains(&E::from_raw(raw)))
}
