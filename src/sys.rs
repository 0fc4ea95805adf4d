//! The only module besides its children that uses nix and socket2: pipes, splice, epoll, sockets
//! bound to a source, socket options, limits, addresses of this host.
//!
//! Short functions over owned descriptors. They return the kernel's error as `io::Error` and never
//! decide, log or count. Nothing here is `unsafe`: the crates wrap it.

pub mod buffers;
pub mod closing;
pub mod confine;
pub mod files;
pub mod options;
pub mod owner;
pub mod parcel;
pub mod poller;
pub mod ports;
pub mod presence;
pub mod process;
pub mod routes;
pub mod signals;
mod sockets;
pub mod usage;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
/// The numbers of unix(7) and of its streams.
pub use nix::libc::{AF_UNIX, SOCK_STREAM};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;
pub use sockets::{
    accept, connect, keep_alive, listen, shares_its_port, take_over, upstream_socket,
};

/// Both ends of a pipe(7), non-blocking.
#[derive(Debug)]
pub struct Pipe {
    /// Whether the pipe has the requested size.
    pub is_full_size: bool,
    /// The read end.
    pub reader: OwnedFd,
    /// The write end.
    pub writer: OwnedFd,
}

/// Creates a pipe and requests [`PIPE_BYTES`]. A smaller pipe is not an error: beyond
/// `pipe-user-pages-soft` the kernel refuses to enlarge it (EPERM) or returns one of 8 KiB
/// (pipe(7)), which carries the same bytes in more calls.
///
/// # Errors
/// EMFILE or ENFILE when no descriptor is free.
pub fn pipe() -> io::Result<Pipe> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let is_full_size =
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).is_ok_and(|bytes| bytes >= PIPE_BYTES);
    Ok(Pipe {
        is_full_size,
        reader,
        writer,
    })
}

/// Whether the pipe of this end has [`PIPE_BYTES`].
#[must_use]
pub fn is_full_size(end: impl AsFd) -> bool {
    fcntl(end.as_fd(), FcntlArg::F_GETPIPE_SZ).is_ok_and(|bytes| bytes >= PIPE_BYTES)
}

/// Moves at most `len` bytes between a socket and a pipe inside the kernel (splice(2)). Returns 0
/// at the end of the stream.
///
/// # Errors
/// `WouldBlock` when either side is not ready; otherwise the socket's error.
pub fn move_bytes(from: impl AsFd, to: impl AsFd, len: usize) -> io::Result<usize> {
    let (from, to) = (from.as_fd(), to.as_fd());
    uninterrupted(|| splice(from, None, to, None, len, SpliceFFlags::SPLICE_F_NONBLOCK))
}

/// Whether a byte can be read, without taking it (recv(2), `MSG_PEEK`). splice(2) stops at urgent
/// data as if the stream had ended; this call distinguishes the two.
///
/// # Errors
/// `WouldBlock` when no byte is there and the stream continues; otherwise the socket's error.
pub fn has_byte(socket: impl AsFd) -> io::Result<bool> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    Ok(uninterrupted(|| recv(socket.as_fd().as_raw_fd(), &mut [0], flags))? > 0)
}

/// The error for a peer that sends urgent data.
#[must_use]
pub fn urgent_data() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "urgent data")
}

/// Takes the pending error of a socket, if any (socket(7), `SO_ERROR`).
///
/// # Errors
/// None that a connected socket can cause.
pub fn take_error(socket: impl AsFd) -> io::Result<Option<io::Error>> {
    SockRef::from(&socket.as_fd()).take_error()
}

/// Reads once (read(2)).
///
/// # Errors
/// `WouldBlock` when no byte is there; otherwise the socket's error.
pub fn read(from: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let from = from.as_fd();
    uninterrupted(|| nix::unistd::read(from, buffer))
}

/// Writes once (write(2)).
///
/// # Errors
/// `WouldBlock` when the socket is full; otherwise the socket's error.
pub fn write(to: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let to = to.as_fd();
    uninterrupted(|| nix::unistd::write(to, bytes))
}

/// Writes and ends this direction, in one segment if the bytes fit (send(2), `MSG_MORE`;
/// shutdown(2)), which halves the work.
///
/// # Errors
/// `WouldBlock` when the socket is full or took only a part; otherwise the socket's error.
pub fn write_and_end(to: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let (to, flags) = (
        to.as_fd(),
        nix::libc::MSG_MORE | nix::libc::MSG_NOSIGNAL | nix::libc::MSG_DONTWAIT,
    );
    if SockRef::from(&to).send_with_flags(bytes, flags)? < bytes.len() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    shutdown_write(to)
}

/// The number of the interface with this name, now (if_nametoindex(3)).
///
/// # Errors
/// ENODEV when there is none.
pub fn interface_index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// The name of the interface with this number, now (if_indextoname(3)).
///
/// # Errors
/// ENXIO when there is none.
pub fn interface_name(index: u32) -> io::Result<String> {
    let name = nix::net::if_::if_indextoname(index)?;
    Ok(name.to_string_lossy().into_owned())
}

/// Repeats a call that a signal interrupted (signal(7), EINTR).
fn uninterrupted<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Makes the next close of this socket a reset: the kernel drops unsent bytes and the peer sees
/// ECONNRESET (socket(7), `SO_LINGER` 0).
///
/// # Errors
/// None that a connected socket can cause.
pub fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_linger(Some(Duration::ZERO))
}

/// Ends the write side with a FIN after the queued bytes (shutdown(2)).
///
/// # Errors
/// ENOTCONN when the peer has reset the connection.
pub fn shutdown_write(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).shutdown(std::net::Shutdown::Write)
}

/// Raises the soft limit on open descriptors to the hard limit and returns it.
///
/// # Errors
/// The error of getrlimit(2) or setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// The hard limit on open descriptors, to which `run` raises its own.
///
/// # Errors
/// The error of getrlimit(2).
pub fn descriptor_limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.1)
}

/// Protects this process' memory: no core file (core(5)), and no other process of the same user may
/// attach to it or read its memory (prctl(2), `PR_SET_DUMPABLE`).
///
/// # Errors
/// The error of prctl(2) or setrlimit(2).
pub fn keep_out_of_core_files() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

/// Whether the kernel considers its clock synchronised (adjtimex(2)). None if the call is
/// forbidden: seccomp filters count it among the calls that set the clock.
#[must_use]
pub fn is_clock_synchronised() -> Option<bool> {
    // Zeros read the state and set nothing.
    let state = rtime_clock::adjtime::adjtimex(&mut rtime_clock::adjtime::Timex::new()).ok()?;
    Some(state != TIME_ERROR)
}

/// A spare descriptor (eventfd(2)), to be closed when no other is free.
///
/// # Errors
/// EMFILE or ENFILE when no descriptor is free.
pub fn spare_descriptor() -> io::Result<OwnedFd> {
    Ok(nix::sys::eventfd::EventFd::new()?.into())
}

/// The addresses of this host's interfaces (getifaddrs(3)).
///
/// # Errors
/// The error of the kernel.
pub fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let ip = |storage: nix::sys::socket::SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    Ok(nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| interface.address.and_then(ip))
        .collect())
}

/// The source address of this machine's default route, for each family that has one. Sends nothing:
/// connect(2) on a datagram socket only looks the route up.
#[must_use]
pub fn default_route_sources() -> Vec<IpAddr> {
    let source = |any: IpAddr, far: IpAddr| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        socket.local_addr().ok().map(|local| local.ip())
    };
    let v4 = source(Ipv4Addr::UNSPECIFIED.into(), FAR_V4.into());
    let v6 = source(Ipv6Addr::UNSPECIFIED.into(), FAR_V6.into());
    [v4, v6]
        .into_iter()
        .flatten()
        .filter(|address| !address.is_loopback())
        .collect()
}

/// Whether the error means that no descriptor is free, in this process or on the machine.
#[must_use]
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    [Errno::EMFILE as i32, Errno::ENFILE as i32]
        .map(Some)
        .contains(&error.raw_os_error())
}

/// What a function returns when its own bookkeeping contradicts itself, where going on would lose
/// bytes or spin. [`is_fault_in_here`] is true for it, so it ends the tunnel as an internal error.
#[must_use]
pub fn broken_invariant(invariant: &'static str) -> io::Error {
    io::Error::other(BrokenInvariant(invariant))
}

/// The invariant that does not hold.
#[derive(Debug, thiserror::Error)]
#[error("broken invariant: {0}")]
struct BrokenInvariant(&'static str);

/// Whether the error concerns this process or the kernel's memory, so that no peer and no router
/// can cause it on a connected socket.
#[must_use]
pub fn is_fault_in_here(error: &io::Error) -> bool {
    use Errno as E;
    let own = [
        E::EAGAIN,
        E::EBADF,
        E::EFAULT,
        E::EINVAL,
        E::ENOMEM,
        E::ENOBUFS,
        E::ENOSYS,
        E::ENOTSOCK,
    ];
    is_out_of_descriptors(error)
        || error
            .get_ref()
            .is_some_and(|inner| inner.is::<BrokenInvariant>())
        || error
            .raw_os_error()
            .is_some_and(|raw| own.contains(&Errno::from_raw(raw)))
}

/// adjtimex(2): the clock is not synchronised to a reliable server.
const TIME_ERROR: i32 = 5;

/// In a prototype 64 KiB cost 40 % more on segments of 1,448 bytes, and 1 MiB gained nothing.
pub const PIPE_BYTES: i32 = 256 * 1024;

/// An address that only the default route covers; nothing is sent there.
const FAR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The same for IPv6.
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_hidden_from_core_files_and_processes_of_the_same_user() {
        keep_out_of_core_files().unwrap();
        let is_dumpable = nix::sys::prctl::get_dumpable();
        // The other tests of this process read /proc/self.
        nix::sys::prctl::set_dumpable(true).unwrap();
        assert_eq!(is_dumpable, Ok(false));
        assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
    }

    #[test]
    fn an_error_that_a_peer_or_router_causes_is_not_internal() {
        use Errno as E;
        let is_own = |errno: Errno| is_fault_in_here(&io::Error::from(errno));
        for of_the_way in [
            E::ECONNRESET,
            E::EPIPE,
            E::ETIMEDOUT,
            E::ECONNREFUSED,
            E::EHOSTUNREACH,
            E::ENETUNREACH,
            E::EHOSTDOWN,
            E::ENONET,
            E::EPROTO,
            E::ENOPROTOOPT,
            E::EOPNOTSUPP,
            E::EMSGSIZE,
            E::EACCES,
        ] {
            assert!(!is_own(of_the_way), "{of_the_way}");
        }
        for own in [E::ENOMEM, E::ENOBUFS, E::EINVAL, E::EBADF, E::EMFILE] {
            assert!(is_own(own), "{own}");
        }
        assert!(!is_fault_in_here(&urgent_data()));
    }
}
