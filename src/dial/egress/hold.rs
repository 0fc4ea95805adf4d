//! Whether the host has, and has kept, the source of a connection. Reads two atomics.

use std::sync::atomic::Ordering;

use super::Hold;

impl Hold {
    /// Whether the host has lost the source since then. Stays true when the address returns.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.source.losses.load(Ordering::Acquire) != self.losses
    }

    /// Whether the host had the source at the last look.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.source.is_up()
    }
}
