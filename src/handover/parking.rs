//! Fills a parcel: the workers put their tunnels in, all at the same time, and the daemon completes it
//! or returns the tunnels to them. Closes no socket of a tunnel.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use zeroize::Zeroizing;

use super::format::{FORMAT, Head, VERSION, append, append_held};
use super::parcel::{DESCRIPTION, DESCRIPTORS, POLLER};
use super::state::{SideState, TunnelState};
use crate::digest::Digest;
use crate::sys::parcel::{self, DESCRIPTORS_MAX};

/// A parcel that the workers fill, and their wait for its end.
#[derive(Debug)]
pub struct Parking {
    writer: UnixDatagram,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the daemon lives beside the service, which has another main process or none.
    is_beside: bool,
    /// The workers that accept nobody any more.
    deaf: usize,
    is_frozen: bool,
    /// The workers that have put their tunnels in.
    parked: usize,
    /// The first error.
    error: Option<io::Error>,
    /// Whether the parcel is on its way; None: not decided.
    is_sent: Option<bool>,
    contents: Vec<Contents>,
}

/// The tunnels of one worker.
#[derive(Debug, Default)]
struct Contents {
    lines: Vec<u8>,
    held: Vec<HeldBytes>,
    ids: Vec<String>,
    egress: BTreeSet<IpAddr>,
    descriptors: usize,
}

/// The bytes of a buffer.
#[derive(Debug)]
struct HeldBytes {
    /// The place of the tunnel among those of its worker.
    tunnel: usize,
    from: SideState,
    bytes: Zeroizing<Vec<u8>>,
}

/// What has been put into a parcel.
#[derive(Debug)]
pub struct Packed {
    /// The number of tunnels.
    pub tunnels: usize,
    /// SHA-256 of their sorted identifiers, each with a line feed.
    pub ids: Digest,
    /// The head and the lines of the tunnels, in parts.
    pub lines: Vec<Vec<u8>>,
    held: Zeroizing<Vec<u8>>,
}

/// A description that can be sent.
#[derive(Debug)]
pub struct Sealed(OwnedFd);

impl Packed {
    /// Puts the description into memory that nobody can change.
    ///
    /// # Errors
    /// No memory or no descriptor is free.
    pub fn seal(&self) -> io::Result<Sealed> {
        let parts = self.lines.iter().chain([&*self.held]);
        parcel::seal(parts.map(Vec::as_slice)).map(Sealed)
    }
}

impl Parking {
    /// An empty parcel in the queue of this socket.
    #[must_use]
    pub fn new(writer: UnixDatagram) -> Self {
        Self {
            writer,
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

    /// The daemon lives beside the service from now on: clients are the next one's.
    pub fn live_beside(&self) {
        self.state().is_beside = true;
    }

    /// Whether the daemon lives beside the service.
    #[must_use]
    pub fn is_beside(&self) -> bool {
        self.state().is_beside
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

    /// Puts the tunnels of one worker in, and waits for the decision. Returns whether the parcel is on its way, so that the
    /// worker must not touch the tunnels any more.
    pub fn park(&self, fill: impl FnOnce(&mut Packer<'_>)) -> bool {
        // All workers describe their tunnels at the same time.
        let mut packer = Packer {
            parking: self,
            contents: Contents::default(),
            error: None,
        };
        fill(&mut packer);
        let error = packer.error;
        let mut state = self.state();
        state.error = state.error.take().or(error);
        state.parked += 1;
        self.changed.notify_all();
        loop {
            if let Some(is_sent) = state.is_sent {
                return is_sent;
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
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "a worker does not stop",
            ));
        }
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let contents = std::mem::take(&mut state.contents);
        drop(state);
        Ok(join(contents, head))
    }

    /// Sends the description, which completes the parcel, and makes the workers leave their tunnels.
    ///
    /// # Errors
    /// As [`parcel::send`]; the parcel is incomplete then.
    pub fn send(&self, Sealed(memory): &Sealed) -> io::Result<()> {
        parcel::send(&self.writer, DESCRIPTION, &[memory.as_fd()])?;
        self.decide(true);
        Ok(())
    }

    /// Returns the tunnels to the workers.
    pub fn give_up(&self) {
        self.decide(false);
    }

    fn decide(&self, is_sent: bool) {
        self.state().is_sent.get_or_insert(is_sent);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Completes the head, and gives each buffer the place of its tunnel among all.
fn join(contents: Vec<Contents>, head: Head) -> Packed {
    let (mut ids, mut egress, mut descriptors) = (Vec::new(), BTreeSet::new(), 0);
    let (mut parts, mut held) = (Vec::new(), Zeroizing::default());
    for part in contents {
        for HeldBytes {
            tunnel,
            from,
            bytes,
        } in part.held
        {
            append_held(ids.len() + tunnel, from, &bytes, &mut held);
        }
        ids.extend(part.ids);
        egress.extend(part.egress);
        descriptors += part.descriptors;
        parts.push(part.lines);
    }
    let head = Head {
        format: FORMAT.to_owned(),
        version: VERSION,
        tunnels: ids.len(),
        descriptors,
        egress: egress.into_iter().collect(),
        ..head
    };
    let mut line = Vec::new();
    append(&head, &mut line);
    parts.insert(0, line);
    ids.sort_unstable();
    let named: String = ids.iter().flat_map(|id| [id.as_str(), "\n"]).collect();
    Packed {
        tunnels: ids.len(),
        ids: Digest::of(named),
        lines: parts,
        held,
    }
}

/// Puts the tunnels of one worker into the parcel.
pub struct Packer<'p> {
    parking: &'p Parking,
    contents: Contents,
    error: Option<io::Error>,
}

impl Packer<'_> {
    /// Makes room for the descriptions of this many tunnels.
    pub fn expect(&mut self, tunnels: usize) {
        self.contents.lines.reserve(tunnels * LINE_BYTES);
        self.contents.ids.reserve(tunnels);
    }

    /// Adds the description of a tunnel, and the bytes of its buffers: of the client, and of the
    /// upstream.
    pub fn describe(&mut self, state: &TunnelState, held: [Option<&[u8]>; 2]) {
        let contents = &mut self.contents;
        for (from, bytes) in [SideState::Client, SideState::Upstream]
            .into_iter()
            .zip(held)
        {
            if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
                contents.held.push(HeldBytes {
                    tunnel: contents.ids.len(),
                    from,
                    bytes: Zeroizing::new(bytes.to_vec()),
                });
            }
        }
        append(state, &mut contents.lines);
        contents.descriptors += state.descriptors;
        contents.egress.insert(state.egress.ip());
        contents.ids.push(state.id.clone());
    }

    /// Sends the descriptors of the described tunnels, in their order, and the epoll(7) that watches them. Call it once, after
    /// them.
    pub fn send(&mut self, descriptors: &[BorrowedFd<'_>], poller: BorrowedFd<'_>) {
        // The lines of the workers have the order in which their descriptors are sent.
        let mut state = self.parking.state();
        if state.is_sent.is_some() {
            return;
        }
        state.contents.push(std::mem::take(&mut self.contents));
        for part in descriptors.chunks(DESCRIPTORS_MAX) {
            if self.error.is_none() {
                self.error = parcel::send(&self.parking.writer, DESCRIPTORS, part).err();
            }
        }
        // Ending an epoll(7) takes the kernel 3 µs a tunnel: the next daemon does it when it relays them. Without this message
        // it happens before, and nothing else changes.
        if self.error.is_none() {
            let _ends_sooner = parcel::send(&self.parking.writer, POLLER, &[poller]);
        }
    }

    /// Gives up, because a tunnel cannot be described.
    pub fn fail(&mut self, why: &'static str) {
        self.error.get_or_insert_with(|| io::Error::other(why));
    }
}

/// Most lines are shorter.
const LINE_BYTES: usize = 1_024;
