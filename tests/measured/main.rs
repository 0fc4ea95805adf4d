//! Tests that measure time, memory or CPU, or load the machine: each calls [`support::alone`]
//! first, so that they run one at a time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

mod at_rest;
mod many;
mod overload;
mod pace;
mod relay;
mod scrape;
mod size;
mod stalled;
mod storm;
mod timeouts;
mod unprivileged;
