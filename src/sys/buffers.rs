//! The kernel's buffers of a TCP socket: reads their sizes and bounds their growth (socket(7),
//! tcp(7)). Sizes are bytes of kernel memory, up to twice the bytes of the stream. Never enlarges a
//! buffer.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use socket2::SockRef;

/// The buffers of a socket that the kernel must not enlarge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    /// The receive buffer: bytes received and not read.
    pub receive: bool,
    /// The send buffer: bytes written and not acknowledged.
    pub send: bool,
}

/// The current limit of the receive buffer (`SO_RCVBUF`).
///
/// # Errors
/// None that a connected socket can cause.
pub fn receive_bytes(socket: impl AsFd) -> io::Result<usize> {
    Ok(getsockopt(&socket, sockopt::RcvBuf)?)
}

/// The current limit of the send buffer (`SO_SNDBUF`).
///
/// # Errors
/// None that a connected socket can cause.
pub fn send_bytes(socket: impl AsFd) -> io::Result<usize> {
    Ok(getsockopt(&socket, sockopt::SndBuf)?)
}

/// The kernel's measurements of the round trip (`TCP_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// The recent round trip, including queues on the path.
    pub smoothed: Duration,
    /// The least round trip within some minutes: the path itself.
    pub least: Duration,
}

/// The round trip of a connection.
///
/// # Errors
/// None that a connected socket can cause.
pub fn round_trip(socket: impl AsFd) -> io::Result<RoundTrip> {
    let TcpInfo { rtt, min_rtt, .. } = getsockopt(&socket, ConnectionInfo)?;
    let [smoothed, least] = [rtt, min_rtt].map(|micros| Duration::from_micros(micros.into()));
    Ok(RoundTrip { smoothed, least })
}

/// Whether the peer has acknowledged everything that was sent (`TCP_INFO`).
///
/// # Errors
/// None that a connected socket can cause.
pub fn is_acknowledged(socket: impl AsFd) -> io::Result<bool> {
    Ok(getsockopt(&socket, ConnectionInfo)?.unacknowledged == 0)
}

/// Freezes these buffers at their present size; the kernel may enlarge the others (`SO_BUF_LOCK`,
/// Linux 5.14).
///
/// # Errors
/// ENOPROTOOPT before Linux 5.14.
pub fn lock(socket: impl AsFd, locks: Locks) -> io::Result<()> {
    let bits = if locks.receive { RECEIVE } else { 0 } | if locks.send { SEND } else { 0 };
    Ok(setsockopt(&socket, BufferLock, &bits)?)
}

/// Shrinks a receive buffer that has grown beyond `bytes` to that size, for good. This needs
/// `net.core.rmem_max` of at least half of it; `rmem_max` is the caller's copy. Under a lower one
/// the buffer keeps its size and the advertised window is bounded instead (`TCP_WINDOW_CLAMP`), so
/// the peer cannot send more until bytes are read.
///
/// # Errors
/// ENOPROTOOPT before Linux 5.14.
pub fn cut_receive(
    socket: impl AsFd,
    bytes: usize,
    locks: Locks,
    rmem_max: usize,
) -> io::Result<()> {
    let stream_bytes = bytes / 2;
    if rmem_max >= stream_bytes {
        // The kernel doubles the value and locks the buffer.
        return Ok(setsockopt(&socket, sockopt::RcvBuf, &stream_bytes)?);
    }
    // Locked first, because the kernel moves the clamp whenever it resizes the buffer itself.
    lock(&socket, locks)?;
    Ok(setsockopt(
        &socket,
        WindowClamp,
        &u32::try_from(stream_bytes).unwrap_or(u32::MAX),
    )?)
}

/// The largest receive buffer that a program may request (`net.core.rmem_max`); 0 if it cannot be
/// read.
#[must_use]
pub fn rmem_max() -> usize {
    let text = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Bounds the bytes written and not sent yet (`TCP_NOTSENT_LOWAT`). Bytes in flight do not count,
/// so the bound costs no throughput.
///
/// # Errors
/// None that a connected socket can cause.
pub fn bound_unsent(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_tcp_notsent_lowat(bytes)
}

/// `SO_BUF_LOCK`, which nix does not define.
#[derive(Clone, Copy, Debug)]
struct BufferLock;

/// `TCP_INFO`, which nix defines with the full structure.
#[derive(Clone, Copy, Debug)]
struct ConnectionInfo;

/// The beginning of the kernel's `struct tcp_info` (`linux/tcp.h`). Every kernel since 4.6 fills
/// it; the full structure of a newer header is too long for an older kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct TcpInfo {
    _to_unacknowledged: [u8; 24],
    unacknowledged: u32,
    _to_rtt: [u8; 40],
    rtt: u32,
    _to_min_rtt: [u8; 76],
    min_rtt: u32,
}

nix::getsockopt_impl!(
    ConnectionInfo,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo,
    sockopt::GetStruct<TcpInfo>
);

/// `TCP_WINDOW_CLAMP`, which nix does not define.
#[derive(Clone, Copy, Debug)]
struct WindowClamp;

nix::setsockopt_impl!(
    WindowClamp,
    libc::IPPROTO_TCP,
    libc::TCP_WINDOW_CLAMP,
    u32,
    sockopt::SetStruct<'_, u32>
);
nix::setsockopt_impl!(
    BufferLock,
    libc::SOL_SOCKET,
    libc::SO_BUF_LOCK,
    u32,
    sockopt::SetStruct<'_, u32>
);

/// `SOCK_SNDBUF_LOCK` of the kernel's `linux/socket.h`.
const SEND: u32 = 1;
/// `SOCK_RCVBUF_LOCK` of the kernel's `linux/socket.h`.
const RECEIVE: u32 = 2;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::mem::offset_of;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_head_of_tcp_info_is_the_kernels() {
        assert_eq!(
            offset_of!(TcpInfo, unacknowledged),
            offset_of!(libc::tcp_info, tcpi_unacked)
        );
        assert_eq!(
            offset_of!(TcpInfo, rtt),
            offset_of!(libc::tcp_info, tcpi_rtt)
        );
        assert_eq!(
            offset_of!(TcpInfo, min_rtt),
            offset_of!(libc::tcp_info, tcpi_min_rtt)
        );
        assert!(
            size_of::<TcpInfo>() <= 152,
            "longer than the struct of Linux 4.6"
        );
    }

    #[test]
    fn a_connection_on_loopback_is_near() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let RoundTrip { smoothed, least } = round_trip(&socket).unwrap();
        assert!(
            least > Duration::ZERO && least <= smoothed,
            "{least:?} of {smoothed:?}"
        );
        assert!(smoothed < Duration::from_secs(1), "{smoothed:?}");
    }
}
