//! Opens the listeners, starts the threads, handles signals, and drains sessions at the end.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sealway::config::Config;
use sealway::supervisor::Report;
use sealway::sys;
use sealway::wire::terminator::EventKind;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::events::Event;
use crate::material::Material;
use crate::metrics::Metrics;
use crate::reload::{Origin, follow};
use crate::shared::{Bounds, Hop, Listener, Target, unix_now};
use crate::{admin, rotation, serve};

/// Why the program could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be bound.
    #[error(
        "cannot listen on {0}: {1}; another process may hold it (ss -ltnp shows which), or the address is not on this host"
    )]
    Listen(SocketAddr, #[source] io::Error),
    /// A thread or a signal cannot be had.
    #[error("the machine refuses what the hop needs: {0}")]
    System(#[from] io::Error),
}

/// Runs until SIGTERM or SIGINT, then drains. A second signal ends the drain, unless a supervisor does that
/// (`is_supervised`): a service manager may signal both.
///
/// # Errors
/// Why it could not start.
pub fn run(
    config: Arc<Config>,
    origin: Origin,
    loaded: Vec<(Material, Target)>,
    is_supervised: bool,
) -> Result<(), RunError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Half of the cores at most, so that strangers' handshakes leave the other half to sessions.
    let handshakes = threads("handshake", (cores / 2).max(1))?;
    let sessions = threads("session", cores)?;
    let descriptors = sys::raise_descriptor_limit()?;
    let bounds = Bounds::of(descriptors, config.limits.pending);
    let (mut listeners, mut sockets) = (Vec::new(), Vec::new());
    for (section, (material, target)) in config.tls.listeners.iter().zip(loaded) {
        let no = |error| RunError::Listen(section.address, error);
        let socket = sys::listen(section.address).map_err(no)?;
        listeners.push(Arc::new(Listener {
            address: socket.local_addr().map_err(no)?,
            configured: section.address,
            material: watch::Sender::new(Arc::new(material)),
            target: watch::Sender::new(target),
            next: watch::Sender::new(None),
        }));
        sockets.push(socket);
    }
    let admin = config
        .tls
        .admin
        .map(|address| sys::listen(address).map_err(|error| RunError::Listen(address, error)));
    let hop = Arc::new(Hop {
        offered: Default::default(),
        listeners,
        metrics: Metrics::default(),
        events: Default::default(),
        places: Default::default(),
        idle: Default::default(),
        draining: watch::Sender::new(false),
        lingering: Default::default(),
        rates: Default::default(),
        site_rates: Default::default(),
        bounds,
        stop: watch::Sender::new(false),
        handshakes: handshakes.handle().clone(),
        sessions: sessions.handle().clone(),
        config: watch::Sender::new(config),
    });
    sessions.block_on(live(
        &hop,
        origin,
        (sockets, admin.transpose()?),
        is_supervised,
    ))?;
    handshakes.shutdown_timeout(LAST);
    sessions.shutdown_timeout(LAST);
    Ok(())
}

/// The listening sockets: for clients in the order of the listeners, and for scrapes.
type Sockets = (Vec<std::net::TcpListener>, Option<std::net::TcpListener>);

async fn live(
    hop: &Arc<Hop>,
    origin: Origin,
    sockets: Sockets,
    is_supervised: bool,
) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let mut hang_up = signal(SignalKind::hangup())?;
    let ask = Arc::new(Notify::new());
    let mut accepting = JoinSet::new();
    let _beside = start(hop, origin, sockets, &ask, &mut accepting)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => ask.notify_one(),
        }
    }
    // Closes the listening sockets.
    accepting.shutdown().await;
    hop.draining.send_replace(true);
    let patience = hop.config.borrow().timeouts.drain;
    tracing::info!(sessions = hop.metrics.sessions(), "draining");
    let flush = hop.events.flush(|| hop.target(), &hop.metrics);
    let _all_or_out_of_time = tokio::time::timeout(LAST, flush).await;
    if is_supervised {
        // The daemon takes no more connections after this line.
        // The supervisor is gone only if this process is about to be killed.
        let _sent = io::stdout().write_all(Report::Drains.line().as_bytes());
        let _sent = io::stdout().flush();
    }
    tokio::select! {
        () = drained(hop) => {}
        () = tokio::time::sleep(patience) => {}
        _ = terminate.recv(), if !is_supervised => {}
        _ = interrupt.recv(), if !is_supervised => {}
    }
    let left = hop.metrics.sessions();
    hop.stop.send_replace(true);
    // Each session sees it and resets both sides.
    let _left = tokio::time::timeout(LAST, drained(hop)).await;
    let flush = hop.events.flush(|| hop.target(), &hop.metrics);
    let _all_or_out_of_time = tokio::time::timeout(LAST, flush).await;
    tracing::info!(left, "stopped");
    Ok(())
}

/// Starts to accept, to follow the files, to report, and to answer scrapes. What it returns ends when it is dropped.
fn start(
    hop: &Arc<Hop>,
    origin: Origin,
    (sockets, admin): Sockets,
    ask: &Arc<Notify>,
    accepting: &mut JoinSet<()>,
) -> io::Result<JoinSet<()>> {
    {
        // Connections belong to the threads of handshakes until they are sessions.
        let _these_threads = hop.handshakes.enter();
        for (listener, socket) in hop.listeners.iter().zip(sockets) {
            let accept = serve::accept_all(
                Arc::clone(hop),
                Arc::clone(listener),
                TcpListener::from_std(socket)?,
            );
            accepting.spawn_on(accept, &hop.handshakes);
        }
    }
    let mut beside = JoinSet::new();
    let admin_address = admin.as_ref().and_then(|socket| socket.local_addr().ok());
    if let Some(socket) = admin {
        let hop = Arc::clone(hop);
        let pages = move |path: &str| admin::of_hop(&hop, path);
        beside.spawn(admin::serve(TcpListener::from_std(socket)?, pages));
    }
    beside.spawn(follow(Arc::clone(hop), origin, Arc::clone(ask)));
    beside.spawn(rotation::follow(Arc::clone(hop)));
    let reporter = Arc::clone(hop);
    beside.spawn(async move {
        let target = || reporter.target();
        reporter.events.send_all(target, &reporter.metrics).await;
    });
    hop.metrics.reloaded(true, unix_now());
    hop.events.add(
        Event::of_hop(EventKind::HopStarted, sealway::VERSION),
        &hop.metrics,
    );
    tracing::info!(
        listeners = joined(hop.listeners.iter().map(|listener| listener.address)),
        admin = joined(admin_address),
        sessions = hop.bounds.sessions,
        "listening"
    );
    Ok(beside)
}

async fn drained(hop: &Hop) {
    while hop.metrics.sessions() > 0 {
        tokio::time::sleep(DRAIN_TICK).await;
    }
}

fn threads(name: &str, number: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(number)
        .thread_name(name)
        .enable_all()
        .build()
}

fn joined(addresses: impl IntoIterator<Item = SocketAddr>) -> String {
    let texts: Vec<_> = addresses
        .into_iter()
        .map(|address| address.to_string())
        .collect();
    texts.join(" ")
}

/// For the threads to notice the end.
const LAST: Duration = Duration::from_secs(1);
const DRAIN_TICK: Duration = Duration::from_millis(50);
