//! Tests that need a program that a plain Debian does not have: strace, openssl, chromium, prometheus.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

mod failing_calls;
mod failing_worker;
mod greeting_cost;
mod openssl;
mod prometheus;
mod status_page;
mod untouched;
