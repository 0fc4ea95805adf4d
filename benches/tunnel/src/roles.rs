//! What this executable is when the harness has started it: an agent or a yardstick.

pub(crate) mod bare;
pub(crate) mod bare_tunnel;
pub(crate) mod client;
pub(crate) mod copy;
pub(crate) mod pacer;
pub(crate) mod upstream;
