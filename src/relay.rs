//! The relay: bytes from client to upstream and back through pipes, inside the kernel, until both sides have ended.
//!
//! Level-triggered epoll(7): one wait, then one splice in and one out for what has come. A tunnel is an entry in the
//! table of its thread, and no task, no timer and no pipe while it is silent. Nothing is locked or allocated per
//! chunk. In splice mode no byte enters user space; in adaptive mode small transfers are copied through a buffer of
//! the thread, which is wiped. Never waits: the worker does. Never looks at a byte. See splice(2) and tcp(7).

mod flow;
mod pair;
mod pipes;
mod tally;

use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::outcome::Ending;
use crate::sys::poller::{News, Poller};
use flow::Gear;
use pair::{Pair, Side};
pub use pipes::Bounds;
pub use tally::{Moved, Tally, Totals};

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

/// How a relay ended, and what the kernel said if that was the cause.
#[derive(Debug)]
pub struct Ended {
    /// The ending.
    pub ending: Ending,
    /// The error behind a reset or an internal error.
    pub cause: Option<io::Error>,
}

/// Whoever a tunnel belongs to: asked for its patience, told its end.
pub trait Owner {
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
    /// The client's socket, non-blocking, watched already.
    pub client: TcpStream,
    /// The upstream's, non-blocking, watched already.
    pub upstream: TcpStream,
    /// How its bytes go.
    pub mode: Mode,
    /// What has moved already.
    pub tally: Tally,
}

/// The tunnels of one thread.
#[derive(Debug)]
pub struct Relay<T> {
    poller: Rc<Poller>,
    pairs: Slab<Pair<T>>,
    gear: Gear,
    totals: Totals,
    /// Moved since the totals were last brought up to date.
    uncounted: Tally,
    epoch: Instant,
    /// Milliseconds since the epoch, as of this turn.
    now: u64,
    next_sweep: u64,
}

impl<T: Owner> Relay<T> {
    /// A relay without tunnels, whose sockets `poller` watches.
    #[must_use]
    pub fn new(poller: Rc<Poller>, pipes: Bounds, totals: Totals) -> Self {
        Self {
            poller,
            pairs: Slab::new(),
            gear: Gear::new(pipes),
            totals,
            uncounted: Tally::default(),
            epoch: Instant::now(),
            now: 0,
            next_sweep: u64::MAX,
        }
    }

    /// Takes a tunnel over.
    pub fn adopt(&mut self, tunnel: Tunnel<T>) {
        let key = self.pairs.insert(Pair::new(tunnel, self.now));
        if let Some(ended) = self.want_anew(key) {
            self.end(key, ended);
        }
        self.note_deadline(key);
    }

    /// Moves what an event allows to move.
    pub fn happened(&mut self, news: News) {
        let (key, side) = unpack(news.key);
        // None: it has ended in this very turn.
        let Some(pair) = self.pairs.get_mut(key) else { return };
        let (before, was_half_closed) = (pair.tally(), pair.is_half_closed());
        let ended = pair.happened(side, news, self.now, &mut self.gear);
        let is_half_closed = pair.is_half_closed();
        self.uncounted.add(pair.tally().since(before));
        if let Some(ended) = ended.or_else(|| self.want_anew(key)) {
            return self.end(key, ended);
        }
        if is_half_closed && !was_half_closed {
            self.note_deadline(key);
        }
    }

    /// Sets the clock of this turn.
    pub fn tick(&mut self, now: Instant) {
        self.now = u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX);
    }

    /// Ends a turn: brings the totals up to date and ends tunnels whose time is up.
    pub fn finish_turn(&mut self) {
        self.count();
        if self.now >= self.next_sweep {
            self.sweep();
        }
    }

    /// When a tunnel's time may be up.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        (self.next_sweep < u64::MAX).then(|| self.epoch + Duration::from_millis(self.next_sweep))
    }

    /// Resets every tunnel.
    pub fn end_all(&mut self, ending: Ending) {
        let keys: Vec<usize> = self.pairs.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.end(key, ending.into());
        }
    }

    /// Asks each tunnel's owner whether it is still allowed; one that is not ends as revoked when `grace` is over, unless
    /// it is allowed again before.
    pub fn judge_all(&mut self, is_allowed: impl Fn(&T) -> bool, grace: Duration) {
        for (_, pair) in &mut self.pairs {
            let is_allowed = is_allowed(&pair.owner);
            pair.judge(is_allowed, self.now, grace);
        }
        self.next_sweep = self.now;
    }

    /// Whether no tunnel is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Tells the poller what has changed in what is wanted of both sockets.
    fn want_anew(&mut self, key: usize) -> Option<Ended> {
        let pair = self.pairs.get_mut(key)?;
        for side in Side::BOTH {
            let wanted = pair.wanted(side);
            let watched = pair.watched_mut(side);
            if watched.interest != Some(wanted) {
                watched.interest = Some(wanted);
                if let Err(error) = self.poller.change(&watched.socket, wanted, pack(key, side)) {
                    return Some(Ended { ending: Ending::InternalError, cause: Some(error) });
                }
            }
        }
        None
    }

    fn note_deadline(&mut self, key: usize) {
        if let Some(pair) = self.pairs.get(key) {
            self.next_sweep = self.next_sweep.min(pair.deadline(pair.owner.patience()).0);
        }
    }

    /// Ends whose time is up, and finds out when the next one's will be. No timer is kept per tunnel: most deadlines
    /// move before they come, and to look at all tunnels now and then costs less than to move timers with each chunk.
    fn sweep(&mut self) {
        let mut next = u64::MAX;
        let mut late = Vec::new();
        for (key, pair) in &self.pairs {
            match pair.deadline(pair.owner.patience()) {
                (deadline, ending) if deadline <= self.now => late.push((key, ending)),
                (deadline, _) => next = next.min(deadline),
            }
        }
        self.next_sweep = next.max(self.now + SWEEP_MS);
        for (key, ending) in late {
            self.end(key, ending.into());
        }
    }

    fn end(&mut self, key: usize, ended: Ended) {
        // Whoever hears of an end finds its bytes in the totals.
        self.count();
        if let Some(pair) = self.pairs.try_remove(key) {
            let tally = pair.tally();
            pair.close(&ended).ended(ended, tally);
        }
    }

    fn count(&mut self) {
        self.totals.add(std::mem::take(&mut self.uncounted));
    }
}

impl From<Ending> for Ended {
    fn from(ending: Ending) -> Self {
        Self { ending, cause: None }
    }
}

fn pack(key: usize, side: Side) -> u64 {
    (key as u64) << 1 | u64::from(side == Side::Upstream)
}

fn unpack(packed: u64) -> (usize, Side) {
    let side = if packed & 1 == 0 { Side::Client } else { Side::Upstream };
    (usize::try_from(packed >> 1).unwrap_or(usize::MAX), side)
}

/// Ten thousand tunnels take half a millisecond to look at.
const SWEEP_MS: u64 = 100;
