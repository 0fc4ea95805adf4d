//! The machine's monotonic clock, which all its processes share.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the boot; 0 if the kernel has no such clock.
pub(crate) fn now() -> u64 {
    let Ok(time) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        return 0;
    };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec()).unwrap_or(0);
    seconds * 1_000_000_000 + rest
}

/// Milliseconds, to three places.
pub(crate) fn milliseconds(nanoseconds: u64) -> f64 {
    (nanoseconds / 1_000) as f64 / 1_000.0
}
