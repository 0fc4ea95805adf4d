//! The daemon: start, workers, reload, drain, stop.
//!
//! Each worker is a thread with a loop; while bytes move they share counters and no lock. One
//! service thread handles signals and housekeeping; look-ups, the admin listener and the audit
//! writer have threads of their own. A start succeeds or fails as a whole. A reload ends only the
//! tunnels that the new configuration refuses.

mod claims;
mod closing;
mod egress_watch;
mod hand_over;
mod hop;
mod housekeeping;
mod machine_files;
mod origin;
mod outlive;
mod reload;
mod reload_error;
mod service_notify;
mod signals;
mod sockets;
mod start;
mod store;
mod takeover;
mod warnings;
mod watch;
mod workers;

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin;
use crate::admin::ReloadRequest;
use crate::audit::{DaemonRecord, Writer, timestamp};
use crate::config::{Config, Log, Overrides};
use crate::outcome::CloseReason;
use crate::shared::Shared;
use crate::supervisor::Supervisor;
use crate::systemd::Handed;
use crate::systemd::main_process::MainProcess;
use crate::worker::WorkerWaker;
use hop::Hop;
use service_notify::ServiceNotify;
use signals::{Signal, Signals};
pub use start::StartError;
use store::Store;
pub use watch::Seen;

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    shared: Arc<Shared>,
    origin: Origin,
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    /// The admin listener's threads.
    watched_by: Option<admin::Server>,
    workers: Vec<Worker>,
    tunnels: TaskTracker,
    service: Runtime,
    dns: Runtime,
    writer: Writer,
    service_notify: Arc<ServiceNotify>,
    fixed: Fixed,
    /// What the service manager keeps; None if it keeps nothing.
    store: Option<Store>,
    /// Reloads that operators request through the admin listener.
    reload_requests: mpsc::Receiver<ReloadRequest>,
    /// The hop that this daemon has started.
    hop: Option<Hop>,
}

/// Settings that only a start applies.
#[derive(Debug, PartialEq, Eq)]
struct Fixed {
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    workers: usize,
    log: Log,
    audit_file: Option<PathBuf>,
}

/// A handle to a worker.
#[derive(Debug)]
struct Worker {
    thread: JoinHandle<()>,
    waker: Arc<WorkerWaker>,
}

/// Why a running daemon ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A worker thread has ended by an error or a panic, or the supervisor of the hop is gone.
    #[error("a part of the daemon failed; the log has the cause")]
    PartFailed,
    /// The supervisor of the hop cannot be followed.
    #[error("cannot follow the supervisor of sealway-hop: {0}")]
    Supervisor(#[source] io::Error),
}

/// How a daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It stopped.
    Stopped,
    /// Its tunnels wait for the next daemon.
    HandedOver,
}

/// A daemon that handles signals.
#[derive(Debug)]
pub struct Launched {
    daemon: Daemon,
    signals: Signals,
}

impl Launched {
    /// Runs until SIGTERM, or until it has handed its tunnels over (SIGUSR2, SIGINT). Reloads on SIGHUP, at an operator's
    /// request, and with `reload.watch` when files have changed; then drains and stops. SIGQUIT, or a second of these signals,
    /// stops at once. A hop of its own starts now, takes part in each reload, and drains first. A hand-over that SIGWINCH has
    /// announced outlives `main_process`.
    ///
    /// # Errors
    /// A worker or the supervisor of the hop cannot continue. The daemon then stops at once, because half a daemon that
    /// looks alive is worse than a restart.
    pub fn run(
        self,
        hop: Option<Supervisor>,
        main_process: Option<MainProcess>,
    ) -> Result<Ended, RunError> {
        let Self {
            mut daemon,
            mut signals,
        } = self;
        let hop = hop.map(|supervisor| Hop::start(supervisor, &daemon.service));
        daemon.hop = hop.transpose().map_err(RunError::Supervisor)?;
        // A hop of the daemon's own keeps its ports until the daemon ends.
        let main_process = main_process.filter(|_| daemon.hop.is_none());
        let failed = daemon.shared.lifecycle.stages.failed.clone();
        let asked = daemon.until_asked(&mut signals);
        let has_failed = failed.clone();
        let Some((daemon, asked)) = daemon.unless_handed_over(asked, &mut signals, main_process)
        else {
            return Ok(Ended::HandedOver);
        };
        daemon.stop(async move {
            if asked == Some(Signal::Stop) {
                hurried(signals, &failed).await;
            }
        });
        match has_failed.is_cancelled() {
            true => Err(RunError::PartFailed),
            false => Ok(Ended::Stopped),
        }
    }
}

/// Waits for a reason to end a drain at once: a second signal, or a part of the daemon that fails.
async fn hurried(mut signals: Signals, failed: &CancellationToken) {
    tokio::select! {
        () = async { while signals.next().await == Signal::Reload {} } => {}
        () = failed.cancelled() => {}
    }
}

/// The sources of the configuration, for a reload.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The file; None: defaults.
    pub path: Option<PathBuf>,
    /// Flags and environment.
    pub overrides: Overrides,
    /// The state of its files before they were last read.
    pub seen: Arc<Mutex<Seen>>,
}

impl Fixed {
    fn of(config: &Config) -> Self {
        let listeners = config.listeners.iter();
        let audit_file = config.audit_file.clone();
        Self {
            listeners: listeners.map(|listener| listener.address).collect(),
            admin: config.admin,
            workers: config.workers,
            log: config.log,
            audit_file,
        }
    }
}

impl Daemon {
    /// The listeners' addresses in the order of the configuration, with the ports that the kernel
    /// chose for 0.
    #[must_use]
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// The admin listener's address.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The static source addresses.
    #[must_use]
    pub fn egress(&self) -> Vec<IpAddr> {
        self.shared.snapshot.load().egress.addresses().collect()
    }

    /// Starts, with the queue of signals open before the first socket. The caller blocks signals
    /// before it starts a second thread ([`crate::sys::signals::hold_all`]). Listeners use the sockets in
    /// `handed` that match them, and tunnels that an earlier daemon handed over continue.
    ///
    /// # Errors
    /// Why it could not start.
    pub fn launch(
        config: Config,
        origin: Origin,
        handed: Handed,
        audit_stream: impl Write + Send + 'static,
    ) -> Result<Launched, StartError> {
        let service = start::service()?;
        let signals = Signals::install()?;
        let daemon = Self::start_on(service, config, origin, handed, audit_stream)?;
        Ok(Launched { daemon, signals })
    }

    /// Drains and stops: `/readyz` answers 503, then no new tunnels are accepted, then live tunnels
    /// are reset when `timeouts.drain` or `hurry` has passed.
    pub fn stop(mut self, hurry: impl Future<Output = ()>) {
        let timeouts = self.shared.snapshot.load().config.timeouts;
        let stages = &self.shared.lifecycle.stages;
        stages.leaving.cancel();
        if let Some(store) = &self.store {
            store.close();
        }
        // Operators who wait for a reload learn that the daemon stops.
        self.reload_requests.close();
        while self.reload_requests.try_recv().is_ok() {}
        self.service_notify.stopping();
        let mut hop = self.hop.take();
        let (mut outlived, mut hurried) = (0, false);
        self.service.block_on(async {
            tokio::pin!(hurry);
            info!(
                tunnels = self.shared.evidence.active.load(Ordering::Relaxed),
                "draining"
            );
            let drained = async {
                tokio::time::sleep(timeouts.drain_delay).await;
                // First, while the daemon still accepts its events.
                if let Some(hop) = &mut hop {
                    hop.drain().await;
                }
                self.enter(&stages.draining);
                timeout(timeouts.drain, self.tunnels.wait()).await
            };
            tokio::select! {
                _all_or_out_of_time = drained => {}
                () = self.say_how_many_are_left() => {}
                () = &mut hurry => {
                    hurried = true;
                    warn!("stopping at once: a second signal, or SIGQUIT, was received");
                }
            }
            self.enter(&stages.draining);
            outlived = self.shared.evidence.active.load(Ordering::Relaxed);
            stages.set_ups_end.cancel();
            self.enter(&stages.kill);
            // Each client has its reply; sending it takes at most the time a refused client may
            // linger.
            let patience = if hurried { AT_ONCE } else { LAST_WORDS };
            let _left_behind = timeout(patience, self.tunnels.wait()).await;
            self.enter(&stages.gone);
        });
        if let Some(hop) = hop {
            hop.finish(hurried);
        }
        self.finish(outlived, hurried);
    }

    async fn say_how_many_are_left(&self) {
        loop {
            tokio::time::sleep(PROGRESS).await;
            info!(
                tunnels = self.shared.evidence.active.load(Ordering::Relaxed),
                "still draining"
            );
        }
    }

    /// Enters a stage of stopping and notifies the workers.
    fn enter(&self, stage: &CancellationToken) {
        stage.cancel();
        self.shared.close_warm(CloseReason::Drain);
        self.tunnels.close();
        self.notify_workers();
    }

    fn notify_workers(&self) {
        for worker in &self.workers {
            worker.waker.notify();
        }
    }

    fn finish(self, drained: usize, hurried: bool) {
        self.audit(DaemonRecord::Stop {
            ts: timestamp(),
            drained,
        });
        info!(drained, "stopped");
        for worker in self.workers {
            // The panic hook has reported a worker that panicked.
            let _reported = worker.thread.join();
        }
        if let Some(server) = self.watched_by {
            server.stop();
        }
        self.service.shutdown_timeout(Duration::from_millis(100));
        self.dns.shutdown_timeout(Duration::from_millis(100));
        // The writer ends with its last sender.
        drop((self.shared, self.service_notify));
        if !self
            .writer
            .finish(if hurried { AT_ONCE } else { LAST_RECORDS })
        {
            error!("the last audit records cannot be written and are lost");
        }
    }

    fn policy_hash(&self) -> String {
        self.shared.snapshot.load().config.policy.hash().to_string()
    }

    fn audit(&self, record: DaemonRecord) {
        if !self.shared.evidence.audit.daemon(record) {
            self.shared.evidence.metrics.audit_failures.increment(1);
        }
    }
}

/// Between two progress lines of a drain.
const PROGRESS: Duration = Duration::from_secs(5);
/// The limit of every wait after the operator has asked twice.
const AT_ONCE: Duration = Duration::from_millis(200);
/// For the last records of a stop; a stream that nobody reads must not delay it.
const LAST_RECORDS: Duration = Duration::from_secs(3);
/// Longer than the two seconds that a refused client may linger.
const LAST_WORDS: Duration = Duration::from_millis(2_500);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
