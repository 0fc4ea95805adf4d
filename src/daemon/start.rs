//! The start: opens everything that can fail before the workers run and accept the first client.
//! Never starts a part of the daemon alone.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::egress_watch::{self, EgressWatch};
use super::service_notify::ServiceNotify;
use super::sockets::{self, Opened};
use super::store::Store;
use super::takeover::Estate;
use super::{Daemon, Fixed, Origin, housekeeping, machine_files, warnings, workers};
use crate::admin::ReloadRequest;
use crate::audit::file::{AuditFile, OpenError, usable};
use crate::audit::{Audit, DaemonRecord, Unwritten, Writer, timestamp};
use crate::auth::Users;
use crate::config::Config;
use crate::dial::warm::WarmPool;
use crate::dial::{Egress, Source};
use crate::handover::claim::{Former, NotTaken};
use crate::handover::parcel::LookError;
use crate::limits::account::Accounts;
use crate::limits::budget::Budget;
use crate::metrics::Metrics;
use crate::resolve::Resolver;
use crate::shared::{Shared, Snapshot, unix_time};
use crate::sys::presence::is_on_this_host;
use crate::systemd::{self, Handed};
use crate::{REVISION, VERSION, admin, sys};

/// Why the daemon did not start. The process should end then, and its threads with it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be opened.
    #[error(
        "cannot listen on {0}: {1}; another process may hold it (ss -ltnp shows which), or the address is not on this host"
    )]
    Listen(SocketAddr, #[source] io::Error),
    /// systemd passed a socket that the configuration does not name.
    #[error(
        "systemd passes the socket \"{name}\" at {address}, but no [[listener]] (nor admin.address) has that address: give both the same one, or name the socket with socket = \"{name}\""
    )]
    Unasked {
        /// Its name in systemd.
        name: String,
        /// Its address.
        address: SocketAddr,
    },
    /// The audit file cannot be used.
    #[error("audit.file: {}: {}", .0.display(), .1)]
    AuditFile(PathBuf, #[source] OpenError),
    /// The tunnels of the former daemon cannot be looked at. They stay where they are.
    #[error(
        "{0}; the tunnels of the former daemon wait: raise LimitNOFILE= of the unit, or give them up with systemctl stop sealway"
    )]
    Handover(#[from] LookError),
    /// A former daemon that does not leave its tunnels cannot be ended.
    #[error("the former daemon neither leaves its tunnels nor ends: {0}")]
    Former(#[source] io::Error),
    /// The tunnels that a former daemon has sent ahead.
    #[error("the tunnels of the former daemon cannot be taken: {0}")]
    Take(#[from] NotTaken),
    /// A thread, a runtime or the list of addresses failed.
    #[error("the system refuses resources that the daemon needs: {0}")]
    System(#[from] io::Error),
}

/// What the limit on open files leaves for workers and tunnels.
struct Capacity {
    descriptors: u64,
    pending_max: usize,
    workers: usize,
    budget: Budget,
}

impl Capacity {
    fn of(config: &Config) -> io::Result<Self> {
        let descriptors = sys::raise_descriptor_limit()?;
        let budget = Budget::of(descriptors);
        let pending_max = config.limits.pending.min(budget.pending);
        let workers = workers::count(config.workers, pending_max);
        Ok(Self {
            descriptors,
            pending_max,
            workers,
            budget: budget.for_workers(workers, config.listeners.len()),
        })
    }

    /// Logs what the daemon serves, and what it lacks.
    fn report(&self, shared: &Shared, listeners: &[SocketAddr], admin: Option<SocketAddr>) {
        info!(
            listeners = joined(listeners),
            admin = joined(admin.as_slice()),
            workers = self.workers,
            descriptors = self.descriptors,
            tunnels = shared.tunnels_max(),
            "listening"
        );
        warnings::at_start(shared, self.descriptors, self.pending_max, self.workers);
    }
}

impl Daemon {
    /// Starts: checks addresses, binds sockets, starts the workers, writes the `start` record.
    /// Handles no signals; [`Daemon::stop`] ends it.
    ///
    /// # Errors
    /// The first failure. The process should end then, because threads may have started.
    pub fn start(
        config: Config,
        origin: Origin,
        audit_stream: impl Write + Send + 'static,
    ) -> Result<Self, StartError> {
        Self::start_on(service()?, config, origin, Handed::default(), audit_stream)
    }

    pub(super) fn start_on(
        service: Runtime,
        config: Config,
        origin: Origin,
        handed: Handed,
        audit_stream: impl Write + Send + 'static,
    ) -> Result<Self, StartError> {
        let capacity = Capacity::of(&config)?;
        let interfaces = sys::interface_addresses()?;
        let Opened {
            listeners,
            shares,
            admin: admin_socket,
            own,
        } = sockets::open(&config, handed.listeners, capacity.workers)?;
        let metrics = Metrics::new(VERSION, REVISION);
        let budget = capacity.budget;
        let dns = dns()?;
        let resolver = resolver(&config, &dns, budget.look_ups);
        let mut estate = find(handed.claims, handed.queues, &config, capacity.descriptors)?;
        let (audit, records) = Audit::before_its_writer(&metrics.audit_failures, budget.tunnels);
        let (egress, watch) = first_egress(&config, estate.egress());
        let fixed = Fixed::of(&config);
        let snapshot = snapshot(config, egress, resolver, &metrics);
        let shared = Arc::new(Shared::new(snapshot, metrics, audit, budget, interfaces));
        let tunnels = TaskTracker::new();
        let (mut prepared, wakers) = workers::prepare(shares, &shared, &tunnels)?;
        let (admin, watched_by, reload_requests) = start_admin(admin_socket, &shared)?;
        let service_notify = ServiceNotify::watch(&service, &shared, wakers.clone())?;
        estate.give(&mut prepared, &listeners);
        let workers = workers::run(prepared, &shared)?;
        // Until here a former daemon carries its tunnels.
        estate.claim(capacity.descriptors)?;
        let writer = start_audit(records, fixed.audit_file.as_deref(), audit_stream)?;
        // From here on clients are accepted, and the tunnels of the former daemon continue.
        estate.start(&shared);
        // Everything that can wait until the tunnels flow. At the first audit record systemd starts other units.
        housekeeping::start(&service, &shared, watch, &wakers);
        dns.spawn(machine_files::follow(Arc::clone(&shared)));
        capacity.report(&shared, &listeners, admin);
        let daemon = Self {
            shared,
            origin,
            listeners,
            admin,
            watched_by,
            workers,
            tunnels,
            service,
            dns,
            writer,
            service_notify,
            fixed,
            store: Store::open(&own),
            reload_requests,
            hop: None,
        };
        daemon.audit_start(estate);
        Ok(daemon)
    }

    /// Records the start, the users and the tunnels that were taken over.
    fn audit_start(&self, estate: Estate) {
        self.audit(self.start_record());
        self.audit_users(None);
        estate.record(&self.shared, &self.listeners);
    }

    fn start_record(&self) -> DaemonRecord {
        DaemonRecord::Start {
            ts: timestamp(),
            version: VERSION,
            revision: REVISION,
            listeners: self.listeners.clone(),
            admin: self.admin,
            egress: self.egress(),
            egress_public: self.shared.snapshot.load().config.public.clone(),
            policy: self.policy_hash(),
        }
    }
}

/// The first snapshot.
fn snapshot(
    config: Config,
    egress: Egress,
    resolver: Arc<Resolver>,
    metrics: &Metrics,
) -> Snapshot {
    metrics.configured(unix_time().as_secs_f64());
    Snapshot {
        egress,
        accounts: accounts(&config, &Accounts::default(), metrics),
        warm: WarmPool::new(config.warm),
        config,
        resolver,
    }
}

fn resolver(config: &Config, dns: &Runtime, look_ups: usize) -> Arc<Resolver> {
    Resolver::new(config.dns.clone(), dns.handle().clone(), look_ups, None)
}

/// Finds the tunnels of a former daemon. One that still carries them sends them ahead, or is made to leave them, unless the
/// audit file cannot be used: a start that cannot succeed leaves them to it.
fn find(
    claims: Vec<UnixStream>,
    queues: Vec<UnixDatagram>,
    config: &Config,
    descriptors: u64,
) -> Result<Estate, StartError> {
    let Some(mut former) = claims.into_iter().find_map(Former::at) else {
        return Ok(Estate::find(queues, descriptors)?);
    };
    if let Some(path) = &config.audit_file {
        usable(path).map_err(|error| StartError::AuditFile(path.clone(), error))?;
    }
    if let Some(tunnels) = former.ask_ahead(descriptors)? {
        return Ok(Estate::ahead(former, tunnels, queues));
    }
    former.claim().map_err(StartError::Former)?;
    let estate = Estate::find(queues, descriptors)?;
    former.wait_until_gone(estate.tunnels());
    Ok(estate)
}

/// Starts the admin listener, which passes on what operators request. Returns its address too.
fn start_admin(
    socket: Option<TcpListener>,
    shared: &Arc<Shared>,
) -> io::Result<(
    Option<SocketAddr>,
    Option<admin::Server>,
    mpsc::Receiver<ReloadRequest>,
)> {
    let (reloads, requests) = mpsc::channel(RELOADS_WAITING_MAX);
    let Some(socket) = socket else {
        return Ok((None, None, requests));
    };
    let address = socket.local_addr()?;
    let server = admin::Server::start(socket, Arc::clone(shared), reloads)?;
    Ok((Some(address), Some(server), requests))
}

/// Starts the writer of records, to the audit file or the log stream.
fn start_audit(
    records: Unwritten,
    path: Option<&Path>,
    stream: impl Write + Send + 'static,
) -> Result<Writer, StartError> {
    let Some(path) = path else {
        return Ok(records.write_to(stream)?);
    };
    let file = open(path).map_err(|error| StartError::AuditFile(path.to_owned(), error))?;
    Ok(records.write_in(file)?)
}

/// Opens the audit file. Under a service manager a former daemon may still have it for a moment.
fn open(path: &Path) -> Result<AuditFile, OpenError> {
    let deadline = Instant::now() + FORMER_ENDS;
    loop {
        match AuditFile::open(path) {
            Err(OpenError::Held) if systemd::is_manager() && Instant::now() < deadline => {
                std::thread::sleep(TICK);
            }
            opened => return opened,
        }
    }
}

/// The sources of the first configuration, and the watch that has checked them. A missing address
/// does not prevent the start.
fn first_egress(config: &Config, former: &[IpAddr]) -> (Egress, EgressWatch) {
    let wanted = Egress::wanted(&config.egress);
    let egress = Egress::new(&wanted, None, sys::ports::ephemeral());
    let egress = egress.with_floating(&config.floating).with_former(former);
    let mut watch = EgressWatch::default();
    watch.look(&egress, config.loss_grace, Instant::now(), is_on_this_host);
    (egress, watch)
}

/// The sources of a later configuration. A missing address does not reject it: the address may
/// return, and the other changes do not depend on it.
pub(super) fn egress_after(config: &Config, before: &Snapshot) -> Egress {
    before.egress.look(is_on_this_host);
    let wanted = if config.egress.is_empty() && before.config.egress.is_empty() {
        before.egress.still_wanted()
    } else {
        Egress::wanted(&config.egress)
    };
    let egress = Egress::new(&wanted, Some(&before.egress), sys::ports::ephemeral());
    let egress = egress.with_floating(&config.floating);
    egress.look(is_on_this_host);
    let missing = |source: &&Arc<Source>| !source.is_up() && !egress.is_floating(source.address());
    for source in egress.sources().filter(missing) {
        warn!(address = %source.address(), "{}", egress_watch::MISSING);
    }
    egress
}

/// Creates an account for each user.
pub(super) fn accounts(config: &Config, before: &Accounts, metrics: &Metrics) -> Accounts {
    let users = config
        .auth
        .users
        .as_deref()
        .into_iter()
        .flat_map(Users::iter);
    Accounts::new(
        users.map(|user| (&user.id, user.bytes_per_second)),
        before,
        |user| metrics.user(user),
    )
}

/// Starts the thread for signals and housekeeping.
pub(super) fn service() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("service")
        .enable_all()
        .build()
}

/// Starts the thread for look-ups. It does nothing else, so no page, dump or reload delays a
/// look-up.
fn dns() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .thread_name("dns")
        .enable_all()
        .build()
}

fn joined(addresses: &[SocketAddr]) -> String {
    addresses
        .iter()
        .map(SocketAddr::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

/// For the end of a former daemon that had to write once more.
const FORMER_ENDS: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(1);
/// Requested reloads that have not started.
const RELOADS_WAITING_MAX: usize = 4;
