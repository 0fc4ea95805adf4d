//! The resources that this process has used (getrusage(2)).

use std::io;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// The CPU time of all threads, including ended ones, in user space and in the kernel, with a
/// resolution of a microsecond.
///
/// # Errors
/// None that the kernel documents for these arguments.
pub fn cpu_time() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

fn duration(time: TimeVal) -> Duration {
    let [seconds, microseconds] =
        [time.tv_sec(), time.tv_usec()].map(|part| u64::try_from(part).unwrap_or_default());
    Duration::from_secs(seconds) + Duration::from_micros(microseconds)
}
