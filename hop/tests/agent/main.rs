//! The real `sealway-agent` over real sockets: one file for each subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_macros,
    reason = "a test fails so, and shows the log of the program"
)]

mod carrying;
mod confinement;
mod early;
mod exec;
mod failover;
mod kills;
mod many;
mod node;
#[path = "../hop/process.rs"]
mod process;
mod program;
mod promises;
mod refusals;
mod service;
mod warm;
#[path = "../hop/zoo.rs"]
#[allow(dead_code, reason = "the tests of the hop use all of it")]
mod zoo;
