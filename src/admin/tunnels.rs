//! Lists the live tunnels for operators. Reads atomics that workers write; never asks or stops a
//! worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::operation::{Tunnel, Tunnels};
use crate::audit::TunnelId;
use crate::live::{Facts, Live, Phase};

/// Lists the live tunnels, the oldest first.
pub(super) fn list(live: &Live) -> Tunnels {
    let (selected, now) = (live.select(|_| true), Instant::now());
    let tunnels = selected.iter().filter_map(|facts| tunnel(facts, now));
    Tunnels {
        tunnels: tunnels.collect(),
    }
}

/// Describes one tunnel. Returns None if it has ended since it was selected.
fn tunnel(facts: &Arc<Facts>, now: Instant) -> Option<Tunnel> {
    let phase = Some(facts.phase()).filter(|phase| *phase != Phase::Gone)?;
    let [bytes_up, bytes_down] = facts.bytes();
    // Listed from its request on.
    let authority = facts.authority()?;
    let [egress, upstream] = facts.ends().map_or([None; 2], |ends| ends.map(Some));
    Some(Tunnel {
        id: TunnelId::of(facts.key()).to_string(),
        user: facts.user().map(ToString::to_string),
        client: facts.client,
        host: authority.destination.to_string(),
        port: authority.port.number(),
        egress,
        upstream,
        age_seconds: seconds(now.saturating_duration_since(facts.accepted)),
        silent_seconds: seconds(facts.silence(now)),
        bytes_up,
        bytes_down,
        phase: phase.name().to_owned(),
    })
}

/// Seconds, to the millisecond.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1_000.0
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_macros,
    reason = "prints what it measures"
)]
mod tests {
    use super::*;
    use crate::authority::{Authority, UserId};

    /// To measure it by hand:
    /// `cargo test --release --lib ten_thousand -- --nocapture`.
    #[test]
    fn ten_thousand_tunnels_are_listed_within_a_second() {
        const TUNNELS: u64 = 10_000;
        let live = Live::default();
        let authority = Authority::parse("generativelanguage.googleapis.com:443").unwrap();
        let egress = "203.0.113.7:50000".parse().unwrap();
        let upstream = "[2001:db8::7]:443".parse().unwrap();
        let now = Instant::now();
        let entries: Vec<_> = (0..TUNNELS)
            .map(|number| {
                let client = "192.0.2.1:5".parse().unwrap();
                let mut facts = Facts::new((1_700_000_000_000, number), now, client);
                facts.identified(UserId::parse("alice@example.com").unwrap());
                facts.requested(authority.clone());
                facts.connected(egress, upstream);
                facts.reach(Phase::Relaying);
                facts.moved(1 << 30, 1 << 40, now);
                live.enter(&Arc::new(facts))
            })
            .collect();
        // CPU time of this thread: other processes may take the CPU from it.
        let quickest = (0..5).map(|_| {
            let began = cpu_time();
            let json = serde_json::to_string(&list(&live)).unwrap();
            let took = cpu_time().saturating_sub(began);
            assert_eq!(
                json.matches("\"phase\":\"relaying\"").count(),
                entries.len()
            );
            took
        });
        let quickest = quickest.min().unwrap();
        println!("{TUNNELS} tunnels: selected and written as JSON in {quickest:?}");
        assert!(quickest < Duration::from_secs(1), "{quickest:?}");
    }

    /// The first number of schedstat (proc(5)): nanoseconds on a CPU.
    fn cpu_time() -> Duration {
        let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        let nanoseconds = times.split_whitespace().next().unwrap();
        Duration::from_nanos(nanoseconds.parse().unwrap())
    }
}
