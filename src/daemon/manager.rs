//! What the service manager is told: ready when a new tunnel can be carried and not before, what the daemon does, how long a
//! stop takes, and that each worker turns. Nothing where nobody listens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tracing::warn;

use crate::admin::readiness::why_not_ready;
use crate::shared::Shared;
use crate::sys;
use crate::systemd::{self, Word};
use crate::worker::Unpark;

/// The one who tells.
#[derive(Debug)]
pub(super) struct Manager {
    shared: Arc<Shared>,
    /// The start is done, and said to be.
    is_ready: AtomicBool,
    /// Said once, not each second.
    is_deaf: AtomicBool,
}

impl Manager {
    /// Starts to tell, if somebody listens.
    pub(super) fn watch(
        service: &Runtime,
        shared: &Arc<Shared>,
        workers: impl Iterator<Item = Arc<Unpark>>,
    ) -> Arc<Self> {
        let shared = Arc::clone(shared);
        let manager = Arc::new(Self { shared, is_ready: AtomicBool::new(false), is_deaf: AtomicBool::new(false) });
        if systemd::listens() {
            service.spawn(Arc::clone(&manager).keep_telling(workers.collect()));
        }
        manager
    }

    /// A reload begins. Before the start is done it is a part of the start.
    pub(super) fn reloading(&self) {
        if self.is_ready.load(Ordering::Relaxed) {
            self.tell(&[Word::Reloading]);
        }
    }

    /// The reload is done, whether its configuration is in force or not.
    pub(super) fn reloaded(&self) {
        if self.is_ready.load(Ordering::Relaxed) {
            self.tell(&[Word::Ready, Word::Status(&self.status())]);
        }
    }

    /// The stop begins, and takes at most so long.
    pub(super) fn stopping(&self, most: Duration) {
        self.tell(&[Word::Stopping, Word::Patience(most), Word::Status(&self.status())]);
    }

    async fn keep_telling(self: Arc<Self>, workers: Vec<Arc<Unpark>>) {
        let watchdog = systemd::watchdog();
        let pace = watchdog.map_or(PACE, |interval| (interval / SIGNS).min(PACE)).max(PACE_MIN);
        let mut waiting: Vec<usize> = (0..workers.len()).collect();
        let (mut said, mut stops_by) = (String::new(), None);
        loop {
            waiting.retain(|worker| workers.get(*worker).is_some_and(|worker| !worker.is_alive()));
            if waiting.is_empty() {
                if watchdog.is_some() {
                    self.tell(&[Word::Alive]);
                }
                waiting = (0..workers.len()).collect();
            }
            if self.shared.stages.leaving.is_cancelled() {
                let until = *stops_by.get_or_insert_with(|| Instant::now() + self.longest_stop());
                self.tell(&[Word::Patience(until.saturating_duration_since(Instant::now()).max(PACE * 2))]);
            } else if !self.is_ready.load(Ordering::Relaxed) && self.can_carry_a_tunnel() {
                self.is_ready.store(true, Ordering::Relaxed);
                self.tell(&[Word::Ready]);
            }
            let status = self.status();
            if status != said {
                self.tell(&[Word::Status(&status)]);
                said = status;
            }
            let is_ready = self.is_ready.load(Ordering::Relaxed);
            tokio::time::sleep(if is_ready { pace } else { pace.min(PACE_OF_START) }).await;
        }
    }

    /// What `/readyz` would say; and, while it is asked for the first time, not before the first audit record is written.
    fn can_carry_a_tunnel(&self) -> bool {
        self.shared.audit.has_tried() && why_not_ready(&self.shared).is_empty()
    }

    /// How long a stop takes that begins now, if nothing hurries it.
    pub(super) fn longest_stop(&self) -> Duration {
        let timeouts = self.shared.snapshot.load().config.timeouts;
        timeouts.drain_delay + timeouts.drain + super::LAST_WORDS + super::LAST_RECORDS + SLACK
    }

    /// `ready; 12 tunnels; egress 203.0.113.7`.
    fn status(&self) -> String {
        let snapshot = self.shared.snapshot.load();
        let reasons = why_not_ready(&self.shared);
        let state = match reasons.is_empty() {
            true if self.is_ready.load(Ordering::Relaxed) => "ready".to_owned(),
            true => "starting".to_owned(),
            false => format!("not ready: {}", reasons.join(", ")),
        };
        let tunnels = match self.shared.active.load(Ordering::Relaxed) {
            1 => "1 tunnel".to_owned(),
            count => format!("{count} tunnels"),
        };
        let own = self.shared.own_addresses.load();
        let mut egress = snapshot.egress.addresses().map(|address| match sys::is_on_this_host(address, &own) {
            true => address.to_string(),
            false => format!("{address} (missing)"),
        });
        let first: Vec<String> = egress.by_ref().take(EGRESS_MAX).collect();
        let mut status = format!("{state}; {tunnels}; egress {}", first.join(", "));
        match egress.count() {
            0 => {}
            more => status += &format!(" and {more} more"),
        }
        let last = self.shared.last_reload.load();
        if let Some(error) = last.as_ref().and_then(|reload| reload.error.as_deref()) {
            status += &format!("; the last reload was refused: {error}");
        }
        status
    }

    fn tell(&self, words: &[Word<'_>]) {
        let told = systemd::tell(words);
        let was_deaf = self.is_deaf.swap(told.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (told, was_deaf) {
            warn!(%error, "systemd cannot be told");
        }
    }
}

/// Between two looks at what there is to tell.
const PACE: Duration = Duration::from_secs(1);
/// However short the watchdog's interval is.
const PACE_MIN: Duration = Duration::from_millis(10);
/// Somebody waits for the start.
const PACE_OF_START: Duration = Duration::from_millis(50);
/// Signs of life in the watchdog's interval, when all is well.
const SIGNS: u32 = 4;
/// Addresses in a status.
const EGRESS_MAX: usize = 4;
/// For the end of threads and files.
const SLACK: Duration = Duration::from_secs(2);
