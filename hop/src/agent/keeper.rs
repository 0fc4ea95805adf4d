//! Keeps the warm connections of one upstream, which are its health check too, and probes it while it is down. A refill is
//! at once; only an upstream that ends them right after the handshake is asked less often.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::connect::Ready;
use super::upstream::{Death, Upstream, poll_end};

/// Keeps until the task is dropped.
pub async fn keep(upstream: Arc<Upstream>) {
    let mut connecting = JoinSet::new();
    let mut pace = Pace::default();
    let mut bundle = upstream.bundle.clone();
    loop {
        let now = Instant::now();
        let expiry = upstream.drop_old(now);
        let wanted = match now < pace.until {
            true => 0,
            false => wanted(&upstream, now),
        };
        while connecting.len() < wanted {
            let upstream = Arc::clone(&upstream);
            connecting.spawn(async move { warm_up(&upstream).await });
        }
        let due = [expiry, upstream.probe_at(), Some(pace.until)];
        let due = due.into_iter().flatten().filter(|due| *due > now).min();
        tokio::select! {
            // A failure is known already.
            Some(done) = connecting.join_next() => if let Ok(Some(ready)) = done {
                upstream.put(ready);
            },
            death = poll_fn(|context| upstream.poll_death(context)) => pace.learn(&upstream, death),
            () = sleep_until(due.unwrap_or(now + IDLE)) => {}
            () = upstream.changed.notified() => {}
            // The old ones have the old certificate. Fails only when the program ends.
            Ok(()) = bundle.changed() => upstream.cool(),
        }
    }
}

/// How many connections should be on their way.
fn wanted(upstream: &Upstream, now: Instant) -> usize {
    match upstream.probe_at() {
        Some(due) => usize::from(due <= now),
        None if !upstream.is_up() => 1,
        None => {
            let (warm, max) = upstream.warmth();
            max.saturating_sub(warm)
        }
    }
}

/// A connection that stands.
async fn warm_up(upstream: &Upstream) -> Option<Ready> {
    // The upstream has counted the failure.
    let mut ready = upstream.connect().await.ok()?;
    if upstream.endpoint.tls.is_some() && upstream.bundle.borrow().expires.is_some() {
        // In TLS 1.3 a refusal of the agent's certificate arrives after the handshake.
        let wait = ready.took.clamp(PROBATION_MIN, PROBATION_MAX);
        let end = timeout(wait, poll_fn(|context| poll_end(&mut ready, context))).await;
        if let Ok(refusal) = end {
            upstream.failed(refusal.as_deref().unwrap_or(ENDED));
            return None;
        }
    }
    Some(ready)
}

/// How fast connections are replaced.
struct Pace {
    until: Instant,
    /// Connections in a row that ended right after the handshake.
    young: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            until: Instant::now(),
            young: 0,
        }
    }
}

impl Pace {
    fn learn(&mut self, upstream: &Upstream, death: Death) {
        if let Some(refusal) = death.refusal {
            upstream.failed(&refusal);
        }
        match death.age < YOUNG {
            true => {
                self.young = self.young.saturating_add(1);
                let wait = FIRST * (1 << self.young.saturating_sub(1).min(5));
                self.until = Instant::now() + wait;
            }
            false => self.young = 0,
        }
    }
}

/// Without a deadline of its own the loop wakes by events only.
const IDLE: Duration = Duration::from_secs(60);
const YOUNG: Duration = Duration::from_secs(1);
const FIRST: Duration = Duration::from_millis(250);
const PROBATION_MIN: Duration = Duration::from_millis(50);
const PROBATION_MAX: Duration = Duration::from_millis(500);
const ENDED: &str = "the upstream ends the connection after the handshake";
