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
    /// A client address has used up its failed credentials.
    AuthLockout {
        /// When.
        ts: String,
        /// Which one.
        client: IpAddr,
        /// After how many failures.
        failures: u32,
    },
    /// It has stopped.
    Stop {
        /// When.
        ts: String,
        /// Tunnels that outlived the drain and were reset.
        drained: usize,
    },
}
