//! One direction of a tunnel: drains a socket into a buffer and pumps the buffer into the other
//! socket, until the FIN.
//!
//! Two invariants give each result of splice(2) one meaning; otherwise EAGAIN could mean either
//! side, and does not mean the end of a stream:
//! 1. **Drain only into an empty buffer.** Then EAGAIN means that the source has no bytes, and 0
//!    means its FIN.
//! 2. **Pump exactly the drained bytes before draining again.** Then EAGAIN means that the sink is
//!    full.
//!
//! Never waits and never sends a FIN: whether a FIN is due depends on the other direction too.

mod parked;

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
    /// The last transfer filled a whole buffer, so the next bytes are spliced (adaptive mode).
    in_bulk: bool,
    pub(super) moved: ByteCount,
}

#[derive(Debug)]
enum FlowState {
    /// Waits for the source.
    Open,
    /// Holds bytes and waits for the sink.
    Blocked(Buffer),
    /// The source has sent its FIN, and every byte before it is delivered; or the sink takes no more.
    Ended,
}

/// State shared by the flows of one thread.
#[derive(Debug)]
pub(super) struct RelayContext {
    pipes: PipePool,
    /// For small transfers in adaptive mode. Empty between two calls.
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
    /// The source's FIN has arrived, possibly after unread bytes.
    pub(super) has_ended: bool,
}

/// The failed part.
#[derive(Debug)]
pub(super) enum Broken {
    /// The source was reset, or the kernel gave up on it.
    From(io::Error),
    /// The sink was reset, or the kernel gave up on it.
    To(io::Error),
    /// Neither: a fault of the daemon or of this machine.
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
    /// Creates a flow that has moved some bytes already and sends `unsent` first.
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

    /// Moves no more bytes, and drops those that wait.
    pub(super) fn end(&mut self) {
        self.state = FlowState::Ended;
    }

    /// Moves bytes, up to a bounded burst, so that a tunnel with endless bytes does not occupy its
    /// thread. Level-triggered epoll reports the rest again. After an error the caller ends the flow.
    pub(super) fn transfer(
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
                // Very likely these were all bytes; otherwise the poller reports the rest, which
                // costs less than a futile read.
                self.in_bulk = false;
                break;
            }
        }
        if !self.pump(&mut buffer, endpoints.to)? {
            self.state = FlowState::Blocked(buffer);
        }
        Ok(())
    }

    /// Writes the buffer's bytes to the sink. Returns false when the sink is full.
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

    /// Reads and writes once through the thread's buffer, which keeps nothing. Returns a buffer if
    /// there is more to do: it holds the bytes that the sink did not take, or is empty because more
    /// than a buffer arrived.
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

/// Reports a FIN, unless bytes can be read: then splice has met urgent data, which TLS does not use
/// and splice cannot move. The poller has reported the FIN, so no bytes follow it; it would have
/// reported urgent data before it too.
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

/// A part of a buffer that exists by construction. Without this check an empty part would look like
/// a FIN.
fn slice<T>(part: Option<T>) -> Result<T, Broken> {
    part.ok_or_else(|| Broken::Inside(sys::broken_invariant("a buffer holds what was moved")))
}

/// EPIPE and ECONNRESET are resets. A kernel that gives up reports its last information about the
/// path (ICMP) as one of a dozen errors, so only errors that no peer can cause are internal.
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

/// Sixteen full pipes are 4 MiB: by the bulk figures in docs/performance.md some 2 ms, or 10 ms
/// with segments of 1,448 bytes.
const BURST: usize = 16;
/// A drain below this size has very likely taken all bytes.
const SHORT_BYTES: usize = 16 * 1024;
/// The most that adaptive mode copies at once: about a TLS record and its header.
const SMALL_BYTES: usize = 16 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::fd::OwnedFd;

    /// Not a socket, but the kernel splices and reads it alike.
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
    fn an_endless_source_yields_after_a_burst() {
        let (from, to) = (device("/dev/zero"), device("/dev/null"));
        for (mode, pipes) in [(Mode::Splice, 1), (Mode::Splice, 0), (Mode::Adaptive, 1)] {
            let mut context = RelayContext::new(Bounds {
                lent: pipes,
                idle: pipes,
            });
            // The end of a flow that does not stop by itself.
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

    /// Four megabytes, and the part that adaptive mode copies before it splices.
    const BURST_BYTES_MAX: u64 = (4 << 20) + (16 << 10);
}
