//! What a daemon leaves to the next one when it hands its tunnels over: the state of each tunnel as
//! text, and its sockets in the queue of one Unix socket that the service manager keeps. The next one
//! claims it on a stream, if the former one still runs.
//!
//! Pure data, one queue and one stream: this module knows neither tunnels nor workers, and never decides
//! which tunnel goes on.

pub mod ahead;
pub mod claim;
pub mod format;
pub mod left;
pub mod packing;
mod parallel;
pub mod parcel;
pub mod parking;
pub mod state;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
