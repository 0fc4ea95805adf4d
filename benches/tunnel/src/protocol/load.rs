//! The commands of the harness to the client agent and its replies: one line of JSON each.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How to reach the upstream through a proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Route {
    /// The proxy.
    pub(crate) proxy: SocketAddr,
    /// What the client sends before the ClientHello, waiting for a 200; None for a proxy that
    /// routes by SNI.
    pub(crate) connect: Option<String>,
}

/// What to do with the tunnels.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Set up and end one tunnel after the other.
    Setup,
    /// Requests of `up` bytes and answers of `down` bytes, each tunnel one at a time.
    Exchange { up: u64, down: u64 },
    /// The upstream sends chunks at an even pace.
    Stream { chunk: u64, interval_us: u64 },
    /// The upstream sends all it can.
    Down,
    /// The client sends all it can.
    Up,
}

/// One piece of load.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) kind: Kind,
    pub(crate) tunnels: u64,
    pub(crate) lasts_ms: u64,
    /// A limit on tunnels or exchanges; the other kinds end by time alone.
    pub(crate) units_max: u64,
}

/// A command to the client agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Open idle tunnels, in addition to those that are open.
    Hold { route: Route, tunnels: u64 },
    /// Close the idle ones.
    Release,
    /// Open what the task needs.
    Prepare { route: Route, task: Task },
    /// Run the task, then close its tunnels.
    Go,
}

/// The reply of the client agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Ready,
    Done(Report),
    Failed(String),
}

/// The result of a task.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Tunnels, exchanges or chunks; for bulk, bytes.
    pub(crate) units: u64,
    /// Payload that arrived.
    pub(crate) bytes: u64,
    /// Calls of read(2) that returned bytes; they show whether chunks arrived one by one.
    pub(crate) reads: u64,
    pub(crate) seconds: f64,
}

impl Task {
    /// The duration of the task.
    pub(crate) fn lasts(&self) -> Duration {
        Duration::from_millis(self.lasts_ms)
    }
}
