//! What the kernel buffers for a TCP socket: how large the buffers have grown, and where they stop growing (socket(7),
//! tcp(7)). Sizes are bytes of kernel memory, which is up to twice the bytes of the stream. Never lets a buffer grow.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use socket2::SockRef;

/// Which buffers of a socket the kernel may not enlarge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    /// Bytes that arrived and were not read.
    pub receive: bool,
    /// Bytes that were written and not acknowledged.
    pub send: bool,
}

/// How large the receive buffer may be now (`SO_RCVBUF`).
///
/// # Errors
/// None that a connected socket can cause.
pub fn receive_bytes(socket: impl AsFd) -> io::Result<usize> {
    Ok(getsockopt(&socket, sockopt::RcvBuf)?)
}

/// How large the send buffer may be now (`SO_SNDBUF`).
///
/// # Errors
/// None that a connected socket can cause.
pub fn send_bytes(socket: impl AsFd) -> io::Result<usize> {
    Ok(getsockopt(&socket, sockopt::SndBuf)?)
}

/// How long a segment and its acknowledgement take, as the kernel has it (`TCP_INFO`).
///
/// # Errors
/// None that a connected socket can cause.
pub fn round_trip(socket: impl AsFd) -> io::Result<Duration> {
    Ok(Duration::from_micros(getsockopt(&socket, ConnectionInfo)?.tcpi_rtt.into()))
}

/// Keeps buffers at the size they have, and lets the kernel enlarge the others (`SO_BUF_LOCK`, Linux 5.14).
///
/// # Errors
/// ENOPROTOOPT before Linux 5.14.
pub fn lock(socket: impl AsFd, locks: Locks) -> io::Result<()> {
    let bits = if locks.receive { RECEIVE } else { 0 } | if locks.send { SEND } else { 0 };
    Ok(setsockopt(&socket, BufferLock, &bits)?)
}

/// Makes a receive buffer that has grown beyond `bytes` this large, for good. `net.core.rmem_max` of half of that allows
/// it; `rmem_max` is what it was. Under a lower one the buffer keeps its size, and the window that the peer is given is
/// bounded instead (`TCP_WINDOW_CLAMP`): the peer cannot send more than that before it is read.
///
/// # Errors
/// ENOPROTOOPT before Linux 5.14.
pub fn cut_receive(socket: impl AsFd, bytes: usize, locks: Locks, rmem_max: usize) -> io::Result<()> {
    let stream_bytes = bytes / 2;
    if rmem_max >= stream_bytes {
        // The kernel doubles what it is given, and locks it.
        return Ok(setsockopt(&socket, sockopt::RcvBuf, &stream_bytes)?);
    }
    // Locked first: the kernel moves the clamp with each size that it chooses itself.
    lock(&socket, locks)?;
    Ok(setsockopt(&socket, WindowClamp, &u32::try_from(stream_bytes).unwrap_or(u32::MAX))?)
}

/// The largest receive buffer that a program may ask for (`net.core.rmem_max`); 0 where it cannot be read.
#[must_use]
pub fn rmem_max() -> usize {
    let text = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Bounds the bytes that were written and not sent yet (`TCP_NOTSENT_LOWAT`). What is on its way does not count, so the
/// bound costs no throughput.
///
/// # Errors
/// None that a connected socket can cause.
pub fn bound_unsent(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_tcp_notsent_lowat(bytes)
}

/// `SO_BUF_LOCK`, which nix does not name yet.
#[derive(Clone, Copy, Debug)]
struct BufferLock;

/// `TCP_INFO`, which nix does not name either.
#[derive(Clone, Copy, Debug)]
struct ConnectionInfo;

nix::getsockopt_impl!(
    ConnectionInfo,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info,
    sockopt::GetStruct<libc::tcp_info>
);

/// `TCP_WINDOW_CLAMP`, which nix does not name either.
#[derive(Clone, Copy, Debug)]
struct WindowClamp;

nix::setsockopt_impl!(WindowClamp, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, u32, sockopt::SetStruct<'_, u32>);
nix::setsockopt_impl!(BufferLock, libc::SOL_SOCKET, libc::SO_BUF_LOCK, u32, sockopt::SetStruct<'_, u32>);

/// `SOCK_SNDBUF_LOCK` of the kernel's `linux/socket.h`.
const SEND: u32 = 1;
/// `SOCK_RCVBUF_LOCK` of the same.
const RECEIVE: u32 = 2;
