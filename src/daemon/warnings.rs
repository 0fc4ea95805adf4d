//! Warnings about a configuration in force: in the log at each start and reload, and once a day
//! about old files. Changes nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::warn;

use crate::config::destinations::AGE_MAX;
use crate::config::{Config, OVERLAPPING_NAT64, UNNAMED_NAT};
use crate::policy::Enforcement;
use crate::shared::Shared;
use crate::sys;

/// Logs the warnings of a start.
pub(super) fn at_start(shared: &Shared, descriptors: u64, pending_max: usize, workers: usize) {
    of_descriptors(shared, descriptors);
    of_workers(pending_max, workers);
    of_the_clock();
    give(&shared.snapshot.load().config);
}

/// Logs the warnings of a configuration that comes into force.
pub(super) fn give(config: &Config) {
    if config.policy.enforcement() == Enforcement::Report {
        warn!(
            "policy.mode is \"report\": hosts and SNI that the policy would refuse pass, and are only recorded"
        );
    }
    for address in config.behind_unnamed_nat() {
        warn!(%address, "the egress address {UNNAMED_NAT}");
    }
    for warning in &config.warnings {
        warn!("{warning}");
    }
    for kept in config.kept.iter().take(KEPT_MAX) {
        let (file, key, error) = (kept.file.display(), &kept.key, &kept.error);
        warn!(%file, key, %error, "the file cannot be read, so its former content stays in force: {}", kept.cure());
    }
    for (one, other) in config.overlapping_nat64() {
        warn!(%one, %other, "NAT64 prefixes {OVERLAPPING_NAT64}");
    }
    give_of_ranges(config);
}

/// Warns if the kernel does not report whether the clock, and so the time of records, is right.
fn of_the_clock() {
    if sys::is_clock_synchronised().is_none() {
        warn!(
            "the kernel does not report whether the clock is synchronised, so records and metrics do not either: see deploy/systemd/clock.conf"
        );
    }
}

/// Warns if the limit on open files allows fewer tunnels than the configuration.
fn of_descriptors(shared: &Shared, descriptors: u64) {
    let (wanted, carried) = (
        shared.snapshot.load().config.limits.tunnels,
        shared.limits.budget.tunnels,
    );
    if wanted > carried {
        warn!(
            descriptors,
            "limits.tunnels is {wanted}, but the limit on open files allows {carried}: raise LimitNOFILE"
        );
    }
}

/// Warns if there are too many workers for the pool of pending connections, which they share
/// evenly.
fn of_workers(pending_max: usize, workers: usize) {
    if let Some(places) = places_too_few(pending_max, workers) {
        warn!(
            "relay.workers is {workers}, but that leaves each of them {places} of {pending_max} pending connections: lower it, or raise limits.pending or LimitNOFILE"
        );
    }
}

/// The places of each worker, if they are fewer than [`PENDING_OF_WORKER_MIN`] and fewer workers
/// would have more.
fn places_too_few(pending_max: usize, workers: usize) -> Option<usize> {
    let places = pending_max / workers.max(1);
    (places < PENDING_OF_WORKER_MIN && workers > 1).then_some(places)
}

/// Warns every day about the configuration then in force.
pub(super) async fn daily(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(DAY).await;
        give_of_ranges(&shared.snapshot.load().config);
    }
}

fn give_of_ranges(config: &Config) {
    let now = SystemTime::now();
    for source in config
        .ranges
        .iter()
        .filter(|source| source.age(now) > AGE_MAX)
    {
        let (file, age_days) = (
            source.path.display(),
            source.age(now).as_secs() / DAY.as_secs(),
        );
        warn!(%file, age_days, "the destination ranges are old: download the file again and reload");
    }
}

/// Files named in the log of one reload; a pattern can match a thousand.
const KEPT_MAX: usize = 100;
const DAY: Duration = Duration::from_secs(86_400);
/// The places for pending connections that a worker needs, however many workers share the pool.
/// Workers do not accept evenly from a listening socket: one worker must have room for a burst.
pub(super) const PENDING_OF_WORKER_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_with_few_pending_places_is_warned_about() {
        assert_eq!(places_too_few(128, 64), Some(2));
        assert_eq!(places_too_few(128, 9), Some(14));
        assert_eq!(places_too_few(128, 8), None);
        assert_eq!(places_too_few(4, 1), None, "fewer workers cannot be");
        assert_eq!(places_too_few(5_000, 64), None);
    }
}
