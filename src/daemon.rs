//! The daemon: start, workers, reload, drain, stop.
//!
//! Workers are threads with a loop each; while bytes move they share counters and no lock. The signals and housekeeping
//! live on one service thread; look-ups, the admin listener and the audit writer have threads of their own. Starts whole or not at all. A reload ends only
//! the tunnels that the new configuration refuses.

mod closing;
mod egress_watch;
mod machine_files;
mod manager;
mod reload_error;
mod signals;
mod sockets;
mod start;
mod warnings;
mod watch;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use self::reload_error::ReloadError;
use crate::admin::ReloadRequest;
use crate::audit::{DaemonRecord, Writer, timestamp};
use crate::auth::Users;
use crate::auth::changes::Changes;
use crate::config::file::Problem;
use crate::config::{Config, Log, Overrides};
use crate::resolve::Resolver;
use crate::shared::{Reload, Shared, Snapshot, unix_time};
use crate::systemd::Inherited;
use crate::worker::WorkerWaker;
use crate::{admin, sys};
use manager::Manager;
use signals::{Signal, Signals};
pub use start::StartError;
pub use watch::Seen;
use watch::Watch;

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
    manager: Arc<Manager>,
    fixed: Fixed,
    /// What operators ask of the admin listener.
    reload_requests: mpsc::Receiver<ReloadRequest>,
}

/// What only a start takes from the configuration.
#[derive(Debug, PartialEq, Eq)]
struct Fixed {
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    workers: usize,
    log: Log,
    audit_file: Option<PathBuf>,
}

/// A worker from outside.
#[derive(Debug)]
struct Worker {
    thread: JoinHandle<()>,
    waker: Arc<WorkerWaker>,
}

/// A worker thread has ended by an error or a panic, which the log has.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a worker cannot go on; the log says why")]
pub struct WorkerFailed;

/// A daemon that obeys signals.
#[derive(Debug)]
pub struct Launched {
    daemon: Daemon,
    signals: Signals,
}

impl Launched {
    /// Runs until SIGTERM or SIGINT, reloading on SIGHUP, when an operator asks, and with `reload.watch` when files have
    /// changed; then drains and stops. SIGQUIT, or a second signal of these, stops at once.
    ///
    /// # Errors
    /// When a worker cannot go on: half a daemon that looks alive is worse than a restart, so it stops at once.
    pub fn run(self) -> Result<(), WorkerFailed> {
        let Self {
            mut daemon,
            mut signals,
        } = self;
        // Within the runtime whose clock it takes.
        let mut watch = daemon.service.block_on(async { Watch::new() });
        let failed = daemon.shared.stages.failed.clone();
        let asked = loop {
            let watched = daemon.watched();
            let is_watched = watched.is_some();
            let (service, requests) = (&daemon.service, &mut daemon.reload_requests);
            let request = service.block_on(async {
                tokio::select! {
                    biased;
                    signal = signals.next() => Err(Some(signal)),
                    () = failed.cancelled() => Err(None),
                    Some(request) = requests.recv() => Ok(Some(request)),
                    () = watch.changed(watched.unwrap_or_default()), if is_watched => Ok(None),
                }
            });
            match request {
                Ok(None) => watch.reloaded(daemon.reload().is_ok()),
                Ok(Some(ReloadRequest { reply })) => {
                    let result = daemon.reload();
                    // An operator who has gone finds the result in the log.
                    let _gone = reply.send(result);
                }
                Err(Some(Signal::Reload)) => drop(daemon.reload()),
                Err(asked) => break asked,
            }
        };
        let has_failed = failed.clone();
        daemon.stop(async move {
            if asked == Some(Signal::Stop) {
                tokio::select! {
                    () = async { while signals.next().await == Signal::Reload {} } => {}
                    () = failed.cancelled() => {}
                }
            }
        });
        match has_failed.is_cancelled() {
            true => Err(WorkerFailed),
            false => Ok(()),
        }
    }
}

/// Where the configuration comes from, for a reload.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The file; None: defaults.
    pub path: Option<PathBuf>,
    /// Flags and environment.
    pub overrides: Overrides,
    /// What its files were like before they were read last.
    pub seen: Arc<Mutex<Seen>>,
}

impl Fixed {
    fn of(config: &Config) -> Self {
        let (listeners, audit_file) = (config.listeners.clone(), config.audit_file.clone());
        Self {
            listeners,
            admin: config.admin,
            workers: config.workers,
            log: config.log,
            audit_file,
        }
    }
}

impl Daemon {
    /// Where clients connect: the addresses in the order of the configuration, with the ports that the kernel chose
    /// for 0.
    #[must_use]
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// Where it is watched.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The static source addresses.
    #[must_use]
    pub fn egress(&self) -> Vec<IpAddr> {
        self.shared.snapshot.load().egress.addresses().collect()
    }

    /// Reads the configuration again and puts it in force for new tunnels; a bad one changes nothing.
    ///
    /// # Errors
    /// Every problem of the new configuration, a thousand at most; the log and the audit record have them too.
    pub fn reload(&self) -> Result<(), Vec<String>> {
        self.manager.reloading();
        let before = self.shared.snapshot.load_full();
        let mut each = Vec::new();
        let loaded = self.origin.load(&before.config.files).map_err(|problems| {
            let shown = problems.iter().take(PROBLEMS_ANSWERED_MAX);
            each = shown.map(Problem::to_string).collect();
            let reasons = lines(&problems);
            if reasons.contains(DENIED) {
                reasons + OUT_OF_REACH
            } else {
                reasons
            }
        });
        let result = loaded.and_then(|config| {
            self.put_in_force(config)
                .map_err(|refused| refused.to_string())
        });
        let now = result.is_ok().then(|| unix_time().as_secs_f64());
        self.shared.metrics.reloaded(now);
        match &result {
            Ok(()) => info!("configuration reloaded"),
            Err(reason) => {
                error!(%reason, "the new configuration is refused; the old one stays in force")
            }
        }
        let reload = Reload {
            at: OffsetDateTime::now_utc(),
            error: result.as_ref().err().cloned(),
        };
        self.shared.last_reload.store(Some(Arc::new(reload)));
        // Whoever rotates the file without being able to wait a second sends SIGHUP.
        self.shared.audit.look_again();
        self.audit(DaemonRecord::Reload {
            ts: timestamp(),
            result: if result.is_ok() { "ok" } else { "failed" },
            error: result.as_ref().err().cloned(),
            policy_before: before.config.policy.hash().to_string(),
            policy: self.policy_hash(),
        });
        self.audit_users(before.config.auth.users.as_ref());
        self.manager.reloaded();
        // What is wrong with the files is told one by one, whatever the record has room for.
        result.map_err(|reason| match each.is_empty() {
            true => vec![reason],
            false => {
                each.extend(
                    reason
                        .ends_with(OUT_OF_REACH)
                        .then(|| OUT_OF_REACH.trim_start_matches("; ").to_owned()),
                );
                each
            }
        })
    }

    /// What the files are compared with; None where nobody is to look at them.
    fn watched(&self) -> Option<Seen> {
        let is_on = self.shared.snapshot.load().config.watch;
        is_on.then(|| self.origin.seen())
    }

    fn put_in_force(&self, config: Config) -> Result<(), ReloadError> {
        // The sockets that are open stay open, whatever listeners the file names now.
        if let Some(open) = self
            .listeners
            .iter()
            .find(|open| !open.ip().is_loopback() && !config.auth.is_closed_to_strangers())
        {
            return Err(ReloadError::OpenRelay(*open));
        }
        if let Some(open) = self
            .admin
            .filter(|open| !open.ip().is_loopback() && config.admin_token.is_none())
        {
            return Err(ReloadError::OpenAdmin(open));
        }
        let known = Arc::clone(&self.shared.snapshot.load().resolver);
        let resolver = Resolver::new(
            config.dns.clone(),
            self.dns.handle().clone(),
            self.shared.budget.look_ups,
            Some(&known),
        );
        let old = self.shared.snapshot.load();
        if self.fixed != Fixed::of(&config) {
            warn!(
                "listeners, admin, relay.workers, log and audit.file change with a restart only; the rest is in force now"
            );
        }
        warnings::give(&config);
        match sys::interface_addresses() {
            Ok(interfaces) => self.shared.own_addresses.renew(interfaces),
            Err(error) => warn!(%error, "cannot list this host's addresses"),
        }
        let egress = start::egress_after(&config, &old);
        let accounts = start::accounts(&config, &old.accounts, &self.shared.metrics);
        self.shared.put_in_force(Snapshot {
            egress,
            accounts,
            config,
            resolver,
        });
        self.notify_workers();
        Ok(())
    }

    /// Starts, with the queue of signals open before the first socket. Whoever calls it holds signals back before
    /// its first other thread starts ([`sys::signals::hold_all`]).
    /// Clients come by the sockets that are `inherited`, where there are some for a listener.
    ///
    /// # Errors
    /// What kept it from starting.
    pub fn launch(
        config: Config,
        origin: Origin,
        inherited: Vec<Inherited>,
        audit_stream: impl Write + Send + 'static,
    ) -> Result<Launched, StartError> {
        let service = start::service()?;
        let signals = Signals::install()?;
        let daemon = Self::start_on(service, config, origin, inherited, audit_stream)?;
        Ok(Launched { daemon, signals })
    }

    /// Drains and stops: `/readyz` says no, then no new tunnels, then live ones are reset when `timeouts.drain` or
    /// `hurry` is over.
    pub fn stop(mut self, hurry: impl Future<Output = ()>) {
        let timeouts = self.shared.snapshot.load().config.timeouts;
        let stages = &self.shared.stages;
        stages.leaving.cancel();
        // Who waits for a reload is told that the daemon stops.
        self.reload_requests.close();
        while self.reload_requests.try_recv().is_ok() {}
        self.manager.stopping();
        let (mut outlived, mut hurried) = (0, false);
        self.service.block_on(async {
            tokio::pin!(hurry);
            info!(
                tunnels = self.shared.active.load(Ordering::Relaxed),
                "draining"
            );
            let drained = async {
                tokio::time::sleep(timeouts.drain_delay).await;
                self.enter(&stages.draining);
                timeout(timeouts.drain, self.tunnels.wait()).await
            };
            tokio::select! {
                _all_or_out_of_time = drained => {}
                () = self.say_how_many_are_left() => {}
                () = &mut hurry => {
                    hurried = true;
                    warn!("told to stop at once");
                }
            }
            self.enter(&stages.draining);
            outlived = self.shared.active.load(Ordering::Relaxed);
            self.enter(&stages.kill);
            // Each has been told; its last words take at most the time a refused client may linger.
            let patience = if hurried { AT_ONCE } else { LAST_WORDS };
            let _left_behind = timeout(patience, self.tunnels.wait()).await;
            self.enter(&stages.gone);
        });
        self.finish(outlived, hurried);
    }

    async fn say_how_many_are_left(&self) {
        loop {
            tokio::time::sleep(PROGRESS).await;
            info!(
                tunnels = self.shared.active.load(Ordering::Relaxed),
                "still draining"
            );
        }
    }

    /// Comes to a stage of stopping, and lets the workers know.
    fn enter(&self, stage: &CancellationToken) {
        stage.cancel();
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
            // A worker that panicked has been reported by the panic hook.
            let _reported = worker.thread.join();
        }
        if let Some(server) = self.watched_by {
            server.stop();
        }
        self.service.shutdown_timeout(Duration::from_millis(100));
        self.dns.shutdown_timeout(Duration::from_millis(100));
        // Who writes the records ends with the last who has some to write.
        drop((self.shared, self.manager));
        if !self
            .writer
            .finish(if hurried { AT_ONCE } else { LAST_RECORDS })
        {
            error!("the last audit records cannot be written and are lost");
        }
    }

    /// Who of the users has come, gone or changed.
    fn audit_users(&self, before: Option<&Users>) {
        let after = self.shared.snapshot.load();
        for part in Changes::between(before, after.config.auth.users.as_ref()).in_parts(USERS_EACH)
        {
            let Changes {
                added,
                removed,
                rotated,
                changed,
            } = part;
            self.audit(DaemonRecord::UserChange {
                ts: timestamp(),
                added,
                removed,
                rotated,
                changed,
            });
        }
    }

    fn policy_hash(&self) -> String {
        self.shared.snapshot.load().config.policy.hash().to_string()
    }

    fn audit(&self, record: DaemonRecord) {
        if !self.shared.audit.daemon(record) {
            self.shared.metrics.audit_failures.increment(1);
        }
    }
}

/// Problems as one text, of which a record takes the first part only.
fn lines(problems: &[Problem]) -> String {
    let mut text = problems
        .iter()
        .take(PROBLEMS_MAX)
        .map(Problem::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    if problems.len() > PROBLEMS_MAX {
        text += &format!(
            "; and {} more, see sealway check",
            problems.len() - PROBLEMS_MAX
        );
    }
    match text.char_indices().nth(PROBLEMS_CHARS_MAX) {
        Some((at, _)) => text.get(..at).unwrap_or_default().to_owned(),
        None => text,
    }
}

/// In the answer to who asked for the reload.
const PROBLEMS_ANSWERED_MAX: usize = 1_000;
/// In one record; a configuration can have thousands.
const PROBLEMS_MAX: usize = 100;
/// A tenth of the longest record that is read, whatever has to be escaped.
const PROBLEMS_CHARS_MAX: usize = 16_384;
/// Names in one record.
const USERS_EACH: usize = 1_000;
/// EACCES in the words of the standard library.
const DENIED: &str = "(os error 13)";
const OUT_OF_REACH: &str = "; since its start the daemon reads beneath the folders of what was configured then, and no others: for a file elsewhere, restart";
/// Between two words on a drain.
const PROGRESS: Duration = Duration::from_secs(5);
/// What is left of any wait when the operator has asked twice.
const AT_ONCE: Duration = Duration::from_millis(200);
/// For the last records when the daemon stops; a stream that nobody reads must not keep it from stopping.
const LAST_RECORDS: Duration = Duration::from_secs(3);
/// Longer than the two seconds that a refused client may linger.
const LAST_WORDS: Duration = Duration::from_millis(2_500);
