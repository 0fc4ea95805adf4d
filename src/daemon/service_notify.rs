//! Notifies the service manager: the end of the start, the state of the daemon, the duration of a
//! stop, and a heartbeat of each worker. Sends nothing without a service manager.
//!
//! The start ends when the daemon has completed its part: its sockets are open and its first audit
//! record is written. It does not wait for the machine, such as for an egress address or a free
//! port: systemd would end the service after `TimeoutStartSec=`, and a boot would hang on a late
//! address. The status says why the daemon is not ready.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tracing::warn;

use crate::admin::readiness::Readiness;
use crate::shared::Shared;
use crate::systemd::{self, Message, Notifier};
use crate::worker::WorkerWaker;

/// The sender of notifications.
#[derive(Debug)]
pub(super) struct ServiceNotify {
    shared: Arc<Shared>,
    notifier: Option<Notifier>,
    /// Whether the end of the start has been reported.
    is_ready: AtomicBool,
}

impl ServiceNotify {
    /// Starts to notify, if there is a service manager.
    pub(super) fn watch(
        service: &Runtime,
        shared: &Arc<Shared>,
        workers: Vec<Arc<WorkerWaker>>,
    ) -> io::Result<Arc<Self>> {
        let (shared, notifier) = (Arc::clone(shared), Notifier::start()?);
        let notify = Arc::new(Self {
            shared,
            notifier,
            is_ready: AtomicBool::new(false),
        });
        if notify.notifier.is_some() {
            service.spawn(Arc::clone(&notify).keep_notifying(workers));
        }
        Ok(notify)
    }

    /// Reports the begin of a reload. Before the end of the start a reload is part of the start.
    pub(super) fn reloading(&self) {
        if self.is_ready.load(Ordering::Relaxed) {
            self.notify(vec![Message::Reloading]);
        }
    }

    /// Reports the end of a reload, successful or not.
    pub(super) fn reloaded(&self) {
        if self.is_ready.load(Ordering::Relaxed) {
            let told = self.notify(vec![Message::Ready, Message::Status(self.status())]);
            // If this fails the next check repeats it: systemd would treat a reload without an end
            // as a fault.
            self.is_ready.store(told, Ordering::Relaxed);
        }
    }

    /// Feeds the watchdog once more, before the workers stand still for a moment.
    pub(super) fn alive(&self) {
        self.notify(vec![Message::Alive]);
    }

    /// Reports the begin of the stop.
    pub(super) fn stopping(&self) {
        self.notify(vec![
            Message::Stopping,
            Message::ExtendTimeout(self.longest_stop()),
            Message::Status(self.status()),
        ]);
    }

    async fn keep_notifying(self: Arc<Self>, workers: Vec<Arc<WorkerWaker>>) {
        let watchdog = systemd::watchdog();
        let pace = watchdog
            .map_or(PACE, |interval| (interval / SIGNS).min(PACE))
            .max(PACE_MIN);
        let mut waiting: Vec<&Arc<WorkerWaker>> = workers.iter().collect();
        let (mut said, mut stops_by, mut was_in_vain) = (String::new(), None, false);
        loop {
            waiting.retain(|worker| !worker.take_heartbeat());
            if waiting.is_empty() && (watchdog.is_none() || self.notify(vec![Message::Alive])) {
                waiting = workers.iter().collect();
            }
            let is_ready = self.is_ready.load(Ordering::Relaxed);
            if self.shared.lifecycle.stages.leaving.is_cancelled() {
                let until = *stops_by.get_or_insert_with(|| Instant::now() + self.longest_stop());
                self.notify(vec![Message::ExtendTimeout(
                    until
                        .saturating_duration_since(Instant::now())
                        .max(PACE * 2),
                )]);
            } else if !is_ready && self.has_started() && self.notify(vec![Message::Ready]) {
                self.is_ready.store(true, Ordering::Relaxed);
            }
            let status = self.status();
            if status != said && self.notify(vec![Message::Status(status.clone())]) {
                said = status;
            }
            let trouble = self.notifier.as_ref().and_then(Notifier::trouble);
            if let (Some(error), false) = (&trouble, was_in_vain) {
                warn!(%error, "cannot notify systemd");
            }
            was_in_vain = trouble.is_some();
            tokio::time::sleep(if is_ready {
                pace
            } else {
                pace.min(PACE_OF_START)
            })
            .await;
        }
    }

    fn notify(&self, messages: Vec<Message>) -> bool {
        self.notifier
            .as_ref()
            .is_some_and(|notifier| notifier.notify(messages))
    }

    /// Whether the daemon has completed its start, including the first audit record.
    fn has_started(&self) -> bool {
        self.shared.evidence.audit.has_tried() && Readiness::of(&self.shared).has_started
    }

    /// The duration of a stop that begins now without a hurry.
    fn longest_stop(&self) -> Duration {
        let timeouts = self.shared.snapshot.load().config.timeouts;
        timeouts.drain_delay + timeouts.drain + super::LAST_WORDS + super::LAST_RECORDS + SLACK
    }

    /// For example `ready; 12 tunnels; egress 203.0.113.7`.
    fn status(&self) -> String {
        let snapshot = self.shared.snapshot.load();
        let readiness = Readiness::of(&self.shared);
        let is_parking = self.shared.lifecycle.parking.get().is_some();
        let state = match (readiness.is_ready(), readiness.degraded.is_empty()) {
            (false, _) if readiness.is_standby() => {
                format!("standby: {}", readiness.not_ready.join(", "))
            }
            (false, _) if is_parking => "handing over".to_owned(),
            (false, _) => format!("not ready: {}", readiness.not_ready.join(", ")),
            (true, _) if !self.is_ready.load(Ordering::Relaxed) => "starting".to_owned(),
            (true, true) => "ready".to_owned(),
            (true, false) => format!("ready, degraded: {}", readiness.degraded.join(", ")),
        };
        let tunnels = match self.shared.evidence.active.load(Ordering::Relaxed) {
            1 => "1 tunnel".to_owned(),
            count => format!("{count} tunnels"),
        };
        let mut egress = snapshot.egress.sources().map(|source| {
            let missing = match (
                source.is_up(),
                snapshot.egress.is_floating(source.address()),
            ) {
                (true, _) => "",
                (false, true) => " (elsewhere)",
                (false, false) => " (missing)",
            };
            format!("{}{missing}", source.address())
        });
        let first: Vec<String> = egress.by_ref().take(EGRESS_MAX).collect();
        let mut status = format!("{state}; {tunnels}; egress {}", first.join(", "));
        match egress.count() {
            0 => {}
            more => status += &format!(" and {more} more"),
        }
        let last = self.shared.lifecycle.last_reload.load();
        if let Some(error) = last.as_ref().and_then(|reload| reload.error.as_deref()) {
            status += &format!("; the last reload was refused: {error}");
        }
        status
    }
}

/// Between two checks for changes.
const PACE: Duration = Duration::from_secs(1);
/// The least interval, however short the watchdog's is.
const PACE_MIN: Duration = Duration::from_millis(10);
/// Shorter while systemd waits for the start.
const PACE_OF_START: Duration = Duration::from_millis(50);
/// Heartbeats in the watchdog's interval.
const SIGNS: u32 = 4;
/// The most addresses in a status.
const EGRESS_MAX: usize = 4;
/// For the end of threads and files.
const SLACK: Duration = Duration::from_secs(2);
