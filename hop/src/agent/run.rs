//! The running agent: sockets, tasks, signals, and the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sealway::sys;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::bundle::Bundle;
use super::serve::{Agent, Listener, accept_all};
use super::settings::Settings;
use super::upstream::Upstream;
use super::{admin, files, keeper};

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be bound.
    #[error("cannot listen on {0}: {1}; another process may hold it (ss -ltnp shows which)")]
    Listen(String, #[source] io::Error),
    /// A thread or a signal cannot be had.
    #[error("the machine refuses what the agent needs: {0}")]
    System(#[from] io::Error),
}

/// An agent that accepts. Ends when it is dropped.
#[derive(Debug)]
pub struct Running {
    /// Its state.
    pub agent: Arc<Agent>,
    /// Where applications connect.
    pub name: String,
    tasks: JoinSet<()>,
}

/// Opens the sockets and starts to accept, to connect and to answer probes.
///
/// # Errors
/// Why it cannot.
pub fn start(settings: Settings, bundle: Bundle) -> Result<Running, RunError> {
    let descriptors = usize::try_from(sys::raise_descriptor_limit()?).unwrap_or(usize::MAX);
    let no = |name: &str| {
        let name = name.to_owned();
        move |error| RunError::Listen(name, error)
    };
    let listener = Listener::open(&settings.listen).map_err(no(&settings.listen.to_string()))?;
    let name = listener.name();
    let admin = settings.admin.map(|address| {
        let socket = sys::listen(address).map_err(no(&address.to_string()))?;
        Ok::<_, RunError>(TcpListener::from_std(socket)?)
    });
    let admin = admin.transpose()?;
    let bundle = watch::Sender::new(bundle);
    let warm = usize::from(settings.options.warm);
    let endpoints = settings.endpoints.iter().cloned().enumerate();
    let upstreams: Vec<_> = endpoints
        .map(|endpoint| Arc::new(Upstream::new(endpoint, bundle.subscribe(), warm)))
        .collect();
    let agent = Arc::new(Agent {
        settings: settings.clone(),
        upstreams,
        metrics: Default::default(),
        places: Default::default(),
        connections: Default::default(),
        connections_max: (descriptors.saturating_sub(OWN_DESCRIPTORS) / 2).max(1),
        draining: watch::Sender::new(false),
        stop: watch::Sender::new(false),
    });
    tracing::info!(
        listen = name,
        admin = admin
            .as_ref()
            .and_then(|socket| socket.local_addr().ok())
            .map(|at| at.to_string()),
        upstreams = agent
            .upstreams
            .iter()
            .map(|one| one.name.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        "listening"
    );
    let mut tasks = JoinSet::new();
    for upstream in &agent.upstreams {
        tasks.spawn(keeper::keep(Arc::clone(upstream)));
    }
    tasks.spawn(accept_all(Arc::clone(&agent), listener));
    tasks.spawn(files::follow(settings, bundle));
    if let Some(socket) = admin {
        let agent = Arc::clone(&agent);
        let pages = move |path: &str| admin::page(&agent, path);
        tasks.spawn(crate::admin::serve(socket, pages));
    }
    Ok(Running { agent, name, tasks })
}

/// Runs until SIGTERM or SIGINT, and then until the open tunnels have ended or the drain is over. New tunnels are accepted
/// meanwhile, because an application may need one to end in order.
///
/// # Errors
/// A signal cannot be had.
pub async fn serve(running: Running) -> Result<(), RunError> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let agent = &running.agent;
    agent.draining.send_replace(true);
    tracing::info!(connections = connections(agent), "draining");
    tokio::select! {
        () = drained(agent) => {}
        () = tokio::time::sleep(agent.settings.options.drain) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    running.stop().await;
    Ok(())
}

impl Running {
    /// Resets the remaining tunnels.
    pub async fn stop(mut self) {
        self.tasks.abort_all();
        let left = connections(&self.agent);
        self.agent.stop.send_replace(true);
        // Each tunnel sees it and resets both sides.
        let _left = tokio::time::timeout(LAST, drained(&self.agent)).await;
        // Removes a UNIX socket.
        while self.tasks.join_next().await.is_some() {}
        tracing::info!(left, "stopped");
    }

    /// Resolves when an upstream works, or `max` is over.
    pub async fn ready(&self, max: Duration) -> bool {
        let ready = async {
            while !self.agent.is_ready() {
                tokio::time::sleep(TICK).await;
            }
        };
        tokio::time::timeout(max, ready).await.is_ok()
    }
}

fn connections(agent: &Agent) -> usize {
    agent
        .upstreams
        .iter()
        .map(|upstream| upstream.tunnels())
        .sum()
}

async fn drained(agent: &Agent) {
    while connections(agent) > 0 {
        tokio::time::sleep(TICK).await;
    }
}

/// Listeners, warm connections, the log, epoll.
const OWN_DESCRIPTORS: usize = 320;
const TICK: Duration = Duration::from_millis(20);
/// For the tunnels to notice the end.
const LAST: Duration = Duration::from_secs(1);
