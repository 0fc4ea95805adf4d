//! One direction of a tunnel: drain a socket into a buffer, pump the buffer into the other socket, until the FIN.
//!
//! Two invariants give each answer of splice(2) one meaning, for EAGAIN does not say which side blocked and is not
//! the end of a stream:
//! 1. **Drain only into an empty buffer.** Then EAGAIN means that the source has nothing, and 0 means its FIN.
//! 2. **Pump exactly what was drained before draining again.** Then EAGAIN means that the sink is full.
//!
//! Never waits and never sends a FIN itself: whether one is owed depends on the other direction too.

use std::io;
use std::net::TcpStream;

use zeroize::Zeroize;

use super::pipes::{Bounds, Buffer, PipePool};
use super::{ByteCount, Mode};
use crate::sys;

/// One direction.
#[derive(Debug)]
pub(super) struct Flow {
    state: FlowState,
    mode: Mode,
    /// The last time a whole buffer came at once: what follows is spliced (adaptive mode).
    in_bulk: bool,
    pub(super) moved: ByteCount,
}

#[derive(Debug)]
enum FlowState {
    /// Waits for the source.
    Open,
    /// Waits for the sink with bytes in hand.
    Blocked(Buffer),
    /// The source has sent its FIN, and every byte before it is delivered; or the sink takes no more.
    Ended,
}

/// What the flows of one thread share.
#[derive(Debug)]
pub(super) struct RelayContext {
    pipes: PipePool,
    /// For small transfers in adaptive mode. Holds no byte between two calls.
    buffer: Box<[u8]>,
    /// The number of bytes that the current tunnel may still read.
    pub(super) allowance: u64,
    /// `net.core.rmem_max`.
    pub(super) rmem_max: usize,
}

/// The two sockets of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoints<'a> {
    pub(super) from: &'a TcpStream,
    pub(super) to: &'a TcpStream,
    /// The source's FIN has arrived, perhaps behind bytes.
    pub(super) has_ended: bool,
}

/// What broke.
#[derive(Debug)]
pub(super) enum Broken {
    /// The source was reset, or its kernel gave it up.
    From(io::Error),
    /// The sink was.
    To(io::Error),
    /// Neither: a fault of our own or of this machine.
    Inside(io::Error),
}

impl RelayContext {
    pub(super) fn new(pipes: Bounds) -> Self {
        let (pipes, buffer) = (PipePool::new(pipes), vec![0; SMALL_BYTES].into());
        Self {
            pipes,
            buffer,
            allowance: u64::MAX,
            rmem_max: sys::buffers::rmem_max(),
        }
    }

    fn take(&mut self, bytes: usize) {
        self.allowance = self.allowance.saturating_sub(bytes as u64);
    }
}

impl Flow {
    /// A flow that has moved some bytes already and sends `unsent` first.
    pub(super) fn after(
        moved: ByteCount,
        mode: Mode,
        unsent: &[u8],
        context: &RelayContext,
    ) -> Self {
        Self {
            state: match unsent {
                [] => FlowState::Open,
                unsent => FlowState::Blocked(context.pipes.holding(unsent)),
            },
            mode,
            in_bulk: false,
            moved,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, FlowState::Open)
    }

    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.state, FlowState::Blocked(_))
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, FlowState::Ended)
    }

    /// Moves what can be moved now, up to a bounded burst: a tunnel that always has more must not keep its thread from
    /// the others. Level-triggered epoll reports the rest again.
    pub(super) fn transfer(
        &mut self,
        endpoints: Endpoints<'_>,
        context: &mut RelayContext,
    ) -> Result<(), Broken> {
        let transferred = self.transfer_some(endpoints, context);
        if transferred.is_err() {
            self.state = FlowState::Ended;
        }
        transferred
    }

    fn transfer_some(
        &mut self,
        endpoints: Endpoints<'_>,
        context: &mut RelayContext,
    ) -> Result<(), Broken> {
        let mut buffer = match std::mem::replace(&mut self.state, FlowState::Open) {
            FlowState::Ended => {
                self.state = FlowState::Ended;
                return Ok(());
            }
            FlowState::Blocked(buffer) => buffer,
            FlowState::Open if self.mode == Mode::Splice || self.in_bulk => context.pipes.lend(),
            FlowState::Open => match self.copy_small(endpoints, context)? {
                Some(buffer) => buffer,
                None => return Ok(()),
            },
        };
        for _ in 0..BURST {
            if !self.pump(&mut buffer, endpoints.to)? {
                self.state = FlowState::Blocked(buffer);
                return Ok(());
            }
            if context.allowance == 0 {
                return Ok(());
            }
            match buffer.drain(endpoints.from, context.allowance) {
                Ok(0) => {
                    self.state = FlowState::Ended;
                    return ended(endpoints);
                }
                Ok(bytes) => context.take(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.in_bulk = false;
                    return Ok(());
                }
                Err(error) => return Err(reading(error)),
            }
            if buffer.holds() < SHORT_BYTES && !endpoints.has_ended {
                // Very likely all there was; the poller tells if not, which costs less than to ask in vain.
                self.in_bulk = false;
                break;
            }
        }
        if !self.pump(&mut buffer, endpoints.to)? {
            self.state = FlowState::Blocked(buffer);
        }
        Ok(())
    }

    /// Writes the buffer's bytes to the sink; false when the sink is full.
    fn pump(&mut self, buffer: &mut Buffer, to: &TcpStream) -> Result<bool, Broken> {
        while buffer.holds() > 0 {
            match buffer.pump(to) {
                Ok(bytes) if buffer.is_spliced() => self.moved.spliced += bytes as u64,
                Ok(bytes) => self.moved.copied += bytes as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(writing(error)),
            }
        }
        Ok(true)
    }

    /// Reads and writes once through the thread's buffer, which keeps nothing. A buffer when there is more to do: the
    /// rest that the sink did not take, or an empty one because more than a buffer came.
    fn copy_small(
        &mut self,
        endpoints: Endpoints<'_>,
        context: &mut RelayContext,
    ) -> Result<Option<Buffer>, Broken> {
        let most = usize::try_from(context.allowance)
            .unwrap_or(usize::MAX)
            .min(context.buffer.len());
        if most == 0 {
            return Ok(None);
        }
        let room = slice(context.buffer.get_mut(..most))?;
        let read = match sys::read(endpoints.from, room) {
            Ok(0) => {
                self.state = FlowState::Ended;
                return ended(endpoints).map(|()| None);
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(reading(error)),
        };
        context.take(read);
        self.in_bulk = read == context.buffer.len();
        let bytes = slice(context.buffer.get_mut(..read))?;
        let written = match sys::write(endpoints.to, bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            done => done,
        };
        let sent = written.as_ref().map_or(read, |written| *written);
        let rest = slice(bytes.get(sent..))?;
        let buffer = (!rest.is_empty()).then(|| context.pipes.holding(rest));
        bytes.zeroize();
        self.moved.copied += written.map_err(writing)? as u64;
        Ok(buffer.or_else(|| (self.in_bulk || endpoints.has_ended).then(|| context.pipes.lend())))
    }
}

/// A FIN, unless bytes are there all the same: then splice has met urgent data, which no TLS peer sends and which it
/// cannot move. Nothing comes behind a FIN that the poller has told of, and of urgent data before it the poller would
/// have told too.
fn ended(endpoints: Endpoints<'_>) -> Result<(), Broken> {
    if endpoints.has_ended {
        return Ok(());
    }
    match sys::has_byte(endpoints.from) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Broken::From(sys::urgent_data())),
        Err(error) => Err(reading(error)),
    }
}

/// A part of a buffer that is there by construction. Without this an empty one would look like a FIN.
fn slice<T>(part: Option<T>) -> Result<T, Broken> {
    part.ok_or_else(|| Broken::Inside(sys::broken_invariant("a buffer holds what was moved")))
}

/// EPIPE and ECONNRESET are resets. A kernel that gives up says what it last heard of the way (ICMP) in any of a dozen
/// errors, so only what cannot come of a peer is a fault in here.
fn reading(error: io::Error) -> Broken {
    if sys::is_fault_in_here(&error) {
        Broken::Inside(error)
    } else {
        Broken::From(error)
    }
}

fn writing(error: io::Error) -> Broken {
    if sys::is_fault_in_here(&error) {
        Broken::Inside(error)
    } else {
        Broken::To(error)
    }
}

/// Sixteen full pipes are 4 MiB: at the cost of bulk in docs/performance.md some 2 ms, of segments of 1,448 bytes some 10.
const BURST: usize = 16;
/// Below this a drain has very likely taken all there was.
const SHORT_BYTES: usize = 16 * 1024;
/// What adaptive mode copies at most at once: a TLS record and its header come close.
const SMALL_BYTES: usize = 16 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::fd::OwnedFd;

    /// Not a socket, but what the kernel splices and reads all the same.
    fn device(path: &str) -> TcpStream {
        OwnedFd::from(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .unwrap(),
        )
        .into()
    }

    #[test]
    fn a_source_that_never_ends_is_left_after_a_burst() {
        let (from, to) = (device("/dev/zero"), device("/dev/null"));
        for (mode, pipes) in [(Mode::Splice, 1), (Mode::Splice, 0), (Mode::Adaptive, 1)] {
            let mut context = RelayContext::new(Bounds {
                lent: pipes,
                idle: pipes,
            });
            // Where a flow that does not stop by itself ends.
            context.allowance = 64 << 20;
            let mut flow = Flow::after(ByteCount::default(), mode, b"", &context);
            flow.transfer(
                Endpoints {
                    from: &from,
                    to: &to,
                    has_ended: false,
                },
                &mut context,
            )
            .unwrap();
            let moved = flow.moved.bytes();
            assert!(
                (1..=BURST_BYTES_MAX).contains(&moved),
                "{mode:?}, {pipes} pipes: {moved} bytes at once"
            );
            assert!(flow.is_open(), "it goes on in its next turn");
        }
    }

    /// Four megabytes, and what adaptive mode copies before it splices.
    const BURST_BYTES_MAX: u64 = (4 << 20) + (16 << 10);
}
