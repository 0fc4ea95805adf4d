//! What operators ask of a running daemon and what it answers: JSON bodies, as docs/reference.md has them. The commands and
//! the admin listener share these types.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The body of `/drain`, `/undrain` and `/reload`. An empty body is one without a reason.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Why, for the audit record: [`REASON_CHARS_MAX`] characters at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `/drain` and `/undrain` answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Drained {
    /// Whether new tunnels are refused now.
    pub drained: bool,
    /// Tunnels that are open.
    pub tunnels: usize,
}

/// What `/reload` answers when the daemon has read its configuration.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reloaded {
    /// Why the old configuration stays in force, each problem by itself; empty: the new one is in force.
    pub problems: Vec<String>,
}

/// The longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 256;

/// Whether a text can be a reason: not empty, not too long, and without control characters.
#[must_use]
pub fn is_reason(text: &str) -> bool {
    !text.trim().is_empty()
        && text.chars().count() <= REASON_CHARS_MAX
        && !text.chars().any(char::is_control)
}

/// The body of `/tunnels/end`: one of the first three, and a reason.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndRequest {
    /// Tunnels by their identifiers, [`IDS_MAX`] at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    /// All tunnels of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// All tunnels of clients in this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Why, for the audit records.
    pub reason: String,
}

/// What `/tunnels/end` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    /// Tunnels that have ended.
    pub ended: usize,
    /// Tunnels that will end and have not yet.
    pub ending: usize,
    /// Tunnels of the user or the network that have opened since the request: they go on.
    pub newer: usize,
    /// What became of each identifier that was given.
    pub outcomes: Vec<OutcomeOf>,
}

/// What became of one tunnel.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutcomeOf {
    /// Its identifier as it was given.
    pub id: String,
    /// The outcome.
    pub outcome: Outcome,
}

/// What became of a tunnel that was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has ended.
    Ended,
    /// It will end and has not yet.
    Ending,
    /// There is no such tunnel, or not any more.
    NotFound,
}

/// What `/tunnels` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tunnels {
    /// The live ones, the oldest first.
    pub tunnels: Vec<Tunnel>,
}

/// One live tunnel.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tunnel {
    /// As in its audit record.
    pub id: String,
    /// Whose credentials it showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The host asked for.
    pub host: String,
    /// The port asked for.
    pub port: u16,
    /// The address and port it leaves from; None: it is not connected yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<SocketAddr>,
    /// The address and port it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<SocketAddr>,
    /// Since its connection was accepted.
    pub age_seconds: f64,
    /// Since a byte last moved, or since the accept.
    pub silent_seconds: f64,
    /// Bytes from the client, those of the handshake once that is over.
    pub bytes_up: u64,
    /// Bytes from the upstream.
    pub bytes_down: u64,
    /// How far it has come: `resolving`, `connecting`, `client_hello`, `server_hello`, `relaying`, `half_closed`.
    pub phase: String,
}

/// Identifiers in one request.
pub const IDS_MAX: usize = 1_000;
