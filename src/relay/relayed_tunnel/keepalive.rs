//! TCP keepalive towards the upstream. The client's socket inherits it from the listener; an upstream
//! socket needs two calls, so a tunnel makes them once it has lasted for some seconds. Most tunnels
//! of short requests never do. Never sends a byte; the kernel probes (tcp(7)).

use std::io;

use super::{Owner, RelayedTunnel};
use crate::sys;

impl<T: Owner> RelayedTunnel<T> {
    /// When keepalive is due; never, if it is set.
    pub(super) fn keepalive_due(&self) -> u64 {
        if self.has_keepalive {
            return u64::MAX;
        }
        self.started
            .saturating_add(KEEPALIVE_AFTER_MS)
            .div_ceil(KEEPALIVE_STEP_MS)
            .saturating_mul(KEEPALIVE_STEP_MS)
    }

    /// Sets keepalive if it is due.
    ///
    /// # Errors
    /// The error of setsockopt(2).
    pub(in crate::relay) fn keep_alive(&mut self, now: u64) -> io::Result<()> {
        if self.keepalive_due() > now {
            return Ok(());
        }
        self.has_keepalive = true;
        sys::keep_alive(&self.upstream.socket)
    }
}

/// Far below the minute of silence after which the kernel probes.
const KEEPALIVE_AFTER_MS: u64 = 5_000;
/// Tunnels that are due within a second share one sweep.
const KEEPALIVE_STEP_MS: u64 = 1_000;
