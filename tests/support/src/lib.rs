//! The harness of the integration tests: the real daemon as a child process, upstreams on loopback,
//! and clients.
//!
//! Nothing here sleeps: a test waits for an event with a deadline, and a deadline that expires is a
//! panic that names the event. The kernel chooses every port.

pub mod browser;
pub mod client;
pub mod command;
pub mod config;
pub mod conversation;
pub mod daemon;
pub mod dns;
pub mod etc;
pub mod hello;
pub mod made_answer;
pub mod made_hello;
pub mod manager;
pub mod memory;
pub mod monitoring;
pub mod mutant;
pub mod namespace;
pub mod openssl;
pub mod payload;
pub mod prometheus;
pub mod proxied;
pub mod raw;
pub mod records;
pub mod refusal;
pub mod service;
pub mod tls;
pub mod trace;
pub mod users;
pub mod witness;
pub mod workers;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Mutex, MutexGuard};

/// The name in the recorded ClientHellos and the test certificates.
pub const HOST: &str = "generativelanguage.googleapis.com";

/// How long a test waits for an event that should follow at once, even on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The root of the source tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The program under test. Cargo passes its path to the tests that it runs; a test binary that is
/// run by hand finds it in Cargo's folder, above its own.
pub fn sealway() -> String {
    std::env::var("CARGO_BIN_EXE_sealway").unwrap_or_else(|_| {
        let test = std::env::current_exe().expect("this executable");
        let built = test
            .ancestors()
            .nth(2)
            .expect("a folder above")
            .join("sealway");
        built.to_str().expect("a path in UTF-8").to_string()
    })
}

/// Waits until no other test of this binary measures, and makes the others wait until the guard is
/// dropped. The first line of every test in `tests/measured`.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Awaits `event`, which must occur within [`DEADLINE`].
pub async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    within(DEADLINE, what, event).await
}

/// Awaits `event`, which must occur within `limit`.
pub async fn within<F: Future>(limit: Duration, what: &str, event: F) -> F::Output {
    match tokio::time::timeout(limit, event).await {
        Ok(output) => output,
        Err(_) => panic!("waited {limit:?} in vain for {what}"),
    }
}

/// Waits until `reached` is true, within [`DEADLINE`]. It checks every few milliseconds: a test
/// that spins would take CPU time from the daemon.
pub async fn wait_until(what: &str, reached: impl AsyncFnMut() -> bool) {
    wait_within(DEADLINE, what, reached).await;
}

/// The same within `limit`.
pub async fn wait_within(limit: Duration, what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let looks = async {
        while !reached().await {
            tick().await;
        }
    };
    within(limit, what, looks).await;
}

/// The time between two checks of a waiting test.
pub async fn tick() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Sends a process a signal by its short name (`TERM`, `HUP`) or its number: by bash, which knows
/// all of them and is part of every Debian; kill(1) is not.
pub fn signal(pid: u32, name: &str) {
    let kill = std::process::Command::new("bash")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status();
    assert!(kill.expect("run bash").success(), "kill -{name} {pid}");
}

/// Lets this process, and the daemons it starts, open as many descriptors as the machine allows.
pub fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    // A process that may raise the hard limit too gets as many as a storm needs.
    if hard >= DESCRIPTORS || setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).is_err()
    {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("setrlimit");
    }
}

const DESCRIPTORS: u64 = 65_536;
