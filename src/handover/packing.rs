//! What workers put into a parcel: the lines of their tunnels, or of what has changed since they were described ahead, and
//! the descriptors in the same order. Closes no socket of a tunnel.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use zeroize::Zeroizing;

use super::format::{FORMAT, Head, Since, VERSION, append, append_held};
use super::state::{Change, SOCKETS, SideState, TunnelState};
use crate::digest::Digest;
use crate::sys::parcel;

/// The tunnels of one worker.
#[derive(Debug, Default)]
pub struct Contents {
    lines: Vec<u8>,
    number: usize,
    held: Vec<HeldBytes>,
    ids: Vec<String>,
    egress: BTreeSet<IpAddr>,
    descriptors: usize,
    /// Tunnels that were described ahead and have ended, by their places.
    ended: Vec<usize>,
}

/// The bytes of a buffer.
#[derive(Debug)]
struct HeldBytes {
    /// The place of the tunnel's line among those of its worker.
    line: usize,
    from: SideState,
    bytes: Zeroizing<Vec<u8>>,
}

/// The tunnels of all workers, or what has become of them.
#[derive(Debug, Default)]
pub struct Joined {
    /// The head comes first, once it is complete.
    lines: Vec<Vec<u8>>,
    number: usize,
    held: Zeroizing<Vec<u8>>,
    ids: Vec<String>,
    egress: BTreeSet<IpAddr>,
    descriptors: usize,
    ended: Vec<usize>,
}

/// What has been put into a parcel.
#[derive(Debug)]
pub struct Packed {
    /// The number of tunnels.
    pub tunnels: usize,
    /// SHA-256 of their sorted identifiers, each with a line feed.
    pub ids: Digest,
    /// What was sent ahead.
    ahead: Option<Joined>,
    own: Joined,
}

/// A description that can be sent.
#[derive(Debug)]
pub struct Sealed(OwnedFd);

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Contents {
    /// Makes room for the descriptions of this many tunnels.
    pub fn expect(&mut self, tunnels: usize) {
        self.lines.reserve(tunnels * LINE_BYTES);
        self.ids.reserve(tunnels);
    }

    /// Adds the description of a tunnel, and the bytes of its buffers: of the client, and of the upstream.
    pub fn describe(&mut self, state: &TunnelState, held: [Option<&[u8]>; 2]) {
        self.hold(held);
        append(state, &mut self.lines);
        self.number += 1;
        self.descriptors += state.descriptors;
        self.egress.insert(state.egress.ip());
        self.ids.push(state.id.clone());
    }

    /// Adds what has become of a tunnel, and the bytes of its buffers.
    pub fn change(&mut self, change: &Change, held: [Option<&[u8]>; 2]) {
        self.hold(held);
        append(change, &mut self.lines);
        self.number += 1;
        self.descriptors += change.descriptors;
    }

    /// Adds the end of the tunnel with this place.
    pub fn end(&mut self, place: usize) {
        self.ended.push(place);
    }

    fn hold(&mut self, held: [Option<&[u8]>; 2]) {
        for (from, bytes) in [SideState::Client, SideState::Upstream]
            .into_iter()
            .zip(held)
        {
            if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
                self.held.push(HeldBytes {
                    line: self.number,
                    from,
                    bytes: Zeroizing::new(bytes.to_vec()),
                });
            }
        }
    }
}

impl Joined {
    /// The number of tunnels that it describes.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.ids.len()
    }

    /// The number of its lines, without the head.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Adds those of one worker, and gives each buffer the place of its line among all.
    pub fn add(&mut self, part: Contents) {
        for HeldBytes { line, from, bytes } in part.held {
            append_held(self.number + line, from, &bytes, &mut self.held);
        }
        self.lines.push(part.lines);
        self.number += part.number;
        self.ids.extend(part.ids);
        self.egress.extend(part.egress);
        self.descriptors += part.descriptors;
        self.ended.extend(part.ended);
    }

    /// Completes the head: of a description, or of what has changed since the one that was sent ahead. `head` has what is not in
    /// the lines.
    pub fn begin(&mut self, head: Head, ahead: Option<&Self>) {
        let since = ahead.map(|_| Since {
            changed: self.number,
            ended: self.ended.clone(),
        });
        let of = ahead.unwrap_or(self);
        let tunnels = of.ids.len().saturating_sub(self.ended.len());
        let head = Head {
            format: FORMAT.to_owned(),
            version: VERSION,
            tunnels,
            descriptors: match ahead {
                None => self.descriptors,
                Some(_) => SOCKETS * tunnels + self.descriptors,
            },
            egress: of.egress.iter().copied().collect(),
            since,
            ..head
        };
        let mut line = Vec::new();
        append(&head, &mut line);
        self.lines.insert(0, line);
    }

    /// Puts it into memory that nobody can change.
    ///
    /// # Errors
    /// No memory or no descriptor is free.
    pub fn seal(&self) -> io::Result<Sealed> {
        let parts = self.lines.iter().chain([&*self.held]);
        parcel::seal(parts.map(Vec::as_slice)).map(Sealed)
    }
}

impl Packed {
    /// Completes a parcel, or what completes the tunnels that were sent ahead.
    #[must_use]
    pub fn of(mut own: Joined, ahead: Option<Joined>, head: Head) -> Self {
        own.begin(head, ahead.as_ref());
        let ended: HashSet<usize> = own.ended.iter().copied().collect();
        let of = ahead.as_ref().unwrap_or(&own).ids.iter().enumerate();
        let live = of.filter(|(place, _)| !ended.contains(place));
        let mut ids: Vec<&str> = live.map(|(_, id)| id.as_str()).collect();
        ids.sort_unstable();
        let named: String = ids.iter().flat_map(|id| [id, "\n"]).collect();
        Self {
            tunnels: ids.len(),
            ids: Digest::of(named),
            ahead,
            own,
        }
    }

    /// Puts the description into memory that nobody can change, without what was sent ahead.
    ///
    /// # Errors
    /// No memory or no descriptor is free.
    pub fn seal(&self) -> io::Result<Sealed> {
        self.own.seal()
    }

    /// All lines with no payload, in parts: what was sent ahead, and the description.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let ahead = self.ahead.iter().flat_map(|ahead| &ahead.lines);
        ahead.chain(&self.own.lines).map(Vec::as_slice)
    }
}

/// Most lines are shorter.
const LINE_BYTES: usize = 1_024;
