//! The relay: bytes from client to upstream and back through pipes, inside the kernel, until both sides have ended.
//!
//! A thread of its own with a level-triggered epoll(7): one wait, then one splice in and one out for what has come. A
//! tunnel is an entry in its table and no task, no timer and no pipe while it is silent. Nothing is locked or
//! allocated per chunk. In splice mode no byte enters user space; in adaptive mode small transfers are copied through
//! a buffer of the thread, which is wiped. Never looks at a byte. See splice(2) and tcp(7).

mod flow;
mod pair;
mod pipes;
mod reactor;

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::Counter;
use tokio_util::sync::CancellationToken;

use crate::outcome::Ending;
use crate::sys::poller::{Bell, Poller};
pub use pipes::Bounds;
use reactor::{Door, Reactor};

/// How long a tunnel may do what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a byte either way.
    pub idle: Duration,
    /// Without a byte after one side has ended.
    pub half_close: Duration,
    /// In all; None: no limit.
    pub max_age: Option<Duration>,
}

/// How bytes go from one socket to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Through a pipe, never through user space.
    #[default]
    Splice,
    /// Small transfers through a buffer that is wiped, the others through a pipe.
    Adaptive,
}

/// Bytes that one direction has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Those that never entered user space.
    pub spliced: u64,
    /// Those that did.
    pub copied: u64,
}

/// Bytes that a tunnel has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// From client to upstream.
    pub up: Moved,
    /// From upstream to client.
    pub down: Moved,
}

/// Where bytes of all tunnels are counted, while they run.
#[derive(Clone, Debug)]
pub struct Totals {
    /// From clients to upstreams.
    pub up: Counter,
    /// From upstreams to clients.
    pub down: Counter,
    /// Those that never entered user space.
    pub spliced: Counter,
    /// Those that did.
    pub copied: Counter,
}

/// How a relay ended, and what the kernel said if that was the cause.
#[derive(Debug)]
pub struct Ended {
    /// The ending.
    pub ending: Ending,
    /// The error behind a reset or an internal error.
    pub cause: Option<io::Error>,
}

/// Whoever a tunnel belongs to: asked for its patience, told its end.
pub trait Owner: Send + 'static {
    /// How long it may do what; asked again whenever its time seems up.
    fn patience(&self) -> Patience;
    /// It has ended and both sockets are closed.
    fn ended(self, ended: Ended, tally: Tally);
}

/// A tunnel whose bytes may flow.
#[derive(Debug)]
pub struct Tunnel<T> {
    /// Told its end.
    pub owner: T,
    /// The client's socket, non-blocking.
    pub client: TcpStream,
    /// The upstream's, non-blocking.
    pub upstream: TcpStream,
    /// How its bytes go.
    pub mode: Mode,
    /// What has moved already.
    pub tally: Tally,
}

/// A relay thread from outside. It ends when this is dropped and its last tunnel has ended.
#[derive(Debug)]
pub struct Relay<T: Owner> {
    arrivals: mpsc::Sender<Tunnel<T>>,
    bell: Arc<Bell>,
    closed: Arc<AtomicBool>,
}

/// What a relay thread is given.
#[derive(Debug)]
pub struct Settings {
    /// The thread's name.
    pub name: String,
    /// How many pipes it may have.
    pub pipes: Bounds,
    /// Where it counts.
    pub totals: Totals,
    /// Ends every tunnel at once: the daemon's drain has run out. Whoever cancels it calls [`Relay::wake`].
    pub kill: CancellationToken,
}

impl<T: Owner> Relay<T> {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no descriptor or no thread can be had.
    pub fn start(settings: Settings) -> io::Result<(Self, JoinHandle<()>)> {
        let (poller, bell) = (Poller::new()?, Arc::new(Bell::new()?));
        let (arrivals, waiting) = mpsc::channel();
        let closed = Arc::new(AtomicBool::new(false));
        let door = Door { waiting, bell: Arc::clone(&bell), closed: Arc::clone(&closed) };
        let thread = std::thread::Builder::new().name(settings.name.clone());
        let thread = thread.spawn(move || Reactor::new(poller, door, settings).run())?;
        Ok((Self { arrivals, bell, closed }, thread))
    }

    /// Hands a tunnel over.
    ///
    /// # Errors
    /// The tunnel, if the thread has gone.
    pub fn adopt(&self, tunnel: Tunnel<T>) -> Result<(), Tunnel<T>> {
        self.arrivals.send(tunnel).map_err(|mpsc::SendError(tunnel)| tunnel)?;
        self.bell.ring();
        Ok(())
    }

    /// Makes the thread look at `kill`.
    pub fn wake(&self) {
        self.bell.ring();
    }
}

impl<T: Owner> Drop for Relay<T> {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        self.bell.ring();
    }
}

impl Moved {
    /// All of them.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.spliced + self.copied
    }
}

impl Totals {
    /// Adds what has moved.
    pub fn add(&self, tally: Tally) {
        let add = |counter: &Counter, bytes| {
            if bytes > 0 {
                counter.increment(bytes);
            }
        };
        add(&self.up, tally.up.bytes());
        add(&self.down, tally.down.bytes());
        add(&self.spliced, tally.up.spliced + tally.down.spliced);
        add(&self.copied, tally.up.copied + tally.down.copied);
    }
}

impl From<Ending> for Ended {
    fn from(ending: Ending) -> Self {
        Self { ending, cause: None }
    }
}
