//! The floor: the cost of a tunnel when nothing is done except forwarding. One thread, one
//! level-triggered epoll, pooled pipes and splice(2); no policy, timer, name, hello or log, and one
//! fixed upstream. Not a proxy for use.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{SockFlag, setsockopt, sockopt};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use crate::roles::bare_tunnel::{Pipes, Side, Step, Tunnel};

/// Serves until standard input ends.
pub(crate) fn serve(address: SocketAddr, upstream: SocketAddr, source: IpAddr) -> io::Result<()> {
    let listener = listen(address)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(io::stdin(), EpollEvent::new(EpollFlags::EPOLLIN, STDIN))?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    Loop {
        epoll,
        listener,
        upstream,
        source,
        tunnels: Vec::new(),
        free: Vec::new(),
        pipes: Pipes::default(),
    }
    .serve()
}

struct Loop {
    epoll: Epoll,
    listener: TcpListener,
    upstream: SocketAddr,
    source: IpAddr,
    tunnels: Vec<Option<Tunnel>>,
    free: Vec<usize>,
    pipes: Pipes,
}

impl Loop {
    fn serve(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        let mut ended = Vec::new();
        loop {
            let n = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => 0,
                ready => ready?,
            };
            for event in events.iter().take(n) {
                match event.data() {
                    STDIN => return Ok(()),
                    LISTENER => self.accept()?,
                    token => ended.extend(self.ready(token, event.events())),
                }
            }
            // Only now, because an event of this batch can still name the place.
            self.free.append(&mut ended);
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let client: TcpStream = match SockRef::from(&self.listener).accept4(flags.bits()) {
            Ok((socket, _)) => socket.into(),
            // The client gave up before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let number = self.free.pop().unwrap_or(self.tunnels.len());
        self.epoll.add(
            &client,
            EpollEvent::new(EpollFlags::EPOLLIN, Side::Client.token(number)),
        )?;
        let tunnel = Some(Tunnel::new(client));
        match self.tunnels.get_mut(number) {
            Some(place) => *place = tunnel,
            None => self.tunnels.push(tunnel),
        }
        Ok(())
    }

    /// Returns the place that is free now, if the tunnel ended.
    fn ready(&mut self, token: u64, events: EpollFlags) -> Option<usize> {
        let (number, side) = Side::of(token);
        let place = self.tunnels.get_mut(number)?;
        let tunnel = place.as_mut()?;
        let step = match &tunnel.upstream {
            _ if events.contains(EpollFlags::EPOLLERR) => Ok(Step::Over),
            Some(_) => tunnel.carry(side, number, &self.epoll, &mut self.pipes),
            None => greet(tunnel, number, &self.epoll, self.upstream, self.source),
        };
        if matches!(step, Ok(Step::GoOn)) {
            return None;
        }
        // After a failure both sockets close, which both peers see.
        *place = None;
        Some(number)
    }
}

/// Reads the head, which arrives whole and with nothing after it, and connects. The 200 does not
/// wait for the connection.
fn greet(
    tunnel: &mut Tunnel,
    number: usize,
    epoll: &Epoll,
    to: SocketAddr,
    from: IpAddr,
) -> io::Result<Step> {
    let mut head = [0; 4_096];
    let n = tunnel.client.read(&mut head)?;
    if !head
        .get(..n)
        .is_some_and(|head| head.ends_with(b"\r\n\r\n"))
    {
        return Ok(Step::Over);
    }
    let upstream = connect(to, from)?;
    epoll.add(
        &upstream,
        EpollEvent::new(EpollFlags::EPOLLIN, Side::Upstream.token(number)),
    )?;
    tunnel.upstream = Some(upstream);
    tunnel
        .client
        .write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n")?;
    Ok(Step::GoOn)
}

fn connect(to: SocketAddr, from: IpAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
    socket.set_tcp_nodelay(true)?;
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Accepted sockets inherit the options.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        None,
    )?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    socket.bind(&address.into())?;
    socket.listen(4_096)?;
    Ok(socket.into())
}

const STDIN: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
