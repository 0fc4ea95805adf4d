//! Attacks on a tunnel that is open: stalled sides, urgent data, bytes behind a fatal alert.
