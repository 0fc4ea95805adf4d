//! Fills a parcel: the workers put their tunnels in, all at the same time, and the daemon completes it
//! or returns the tunnels to them. Before that the workers may describe their tunnels ahead, while they flow.
//! Closes no socket of a tunnel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::ahead::Sender;
use super::format::Head;
use super::packing::{Contents, Joined, Packed, Sealed};
use super::parcel::{DESCRIPTION, DESCRIPTORS, POLLER};
use crate::sys::parcel::{self, DESCRIPTORS_MAX};

/// A parcel that the workers fill, and their wait for its end.
#[derive(Debug)]
pub struct Parking {
    writer: UnixDatagram,
    /// To the next daemon. Set when this one lives beside the service, which has another main process or none.
    next: OnceLock<Sender>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The workers that accept nobody any more.
    deaf: usize,
    /// What the next daemon has asked for.
    ahead: Option<Ahead>,
    is_frozen: bool,
    /// How often the tunnels have flowed again after that.
    thaws: u32,
    /// The workers that have put their tunnels in.
    parked: usize,
    /// The first error.
    error: Option<io::Error>,
    /// Whether the parcel is on its way; None: not decided.
    is_sent: Option<bool>,
    contents: Vec<Contents>,
}

/// Tunnels that are described ahead.
#[derive(Debug)]
struct Ahead {
    asked: Asked,
    joined: Joined,
    /// The workers that have described all of theirs.
    done: usize,
    error: Option<io::Error>,
    /// Whether the next daemon has the whole description.
    is_sent: bool,
}

/// A request for the tunnels ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its number.
    pub request: u32,
    /// The time that the descriptions are of.
    pub at: Instant,
}

impl Parking {
    /// An empty parcel in the queue of this socket.
    #[must_use]
    pub fn new(writer: UnixDatagram) -> Self {
        Self {
            writer,
            next: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// A worker accepts nobody any more.
    pub fn accepts_nobody(&self) {
        self.state().deaf += 1;
    }

    /// How many workers have said so. A client of the others may be on its way into a set-up.
    #[must_use]
    pub fn deaf(&self) -> usize {
        self.state().deaf
    }

    /// The daemon lives beside the service from now on: clients are the next one's, which listens to this.
    pub fn live_beside(&self, next: Sender) {
        // A process lives beside the service once.
        let _once = self.next.set(next);
    }

    /// Whether the daemon lives beside the service.
    #[must_use]
    pub fn is_beside(&self) -> bool {
        self.next.get().is_some()
    }

    /// Tells the next daemon by the end of the stream that the tunnels are in the queue.
    pub fn hang_up(&self) {
        self.next.get().into_iter().for_each(Sender::hang_up);
    }

    /// To the next daemon.
    ///
    /// # Errors
    /// This daemon does not live beside the service.
    pub fn next(&self) -> io::Result<&Sender> {
        self.next
            .get()
            .ok_or_else(|| io::Error::other("there is no stream to the next daemon"))
    }

    /// Asks the workers to describe their tunnels ahead.
    pub fn ask_ahead(&self, asked: Asked) {
        self.state().ahead = Some(Ahead {
            asked,
            joined: Joined::default(),
            done: 0,
            error: None,
            is_sent: false,
        });
    }

    /// Forgets what was sent ahead: the next daemon has ended, or has not got it.
    pub fn forget_ahead(&self) {
        self.state().ahead = None;
    }

    /// What the next daemon has asked for and not taken back.
    #[must_use]
    pub fn asked(&self) -> Option<Asked> {
        self.state().ahead.as_ref().map(|ahead| ahead.asked)
    }

    /// Sends the sockets of some tunnels ahead, with their descriptions in the same order. Returns the place of the first one;
    /// None if nobody wants them any more.
    pub fn put_ahead(
        &self,
        asked: Asked,
        part: Contents,
        sockets: &[BorrowedFd<'_>],
    ) -> Option<usize> {
        let mut state = self.state();
        let ahead = state.ahead.as_mut().filter(|ahead| ahead.asked == asked)?;
        let place = ahead.joined.number();
        match self.next().and_then(|next| send_all(next, sockets)) {
            Ok(()) => ahead.joined.add(part),
            Err(error) => {
                ahead.error.get_or_insert(error);
                self.changed.notify_all();
                return None;
            }
        }
        Some(place)
    }

    /// A worker has described all its tunnels.
    pub fn is_described(&self, asked: Asked) {
        let mut state = self.state();
        let ahead = state.ahead.as_mut().filter(|ahead| ahead.asked == asked);
        ahead.into_iter().for_each(|ahead| ahead.done += 1);
        self.changed.notify_all();
    }

    /// Waits until this many workers have described their tunnels, and sends the description. `head` has what is not in it.
    /// Returns the number of tunnels.
    ///
    /// # Errors
    /// The first error of a worker, or some are missing after `patience`, or it cannot be sent. Nothing is ahead then.
    pub fn send_ahead(&self, workers: usize, patience: Duration, head: Head) -> io::Result<usize> {
        let sent = self.describe_ahead(workers, patience, head);
        if sent.is_err() {
            self.forget_ahead();
        }
        sent
    }

    fn describe_ahead(&self, workers: usize, patience: Duration, head: Head) -> io::Result<usize> {
        let is_waiting = |state: &mut State| {
            let ahead = state.ahead.as_ref();
            ahead.is_some_and(|ahead| ahead.error.is_none() && ahead.done < workers)
        };
        let waited = self
            .changed
            .wait_timeout_while(self.state(), patience, is_waiting);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        let nobody = || io::Error::other("nobody wants them");
        let ahead = state.ahead.as_mut().ok_or_else(nobody)?;
        if let Some(error) = ahead.error.take() {
            return Err(error);
        }
        if waited.timed_out() {
            return Err(late());
        }
        let asked = ahead.asked;
        let mut joined = std::mem::take(&mut ahead.joined);
        drop(state);
        joined.begin(head, None);
        self.next()?.described(joined.seal()?)?;
        let tunnels = joined.tunnels();
        let mut state = self.state();
        let ahead = state.ahead.as_mut().filter(|ahead| ahead.asked == asked);
        let ahead = ahead.ok_or_else(nobody)?;
        (ahead.joined, ahead.is_sent) = (joined, true);
        Ok(tunnels)
    }

    /// Asks the workers for their tunnels.
    pub fn freeze(&self) {
        self.state().is_frozen = true;
    }

    /// Whether the workers have to put their tunnels in now.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let state = self.state();
        state.is_frozen && state.is_sent.is_none()
    }

    /// Lets the tunnels flow again: the next daemon has not taken them, and must not any more.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn thaw(&self) -> io::Result<()> {
        self.next()?.flow()?;
        let mut state = self.state();
        (state.is_frozen, state.parked, state.ahead) = (false, 0, None);
        state.contents.clear();
        state.error = None;
        state.thaws += 1;
        self.changed.notify_all();
        Ok(())
    }

    /// Puts the tunnels of one worker in, and waits for the decision. Returns whether they are the next daemon's, so that the
    /// worker must not touch them any more.
    pub fn park(&self, fill: impl FnOnce(&mut Packer<'_>)) -> bool {
        let thaws = match &*self.state() {
            // They flow again since the worker has looked.
            State {
                is_frozen: false, ..
            } => return false,
            state => state.thaws,
        };
        // All workers describe their tunnels at the same time.
        let mut packer = Packer {
            parking: self,
            thaws,
            contents: Contents::default(),
            error: None,
        };
        fill(&mut packer);
        let error = packer.error;
        let mut state = self.state();
        if state.thaws != thaws {
            return false;
        }
        state.error = state.error.take().or(error);
        state.parked += 1;
        self.changed.notify_all();
        loop {
            if let Some(is_sent) = state.is_sent {
                return is_sent;
            }
            if state.thaws != thaws {
                return false;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until this many workers have put their tunnels in, and closes the parcel. `head` has
    /// what is not in the parcel itself.
    ///
    /// # Errors
    /// The first error of a worker, or some are missing after `patience`.
    pub fn packed(&self, workers: usize, patience: Duration, head: Head) -> io::Result<Packed> {
        let waiting = |state: &mut State| state.parked < workers;
        let waited = self
            .changed
            .wait_timeout_while(self.state(), patience, waiting);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(late());
        }
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let contents = std::mem::take(&mut state.contents);
        let ahead = state.ahead.take().filter(|ahead| ahead.is_sent);
        drop(state);
        let head = Head {
            request: ahead.as_ref().map(|ahead| ahead.asked.request),
            ..head
        };
        let mut own = Joined::default();
        contents.into_iter().for_each(|part| own.add(part));
        Ok(Packed::of(own, ahead.map(|ahead| ahead.joined), head))
    }

    /// Sends the description, which completes the parcel, and makes the workers leave their tunnels.
    ///
    /// # Errors
    /// As [`parcel::send`]; the parcel is incomplete then.
    pub fn send(&self, memory: &Sealed) -> io::Result<()> {
        parcel::send(&self.writer, DESCRIPTION, &[memory.as_fd()])?;
        self.decide(true);
        Ok(())
    }

    /// Makes the workers leave their tunnels, and tells the next daemon.
    ///
    /// # Errors
    /// As [`parcel::send`]: it has ended.
    pub fn leave(&self) -> io::Result<()> {
        self.decide(true);
        self.next()?.left()
    }

    /// Returns the tunnels to the workers, for good: the next daemon does not get them.
    pub fn give_up(&self) {
        self.next.get().into_iter().for_each(Sender::refused);
        self.decide(false);
    }

    /// The request whose answer the next daemon has; the parcel completes it.
    #[must_use]
    pub fn ahead(&self) -> Option<Asked> {
        let state = self.state();
        let ahead = state.ahead.as_ref().filter(|ahead| ahead.is_sent);
        ahead.map(|ahead| ahead.asked)
    }

    fn decide(&self, is_sent: bool) {
        self.state().is_sent.get_or_insert(is_sent);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts the tunnels of one worker into the parcel.
pub struct Packer<'p> {
    parking: &'p Parking,
    thaws: u32,
    /// Their descriptions.
    pub contents: Contents,
    error: Option<io::Error>,
}

impl Packer<'_> {
    /// What the parcel completes; None: it has to be complete itself.
    #[must_use]
    pub fn completes(&self) -> Option<Asked> {
        self.parking.ahead()
    }

    /// Sends the descriptors of the described tunnels, in their order, and the epoll(7) that watches them. Call it once, after
    /// them.
    pub fn send(&mut self, descriptors: &[BorrowedFd<'_>], poller: BorrowedFd<'_>) {
        // The lines of the workers have the order in which their descriptors are sent.
        let mut state = self.parking.state();
        if state.is_sent.is_some() || state.thaws != self.thaws {
            return;
        }
        state.contents.push(std::mem::take(&mut self.contents));
        let to = match &state.ahead {
            Some(Ahead { is_sent: true, .. }) => self.parking.next().map(Sender::as_fd),
            _ => Ok(self.parking.writer.as_fd()),
        };
        // Ending an epoll(7) takes the kernel 3 µs a tunnel: the next daemon does it when it relays them. Without this message
        // it happens before, and nothing else changes.
        let sent = to.and_then(|to| {
            send_all(to, descriptors)?;
            let _ends_sooner = parcel::send(to, POLLER, &[poller]);
            Ok(())
        });
        self.error = self.error.take().or(sent.err());
    }

    /// Gives up, because a tunnel cannot be described.
    pub fn fail(&mut self, why: &'static str) {
        self.error.get_or_insert_with(|| io::Error::other(why));
    }
}

fn send_all(to: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut parts = descriptors.chunks(DESCRIPTORS_MAX);
    parts.try_for_each(|part| parcel::send(&to, DESCRIPTORS, part))
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "a worker does not stop")
}
