//! The source tree and its documents: layers, dependencies, reference, pages. Starts no daemon for long.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

mod bench_layers;
mod compliance;
mod dependencies;
mod generated;
mod layers;
mod manual;
mod monitoring;
mod pages;
mod providers;
mod reference;
mod sets;
