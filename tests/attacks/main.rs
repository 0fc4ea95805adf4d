//! Attacks on the daemon, one module for each resource that a stranger can take or each promise that it can break.
//!
//! Every test is bounded in connections and time and drives the real daemon. An attack that needs more than one address
//! runs in a network namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

mod admin;
mod audit;
mod chaos;
mod clients;
mod dns;
mod evidence;
mod listeners;
mod memory;
mod proxy_protocol;
mod relay;
mod revocation;
mod stalled;
mod upstream;
mod workers;
