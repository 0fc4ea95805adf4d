//! What operators ask of a running daemon and what it answers: JSON bodies, as docs/reference.md has them. The commands and
//! the admin listener share these types.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::authority::UserId;

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
    #[error("name what to end, one of ids, user and client")]
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

/// An address is the network of itself alone; IPv4 inside IPv6 is IPv4, as clients are.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_one_however_it_is_written() {
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
    fn exactly_one_thing_is_named() {
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
