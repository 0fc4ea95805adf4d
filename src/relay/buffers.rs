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
    /// Whose paths are long enough to be bounded.
    source_is_far: bool,
    sink_is_far: bool,
}

/// How large buffers may be, in bytes of kernel memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// Each buffer, on whatever path; and which paths are bounded.
    pub(super) buffers: Buffers,
    /// `net.core.rmem_max`.
    pub(super) rmem_max: usize,
}

/// What the operator allows the kernel to buffer for a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// Bytes of kernel memory for each buffer; 0: the kernel's own bounds.
    pub bytes: usize,
    /// On paths with a shorter round trip only receive buffers are bounded, by 8 MiB: there large buffers save CPU.
    pub near: Duration,
}

/// A socket and what of it is locked.
pub(super) struct Locked<'a> {
    pub(super) socket: &'a TcpStream,
    pub(super) locks: &'a mut Locks,
}

impl FlowBuffers {
    pub(super) fn new() -> Self {
        Self {
            looked_at: 0,
            source_is_far: false,
            sink_is_far: false,
        }
    }

    /// Looks at the buffers, if it is time, after `moved` bytes of this direction in all; sooner if bytes are held up now,
    /// because the next time may not come.
    #[allow(
        clippy::too_many_arguments,
        reason = "one call for each transfer: bytes, state, two sockets, bound"
    )]
    pub(super) fn bound(
        &mut self,
        moved: u64,
        is_held_up: bool,
        source: Locked<'_>,
        sink: Locked<'_>,
        bound: Bound,
    ) {
        let interval = match (self.looked_at, is_held_up) {
            (0, _) => FIRST_LOOK_BYTES,
            _ if !self.source_is_far && !self.sink_is_far => NEAR_LOOK_BYTES,
            (_, true) => HELD_UP_BYTES,
            (looked_at, false) => looked_at.clamp(FIRST_LOOK_BYTES, LOOK_BYTES),
        };
        let is_bound = source.locks.receive && !self.sink_is_far;
        if is_bound || bound.buffers.bytes == 0 || moved < self.looked_at.saturating_add(interval) {
            return;
        }
        if self.looked_at == 0 {
            let is_far = |socket| {
                buffers::round_trip(socket).is_ok_and(|took| took.least >= bound.buffers.near)
            };
            (self.source_is_far, self.sink_is_far) = (is_far(source.socket), is_far(sink.socket));
            if self.sink_is_far {
                let _kernels_own = buffers::bound_unsent(sink.socket, UNSENT_BYTES);
            }
        }
        self.looked_at = moved;
        if !source.locks.receive {
            bound_receive(source, self.source_is_far, bound);
        }
        if self.sink_is_far
            && !sink.locks.send
            && buffers::send_bytes(sink.socket).is_ok_and(|grown| grown >= bound.buffers.bytes)
        {
            sink.locks.send = true;
            let _kernels_own = buffers::lock(sink.socket, *sink.locks);
        }
    }
}

fn bound_receive(
    source: Locked<'_>,
    is_far: bool,
    Bound {
        buffers: Buffers { bytes, .. },
        rmem_max,
    }: Bound,
) {
    let Ok(grown) = buffers::receive_bytes(source.socket) else {
        return;
    };
    if grown < NEAR_BYTES.min(bytes) {
        return;
    }
    let most = if is_far {
        buffers::round_trip(source.socket).map_or(bytes, |took| needed(took.smoothed))
    } else {
        NEAR_PATH_BYTES
    };
    let most = most.min(bytes);
    if grown >= most {
        source.locks.receive = true;
        let _kernels_own = buffers::cut_receive(source.socket, most, *source.locks, rmem_max);
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
/// Where both paths are near: one call, of which 5 GB/s make 5,000 a second.
const NEAR_LOOK_BYTES: u64 = 1024 * 1024;
/// On a path below [`Buffers::near`]: what Linux before 6.18 lets a receive buffer grow to. A smaller one costs CPU.
const NEAR_PATH_BYTES: usize = 8 * 1024 * 1024;
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
        assert!(
            needed(Duration::from_millis(80)) > 16 << 20,
            "nothing is cut that a path of 80 ms can use"
        );
        assert_eq!(needed(Duration::MAX), usize::MAX);
    }
}
