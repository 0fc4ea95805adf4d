//! What the audit records about the daemon itself say: their fields, in the order they are written. Never writes one.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

/// What happened to the daemon as a whole.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum DaemonRecord {
    /// It listens.
    Start {
        /// When.
        ts: String,
        /// Which version.
        version: &'static str,
        /// Which git revision.
        revision: &'static str,
        /// Where clients connect.
        listeners: Vec<SocketAddr>,
        /// Where it is watched.
        #[serde(skip_serializing_if = "Option::is_none")]
        admin: Option<SocketAddr>,
        /// The static source addresses.
        egress: Vec<IpAddr>,
        /// The addresses that a NAT in front of the host shows in their place.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        egress_public: Vec<IpAddr>,
        /// The hash of the policy in force.
        policy: String,
    },
    /// It has read its configuration again.
    Reload {
        /// When.
        ts: String,
        /// `ok` or `failed`; after a failure the old configuration stays in force.
        result: &'static str,
        /// What was wrong.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// The hash of the policy in force before.
        policy_before: String,
        /// The hash of the policy in force now.
        policy: String,
    },
    /// An operator asked something of the running daemon; written before it is done.
    OperatorAct {
        /// When.
        ts: String,
        /// `drain`, `undrain` or `reload`.
        act: &'static str,
        /// Who: `token`, or `uid` and a number.
        by: String,
        /// Where the request came from.
        client: IpAddr,
        /// Why, in the operator's words.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Credentials of one name, of one client or of one site have failed too often.
    AuthLockout {
        /// When.
        ts: String,
        /// The address of the last failure.
        client: IpAddr,
        /// What is locked: that address or the network that it is in.
        network: String,
        /// The user whose name was tried; None: more than one name, or one that is not configured.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// After how many failures.
        failures: u32,
        /// How many locks this record stands for, of which it names the first. None: one.
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
    },
    /// It has stopped.
    Stop {
        /// When.
        ts: String,
        /// Tunnels that outlived the drain and were reset.
        drained: usize,
    },
    /// The users have changed: names only.
    UserChange {
        /// When the daemon took them up.
        ts: String,
        /// Those that were not there before; all of them when the daemon has just started.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        added: Vec<String>,
        /// Those that are gone.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        removed: Vec<String>,
        /// Those with other secrets.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        rotated: Vec<String>,
        /// Those of whom something else has changed.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        changed: Vec<String>,
    },
    /// A file begins that carries on a chain. Always the first record in it.
    AuditFile {
        /// When.
        ts: String,
        /// What became of the one before: `renamed`, `removed`, `truncated`, or `restart` when it was gone at the start.
        cause: &'static str,
    },
    /// The file did not end with a whole line.
    AuditTorn {
        /// When it was found.
        ts: String,
        /// How much was behind the last whole record.
        bytes: u64,
        /// The file that has it now.
        kept_in: String,
    },
    /// `FILE.chain` did not say where the file ends, so nobody can tell whether records are gone.
    AuditChain {
        /// When it was found.
        ts: String,
        /// `missing`, `unreadable`, or `behind`: the file has records of which it says nothing.
        cause: &'static str,
    },
    /// The file does not end with the record that was written last.
    AuditLoss {
        /// When it was found.
        ts: String,
        /// How many records are missing at its end.
        lost: u64,
        /// Whether the last one was changed.
        altered: bool,
    },
}
