//! Accepts the connections of applications, and what they all share.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sealway::limits::Count;
use sealway::sys::{self, options};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::time::Instant;

use super::choice::{self, Candidate};
use super::local::Local;
use super::metrics::Metrics;
use super::reply::Refusal;
use super::settings::{Listen, Settings};
use super::tunnel;
use super::upstream::Upstream;
use crate::places::Places;
use crate::stream::Stream;

/// The state of the program.
#[derive(Debug)]
pub struct Agent {
    /// The settings.
    pub settings: Settings,
    /// The upstreams, in the order of the settings.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Counters.
    pub metrics: Metrics,
    /// Connections without a whole head.
    pub places: Places,
    /// Connections of applications.
    pub connections: Count,
    /// Connections of applications at once: two descriptors each.
    pub connections_max: usize,
    /// Whether the program drains.
    pub draining: watch::Sender<bool>,
    /// Whether tunnels end.
    pub stop: watch::Sender<bool>,
}

/// The listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP on loopback.
    Tcp(TcpListener),
    /// A UNIX socket, removed on drop.
    Unix(UnixListener, PathBuf),
}

impl Agent {
    /// The upstreams that are not down, in the order to try them.
    #[must_use]
    pub fn order(&self) -> Vec<Arc<Upstream>> {
        let now = Instant::now();
        let candidates = self.upstreams.iter().filter_map(|upstream| {
            Some(Candidate {
                place: upstream.place,
                rank: upstream.rank(now)?,
                tunnels: upstream.tunnels(),
            })
        });
        let order = choice::order(self.settings.options.mode, candidates.collect());
        let order = order
            .into_iter()
            .filter_map(|place| self.upstreams.get(place));
        order.cloned().collect()
    }

    /// Whether an upstream works and the program does not drain.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !*self.draining.borrow() && self.upstreams.iter().any(|upstream| upstream.is_up())
    }

    /// Resolves when the remaining tunnels end.
    pub fn stopped(&self) -> impl Future<Output = ()> + use<> {
        let mut stop = self.stop.subscribe();
        async move {
            // A sender that is gone means the same.
            let _stopped = stop.wait_for(|stop| *stop).await;
        }
    }
}

impl Listener {
    /// Opens the socket.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn open(at: &Listen) -> io::Result<Self> {
        match at {
            Listen::Tcp(address) => {
                let socket = sys::listen(*address)?;
                Ok(Self::Tcp(TcpListener::from_std(socket)?))
            }
            Listen::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                // For owner and group only: a process that connects uses the agent's identity.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    /// Where applications connect.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.to_string(),
                Err(error) => error.to_string(),
            },
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    async fn accept(&self) -> io::Result<Local> {
        Ok(match self {
            Self::Tcp(listener) => Local::Tcp(Stream(Arc::new(listener.accept().await?.0))),
            Self::Unix(listener, _) => Local::Unix(Arc::new(listener.accept().await?.0)),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Somebody may have removed it.
            let _removed = std::fs::remove_file(path);
        }
    }
}

/// Removes the socket of an agent that was killed. Another agent that listens there keeps it.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Accepts until the task is dropped.
pub async fn accept_all(agent: Arc<Agent>, listener: Listener) {
    loop {
        match listener.accept().await {
            Ok(local) => take_in(&agent, local),
            Err(error) if options::is_of_one_connection(&error) => {}
            // Mostly no descriptor is left; tunnels end and return some.
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn take_in(agent: &Arc<Agent>, local: Local) {
    let Some(connection) = agent.connections.acquire(agent.connections_max) else {
        agent.metrics.refused(&Refusal::TunnelLimit);
        return local.say(&Refusal::TunnelLimit.bytes());
    };
    let place = agent
        .places
        .enter(ONE_CLIENT, (agent.connections_max / 4).max(1));
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        let _connection = connection;
        tunnel::serve(agent, local, place).await;
    });
}

/// Every application is on this machine.
const ONE_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BACK_OFF: Duration = Duration::from_millis(100);
