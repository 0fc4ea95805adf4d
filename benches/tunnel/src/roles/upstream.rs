//! The upstream agent: answers a CONNECT with 200 (for a proxy that forwards it) and a ClientHello
//! with the server's greeting, then runs the order that the client sends through the tunnel. One
//! epoll loop has the greetings and the idle tunnels; each working tunnel has a blocking thread,
//! except paced streams, which share one. It ends with standard input. Never measures the proxy.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use crate::protocol::hello;
use crate::protocol::order::{ACKNOWLEDGED_BYTES, ORDER_BYTES, Order, finish};
use crate::roles::pacer::{self, Paced};

/// Listens on `ports` ports, prints their addresses as a line of JSON, and serves.
pub(crate) fn serve(address: SocketAddr, ports: usize) -> io::Result<()> {
    let listeners: Vec<TcpListener> = (0..ports)
        .map(|_| listen(address))
        .collect::<io::Result<_>>()?;
    let addresses: Vec<SocketAddr> = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<io::Result<_>>()?;
    println!("{}", serde_json::to_string(&addresses)?);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(io::stdin(), EpollEvent::new(EpollFlags::EPOLLIN, STDIN))?;
    for (number, listener) in listeners.iter().enumerate() {
        epoll.add(
            listener,
            EpollEvent::new(EpollFlags::EPOLLIN, LISTENERS + number as u64),
        )?;
    }
    let (answer, pacer) = (hello::answer(), pacer::start()?);
    Upstream {
        epoll,
        listeners,
        greeted: Vec::new(),
        free: Vec::new(),
        answer,
        pacer,
    }
    .serve()
}

struct Upstream {
    epoll: Epoll,
    listeners: Vec<TcpListener>,
    greeted: Vec<Option<Tunnel>>,
    free: Vec<usize>,
    answer: Vec<u8>,
    pacer: Sender<Paced>,
}

struct Tunnel {
    socket: TcpStream,
    received: Vec<u8>,
    is_greeted: bool,
}

impl Upstream {
    fn serve(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let n = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => 0,
                ready => ready?,
            };
            for event in events.iter().take(n) {
                match event.data() {
                    STDIN => return Ok(()),
                    number if number >= LISTENERS => self.accept((number - LISTENERS) as usize)?,
                    number => self.readable(number as usize),
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        let Some(listener) = self.listeners.get(listener) else {
            return Ok(());
        };
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            // The proxy gave the connection up before it was accepted.
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
        socket.set_nonblocking(true)?;
        let number = self.free.pop().unwrap_or(self.greeted.len());
        self.epoll
            .add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        let tunnel = Tunnel {
            socket,
            received: Vec::new(),
            is_greeted: false,
        };
        match self.greeted.get_mut(number) {
            Some(place) => *place = Some(tunnel),
            None => self.greeted.push(Some(tunnel)),
        }
        Ok(())
    }

    fn readable(&mut self, number: usize) {
        let Some(place) = self.greeted.get_mut(number) else {
            return;
        };
        let Some(tunnel) = place else { return };
        let order = match tunnel.advance(&self.answer) {
            Ok(None) => return,
            Ok(order) => order,
            // The client agent sees the end and reports it.
            Err(_) => None,
        };
        let done = place.take();
        self.free.push(number);
        if let (Some(order), Some(tunnel)) = (order, done) {
            // Without a thread the tunnel is closed, which the client agent reports.
            let _seen_by_client = self.start(order, tunnel.socket);
        }
    }

    fn start(&self, order: Order, socket: TcpStream) -> io::Result<()> {
        self.epoll.delete(&socket)?;
        socket.set_nonblocking(false)?;
        match order {
            Order::Stream { .. } => self.pacer.send((order, socket)).map_err(io::Error::other),
            _ => std::thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn(move || work(order, socket))
                .map(drop),
        }
    }
}

impl Tunnel {
    /// Reads the received bytes; returns the order once it is whole. An end of the stream is an
    /// error.
    fn advance(&mut self, answer: &[u8]) -> io::Result<Option<Order>> {
        let mut buffer = [0; 4_096];
        let wanted = if self.is_greeted {
            ORDER_BYTES - self.received.len()
        } else {
            buffer.len()
        };
        let n = self
            .socket
            .read(buffer.get_mut(..wanted).unwrap_or_default())?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received
            .extend_from_slice(buffer.get(..n).unwrap_or_default());
        if self.is_greeted {
            return Ok(Order::decode(&self.received));
        }
        if self.received.starts_with(b"CONNECT ") && self.received.ends_with(b"\r\n\r\n") {
            self.received.clear();
            self.socket
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        }
        if self.received.len() >= hello::CLIENT_HELLO.len()
            && !self.received.starts_with(b"CONNECT ")
        {
            if self.received != hello::CLIENT_HELLO {
                return Err(io::Error::other("the ClientHello arrived changed"));
            }
            self.received = Vec::new();
            self.is_greeted = true;
            self.socket.write_all(answer)?;
        }
        Ok(None)
    }
}

/// Runs one tunnel's order until it ends; the client agent reports failures.
fn work(order: Order, mut socket: TcpStream) {
    let _seen_by_client = match order {
        Order::Exchange { up, down } => exchange(&mut socket, up, down),
        Order::Down { lasts_ns } => send(&mut socket, Duration::from_nanos(lasts_ns)),
        Order::Up => take(&mut socket),
        Order::Stream { .. } => Ok(()),
    };
}

fn exchange(socket: &mut TcpStream, up: u64, down: u64) -> io::Result<()> {
    let (mut request, answer) = (vec![0; up as usize], vec![0; down as usize]);
    loop {
        socket.read_exact(&mut request)?;
        socket.write_all(&answer)?;
    }
}

fn send(socket: &mut TcpStream, lasts: Duration) -> io::Result<()> {
    let (started, piece, mut total) = (Instant::now(), vec![0; PIECE_BYTES], 0_u64);
    while started.elapsed() < lasts {
        socket.write_all(&piece)?;
        total += piece.len() as u64;
    }
    finish(socket, total)
}

fn take(socket: &mut TcpStream) -> io::Result<()> {
    let (mut buffer, mut unacknowledged) = (vec![0; BUFFER_BYTES], 0);
    loop {
        let n = socket.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        unacknowledged += n as u64;
        while unacknowledged >= ACKNOWLEDGED_BYTES {
            socket.write_all(&[0])?;
            unacknowledged -= ACKNOWLEDGED_BYTES;
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4_096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

const STDIN: u64 = u64::MAX;
const LISTENERS: u64 = 1 << 32;
const STACK_BYTES: usize = 128 * 1024;
const BUFFER_BYTES: usize = 1 << 20;
const PIECE_BYTES: usize = 256 * 1024;
