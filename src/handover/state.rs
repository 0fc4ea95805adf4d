//! The state of one tunnel as one line of JSON. Fields are only ever added, and a reader ignores
//! those that it does not know, so that a daemon reads what a newer or an older one has written.
//!
//! Times are relative to the freeze, in the unit that the name ends with. Holds no credentials and
//! no payload.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelState {
    /// The first daemon's identifier.
    pub id: String,
    /// The client's address.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub listener: SocketAddr,
    /// `host:port` of the CONNECT.
    pub authority: String,
    /// The upstream's address.
    pub upstream: SocketAddr,
    /// The source address of the upstream connection.
    pub egress: SocketAddr,
    /// Since the accept.
    pub age_us: u64,
    /// Since the last byte.
    pub quiet_ms: u64,
    /// The number of descriptors that come with it: two sockets, and two ends of each pipe.
    pub descriptors: usize,
    /// What the relay knows.
    pub relay: RelayState,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What has authenticated the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// What a PROXY header says of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<DeclaredState>,
    /// Of the ClientHello, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello: Option<HelloState>,
    /// Of all ClientHellos, for the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<JudgedState>,
    /// Of the ServerHello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerState>,
    /// Whether the server requested a second ClientHello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello_retry: Option<bool>,
    /// The code of the refusal if names were enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_deny: Option<String>,
    /// Duration of the look-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_us: Option<u32>,
    /// Duration of the connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_us: Option<u32>,
    /// Whether it used a warm socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<bool>,
    /// Whether it was dialled after all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redialled: Option<bool>,
    /// Details for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What has become of a tunnel since it was described ahead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The place of the tunnel's line among those described ahead; 0 is the first.
    pub of: usize,
    /// Since the last byte.
    pub quiet_ms: u64,
    /// The number of descriptors that come with it: two ends of each pipe.
    pub descriptors: usize,
    /// What the relay knows.
    pub relay: RelayState,
}

/// What a PROXY header says of the client besides its address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeclaredState {
    /// The balancer or terminator.
    pub via: Option<SocketAddr>,
    /// The version of TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The cipher suite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// The key-exchange group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The verified certificate of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateState>,
}

/// A client's certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CertificateState {
    /// Its names.
    #[serde(default)]
    pub names: Vec<String>,
    /// SHA-256 in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The serial number in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// Fields of the ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HelloState {
    /// The SNI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The offered ALPN protocols.
    #[serde(default)]
    pub alpn: Vec<String>,
    /// The length in bytes.
    #[serde(default)]
    pub bytes: u32,
    /// The number of TLS records.
    #[serde(default)]
    pub records: u32,
    /// Whether it had encrypted_client_hello.
    #[serde(default)]
    pub ech: bool,
    /// The JA4 fingerprint.
    pub ja4: String,
    /// The offered TLS versions by their numbers.
    #[serde(default)]
    pub versions: Vec<u16>,
    /// From the 200 to the complete ClientHello.
    #[serde(default)]
    pub took_us: u32,
}

/// The facts of the ClientHellos that a policy judges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgedState {
    /// The code of the mismatch between SNI and host; None if they are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<String>,
    /// The newest offered version by its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u16>,
    /// Whether one had encrypted_client_hello.
    #[serde(default)]
    pub ech: bool,
}

/// Fields of the ServerHello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerState {
    /// The chosen version by its number.
    pub version: u16,
    /// The chosen cipher suite by its number.
    pub cipher: u16,
    /// The chosen group by its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u16>,
}

/// What the relay knows of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RelayState {
    /// From client to upstream.
    pub up: FlowState,
    /// From upstream to client.
    pub down: FlowState,
    /// Since the relay took the tunnel.
    pub age_ms: u64,
    /// Since the last byte.
    pub quiet_ms: u64,
    /// Since one side has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_closed_ms: Option<u64>,
    /// Until the tunnel ends because policy no longer allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_in_ms: Option<u64>,
    /// Whether its user has exceeded its bytes a second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub waits: bool,
    /// Whether keepalive is set on the upstream's socket.
    #[serde(default, skip_serializing_if = "is_default")]
    pub has_keepalive: bool,
    /// Since reading was last resumed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resumed_ms: u64,
    /// The client's first byte, since the relay took the tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoke_ms: Option<u32>,
    /// From then to the upstream's first byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u32>,
    /// The longest silence before the last byte.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_gap_ms: u32,
    /// The side that has ended first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_fin: Option<SideState>,
    /// The side that has failed on a write, and its error number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwritable: Option<(SideState, i32)>,
    /// The kernel's buffers of the client's socket that the relay has frozen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_locks: LocksState,
    /// The same of the upstream's socket.
    #[serde(default, skip_serializing_if = "is_default")]
    pub upstream_locks: LocksState,
    /// Whether it counts as stalled for its user.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_stall_noted: bool,
}

/// One direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowState {
    /// Bytes moved inside the kernel.
    pub spliced: u64,
    /// Bytes moved through user space.
    pub copied: u64,
    /// Whether it waits for its source, for its sink, or not at all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: Stage,
    /// Whether the last transfer filled a whole buffer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub in_bulk: bool,
    /// Bytes in its pipe, whose two ends come with the sockets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub piped: u64,
    /// Bytes in its buffer, which a line after those of all tunnels has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub held: u64,
    /// How long its bytes have waited, and the bytes moved by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<(u64, u64)>,
    /// Bytes moved when the kernel's buffers were last checked.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checked_at: u64,
    /// Whether the source is far.
    #[serde(default, skip_serializing_if = "is_default")]
    pub source_is_far: bool,
    /// Whether the sink is far.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sink_is_far: bool,
}

/// What a direction waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its source.
    #[default]
    Open,
    /// Its sink.
    Blocked,
    /// Nothing.
    Ended,
}

/// A side of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SideState {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
}

/// Frozen buffers of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocksState {
    /// The receive buffer.
    #[serde(default)]
    pub receive: bool,
    /// The send buffer.
    #[serde(default)]
    pub send: bool,
}

/// What a line says of one tunnel.
pub trait Line: DeserializeOwned + Send {
    /// The number of descriptors that come with it.
    fn descriptors(&self) -> usize;
}

impl Line for TunnelState {
    fn descriptors(&self) -> usize {
        self.descriptors
    }
}

impl Line for Change {
    fn descriptors(&self) -> usize {
        self.descriptors
    }
}

impl TunnelState {
    /// The same tunnel after this time, in which nothing has happened.
    pub fn age(&mut self, by: Duration) {
        let by_us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.age_us = self.age_us.saturating_add(by_us);
        self.quiet_ms = self.quiet_ms.saturating_add(by_us / 1_000);
        self.relay.age(by_us / 1_000);
    }

    /// The same tunnel after this change.
    pub fn change(&mut self, change: Change) {
        self.quiet_ms = change.quiet_ms;
        self.descriptors = SOCKETS + change.descriptors;
        self.relay = change.relay;
    }
}

impl RelayState {
    /// The number of descriptors of its tunnel: two sockets, and two ends of each pipe.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        SOCKETS + self.pipe_ends()
    }

    /// The number of its descriptors that are ends of pipes.
    #[must_use]
    pub fn pipe_ends(&self) -> usize {
        let pipes = [&self.up, &self.down].map(|flow| usize::from(flow.piped > 0));
        2 * pipes.iter().sum::<usize>()
    }

    /// Whether no byte waits in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.up, &self.down]
            .iter()
            .all(|flow| flow.piped == 0 && flow.held == 0)
    }

    fn age(&mut self, by_ms: u64) {
        let since = [&mut self.age_ms, &mut self.quiet_ms, &mut self.resumed_ms];
        let since = since.into_iter().chain(&mut self.half_closed_ms);
        let flows = [&mut self.up, &mut self.down].into_iter();
        let stalled = flows
            .filter_map(|flow| flow.stalled.as_mut())
            .map(|(since, _)| since);
        since
            .chain(stalled)
            .for_each(|since| *since = since.saturating_add(by_ms));
        let until = &mut self.revoked_in_ms;
        *until = until.map(|left| left.saturating_sub(by_ms));
    }
}

/// The descriptors that every tunnel has: the client's socket and the upstream's.
pub const SOCKETS: usize = 2;

/// Whether a reader gets the same value without the field.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
