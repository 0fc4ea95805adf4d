//! Socket options of the admin listener's connections, which strangers may hold and never read. Sets them and decides
//! nothing.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

/// Bounds what the kernel keeps for a peer that reads nothing: so many bytes in the send queue (socket(7), `SO_SNDBUF`), for
/// so long (tcp(7), `TCP_USER_TIMEOUT`), and none after a close (`SO_LINGER` 0), until [`end_in_order`].
///
/// # Errors
/// When the peer has gone.
pub fn keep_little_unread(socket: impl AsFd, bytes: usize, time: Duration) -> io::Result<()> {
    let socket = socket.as_fd();
    let socket = SockRef::from(&socket);
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_send_buffer_size(bytes)?;
    socket.set_tcp_user_timeout(Some(time))
}

/// From now on a close sends the queued bytes and a FIN, within the time of [`keep_little_unread`].
///
/// # Errors
/// None that a socket can cause.
pub fn end_in_order(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_linger(None)
}

/// Whether a connection waits in the queue of a listening socket (poll(2)). accept(2) cannot tell when no descriptor is left:
/// it says EMFILE before it looks.
#[must_use]
pub fn has_waiting(listener: impl AsFd) -> bool {
    let mut watched = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Whether accept(2) reports an error of the connection it took from the queue (accept(2), "Error handling"); the next
/// one is not concerned.
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
