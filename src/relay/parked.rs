//! The tunnels of a relay on their way from one daemon to the next. The relay describes its tunnels
//! and leaves them as they are, or continues those of another daemon. Never sends a descriptor.

use std::io;
use std::net::TcpStream;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::relayed_tunnel::{RelayedTunnel, Side};
use super::{Ended, Mode, Owner, Relay, pack};
use crate::handover::state::{FlowState, RelayState, Stage};
use crate::outcome::Ending;
use crate::sys::poller::Poller;
use crate::sys::{self, Pipe};

/// A tunnel of another daemon.
#[derive(Debug)]
pub struct Adopted<T> {
    /// The owner, which takes its end.
    pub owner: T,
    /// The client's socket: non-blocking and not registered.
    pub client: TcpStream,
    /// The upstream's socket: non-blocking and not registered.
    pub upstream: TcpStream,
    /// How its bytes move from now on.
    pub mode: Mode,
    /// What the other relay knew.
    pub state: RelayState,
    /// The bytes that wait: of the client, and of the upstream.
    pub held: [Held; 2],
    /// How long no relay had it.
    pub pause: Duration,
    /// The time after which it ends as revoked. None: policy allows it.
    pub grace: Option<Duration>,
}

/// A tunnel that the next daemon will continue.
#[derive(Debug)]
pub struct Leaving<'r, T> {
    /// Its owner.
    pub owner: &'r T,
    /// What the relay knows.
    pub state: RelayState,
    /// The bytes in its buffers: of the client, and of the upstream.
    pub held: [Option<&'r [u8]>; 2],
    /// Its two sockets, and the two ends of each pipe.
    pub descriptors: Vec<BorrowedFd<'r>>,
}

/// Bytes of one direction that wait for their sink.
#[derive(Debug)]
pub enum Held {
    /// None.
    Nothing,
    /// In a pipe, which has exactly this many.
    Pipe {
        /// The pipe.
        pipe: Pipe,
        /// The number of bytes.
        bytes: usize,
    },
    /// In memory.
    Bytes(Zeroizing<Vec<u8>>),
}

impl Held {
    /// Takes the bytes of one direction: those in `memory`, or the two ends of a pipe from
    /// `descriptors`.
    ///
    /// # Errors
    /// They are not as many as the direction's state says.
    pub fn of(
        flow: &FlowState,
        memory: Zeroizing<Vec<u8>>,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> io::Result<Self> {
        let wrong = || sys::broken_invariant("a direction has the bytes that its state names");
        let ends = match flow.piped {
            0 => None,
            _ => Some(
                descriptors
                    .next()
                    .zip(descriptors.next())
                    .ok_or_else(wrong)?,
            ),
        };
        if flow.state != Stage::Blocked {
            return if ends.is_none() && flow.held == 0 {
                Ok(Self::Nothing)
            } else {
                Err(wrong())
            };
        }
        let Some((reader, writer)) = ends else {
            let is_whole = flow.held > 0 && memory.len() as u64 == flow.held;
            return is_whole.then_some(Self::Bytes(memory)).ok_or_else(wrong);
        };
        if flow.held > 0 || sys::parcel::bytes_in(&reader)? != flow.piped {
            return Err(wrong());
        }
        let pipe = Pipe {
            is_full_size: sys::is_full_size(&writer),
            reader,
            writer,
        };
        let bytes = usize::try_from(flow.piped).map_err(|_| wrong())?;
        Ok(Self::Pipe { pipe, bytes })
    }
}

impl<T: Owner> Relay<T> {
    /// Makes the loss of every tunnel a reset of both sides, from now on. A tunnel that ends before it is handed over ends as
    /// any other.
    pub fn reset_if_lost(&mut self) {
        for (_, tunnel) in &mut self.tunnels {
            tunnel.reset_if_lost();
        }
    }

    /// Ends what is ordered or due to end, so that no such tunnel is handed over, and makes the loss of the others a reset.
    pub fn settle(&mut self, now: Instant) {
        self.tick(now);
        self.find_ended();
        while self.search.is_under_way() {
            self.end_found();
        }
        self.count();
        self.reset_if_lost();
    }

    /// The number of its tunnels.
    #[must_use]
    pub fn tunnel_count(&self) -> usize {
        self.tunnels.len()
    }

    /// Calls `take` with each owner, its state, and the bytes in its buffers, from the client and from the upstream. Returns
    /// the descriptors of all tunnels in the same order. The relay keeps the tunnels.
    pub fn park(
        &self,
        mut take: impl FnMut(&T, RelayState, [Option<&[u8]>; 2]),
    ) -> Vec<BorrowedFd<'_>> {
        let mut descriptors = Vec::with_capacity(2 * self.tunnels.len());
        for (_, tunnel) in &self.tunnels {
            take(&tunnel.owner, tunnel.state(self.now), tunnel.held());
            descriptors.extend(tunnel.descriptors());
        }
        descriptors
    }

    /// The keys of its tunnels.
    #[must_use]
    pub fn keys(&self) -> Vec<usize> {
        self.tunnels.iter().map(|(key, _)| key).collect()
    }

    /// The tunnel with this key as of this time; None if it has ended. The relay keeps it.
    #[must_use]
    pub fn leaving(&self, key: usize, at: Instant) -> Option<Leaving<'_, T>> {
        let tunnel = self.tunnels.get(key)?;
        Some(Leaving {
            owner: &tunnel.owner,
            state: tunnel.state(self.clock(at)),
            held: tunnel.held(),
            descriptors: tunnel.descriptors().collect(),
        })
    }

    /// The poller, which watches the sockets of all tunnels.
    #[must_use]
    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Moves the beginning of the clock back, so that the times of tunnels of this age exist. Call
    /// it before the first tunnel.
    pub fn begin_before(&mut self, age: Duration) {
        if let Some(epoch) = self.epoch.checked_sub(age) {
            self.epoch = epoch;
        }
        self.tick(Instant::now());
    }

    /// Continues a tunnel of another daemon.
    pub fn continue_tunnel(&mut self, adopted: Adopted<T>) {
        let waits = adopted.state.waits;
        let is_stalled = adopted.state.is_stall_noted;
        let tunnel = RelayedTunnel::adopt(adopted, self.now, &self.context);
        let key = self.tunnels.insert(tunnel);
        self.keys = self.keys.max(key + 1);
        self.continue_waiting(key, waits, is_stalled);
        if let Some(ended) = self.watch_both(key) {
            self.end(key, ended);
        }
        self.note_deadline(key);
    }

    /// Lets a tunnel above its user's pace wait here too, and counts a stalled one again.
    fn continue_waiting(&mut self, key: usize, waits: bool, is_stalled: bool) {
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        if is_stalled {
            tunnel.owner.still_stalled();
        }
        if waits {
            tunnel.waits = tunnel.owner.account().is_some();
            let account = tunnel.owner.account();
            account
                .into_iter()
                .for_each(|account| self.waiting.add(account, key));
        }
    }

    fn watch_both(&mut self, key: usize) -> Option<Ended> {
        let tunnel = self.tunnels.get_mut(key)?;
        for side in Side::BOTH {
            let wanted = tunnel.wanted(side);
            let watched = tunnel.watched_mut(side);
            watched.interest = Some(wanted);
            if let Err(error) = self.poller.watch(&watched.socket, wanted, pack(key, side)) {
                return Some(Ended {
                    ending: Ending::InternalError,
                    cause: Some(error),
                });
            }
        }
        None
    }
}
