//! What a daemon leaves to the next one when it hands its tunnels over: the state of each tunnel as
//! text, and its sockets in the queue of one Unix socket that the service manager keeps.
//!
//! Pure data and one queue: this module knows neither tunnels nor workers, and never decides which
//! tunnel goes on.

pub mod format;
pub mod left;
mod parallel;
pub mod parcel;
pub mod parking;
pub mod state;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
