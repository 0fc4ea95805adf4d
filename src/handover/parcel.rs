//! The parcel: descriptors in the queue of a Unix socket, and at the end their description in sealed
//! memory. The description comes last, so a parcel without one is unfinished.
//!
//! The next daemon looks at a parcel as often as it likes, and takes it out of the queue only when
//! nothing can fail any more. Until then a crash loses nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::format::{
    DESCRIPTION_BYTES_MAX, Described, Description, FORMAT, Head, VERSION, append, append_held,
    read, read_head,
};
use super::state::{SideState, TunnelState};
use crate::digest::Digest;
use crate::sys::parcel::{self, DESCRIPTORS_MAX, Received};

/// A parcel that the workers fill, and their wait for its end.
#[derive(Debug)]
pub struct Parking {
    writer: UnixDatagram,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_frozen: bool,
    /// The workers that have put their tunnels in.
    parked: usize,
    /// The first error.
    error: Option<io::Error>,
    /// Whether the parcel is on its way; None: not decided.
    is_sent: Option<bool>,
    contents: Contents,
}

#[derive(Debug, Default)]
struct Contents {
    lines: Vec<u8>,
    held: Zeroizing<Vec<u8>>,
    ids: Vec<String>,
    egress: BTreeSet<IpAddr>,
    descriptors: usize,
}

/// What has been put into a parcel.
#[derive(Debug)]
pub struct Packed {
    /// The number of tunnels.
    pub tunnels: usize,
    /// SHA-256 of their sorted identifiers, each with a line feed.
    pub ids: Digest,
    /// The head and the lines of the tunnels.
    pub lines: Vec<u8>,
    held: Zeroizing<Vec<u8>>,
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

    /// Puts the tunnels of one worker in, and waits for the decision. Returns whether the parcel is
    /// on its way, so that the worker must not touch the tunnels any more.
    pub fn park(&self, fill: impl FnOnce(&mut Packer<'_>)) -> bool {
        let mut state = self.state();
        if state.is_sent.is_none() {
            let mut packer = Packer {
                writer: &self.writer,
                contents: &mut state.contents,
                error: None,
            };
            fill(&mut packer);
            let error = packer.error;
            state.error = state.error.take().or(error);
            state.parked += 1;
            self.changed.notify_all();
        }
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
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        while state.parked < workers {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "a worker does not stop",
                ));
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let Contents {
            lines: tunnels,
            held,
            mut ids,
            egress,
            descriptors,
        } = std::mem::take(&mut state.contents);
        ids.sort_unstable();
        let named: String = ids.iter().flat_map(|id| [id.as_str(), "\n"]).collect();
        let head = Head {
            format: FORMAT.to_owned(),
            version: VERSION,
            tunnels: ids.len(),
            descriptors,
            egress: egress.into_iter().collect(),
            ..head
        };
        let mut lines = Vec::with_capacity(tunnels.len() + HEAD_BYTES);
        append(&head, &mut lines);
        lines.extend_from_slice(&tunnels);
        Ok(Packed {
            tunnels: ids.len(),
            ids: Digest::of(named),
            lines,
            held,
        })
    }

    /// Sends the description, which completes the parcel, and makes the workers leave their tunnels.
    ///
    /// # Errors
    /// No memory or descriptor is free, or the queue is full.
    pub fn send(&self, packed: Packed) -> io::Result<()> {
        let mut bytes = Zeroizing::new(packed.lines);
        bytes.extend_from_slice(&packed.held);
        let memory = parcel::seal(&bytes)?;
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

/// Puts the tunnels of one worker into the parcel.
pub struct Packer<'p> {
    writer: &'p UnixDatagram,
    contents: &'p mut Contents,
    error: Option<io::Error>,
}

impl Packer<'_> {
    /// Adds the description of a tunnel, and the bytes of its buffers: of the client, and of the
    /// upstream.
    pub fn describe(&mut self, state: &TunnelState, held: [Option<&[u8]>; 2]) {
        let contents = &mut *self.contents;
        for (from, bytes) in [SideState::Client, SideState::Upstream]
            .into_iter()
            .zip(held)
        {
            if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
                append_held(contents.ids.len(), from, bytes, &mut contents.held);
            }
        }
        append(state, &mut contents.lines);
        contents.descriptors += state.descriptors;
        contents.egress.insert(state.egress.ip());
        contents.ids.push(state.id.clone());
    }

    /// Sends the descriptors of described tunnels, in their order.
    pub fn send(&mut self, descriptors: &[BorrowedFd<'_>]) {
        for part in descriptors.chunks(DESCRIPTORS_MAX) {
            if self.error.is_none() {
                self.error = parcel::send(self.writer, DESCRIPTORS, part).err();
            }
        }
    }

    /// Gives up, because a tunnel cannot be described.
    pub fn fail(&mut self, why: &'static str) {
        self.error.get_or_insert_with(|| io::Error::other(why));
    }
}

/// A parcel in a queue.
#[derive(Debug)]
pub struct Arrived {
    reader: UnixDatagram,
    messages: usize,
    /// What it holds.
    pub contents: Result<Tunnels, Unusable>,
}

/// The tunnels of a parcel.
#[derive(Debug)]
pub struct Tunnels {
    /// The head of the description.
    pub head: Head,
    /// The tunnels with their descriptors.
    pub tunnels: Vec<(Described, Vec<OwnedFd>)>,
}

/// Why a parcel is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// Why a parcel cannot be looked at now; it stays in the queue.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// It has more descriptors than this process may open.
    #[error("{0} descriptors were handed over, and the limit on open files allows {1}")]
    TooMany(usize, u64),
    /// The system.
    #[error("the queue of the hand-over cannot be read: {0}")]
    System(#[from] io::Error),
}

/// Whether the reading end of this queue is open anywhere. poll(2) does not tell a datagram socket,
/// so this sends a first message that carries no descriptor.
#[must_use]
pub fn is_kept(writer: &UnixDatagram) -> bool {
    parcel::send(writer, DESCRIPTORS, &[]).is_ok()
}

/// The head of the parcel in this queue, if there is a whole one.
#[must_use]
pub fn waiting(reader: &UnixDatagram) -> Option<Head> {
    let mut place = 0;
    // Without the descriptors, which are thousands.
    while parcel::kind_at(reader, place).ok()?? != DESCRIPTION {
        place += 1;
    }
    let memory = description(parcel::peek(reader, place).ok()??)?;
    let bytes = parcel::unseal(memory, DESCRIPTION_BYTES_MAX).ok()?;
    read_head(&bytes).ok()
}

/// Looks at the parcel in this queue and leaves it there; None if the queue is empty. This process
/// may open `limit` descriptors, of which it needs [`OWN_DESCRIPTORS`] itself.
///
/// # Errors
/// [`LookError`].
pub fn look(reader: UnixDatagram, limit: u64) -> Result<Option<Arrived>, LookError> {
    let mut descriptors = Vec::new();
    let (mut messages, mut memory) = (0, None);
    let too_many = |reader: &UnixDatagram| {
        let needed = waiting(reader).map_or(0, |head| head.descriptors);
        LookError::TooMany(needed, limit)
    };
    loop {
        let message = match parcel::peek(&reader, messages) {
            Ok(None) => break,
            Ok(Some(message)) => message,
            Err(error) if crate::sys::is_out_of_descriptors(&error) => {
                drop(descriptors);
                return Err(too_many(&reader));
            }
            Err(error) => return Err(error.into()),
        };
        if message.is_cut || (descriptors.len() as u64).saturating_add(OWN_DESCRIPTORS) > limit {
            drop((message, descriptors));
            return Err(too_many(&reader));
        }
        messages += 1;
        match message.kind {
            DESCRIPTORS => descriptors.extend(message.descriptors),
            _ => memory = description(message).or(memory),
        }
    }
    if messages == 0 {
        return Ok(None);
    }
    let contents = memory
        .ok_or_else(|| Unusable(UNFINISHED.to_owned()))
        .and_then(|memory| {
            let bytes = parcel::unseal(memory, DESCRIPTION_BYTES_MAX);
            let bytes = Zeroizing::new(bytes.map_err(|error| Unusable(error.to_string()))?);
            read(&bytes).map_err(|error| Unusable(error.to_string()))
        })
        .and_then(|description| divide(description, descriptors));
    Ok(Some(Arrived {
        reader,
        messages,
        contents,
    }))
}

impl Arrived {
    /// Takes the parcel out of the queue. Descriptors that nobody else has open are reset.
    pub fn take_out(&self) {
        for _ in 0..self.messages {
            // Another process has emptied it.
            let _emptied = parcel::drop_first(&self.reader);
        }
    }
}

/// Gives each tunnel its descriptors.
fn divide(description: Description, descriptors: Vec<OwnedFd>) -> Result<Tunnels, Unusable> {
    let Description { head, tunnels } = description;
    let wanted = tunnels
        .iter()
        .try_fold(0_usize, |sum, tunnel| sum.checked_add(tunnel.descriptors));
    if wanted != Some(descriptors.len()) {
        return Err(Unusable(format!(
            "it has {} descriptors, and its description has another number",
            descriptors.len()
        )));
    }
    let mut descriptors = descriptors.into_iter();
    let with_descriptors = |tunnel: Described| {
        let own = descriptors.by_ref().take(tunnel.descriptors).collect();
        (tunnel, own)
    };
    let tunnels = tunnels.into_iter().map(with_descriptors).collect();
    Ok(Tunnels { head, tunnels })
}

fn description(message: Received) -> Option<OwnedFd> {
    (message.kind == DESCRIPTION)
        .then(|| message.descriptors.into_iter().next())
        .flatten()
}

/// Descriptors that a daemon needs besides those of its tunnels.
pub const OWN_DESCRIPTORS: u64 = 128;
/// The byte of a message with descriptors of tunnels.
const DESCRIPTORS: u8 = b'D';
/// The byte of the message with the description.
const DESCRIPTION: u8 = b'S';
/// Most heads are shorter.
const HEAD_BYTES: usize = 4_096;
const UNFINISHED: &str = "the former daemon ended before it was complete";
