//! The parcel: descriptors in the queue of a Unix socket, and at the end their description in sealed
//! memory. The description comes last, so a parcel without one is unfinished.
//!
//! The next daemon looks at a parcel as often as it likes, and takes it out of the queue only when
//! nothing can fail any more. Until then a crash loses nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::thread::{self, Builder, ScopedJoinHandle};

use zeroize::Zeroize;

use super::format::{
    DESCRIPTION_BYTES_MAX, Described, Description, FormatError, Head, held_part, read, read_head,
};
use crate::sys::parcel::{self, Received};

/// A parcel in a queue.
#[derive(Debug)]
pub struct Arrived {
    reader: UnixDatagram,
    messages: usize,
    /// The epolls of the former workers. Close them after the tunnels flow: closing takes 3 µs a tunnel.
    pub pollers: Vec<OwnedFd>,
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
    let place = place_of_description(reader).ok()??;
    let memory = description(parcel::peek(reader, place).ok()??)?;
    read_head(&parcel::unseal_line(memory, DESCRIPTION_BYTES_MAX).ok()?).ok()
}

/// Looks for it without the descriptors, which are thousands.
fn place_of_description(reader: &UnixDatagram) -> io::Result<Option<usize>> {
    let mut place = 0;
    while let Some(kind) = parcel::kind_at(reader, place)? {
        if kind == DESCRIPTION {
            return Ok(Some(place));
        }
        place += 1;
    }
    Ok(None)
}

/// Looks at the parcel in this queue and leaves it there; None if the queue is empty. This process
/// may open `limit` descriptors, of which it needs [`OWN_DESCRIPTORS`] itself.
///
/// # Errors
/// [`LookError`].
pub fn look(reader: UnixDatagram, limit: u64) -> Result<Option<Arrived>, LookError> {
    let place = place_of_description(&reader)?;
    let memory = match place.map(|place| parcel::peek(&reader, place)).transpose() {
        Ok(message) => message.flatten(),
        Err(error) if crate::sys::is_out_of_descriptors(&error) => {
            return Err(too_many(&reader, limit));
        }
        Err(error) => return Err(error.into()),
    };
    if memory.as_ref().is_some_and(|message| message.is_cut) {
        return Err(too_many(&reader, limit));
    }
    let memory = memory.and_then(description);
    let memory = memory.ok_or_else(|| Unusable(UNFINISHED.to_owned()));
    // One thread reads the description while this one opens the descriptors.
    let (opened, read) = thread::scope(|scope| {
        let reading = Builder::new().name("handover".into());
        let reading =
            reading.spawn_scoped(scope, || memory.and_then(|memory| unsealed(memory, read)));
        let opened = open(&reader, place, limit);
        let read = reading.map(ScopedJoinHandle::join);
        (opened, read)
    });
    let Opened {
        messages,
        descriptors,
        pollers,
    } = opened?;
    if messages == 0 {
        return Ok(None);
    }
    let read = read?.unwrap_or_else(|_| Err(Unusable("its reader has failed".to_owned())));
    Ok(Some(Arrived {
        reader,
        messages,
        pollers,
        contents: read.and_then(|description| {
            let (head, tunnels) = divide(description, descriptors)?;
            Ok(Tunnels { head, tunnels })
        }),
    }))
}

/// The descriptors of all messages except the description.
#[derive(Default)]
struct Opened {
    messages: usize,
    descriptors: Vec<OwnedFd>,
    pollers: Vec<OwnedFd>,
}

/// Opens them.
fn open(
    reader: &UnixDatagram,
    description: Option<usize>,
    limit: u64,
) -> Result<Opened, LookError> {
    let mut all = Opened::default();
    loop {
        if Some(all.messages) == description {
            all.messages += 1;
            continue;
        }
        let message = match parcel::peek(reader, all.messages) {
            Ok(None) => return Ok(all),
            Ok(Some(message)) => message,
            Err(error) if crate::sys::is_out_of_descriptors(&error) => {
                drop(all);
                return Err(too_many(reader, limit));
            }
            Err(error) => return Err(error.into()),
        };
        let opened = (all.descriptors.len() + all.pollers.len() + message.descriptors.len()) as u64;
        if message.is_cut || opened.saturating_add(OWN_DESCRIPTORS) > limit {
            drop((message, all));
            return Err(too_many(reader, limit));
        }
        all.messages += 1;
        match message.kind {
            DESCRIPTORS => all.descriptors.extend(message.descriptors),
            POLLER => all.pollers.extend(message.descriptors),
            // Of a newer daemon.
            _ => {}
        }
    }
}

fn too_many(reader: &UnixDatagram, limit: u64) -> LookError {
    let needed = waiting(reader).map_or(0, |head| head.descriptors);
    LookError::TooMany(needed, limit)
}

/// Reads sealed memory, and wipes its payload.
pub(super) fn unsealed<S>(
    memory: OwnedFd,
    read: impl FnOnce(&[u8]) -> Result<Description<S>, FormatError>,
) -> Result<Description<S>, Unusable> {
    let bytes = parcel::unseal(memory, DESCRIPTION_BYTES_MAX);
    let mut bytes = bytes.map_err(|error| Unusable(error.to_string()))?;
    let description = read(&bytes).map_err(|error| Unusable(error.to_string()));
    // Nothing else in it is secret, and to wipe all takes as long as to read it.
    held_part(&mut bytes).zeroize();
    description
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

/// The tunnels of a description with their descriptors.
pub(super) type Divided<S> = (Head, Vec<(Described<S>, Vec<OwnedFd>)>);

/// Gives each tunnel its descriptors.
pub(super) fn divide<S>(
    description: Description<S>,
    descriptors: Vec<OwnedFd>,
) -> Result<Divided<S>, Unusable> {
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
    let with_descriptors = |tunnel: Described<S>| {
        let own = descriptors.by_ref().take(tunnel.descriptors).collect();
        (tunnel, own)
    };
    Ok((head, tunnels.into_iter().map(with_descriptors).collect()))
}

fn description(message: Received) -> Option<OwnedFd> {
    (message.kind == DESCRIPTION)
        .then(|| message.descriptors.into_iter().next())
        .flatten()
}

/// Descriptors that a daemon needs besides those of its tunnels.
pub const OWN_DESCRIPTORS: u64 = 128;
/// The byte of a message with descriptors of tunnels.
pub(super) const DESCRIPTORS: u8 = b'D';
/// The byte of a message with the epoll(7) of a worker. Older daemons close what it has.
pub(super) const POLLER: u8 = b'P';
/// The byte of the message with the description.
pub(super) const DESCRIPTION: u8 = b'S';
const UNFINISHED: &str = "the former daemon ended before it was complete";
