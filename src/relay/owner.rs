//! What the relay asks of a tunnel's owner, and what it reports. The relay decides nothing else about a tunnel.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Buffers, TunnelBytes};
use crate::limits::account::Account;
use crate::outcome::Ending;

/// The time limits of a relayed tunnel.
#[derive(Clone, Copy, Debug)]
pub struct IdleLimits {
    /// Without a byte in either direction.
    pub idle: Duration,
    /// Without a byte after one side has ended.
    pub half_close: Duration,
    /// While bytes wait for a side that takes less than [`super::STALL_BYTES`] of them.
    pub stalled: Duration,
    /// The greatest age; None: no limit.
    pub max_age: Option<Duration>,
}

/// How a relay ended, and the kernel's error if there was one.
#[derive(Debug)]
pub struct Ended {
    /// The ending.
    pub ending: Ending,
    /// The error behind a reset or an internal error.
    pub cause: Option<io::Error>,
}

/// The times of bytes in milliseconds, taken without looking at the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// From the client's first byte after the handshake in clear to the upstream's first byte after
    /// that. A TLS 1.3 session ticket is such a byte.
    pub first_byte: Option<u32>,
    /// The longest time without a byte in either direction, including the time before the end.
    pub max_gap: u32,
}

/// The owner of a tunnel: sets its limits and takes its end.
pub trait Owner {
    /// The time limits; read again whenever a deadline may have passed.
    fn idle_limits(&self) -> IdleLimits;
    /// The bounds for the kernel's buffers of its sockets.
    fn buffers(&self) -> Buffers;
    /// The account that counts and bounds its bytes, besides the totals.
    fn account(&self) -> Option<&Arc<Account>>;
    /// The upstream has sent its first byte after the client's first.
    fn answered(&self, took: Duration);
    /// Bytes have waited for one side for [`super::STALL_NOTED`]. Returns whether the owner may have one more such tunnel.
    fn stalled(&mut self) -> bool;
    /// Counts a tunnel as stalled that another daemon has counted, also beyond the bound.
    fn still_stalled(&mut self);
    /// The bytes no longer wait, or the side has taken enough of them.
    fn unstalled(&mut self);
    /// Bytes have moved or one side has ended; `bytes_moved` is the sum up to `now`.
    fn moved(&self, bytes_moved: TunnelBytes, is_half_closed: bool, now: Instant);
    /// The ending, if it must end now: an operator has ordered it, or its egress address is lost.
    fn must_end(&self) -> Option<Ending>;
    /// It has ended and both sockets are closed.
    fn ended(self, ended: Ended, bytes_moved: TunnelBytes, timing: Timing);
}

impl Ended {
    /// The end by a fault of the daemon or of this machine.
    pub(super) fn inside(error: io::Error) -> Self {
        Self {
            ending: Ending::InternalError,
            cause: Some(error),
        }
    }
}

impl From<Ending> for Ended {
    fn from(ending: Ending) -> Self {
        Self {
            ending,
            cause: None,
        }
    }
}
