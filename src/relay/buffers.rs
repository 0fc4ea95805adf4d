//! Bounds what the kernel buffers for one direction of a tunnel, because bytes pile up there when a
//! side takes none.
//!
//! The kernel enlarges buffers as bytes move, so the relay checks them as bytes move, and never
//! while a tunnel is silent. It shrinks a receive buffer that has outgrown its path; it freezes a
//! send buffer at the operator's bound and bounds unsent bytes separately. Never moves a byte and
//! never fails: on a kernel without these options the kernel's own bounds apply
//! (`net.ipv4.tcp_rmem`, `tcp_wmem`).

use std::net::TcpStream;
use std::time::Duration;

use crate::handover::state::FlowState;
use crate::sys::buffers::{self, Locks};

/// The state of the two buffers of one direction.
#[derive(Debug, Default)]
pub(super) struct FlowBuffers {
    /// Bytes moved at the last check.
    looked_at: u64,
    /// Whether the path is long enough for a bound.
    source_is_far: bool,
    sink_is_far: bool,
}

/// How large buffers may be, in bytes of kernel memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// The bound of each buffer, and the paths it applies to.
    pub(super) buffers: Buffers,
    /// `net.core.rmem_max`.
    pub(super) rmem_max: usize,
}

/// The operator's bounds for the kernel's buffers of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// Bytes of kernel memory for each buffer; 0: the kernel's own bounds.
    pub bytes: usize,
    /// On paths with a shorter round trip only receive buffers are bounded, by 8 MiB: there large buffers save CPU.
    pub near: Duration,
}

/// A socket and its frozen buffers.
pub(super) struct Locked<'a> {
    pub(super) socket: &'a TcpStream,
    pub(super) locks: &'a mut Locks,
}

impl FlowBuffers {
    /// Adds what the next daemon has to know.
    pub(super) fn describe(&self, flow: &mut FlowState) {
        flow.checked_at = self.looked_at;
        (flow.source_is_far, flow.sink_is_far) = (self.source_is_far, self.sink_is_far);
    }

    /// Continues those of another daemon.
    pub(super) fn adopt(flow: &FlowState) -> Self {
        Self {
            looked_at: flow.checked_at,
            source_is_far: flow.source_is_far,
            sink_is_far: flow.sink_is_far,
        }
    }

    /// Checks the buffers if a check is due after `moved` bytes of this direction; earlier if bytes
    /// are held up, because there may be no later check.
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

/// What a path with this round trip needs for full throughput.
fn needed(round_trip: Duration) -> usize {
    let micros = usize::try_from(round_trip.as_micros()).unwrap_or(usize::MAX);
    NEAR_BYTES.saturating_add(micros.saturating_mul(BYTES_PER_MICROSECOND))
}

/// Before this a buffer has hardly grown, and most answers of an API are smaller.
pub(super) const FIRST_LOOK_BYTES: u64 = 64 * 1024;
/// A bulk transfer of 1 Gbit/s costs 500 checks a second, of two or three calls each.
const LOOK_BYTES: u64 = 256 * 1024;
/// While bytes are held up.
const HELD_UP_BYTES: u64 = 32 * 1024;
/// With two near paths: one call, 5,000 a second at 5 GB/s.
const NEAR_LOOK_BYTES: u64 = 1024 * 1024;
/// On a path below [`Buffers::near`]: what Linux before 6.18 lets a receive buffer grow to. A smaller one costs CPU.
const NEAR_PATH_BYTES: usize = 8 * 1024 * 1024;
/// The bytes only bridge the time until the next turn: 40 ms at 100 Mbit/s.
const UNSENT_BYTES: u32 = 512 * 1024;
/// Enough for what one machine can move on a path without delay.
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
