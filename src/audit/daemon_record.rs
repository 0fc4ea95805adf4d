//! Defines the audit records about the daemon: their fields, in the order in which they are
//! written. Never writes a record.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::wire::terminator::EventKind;

/// An event of the whole daemon.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum DaemonRecord {
    /// The daemon has started and listens.
    Start {
        /// The time.
        ts: String,
        /// The daemon's version.
        version: &'static str,
        /// Its git revision.
        revision: &'static str,
        /// The listeners' addresses.
        listeners: Vec<SocketAddr>,
        /// The admin listener's address.
        #[serde(skip_serializing_if = "Option::is_none")]
        admin: Option<SocketAddr>,
        /// The static source addresses.
        egress: Vec<IpAddr>,
        /// The public addresses that a NAT in front of the host substitutes.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        egress_public: Vec<IpAddr>,
        /// The hash of the policy in force.
        policy: String,
    },
    /// The daemon has reloaded its configuration.
    Reload {
        /// The time.
        ts: String,
        /// `ok` or `failed`; after a failure the old configuration stays in force.
        result: &'static str,
        /// The problems.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Files that could not be read, so their former content stays in force.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        kept: Vec<String>,
        /// The hash of the policy before the reload.
        policy_before: String,
        /// The hash of the policy after it.
        policy: String,
    },
    /// An operator asked something of the running daemon; written before it is done.
    OperatorAct {
        /// When.
        ts: String,
        /// `end`, `drain`, `undrain` or `reload`.
        act: &'static str,
        /// Who: `token`, or `uid` and a number.
        by: String,
        /// Where the request came from.
        client: IpAddr,
        /// Whose tunnels end: `user` and a name, or `client` and a network.
        #[serde(skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// Which tunnels end, where they were named one by one.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        ids: Vec<String>,
        /// How many tunnels end.
        #[serde(skip_serializing_if = "Option::is_none")]
        tunnels: Option<usize>,
        /// Why, in the operator's words.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The TLS terminator in front of a listener reports an event of its own.
    HopEvent {
        /// When the daemon received it.
        ts: String,
        /// What happened.
        kind: EventKind,
        /// The address and port of the terminator.
        via: SocketAddr,
        /// The client.
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<IpAddr>,
        /// A code, or why.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// SHA-256 of the client's certificate.
        #[serde(skip_serializing_if = "Option::is_none")]
        certificate: Option<String>,
        /// The serial number of the client's certificate.
        #[serde(skip_serializing_if = "Option::is_none")]
        certificate_serial: Option<String>,
        /// How many equal events this record counts. None: one.
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
    },
    /// Too many log-in failures for one name, one client or one site.
    AuthLockout {
        /// The time.
        ts: String,
        /// The client address of the last failure.
        client: IpAddr,
        /// The locked address or network.
        network: String,
        /// The user name of the failures; None if there were several names or the name is not
        /// configured.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// The number of failures.
        failures: u32,
        /// How many locks this record counts; its other fields describe the first. None: one.
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
    },
    /// The daemon has stopped.
    Stop {
        /// The time.
        ts: String,
        /// Tunnels that were reset at the end of the drain.
        drained: usize,
    },
    /// The daemon has handed its tunnels over; its last record.
    Handover {
        /// The time.
        ts: String,
        /// How many tunnels.
        tunnels: usize,
        /// SHA-256 of their sorted identifiers, each with a line feed.
        ids: String,
    },
    /// The daemon has continued the tunnels of a former one.
    Takeover {
        /// The time.
        ts: String,
        /// Continued tunnels.
        adopted: usize,
        /// Tunnels that could not be continued; each has its record.
        refused: usize,
        /// Tunnels that were handed over and did not come; each has its record.
        lost: usize,
        /// How long no daemon had the tunnels, in milliseconds.
        pause_ms: u64,
    },
    /// The set of users has changed. Names only.
    UserChange {
        /// When the daemon loaded them.
        ts: String,
        /// Added users; all users at the start of the daemon.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        added: Vec<String>,
        /// Removed users.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        removed: Vec<String>,
        /// Users with changed secrets.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        rotated: Vec<String>,
        /// Users with any other change.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        changed: Vec<String>,
    },
    /// A new file continues a chain. Always the first record in the file.
    AuditFile {
        /// The time.
        ts: String,
        /// Why the file before it ended: `renamed`, `removed`, `truncated`, or `restart` if it was
        /// missing at the start.
        cause: &'static str,
    },
    /// The file did not end with a whole line.
    AuditTorn {
        /// When the daemon found this.
        ts: String,
        /// Bytes after the last whole record.
        bytes: u64,
        /// The file into which the daemon moved them.
        kept_in: String,
    },
    /// `FILE.chain` did not say where the file ends, so nobody can tell whether records are
    /// missing.
    AuditChain {
        /// When the daemon found this.
        ts: String,
        /// `missing`, `unreadable`, or `behind`: the file has records that it does not know.
        cause: &'static str,
    },
    /// The file does not end with the record that was written last.
    AuditLoss {
        /// When the daemon found this.
        ts: String,
        /// How many records are missing at the end.
        lost: u64,
        /// Whether the last record was changed.
        altered: bool,
    },
}
