//! One tunnel of the bare loop: two sockets, a pipe for each direction that has bytes in transit,
//! and the events that epoll watches. Drains only into an empty pipe and pumps exactly what was
//! drained. Changes epoll only when the wanted events change.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

/// Which socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Upstream,
}

/// Whether the tunnel goes on.
pub(crate) enum Step {
    GoOn,
    Over,
}

/// Pipes that no tunnel uses.
#[derive(Default)]
pub(crate) struct Pipes(Vec<Pipe>);

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// The upstream is None until the head has been read.
pub(crate) struct Tunnel {
    pub(crate) client: TcpStream,
    pub(crate) upstream: Option<TcpStream>,
    up: Direction,
    down: Direction,
    watched: (EpollFlags, EpollFlags),
}

/// Bytes in transit; there is a pipe only while there are any.
#[derive(Default)]
struct Direction {
    pipe: Option<Pipe>,
    holds: usize,
    ended: bool,
}

impl Tunnel {
    /// A client that has sent nothing yet.
    pub(crate) fn new(client: TcpStream) -> Self {
        let watched = (EpollFlags::EPOLLIN, EpollFlags::EPOLLIN);
        Self {
            client,
            upstream: None,
            up: Direction::default(),
            down: Direction::default(),
            watched,
        }
    }

    /// Handles an event on this side: bytes arrived, the socket is writable again, or it is closed.
    pub(crate) fn carry(
        &mut self,
        side: Side,
        number: usize,
        epoll: &Epoll,
        pipes: &mut Pipes,
    ) -> io::Result<Step> {
        let Some(upstream) = &self.upstream else {
            return Ok(Step::GoOn);
        };
        let ((from, to), (out, back)) = match side {
            Side::Client => ((&self.client, upstream), (&mut self.up, &mut self.down)),
            Side::Upstream => ((upstream, &self.client), (&mut self.down, &mut self.up)),
        };
        if back.holds > 0 {
            back.pump(from, pipes)?;
        }
        if !out.ended && out.holds == 0 {
            out.drain_and_pump(from, to, pipes)?;
        }
        if self.up.ended && self.down.ended {
            return Ok(Step::Over);
        }
        self.watch(number, epoll)
    }

    /// Watches for reading only if a drain may follow, for writing only if bytes wait.
    fn watch(&mut self, number: usize, epoll: &Epoll) -> io::Result<Step> {
        let Some(upstream) = &self.upstream else {
            return Ok(Step::GoOn);
        };
        let wanted = (self.up.interest(&self.down), self.down.interest(&self.up));
        if wanted.0 != self.watched.0 {
            epoll.modify(
                &self.client,
                &mut EpollEvent::new(wanted.0, Side::Client.token(number)),
            )?;
        }
        if wanted.1 != self.watched.1 {
            epoll.modify(
                upstream,
                &mut EpollEvent::new(wanted.1, Side::Upstream.token(number)),
            )?;
        }
        self.watched = wanted;
        Ok(Step::GoOn)
    }
}

impl Direction {
    /// The events to watch on the socket that this direction reads and `back` writes.
    fn interest(&self, back: &Direction) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, !self.ended && self.holds == 0);
        flags.set(EpollFlags::EPOLLOUT, back.holds > 0);
        flags
    }

    /// Continues only while a drain fills the pipe; otherwise the level-triggered epoll reports
    /// whether there is more.
    fn drain_and_pump(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        pipes: &mut Pipes,
    ) -> io::Result<()> {
        for _ in 0..BURST {
            let pipe = match self.pipe.take() {
                Some(pipe) => pipe,
                None => pipes.borrow()?,
            };
            let drained = splice(
                from,
                None,
                &pipe.writer,
                None,
                PIPE_BYTES,
                SpliceFFlags::SPLICE_F_NONBLOCK,
            );
            self.pipe = Some(pipe);
            match drained {
                Ok(0) => {
                    self.ended = true;
                    to.shutdown(Shutdown::Write)?;
                }
                Ok(n) => self.holds = n,
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            if self.pump(to, pipes)? < PIPE_BYTES || self.holds > 0 {
                break;
            }
        }
        Ok(())
    }

    /// Writes what the pipe holds and returns an empty pipe to the pool. Returns the bytes written.
    fn pump(&mut self, to: &TcpStream, pipes: &mut Pipes) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let mut pumped = 0;
        while self.holds > 0 {
            match splice(
                &pipe.reader,
                None,
                to,
                None,
                self.holds,
                SpliceFFlags::SPLICE_F_NONBLOCK,
            ) {
                Ok(n) => {
                    self.holds -= n;
                    pumped += n;
                }
                Err(Errno::EAGAIN) => return Ok(pumped),
                Err(error) => return Err(error.into()),
            }
        }
        pipes.0.extend(self.pipe.take());
        Ok(pumped)
    }
}

impl Pipes {
    fn borrow(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A pipe that the kernel keeps small carries the same bytes in more calls.
        let _smaller = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
        Ok(Pipe { reader, writer })
    }
}

impl Side {
    /// The token of this socket in epoll.
    pub(crate) fn token(self, number: usize) -> u64 {
        (number as u64) << 1 | u64::from(self == Side::Upstream)
    }

    /// The tunnel and the side of a token.
    pub(crate) fn of(token: u64) -> (usize, Side) {
        (
            (token >> 1) as usize,
            if token & 1 == 0 {
                Side::Client
            } else {
                Side::Upstream
            },
        )
    }
}

/// The same as Sealway's.
const PIPE_BYTES: usize = 256 * 1024;
/// One tunnel must not delay the others.
const BURST: usize = 16;
