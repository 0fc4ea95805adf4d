//! Sealway: a CONNECT-only tunnel that carries TLS sessions without opening them and always leaves from the same
//! address.
//!
//! Modules are listed in reading order, from the vocabulary up. A module imports only lower layers
//! and its own children; `tests/house/layers.rs` checks that. Start with [`tunnel`], the life of one
//! connection.

// Layer 0: the vocabulary, and the kernel.
pub mod authority;
pub mod digest;
pub mod outcome;
pub mod sys;

// Layer 1: pure functions over bytes; sockets and deadlines for the futures of one thread.
pub mod reactor;
pub mod wire;

// Layer 2: verdicts, pure; bounds; what a daemon leaves to the next one.
pub mod handover;
pub mod limits;
pub mod policy;

// Layer 3: leaves. They return facts; they never log, count or audit.
pub mod audit;
pub mod auth;
pub mod dial;
pub mod greeting;
pub mod live;
pub mod metrics;
pub mod relay;
pub mod resolve;
pub mod supervisor;
pub mod systemd;

// Layer 4: what the operator wants.
pub mod config;

// Layer 5: who is let in; what all tunnels share.
pub mod admission;
pub mod shared;

// Layer 6: the life of a tunnel.
pub mod tunnel;

// Layer 7: the workers, and the admin listener.
pub mod admin;
pub mod worker;

// Layer 8: the daemon.
pub mod daemon;

// Layer 9: the commands.
#[allow(clippy::disallowed_macros, reason = "what a command answers with")]
pub mod commands;

// Layer 10: arguments → one command → exit status; main.rs calls it.
#[allow(clippy::disallowed_macros, reason = "why a command failed")]
pub mod cli;

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The git revision it was built from; `unknown` outside a checkout.
pub const REVISION: &str = env!("SEALWAY_REVISION");
