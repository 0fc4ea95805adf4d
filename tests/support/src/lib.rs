//! The harness of the integration tests: the real daemon as a child process, upstreams on loopback, and clients.
//!
//! Nothing here sleeps: whatever a test waits for is an event with a deadline, and a deadline that passes is a panic
//! that says what was awaited. Every port is chosen by the kernel.

#![allow(dead_code)] // each test binary compiles the whole harness and uses its own part

pub mod client;
pub mod config;
pub mod daemon;
pub mod hello;
pub mod payload;
pub mod raw;
pub mod service;
pub mod tls;

use std::future::Future;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The name that the recorded ClientHellos and the test certificates carry.
pub const HOST: &str = "generativelanguage.googleapis.com";

/// How long a test waits for anything that should come at once, even on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Awaits `event`, which must come within [`DEADLINE`].
pub async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    within(DEADLINE, what, event).await
}

/// Awaits `event`, which must come within `limit`.
pub async fn within<F: Future>(limit: Duration, what: &str, event: F) -> F::Output {
    match tokio::time::timeout(limit, event).await {
        Ok(output) => output,
        Err(_) => panic!("waited {limit:?} in vain for {what}"),
    }
}

/// Lets this process, and the daemons it starts, open as many descriptors as the machine allows.
pub fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    // Who may raise the hard limit too has as many as a storm needs.
    if hard >= DESCRIPTORS || setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).is_err()
    {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("setrlimit");
    }
}

const DESCRIPTORS: u64 = 65_536;
