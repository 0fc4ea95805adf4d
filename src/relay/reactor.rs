//! The loop of a relay thread: wait, move what can be moved, take in new tunnels, end those whose time is up.
//!
//! The clock is read once a turn. No timer is set per tunnel: the loop sleeps until the earliest deadline it knows,
//! then looks at all tunnels for the next one, at most ten times a second. Never blocks but in its wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use slab::Slab;
use tokio_util::sync::CancellationToken;

use super::flow::Gear;
use super::pair::{Pair, Side};
use super::{Ended, Moved, Owner, Settings, Tally, Totals, Tunnel};
use crate::outcome::Ending;
use crate::sys::poller::{Bell, Events, Interest, News, Poller};

/// One thread's tunnels.
pub(super) struct Reactor<T> {
    poller: Poller,
    door: Door<T>,
    pairs: Slab<Pair<T>>,
    gear: Gear,
    totals: Totals,
    /// Moved since the totals were last brought up to date.
    uncounted: Tally,
    kill: CancellationToken,
    epoch: Instant,
    /// Milliseconds since the epoch, as of this turn.
    now: u64,
    next_sweep: u64,
}

/// Where tunnels come in.
pub(super) struct Door<T> {
    pub(super) waiting: mpsc::Receiver<Tunnel<T>>,
    pub(super) bell: Arc<Bell>,
    pub(super) closed: Arc<AtomicBool>,
}

impl<T: Owner> Reactor<T> {
    pub(super) fn new(poller: Poller, door: Door<T>, settings: Settings) -> Self {
        Self {
            poller,
            door,
            pairs: Slab::new(),
            gear: Gear::new(settings.pipes),
            totals: settings.totals,
            uncounted: Tally::default(),
            kill: settings.kill,
            epoch: Instant::now(),
            now: 0,
            next_sweep: u64::MAX,
        }
    }

    /// Relays until no tunnel is left and none can come.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut waited = self.poller.watch_bell(&self.door.bell, BELL);
        while waited.is_ok() && !self.is_done() {
            waited = self.poller.wait(&mut events, self.until_sweep());
            self.now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.turn(&events);
        }
        if let Err(error) = waited {
            // The kernel is out of memory; nothing else makes a wait fail.
            self.end_all(|| Ended { ending: Ending::InternalError, cause: Some(error.kind().into()) });
        }
    }

    /// No tunnel is left, nobody can bring one, and nobody has brought one that is still at the door.
    fn is_done(&mut self) -> bool {
        let closed = self.door.closed.load(Ordering::Acquire);
        if closed {
            self.let_in();
        }
        closed && self.pairs.is_empty()
    }

    fn turn(&mut self, events: &Events) {
        let mut rung = false;
        for news in events.iter() {
            match news.key {
                BELL => rung = true,
                _ => self.happened(news),
            }
        }
        self.count();
        if rung {
            self.let_in();
        }
        if self.now >= self.next_sweep {
            self.sweep();
        }
    }

    fn happened(&mut self, news: News) {
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

    /// Tells the poller what has changed in what is wanted of both sockets.
    fn want_anew(&mut self, key: usize) -> Option<Ended> {
        let pair = self.pairs.get_mut(key)?;
        for side in Side::BOTH {
            let (wanted, watched) = (pair.wanted(side), pair.watched_mut(side));
            if wanted != watched.interest {
                watched.interest = wanted;
                if let Err(error) = self.poller.change(&watched.socket, wanted, pack(key, side)) {
                    return Some(Ended { ending: Ending::InternalError, cause: Some(error) });
                }
            }
        }
        None
    }

    /// Takes in who waits at the door.
    fn let_in(&mut self) {
        while let Ok(tunnel) = self.door.waiting.try_recv() {
            let key = self.pairs.insert(Pair::new(tunnel, self.now));
            if let Some(ended) = self.watch(key) {
                self.end(key, ended);
            }
            self.note_deadline(key);
        }
        if self.kill.is_cancelled() {
            self.end_all(|| Ending::Drained.into());
        }
    }

    fn watch(&self, key: usize) -> Option<Ended> {
        let pair = self.pairs.get(key)?;
        let watch = |side| {
            let interest: Interest = pair.wanted(side);
            self.poller.watch(&pair.watched(side).socket, interest, pack(key, side))
        };
        let failed = Side::BOTH.into_iter().find_map(|side| watch(side).err())?;
        Some(Ended { ending: Ending::InternalError, cause: Some(failed) })
    }

    fn note_deadline(&mut self, key: usize) {
        if let Some(pair) = self.pairs.get(key) {
            self.next_sweep = self.next_sweep.min(pair.deadline(pair.owner.patience()).0);
        }
    }

    /// Ends whose time is up, and finds out when the next one's will be.
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

    fn until_sweep(&self) -> Option<Duration> {
        (self.next_sweep < u64::MAX).then(|| Duration::from_millis(self.next_sweep.saturating_sub(self.now)))
    }

    fn count(&mut self) {
        self.totals.add(std::mem::take(&mut self.uncounted));
    }

    fn end_all(&mut self, ended: impl Fn() -> Ended) {
        let keys: Vec<usize> = self.pairs.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.end(key, ended());
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
}

impl Tally {
    fn since(self, before: Self) -> Self {
        Self { up: self.up.since(before.up), down: self.down.since(before.down) }
    }

    fn add(&mut self, more: Self) {
        self.up.add(more.up);
        self.down.add(more.down);
    }
}

impl Moved {
    fn since(self, before: Self) -> Self {
        Self { spliced: self.spliced - before.spliced, copied: self.copied - before.copied }
    }

    fn add(&mut self, more: Self) {
        self.spliced += more.spliced;
        self.copied += more.copied;
    }
}

fn pack(key: usize, side: Side) -> u64 {
    (key as u64) << 1 | u64::from(side == Side::Upstream)
}

fn unpack(packed: u64) -> (usize, Side) {
    let side = if packed & 1 == 0 { Side::Client } else { Side::Upstream };
    (usize::try_from(packed >> 1).unwrap_or(usize::MAX), side)
}

/// No tunnel's key: a table has no 2^63 entries.
const BELL: u64 = u64::MAX;
/// What one wait can find; the rest is found by the next.
const EVENTS_MAX: usize = 256;
/// Ten thousand tunnels take half a millisecond to look at.
const SWEEP_MS: u64 = 100;
