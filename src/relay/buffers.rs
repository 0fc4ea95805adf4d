//! Bounds what the kernel buffers for one direction of a tunnel, because a side that takes nothing makes it wait there.
//!
//! The kernel enlarges buffers as bytes move, so this looks at them as bytes move, and never while a tunnel is silent. A
//! receive buffer that has outgrown what its path needs is cut to that; a send buffer stops growing at the operator's
//! bound, and unsent bytes have a bound of their own. Never moves a byte and never fails: a kernel that cannot do it keeps
//! its own bounds (`net.ipv4.tcp_rmem`, `tcp_wmem`).

use std::net::TcpStream;
use std::time::Duration;

use crate::sys::buffers::{self, Locks};

/// What is known of the two buffers of one direction.
#[derive(Debug)]
pub(super) struct FlowBuffers {
    /// How many bytes had moved when both were last looked at.
    looked_at: u64,
}

/// How large buffers may be, in bytes of kernel memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// Each buffer, on whatever path.
    pub(super) bytes: usize,
    /// `net.core.rmem_max`.
    pub(super) rmem_max: usize,
}

/// A socket and what of it is locked.
pub(super) struct Locked<'a> {
    pub(super) socket: &'a TcpStream,
    pub(super) locks: &'a mut Locks,
}

impl FlowBuffers {
    pub(super) fn new() -> Self {
        Self { looked_at: 0 }
    }

    /// Looks at the buffers, if it is time, after `moved` bytes of this direction in all; sooner if bytes are held up now,
    /// because the next time may not come.
    pub(super) fn bound(&mut self, moved: u64, is_held_up: bool, source: Locked<'_>, sink: Locked<'_>, bound: Bound) {
        let interval = if is_held_up { HELD_UP_BYTES } else { self.looked_at.clamp(FIRST_LOOK_BYTES, LOOK_BYTES) };
        if moved < self.looked_at.saturating_add(interval) {
            return;
        }
        if self.looked_at == 0 {
            let _kernels_own = buffers::bound_unsent(sink.socket, UNSENT_BYTES);
        }
        self.looked_at = moved;
        if !source.locks.receive {
            bound_receive(source, bound);
        }
        if !sink.locks.send && buffers::send_bytes(sink.socket).is_ok_and(|bytes| bytes >= bound.bytes) {
            sink.locks.send = true;
            let _kernels_own = buffers::lock(sink.socket, *sink.locks);
        }
    }
}

fn bound_receive(source: Locked<'_>, bound: Bound) {
    let Ok(bytes) = buffers::receive_bytes(source.socket) else { return };
    if bytes < NEAR_BYTES.min(bound.bytes) {
        return;
    }
    let most = buffers::round_trip(source.socket).map_or(bound.bytes, |took| needed(took).min(bound.bytes));
    if bytes >= most {
        source.locks.receive = true;
        let _kernels_own = buffers::cut_receive(source.socket, most, *source.locks, bound.rmem_max);
    }
}

/// What a path with this round trip needs, so that the buffer costs no throughput.
fn needed(round_trip: Duration) -> usize {
    let micros = usize::try_from(round_trip.as_micros()).unwrap_or(usize::MAX);
    NEAR_BYTES.saturating_add(micros.saturating_mul(BYTES_PER_MICROSECOND))
}

/// Before that a buffer has hardly grown, and most answers of an API are smaller.
const FIRST_LOOK_BYTES: u64 = 64 * 1024;
/// A bulk transfer of 1 Gbit/s costs 500 looks a second, of two or three calls each.
const LOOK_BYTES: u64 = 256 * 1024;
/// While bytes are held up.
const HELD_UP_BYTES: u64 = 32 * 1024;
/// They are for the time until the next turn only: 40 ms at 100 Mbit/s.
const UNSENT_BYTES: u32 = 512 * 1024;
/// Carries what one machine can on a path without delay.
const NEAR_BYTES: usize = 2 * 1024 * 1024;
/// 200 MB/s of kernel memory are about 100 MB/s of the stream.
const BYTES_PER_MICROSECOND: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_path_gets_larger_buffers() {
        assert_eq!(needed(Duration::ZERO), 2 << 20);
        assert_eq!(needed(Duration::from_millis(5)), (2 << 20) + 1_000_000);
        assert!(needed(Duration::from_millis(80)) > 16 << 20, "nothing is cut that a path of 80 ms can use");
        assert_eq!(needed(Duration::MAX), usize::MAX);
    }
}
