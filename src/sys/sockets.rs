//! Opens the sockets of listeners and upstream connections, with their options, and accepts and connects (socket(7), tcp(7),
//! ip(7)). Never waits.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{SockFlag, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

/// Opens a listening socket; port 0 becomes a free port. It never has `SO_REUSEPORT` (socket(7)):
/// with that option any process of the same user could bind a second socket to the port, or to a
/// more specific address, and take connections. `SO_REUSEADDR` does not allow this while the socket
/// listens. Linux copies options to accepted sockets, so no-delay and keepalive are set here once.
///
/// # Errors
/// The error of bind(2) or listen(2), such as EADDRINUSE or EADDRNOTAVAIL.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    carry_options(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether other processes of the same user may listen on the port too (`SO_REUSEPORT`).
///
/// # Errors
/// None for a socket.
pub fn shares_its_port(listener: &TcpListener) -> io::Result<bool> {
    SockRef::from(listener).reuse_port()
}

/// Gives a listening socket that another program opened the same options as [`listen`].
///
/// # Errors
/// `InvalidInput` if the socket does not listen, or listens for IPv4 clients on an IPv6 address.
pub fn take_over(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    if !socket.is_listener()? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it does not listen (Accept= must be no)",
        ));
    }
    let address = listener.local_addr()?;
    if address.is_ipv6() && address.ip().is_unspecified() && !socket.only_v6()? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it takes IPv4 clients on an IPv6 address: set BindIPv6Only=ipv6-only, and a ListenStream= for each family",
        ));
    }
    socket.set_nonblocking(true)?;
    carry_options(&socket)
}

/// Accepts one connection, non-blocking, with its peer's address (accept4(2)).
///
/// # Errors
/// `WouldBlock` when no connection waits; otherwise for example EMFILE, ENFILE or ENOMEM.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, address) = SockRef::from(listener)
        .accept4((SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC).bits())?;
    let address = address.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((socket.into(), address))
}

/// Starts to connect (connect(2)). The socket becomes writable when the connection is complete.
///
/// # Errors
/// The error of connect(2).
pub fn connect(socket: &TcpStream, address: SocketAddr) -> io::Result<()> {
    match SockRef::from(socket).connect(&address.into()) {
        // An interrupted connect continues as well.
        Err(error)
            if [Errno::EINPROGRESS, Errno::EINTR]
                .map(|e| e as i32)
                .map(Some)
                .contains(&error.raw_os_error()) =>
        {
            Ok(())
        }
        done => done,
    }
}

/// Creates a socket for one upstream connection, bound to `source` before it connects.
/// `IP_BIND_ADDRESS_NO_PORT` leaves the choice of the port to connect(2), so one static address has
/// 28,000 ports for each destination instead of 28,000 in all (ip(7)). The last acknowledgement of
/// the handshake travels with the ClientHello instead of in a segment of its own (tcp(7),
/// `TCP_QUICKACK`); without a ClientHello the kernel sends it after 200 ms.
///
/// # Errors
/// EADDRNOTAVAIL when this host does not have the address.
pub fn upstream_socket(source: IpAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(SocketAddr::new(source, 0)),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // Each option costs a call per tunnel here, while accepted sockets inherit theirs. Keepalive
    // waits until the tunnel proves to last (`keep_alive`).
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_quickack(false)?;
    socket.set_out_of_band_inline(true)?; // as in carry_options
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    Ok(socket.into())
}

/// Makes the kernel probe an upstream after a minute of silence, nine times at its own interval. The
/// minute begins with the last byte, also if that was before this call: the kernel subtracts the
/// silence so far when it takes `TCP_KEEPIDLE` of a socket that has `SO_KEEPALIVE` (tcp(7)), which is
/// the order here.
///
/// # Errors
/// None for a TCP socket.
pub fn keep_alive(upstream: &TcpStream) -> io::Result<()> {
    SockRef::from(upstream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}

fn carry_options(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // Otherwise a read that begins at an urgent byte skips it, and an end after it looks clean (RFC
    // 6093).
    socket.set_out_of_band_inline(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE)
            .with_retries(5),
    )
}

/// The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

/// Cloud NAT drops a silent flow after about 350 s; thinking models are silent for minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);
