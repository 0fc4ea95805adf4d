//! The fields of `/status`, as docs/reference.md describes them. All readers, `sealway top` too,
//! use these types. The report holds no credentials, no payload, and nothing that the log does not
//! have.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The whole report.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of the program.
    pub version: String,
    /// The git revision of the build.
    pub revision: String,
    /// The time of the report: RFC 3339, UTC.
    pub ts: String,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// Why no new tunnel can be carried; empty when the daemon is ready.
    pub not_ready: Vec<String>,
    /// Whether only a floating egress address is missing for new tunnels to be carried.
    #[serde(default)]
    pub standby: bool,
    /// The operator's drain; None if the daemon accepts new tunnels.
    #[serde(default)]
    pub drain: Option<Drain>,
    /// The tunnels of the former daemon; None if it handed none over.
    #[serde(default)]
    pub handover: Option<Handover>,
    /// Faults that do not keep the daemon from carrying tunnels.
    #[serde(default)]
    pub degraded: Vec<String>,
    /// The configuration in force.
    pub policy: Policy,
    /// The last record of the audit file; None if records go to the log stream.
    #[serde(default)]
    pub audit: Option<AuditHead>,
    /// The result of the last reload; None before the first.
    pub last_reload: Option<Reload>,
    /// The egress addresses.
    pub egress: Vec<EgressAddress>,
    /// The addresses that a NAT in front of the host shows instead; if there are any, the key's
    /// allowlist needs these.
    #[serde(default)]
    pub egress_public: Vec<IpAddr>,
    /// Ports that the kernel has for one egress address and one upstream.
    pub egress_ports_max: usize,
    /// The current tunnels.
    pub tunnels: Tunnels,
    /// Warm upstream sockets; None if `dial.warm` is 0.
    #[serde(default)]
    pub warm: Option<Warm>,
    /// Bytes in the last second.
    pub throughput: Throughput,
    /// Totals since the start.
    pub totals: Totals,
    /// The period that `denials` covers, in minutes.
    pub denials_minutes: usize,
    /// Refusals and failures by code, the most frequent in the period first.
    pub denials: Vec<Denial>,
    /// None if no credentials are required.
    pub users: Option<Users>,
    /// The last refusals and failures, the newest first; the newest of each code is always
    /// included.
    pub refusals: Vec<Refusal>,
}

/// The configuration in force.
#[derive(Debug, Serialize, Deserialize)]
pub struct Policy {
    /// The hash of the policy, as in the audit records.
    pub hash: String,
    /// `enforce` or `report`.
    pub mode: String,
}

/// The last record of the audit file. A copy kept elsewhere proves later that no record up to it was
/// removed or changed.
#[derive(Debug, Serialize, Deserialize)]
pub struct AuditHead {
    /// Its `seq`.
    pub seq: u64,
    /// The SHA-256 of its line, in hexadecimal: the `prev` of the next record.
    pub hash: String,
    /// The time of the write: RFC 3339, UTC.
    pub written_at: String,
}

/// The tunnels of a former daemon that this one has continued.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handover {
    /// When the last one was continued: RFC 3339, UTC.
    pub ts: String,
    /// Continued tunnels.
    pub adopted: usize,
    /// Tunnels that could not be continued.
    pub refused: usize,
    /// Tunnels that were handed over and did not come.
    pub lost: usize,
    /// How long no daemon had the tunnels, in milliseconds.
    pub pause_ms: u64,
}

/// A drain that an operator has begun and not ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct Drain {
    /// The time of the drain: RFC 3339, UTC.
    pub ts: String,
    /// The operator: `token`, or `uid` and a number.
    pub by: String,
    /// The reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The result of a reload.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reload {
    /// The time of the reload: RFC 3339, UTC.
    pub ts: String,
    /// `ok` or `failed`.
    pub result: String,
    /// The cause of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An egress address.
#[derive(Debug, Serialize, Deserialize)]
pub struct EgressAddress {
    /// The address, for the key's allowlist unless it is not globally reachable.
    pub address: IpAddr,
    /// Whether this host has the address.
    pub up: bool,
    /// Whether another host may have the address instead (`egress.floating`).
    #[serde(default)]
    pub floating: bool,
    /// The kind of an address that is not globally reachable. A NAT in front of the host then has
    /// the static address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_global: Option<String>,
    /// Ports that tunnels hold on this address, to all upstreams.
    pub ports_in_use: usize,
    /// The largest number of these ports to one upstream.
    pub ports_busiest: usize,
}

/// The current tunnels.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tunnels {
    /// Open tunnels.
    pub active: usize,
    /// The most tunnels at once.
    pub max: usize,
}

/// Warm upstream sockets: totals since the start, the same numbers as in the metrics.
#[derive(Debug, Serialize, Deserialize)]
pub struct Warm {
    /// `dial.warm`.
    pub max: usize,
    /// Open now.
    pub open: usize,
    /// Opened.
    pub opened: u64,
    /// Tunnels that used one.
    pub hits: u64,
    /// Tunnels to busy names that were dialled.
    pub misses: u64,
    /// Hits that were dialled after all.
    pub redials: u64,
}

/// Bytes per second.
#[derive(Debug, Serialize, Deserialize)]
pub struct Throughput {
    /// From clients to upstreams.
    pub up_bytes_per_second: f64,
    /// From upstreams to clients.
    pub down_bytes_per_second: f64,
}

/// Totals since the start, the same numbers as in the metrics.
#[derive(Debug, Serialize, Deserialize)]
pub struct Totals {
    /// Tunnels that opened.
    pub opened: u64,
    /// Opened tunnels that have ended.
    pub closed: u64,
    /// Attempts that were refused or failed.
    pub denied: u64,
    /// From clients to upstreams.
    pub bytes_up: u64,
    /// From upstreams to clients.
    pub bytes_down: u64,
    /// Bytes that never entered user space.
    pub bytes_spliced: u64,
    /// Bytes that passed through user space.
    pub bytes_copied: u64,
}

/// One code.
#[derive(Debug, Serialize, Deserialize)]
pub struct Denial {
    /// The code of the refusal or failure.
    pub code: String,
    /// The number in the period.
    pub recent: u64,
    /// The number since the start.
    pub total: u64,
    /// The cause, for operators.
    pub cause: String,
    /// The cure, for operators.
    pub cure: String,
}

/// The users.
#[derive(Debug, Serialize, Deserialize)]
pub struct Users {
    /// Users in the users file.
    pub configured: usize,
    /// Users with a tunnel.
    pub active: usize,
    /// The users with the most tunnels, at most a hundred.
    pub busiest: Vec<User>,
}

/// One user with a tunnel.
#[derive(Debug, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// The user's tunnels, those in set-up included.
    pub tunnels: usize,
    /// The user's limit; None if the users file no longer has the user.
    pub tunnels_max: Option<usize>,
    /// Bytes of the user's tunnels in both directions, since the daemon knows the user.
    pub bytes: u64,
}

/// One refusal or failure, with the fields of its audit record.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// The time of the end: RFC 3339, UTC.
    pub ts: String,
    /// The identifier of the audit record.
    pub id: String,
    /// `denied` or `failed`.
    pub outcome: String,
    /// The code.
    pub code: String,
    /// The number of attempts with the same code, client, user and destination that have an audit
    /// record of their own; the other fields are those of the last one.
    #[serde(default = "one")]
    pub count: u64,
    /// The client's address and port.
    pub client: String,
    /// The authenticated user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The host of the CONNECT request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port of the CONNECT request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The server name in the ClientHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The details of the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The default of a field that an older daemon does not send.
fn one() -> u64 {
    1
}
