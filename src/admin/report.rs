//! What `/status` says: its fields, as docs/reference.md has them. Whoever reads it, `sealway top` too, reads these types.
//! Holds no credential, no payload, and nothing that is not in the log.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The whole of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The program's.
    pub version: String,
    /// The git revision it was built from.
    pub revision: String,
    /// When this was said: RFC 3339, UTC.
    pub ts: String,
    /// Since the start.
    pub uptime_seconds: f64,
    /// Why no new tunnel can be carried; empty: one can.
    pub not_ready: Vec<String>,
    /// Since when an operator keeps new tunnels away; None: they are taken.
    #[serde(default)]
    pub drain: Option<Drain>,
    /// What is in force.
    pub policy: Policy,
    /// How the last reload went; None: there was none.
    pub last_reload: Option<Reload>,
    /// The static addresses.
    pub egress: Vec<Source>,
    /// The addresses that a NAT in front of the host shows in their place: these go on the key's allowlist then.
    #[serde(default)]
    pub egress_public: Vec<IpAddr>,
    /// Ports that the kernel has for one static address and one upstream.
    pub egress_ports_max: usize,
    /// Tunnels now.
    pub tunnels: Tunnels,
    /// Bytes a second in the last one.
    pub throughput: Throughput,
    /// Since the start.
    pub totals: Totals,
    /// How far back `denials` look.
    pub denials_minutes: usize,
    /// Refusals and failures by code, the most frequent of late first.
    pub denials: Vec<Denial>,
    /// None: no credentials are asked for.
    pub users: Option<Users>,
    /// The last refusals and failures, the newest first; each code has its newest among them.
    pub refusals: Vec<Refusal>,
}

/// What is in force.
#[derive(Debug, Serialize, Deserialize)]
pub struct Policy {
    /// As in the audit records.
    pub hash: String,
    /// `enforce` or `report`.
    pub mode: String,
}

/// A drain that an operator has begun and not ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct Drain {
    /// When: RFC 3339, UTC.
    pub ts: String,
    /// Who: `token`, or `uid` and a number.
    pub by: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A reload.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reload {
    /// When: RFC 3339, UTC.
    pub ts: String,
    /// `ok` or `failed`.
    pub result: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A static address.
#[derive(Debug, Serialize, Deserialize)]
pub struct Source {
    /// To be put on the key's allowlist, unless it is not globally reachable.
    pub address: IpAddr,
    /// Whether the host has it.
    pub up: bool,
    /// What kind of address it is if it is not globally reachable: then a NAT in front of the host has the static one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_global: Option<String>,
    /// Its ports that tunnels hold, towards all upstreams.
    pub ports_in_use: usize,
    /// Those of them towards the upstream with the most.
    pub ports_busiest: usize,
}

/// Tunnels now.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tunnels {
    /// Open.
    pub active: usize,
    /// Tunnels that there may be at once.
    pub max: usize,
}

/// Bytes a second.
#[derive(Debug, Serialize, Deserialize)]
pub struct Throughput {
    /// From clients to upstreams.
    pub up_bytes_per_second: f64,
    /// From upstreams to clients.
    pub down_bytes_per_second: f64,
}

/// Since the start; the same numbers as in the metrics.
#[derive(Debug, Serialize, Deserialize)]
pub struct Totals {
    /// Tunnels that passed every judgement.
    pub opened: u64,
    /// Those of them that ended.
    pub closed: u64,
    /// Attempts that were refused or failed.
    pub denied: u64,
    /// From clients to upstreams.
    pub bytes_up: u64,
    /// From upstreams to clients.
    pub bytes_down: u64,
    /// Bytes that never entered user space.
    pub bytes_spliced: u64,
    /// Bytes that did.
    pub bytes_copied: u64,
}

/// One code.
#[derive(Debug, Serialize, Deserialize)]
pub struct Denial {
    /// The short code.
    pub code: String,
    /// In the last minutes.
    pub recent: u64,
    /// Since the start.
    pub total: u64,
    /// What happened.
    pub cause: String,
    /// What to do about it.
    pub cure: String,
}

/// The users.
#[derive(Debug, Serialize, Deserialize)]
pub struct Users {
    /// How many there are in the users file.
    pub configured: usize,
    /// How many have a tunnel.
    pub active: usize,
    /// Those with the most tunnels, a hundred at most.
    pub busiest: Vec<User>,
}

/// One user with a tunnel.
#[derive(Debug, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// Its tunnels, those being set up included.
    pub tunnels: usize,
    /// How many it may have; None: it is not in the users file any more.
    pub tunnels_max: Option<usize>,
    /// What its tunnels have moved, both ways, since it is known.
    pub bytes: u64,
}

/// One refusal or failure; the fields are those of its audit record.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// When it ended: RFC 3339, UTC.
    pub ts: String,
    /// The record's.
    pub id: String,
    /// `denied` or `failed`.
    pub outcome: String,
    /// The short code.
    pub code: String,
    /// How many of the same code, client, user and destination have an audit record of their own; the other fields are
    /// those of the last one.
    #[serde(default = "one")]
    pub count: u64,
    /// The client's address and port.
    pub client: String,
    /// Whose credentials it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The host asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What the ClientHello named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// What went wrong in detail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A daemon of before said nothing of how many.
fn one() -> u64 {
    1
}
