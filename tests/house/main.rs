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
mod deep_page;
mod dependencies;
// The table of the doctor's findings, as a module: the package of the hop would bring its TLS library into this build.
#[path = "../../hop/src/doctor"]
#[allow(dead_code, reason = "the page needs the texts only")]
mod doctor {
    pub mod verdict;
}
mod doctor_page;
mod generated;
mod layers;
mod manual;
mod monitoring;
mod pages;
mod providers;
mod reference;
mod sets;
