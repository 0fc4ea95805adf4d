//! Tunnels on the stream of the claim: a former daemon sends their sockets and descriptions ahead, while they flow, and what
//! has changed when they stand still. A crash loses nothing: the former daemon has the tunnels until the next one has all.
//!
//! Only what answers the request of this daemon counts. The rest is for one that has ended.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::format::{
    DESCRIPTION_BYTES_MAX, Described, Description, Head, read, read_changes, read_head,
};
use super::parcel::{self, Divided, Tunnels, Unusable};
use super::state::Change;
use crate::sys::parcel::{self as socket, DESCRIPTORS_MAX};

/// The end of the former daemon. Never waits.
#[derive(Debug)]
pub struct Sender(UnixStream);

/// What comes next on the stream.
#[derive(Debug)]
pub enum Message {
    /// A description, and the descriptors before it.
    Described(OwnedFd, Vec<OwnedFd>),
    /// Changes, and the descriptors before them: of their pipes, and the epolls of the workers.
    Changed(OwnedFd, Vec<OwnedFd>, Vec<OwnedFd>),
    /// The former daemon cannot do what was asked for.
    Refused,
    /// It has left the tunnels.
    Left,
    /// It has not left the tunnels: they flow again.
    Flow,
    /// It has ended.
    Ended,
    /// Not all descriptors could be opened, of so many.
    TooMany(usize),
}

/// What has changed since the tunnels were described ahead.
#[derive(Debug)]
pub struct Changes {
    /// The head.
    pub head: Head,
    /// The changes with the ends of their pipes.
    pub changes: Vec<(Described<Change>, Vec<OwnedFd>)>,
    /// The epolls of the former workers. Close them after the tunnels flow: closing takes 3 µs a tunnel.
    pub pollers: Vec<OwnedFd>,
}

impl Sender {
    /// Sends on this stream, which has to be non-blocking.
    #[must_use]
    pub fn on(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Sends a description, for which the sockets are there already.
    ///
    /// # Errors
    /// As [`socket::send`].
    pub fn described(&self, memory: impl AsFd) -> io::Result<()> {
        socket::send(&self.0, DESCRIPTION, &[memory.as_fd()])
    }

    /// Sends changes, for which the pipes are there already.
    ///
    /// # Errors
    /// As [`socket::send`].
    pub fn changed(&self, memory: impl AsFd) -> io::Result<()> {
        socket::send(&self.0, CHANGES, &[memory.as_fd()])
    }

    /// Says that this daemon has left the tunnels.
    ///
    /// # Errors
    /// As [`socket::send`].
    pub fn left(&self) -> io::Result<()> {
        socket::send(&self.0, LEFT, &[])
    }

    /// Says that the tunnels flow again.
    ///
    /// # Errors
    /// As [`socket::send`].
    pub fn flow(&self) -> io::Result<()> {
        socket::send(&self.0, FLOW, &[])
    }

    /// Says that it cannot do what was asked for.
    pub fn refused(&self) {
        // Fails if the next daemon has ended.
        let _nobody = socket::send(&self.0, REFUSED, &[]);
    }

    /// Ends the stream.
    pub fn hang_up(&self) {
        let _has_ended = self.0.shutdown(Shutdown::Both);
    }
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for what comes next, as long as the stream's timeout allows. This process may open `limit` descriptors.
///
/// # Errors
/// `WouldBlock` after the timeout, and those of recvmsg(2).
pub(super) fn next(stream: &UnixStream, limit: u64) -> io::Result<Message> {
    let (mut descriptors, mut pollers) = (Vec::new(), Vec::new());
    let mut is_cut = false;
    loop {
        let Some(message) = socket::take(stream)? else {
            return Ok(Message::Ended);
        };
        let opened = (descriptors.len() + pollers.len() + message.descriptors.len()) as u64;
        is_cut |= message.is_cut || opened.saturating_add(parcel::OWN_DESCRIPTORS) > limit;
        if is_cut {
            // Their number is in the head, which needs one.
            (descriptors, pollers) = Default::default();
        }
        let mut with = message.descriptors;
        match message.kind {
            parcel::DESCRIPTORS if !is_cut => descriptors.append(&mut with),
            parcel::POLLER if !is_cut => pollers.append(&mut with),
            DESCRIPTION | CHANGES if is_cut => return Ok(Message::TooMany(needed(with))),
            DESCRIPTION | CHANGES => {
                let Some(memory) = with.pop() else {
                    return Ok(Message::Refused);
                };
                return Ok(match message.kind {
                    DESCRIPTION => Message::Described(memory, descriptors),
                    _ => Message::Changed(memory, descriptors, pollers),
                });
            }
            REFUSED => return Ok(Message::Refused),
            LEFT => return Ok(Message::Left),
            FLOW => return Ok(Message::Flow),
            // Of a newer daemon.
            _ => {}
        }
    }
}

/// The number of descriptors that a description names; 0 if it cannot be read.
fn needed(mut memory: Vec<OwnedFd>) -> usize {
    let line = memory
        .pop()
        .and_then(|memory| socket::unseal_line(memory, DESCRIPTION_BYTES_MAX).ok());
    line.and_then(|line| read_head(&line).ok())
        .map_or(0, |head| head.descriptors)
}

/// The tunnels of a description that answers this request; None if it answers another one.
///
/// # Errors
/// The description is not understood, or does not fit its descriptors.
pub(super) fn tunnels(
    memory: OwnedFd,
    descriptors: Vec<OwnedFd>,
    request: u32,
) -> Result<Option<Tunnels>, Unusable> {
    let description = parcel::unsealed(memory, read)?;
    let answer = answer(description, descriptors, request)?;
    Ok(answer.map(|(head, tunnels)| Tunnels { head, tunnels }))
}

/// The changes that answer this request; None if they answer another one.
///
/// # Errors
/// As [`tunnels`].
pub(super) fn changes(
    memory: OwnedFd,
    descriptors: Vec<OwnedFd>,
    pollers: Vec<OwnedFd>,
    request: u32,
) -> Result<Option<Changes>, Unusable> {
    let description = parcel::unsealed(memory, read_changes)?;
    let answer = answer(description, descriptors, request)?;
    Ok(answer.map(|(head, changes)| Changes {
        head,
        changes,
        pollers,
    }))
}

fn answer<S>(
    description: Description<S>,
    descriptors: Vec<OwnedFd>,
    request: u32,
) -> Result<Option<Divided<S>>, Unusable> {
    match description.head.request == Some(request) {
        true => parcel::divide(description, descriptors).map(Some),
        false => Ok(None),
    }
}

/// The most tunnels whose sockets one message has.
pub const TUNNELS_OF_MESSAGE: usize = DESCRIPTORS_MAX / 2;
/// The byte of a message with a description.
const DESCRIPTION: u8 = b'S';
/// The byte of a message with changes.
const CHANGES: u8 = b'C';
/// The byte that refuses.
const REFUSED: u8 = b'N';
/// The byte that says that the former daemon has left its tunnels.
const LEFT: u8 = b'L';
/// The byte that says that they flow again.
const FLOW: u8 = b'F';
