//! The real `sealway-hop` over real sockets: one file for each subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_macros,
    reason = "a test fails so, and shows the log of the program"
)]

mod agent;
mod bounds;
mod canary;
mod carrying;
mod certificates;
mod core;
mod daemon;
mod doctor;
mod events;
mod idle;
mod odd_handshakes;
mod pages;
mod process;
mod program;
mod protocol;
mod reload;
mod rotation;
mod supervised;
mod tools;
mod zoo;
