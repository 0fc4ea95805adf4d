//! `sealway run`: runs the tunnel in the foreground until a signal stops it. Logs go to standard
//! error, and so do audit records unless a file is configured. The process' memory never reaches a
//! core file or another process of the same user.

mod confinement;
mod journal;
mod quiet;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::{DynFilterFn, FilterExt, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use super::Trouble;
use crate::config::{Config, Log, Overrides};
use crate::daemon::{Daemon, Ended, Origin, StartError};
use crate::handover::claim;
use crate::handover::format::Head;
use crate::handover::parcel::{self, LookError};
use crate::supervisor::{self, Supervisor};
use crate::sys::parcel::monotonic;
use crate::systemd::main_process::{self, MainProcess};
use crate::{sys, systemd};

/// Whether `--outlive` makes this the main process: under a service manager, unless another one has started it.
#[must_use]
pub fn needs_main_process() -> bool {
    systemd::is_manager() && main_process::number().is_none()
}

/// Runs the tunnel in a child process.
///
/// # Errors
/// How it ended, if not in order.
pub fn as_main_process() -> Result<(), Trouble> {
    match main_process::run() {
        Ok(0) => Ok(()),
        Ok(status) => Err(Trouble::Child(status)),
        Err(error) => Err(Trouble::Other(format!("cannot start the daemon: {error}"))),
    }
}

/// Runs the tunnel, and `sealway-hop` for the TLS listeners unless `no_hop`.
///
/// # Errors
/// Why it could not start.
pub fn run(path: Option<PathBuf>, mut overrides: Overrides, no_hop: bool) -> Result<(), Trouble> {
    // Before the daemon reads its first secret.
    sys::keep_out_of_core_files().map_err(|error| {
        Trouble::Other(format!(
            "cannot keep this process's memory out of core files: {error}"
        ))
    })?;
    // First: if the main process dies, this one dies with it.
    let main_process = MainProcess::of_this()
        .map_err(|error| Trouble::Other(format!("the main process has ended: {error}")))?;
    let handed = systemd::inherit().map_err(|error| Trouble::Config(vec![error.to_string()]))?;
    let heads: Vec<_> = handed.queues.iter().filter_map(parcel::waiting).collect();
    let is_carried = handed.claims.iter().any(claim::greet);
    // While there is one thread.
    expect_descriptors(&heads, is_carried);
    let listeners = handed.listeners.iter();
    overrides.handed_over = Some(
        listeners
            .filter(|socket| !socket.is_stored)
            .map(|socket| (socket.name.clone(), socket.address))
            .collect(),
    );
    let origin = Origin {
        path,
        overrides,
        ..Origin::default()
    };
    let loaded = origin.load(None);
    let hint = still_waiting(&heads, is_carried);
    let waiting = |trouble| while_tunnels_wait(trouble, hint.as_deref());
    let config = loaded.map_err(|problems| waiting(Trouble::of(&problems)))?;
    // Before Landlock, under which nothing that reads the private key can be started.
    let hop = match no_hop {
        true => None,
        false => hop(&config, origin.path.as_deref()).map_err(waiting)?,
    };
    // Before a second thread starts, which would receive signals that this thread blocks.
    sys::signals::hold_all()
        .map_err(|error| Trouble::Other(format!("cannot hold signals back: {error}")))?;
    // Before a second thread starts.
    let confined = confinement::enter(&config, origin.path.as_deref());
    // Flushes the queued lines on drop.
    let _log = log_to_stderr(config.log);
    let launched =
        Daemon::launch(config, origin, handed, io::stderr()).map_err(|error| match error {
            StartError::Unasked { .. } | StartError::Handover(LookError::TooMany(..)) => {
                waiting(Trouble::Config(vec![error.to_string()]))
            }
            StartError::AuditFile(_, ref why) if why.is_lasting() => {
                waiting(Trouble::Config(vec![error.to_string()]))
            }
            _ => Trouble::Other(error.to_string()),
        })?;
    confinement::report(&confined);
    match launched.run(hop, main_process) {
        Ok(Ended::Stopped) => Ok(()),
        Ok(Ended::HandedOver) => Err(Trouble::HandedOver),
        Err(error) => Err(Trouble::Other(error.to_string())),
    }
}

/// Makes room for the descriptors of a former daemon's tunnels.
fn expect_descriptors(heads: &[Head], is_carried: bool) {
    let needed = heads.iter().map(|head| head.descriptors).sum::<usize>();
    if needed == 0 && !is_carried {
        return;
    }
    let Ok(limit) = sys::raise_descriptor_limit() else {
        return;
    };
    // How many a daemon has that still carries them is known when they come.
    let number = match is_carried {
        true => usize::try_from(limit).map_or(TABLE_MAX, |limit| limit.min(TABLE_MAX)) - 1,
        false => needed.saturating_add(MORE_DESCRIPTORS),
    };
    sys::parcel::expect_descriptors(number);
}

/// The supervisor of the hop, if there are TLS listeners. The hop checks their files first, so that wrong ones end the start
/// as a wrong configuration does.
fn hop(config: &Config, path: Option<&Path>) -> Result<Option<Supervisor>, Trouble> {
    let Some(path) = path.filter(|_| !config.tls.listeners.is_empty()) else {
        return Ok(None);
    };
    let program = supervisor::program(config.tls.program.as_deref()).and_then(|program| {
        supervisor::check(&program, path)?;
        Ok(program)
    });
    let program = program.map_err(|error| match error.is_lasting() {
        true => Trouble::Config(vec![error.to_string()]),
        false => Trouble::Other(error.to_string()),
    })?;
    let supervisor = Supervisor::launch(&program, path);
    let supervisor = supervisor.map_err(|error| {
        Trouble::Other(format!(
            "cannot start the supervisor of sealway-hop: {error}"
        ))
    })?;
    Ok(Some(supervisor))
}

/// What an operator may expect of the tunnels of a former daemon that wait for this one; None if there are none.
fn still_waiting(heads: &[Head], is_carried: bool) -> Option<String> {
    if is_carried {
        return Some("the former daemon still carries its tunnels: correct the configuration and they continue here".to_owned());
    }
    let head = heads.iter().find(|head| head.tunnels > 0)?;
    let left = WAIT_MAX.checked_sub(head.since(monotonic()))?;
    Some(format!(
        "{} tunnels of the former daemon wait for this one, {} s more: correct the configuration and they continue",
        head.tunnels,
        left.as_secs()
    ))
}

/// While tunnels of a former daemon wait, a wrong configuration is worth another try: the service
/// manager keeps their sockets only as long as it restarts the service.
fn while_tunnels_wait(trouble: Trouble, hint: Option<&str>) -> Trouble {
    match (trouble, hint) {
        (Trouble::Config(mut problems), Some(hint)) => {
            problems.push(hint.to_owned());
            Trouble::Waiting(problems)
        }
        (trouble, _) => trouble,
    }
}

/// Room in the table of descriptors for those of the daemon itself.
const MORE_DESCRIPTORS: usize = 1_024;
/// The most places in that table that are made in advance, 1 MiB of the kernel's memory.
const TABLE_MAX: usize = 131_072;
/// Peers may think that a tunnel is alive as long as it waits, so that it must not be for long.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Logs the program's own events from the configured level on; of the libraries only errors, and
/// few of them, because peers can provoke them. The returned guard flushes the queued lines on drop.
pub fn log_to_stderr(log: Log) -> WorkerGuard {
    // A separate thread writes the log and drops lines if nobody reads them, so no worker waits for
    // the log.
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    let json = log.json.unwrap_or_else(|| !io::stderr().is_terminal());
    let levels = Targets::new()
        .with_target("sealway", log.level)
        .with_default(tracing::Level::ERROR);
    let quiet = quiet::Quiet::default();
    let few = DynFilterFn::new(move |line, _| quiet.admits(line)).with_max_level_hint(log.level);
    let bounded = levels.and(few);
    let format = fmt::layer()
        .with_writer(journal::Stream::new(writer))
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let format = if json {
        format
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed()
    } else {
        format.boxed()
    };
    // Fails only if a logger exists already; this is the only place that sets one.
    let _only_here = tracing_subscriber::registry()
        .with(format.with_filter(bounded))
        .try_init();
    guard
}
