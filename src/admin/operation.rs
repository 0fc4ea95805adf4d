//! The JSON bodies of operators' requests and of the answers, as docs/reference.md describes them.
//! The commands and the admin listener share these types.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::authority::UserId;

/// The body of `/drain`, `/undrain` and `/reload`. An empty body means no reason.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The reason for the audit record, at most [`REASON_CHARS_MAX`] characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer of `/drain` and `/undrain`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Drained {
    /// Whether the daemon now refuses new tunnels.
    pub drained: bool,
    /// The number of open tunnels.
    pub tunnels: usize,
}

/// The answer of `/reload` once the daemon has read its configuration.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Why the old configuration stays in force, one entry for each problem; empty if the new one
    /// is in force.
    pub problems: Vec<String>,
    /// Files that could not be read, each with the cause and the cure: their former content stays
    /// in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

/// The longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 256;

/// Whether a text is a valid reason: not blank, not too long, no control characters.
#[must_use]
pub fn is_reason(text: &str) -> bool {
    !text.trim().is_empty()
        && text.chars().count() <= REASON_CHARS_MAX
        && !text.chars().any(char::is_control)
}

/// The body of `/tunnels/end`: exactly one of the first three fields, and a reason.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndRequest {
    /// Identifiers of tunnels, at most [`IDS_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    /// A user: all tunnels of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A network or an address: all tunnels of its clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The reason for the audit records.
    pub reason: String,
}

/// The tunnels that an [`EndRequest`] names.
#[derive(Debug)]
pub enum Target {
    /// The tunnels with these identifiers.
    Ids(Vec<String>),
    /// The tunnels of this user.
    User(UserId),
    /// The tunnels of the clients in this network.
    Client(IpNet),
}

/// Why an [`EndRequest`] names no tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongTarget {
    /// None of the three fields, or more than one.
    #[error("give exactly one of ids, user and client")]
    NotOne,
    /// More than [`IDS_MAX`] identifiers.
    #[error("more than {IDS_MAX} ids: end them in parts, or by user or client")]
    TooManyIds,
    /// Not a user's name.
    #[error("user: {}", UserId::FORM)]
    User,
    /// Neither an address nor a network.
    #[error("client: not an address or a network such as 192.0.2.0/24")]
    Client,
}

impl EndRequest {
    /// Checks which tunnels the request names. The command and the admin listener both call this.
    ///
    /// # Errors
    /// When it names nothing, more than one kind, too many identifiers, or a user or a network
    /// that cannot exist.
    pub fn target(&self) -> Result<Target, WrongTarget> {
        match (&self.ids, &self.user, &self.client) {
            (Some(ids), None, None) if ids.is_empty() => Err(WrongTarget::NotOne),
            (Some(ids), None, None) if ids.len() > IDS_MAX => Err(WrongTarget::TooManyIds),
            (Some(ids), None, None) => Ok(Target::Ids(ids.clone())),
            (None, Some(user), None) => UserId::parse(user)
                .map(Target::User)
                .ok_or(WrongTarget::User),
            (None, None, Some(client)) => network(client)
                .map(Target::Client)
                .ok_or(WrongTarget::Client),
            _ => Err(WrongTarget::NotOne),
        }
    }
}

/// Parses a network; an address is a network of itself alone. IPv4 inside IPv6 becomes IPv4, as it
/// does for clients.
fn network(text: &str) -> Option<IpNet> {
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .ok()?;
    match (network.addr().to_canonical(), network) {
        (inside @ IpAddr::V4(_), IpNet::V6(outside)) => {
            IpNet::new(inside, outside.prefix_len().checked_sub(96)?).ok()
        }
        _ => Some(network),
    }
}

/// The answer of `/tunnels/end`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    /// Tunnels that have ended.
    pub ended: usize,
    /// Tunnels that have the order to end and have not ended yet.
    pub ending: usize,
    /// Tunnels of the user or the network that opened after the request; they continue.
    pub newer: usize,
    /// The outcome for each identifier of the request.
    pub outcomes: Vec<OutcomeOf>,
}

/// The outcome for one identifier.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutcomeOf {
    /// The identifier as in the request.
    pub id: String,
    /// The outcome.
    pub outcome: Outcome,
}

/// What happened to a tunnel that the request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The tunnel has ended.
    Ended,
    /// The tunnel has the order to end and has not ended yet.
    Ending,
    /// No live tunnel has this identifier.
    NotFound,
}

/// The answer of `/tunnels`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tunnels {
    /// The live tunnels, the oldest first.
    pub tunnels: Vec<Tunnel>,
}

/// One live tunnel.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tunnel {
    /// The identifier, as in the audit record.
    pub id: String,
    /// The authenticated user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The host of the CONNECT request.
    pub host: String,
    /// The port of the CONNECT request.
    pub port: u16,
    /// The egress address and port; None until the tunnel is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<SocketAddr>,
    /// The upstream address and port; None until the tunnel is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<SocketAddr>,
    /// Seconds since the accept.
    pub age_seconds: f64,
    /// Seconds since a byte last moved, or since the accept.
    pub silent_seconds: f64,
    /// Bytes from the client; those of the handshake are added when it ends.
    pub bytes_up: u64,
    /// Bytes from the upstream.
    pub bytes_down: u64,
    /// The stage: `resolving`, `connecting`, `client_hello`, `server_hello`, `relaying`,
    /// `half_closed`.
    pub phase: String,
}

/// The most identifiers in one request.
pub const IDS_MAX: usize = 1_000;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_one_canonical_form() {
        for (text, wanted) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), wanted, "{text}");
        }
        for text in [
            "",
            "alice",
            "192.0.2.0/33",
            "192.0.2",
            "::ffff:192.0.2.0/95",
            "1/2/3",
            "192.0.2.1:5",
        ] {
            assert!(network(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_order_names_exactly_one_target() {
        let of = |json: &str| {
            serde_json::from_str::<EndRequest>(json)
                .unwrap()
                .target()
                .is_ok()
        };
        assert!(of(r#"{"ids":["1-2"],"reason":"x"}"#) && of(r#"{"user":"alice","reason":"x"}"#));
        for wrong in [
            r#"{"reason":"x"}"#,
            r#"{"ids":[],"reason":"x"}"#,
            r#"{"ids":["1-2"],"user":"alice","reason":"x"}"#,
            r#"{"user":"alice","client":"192.0.2.1","reason":"x"}"#,
            r#"{"user":"a b","reason":"x"}"#,
            r#"{"client":"x","reason":"x"}"#,
        ] {
            assert!(!of(wrong), "{wrong}");
        }
        let many = |count: usize| format!("{{\"ids\":{:?},\"reason\":\"x\"}}", vec!["1-2"; count]);
        assert!(of(&many(IDS_MAX)) && !of(&many(IDS_MAX + 1)));
    }
}
