//! A user's entry: whether its credentials are live, and its restrictions. Never prints a hash.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::finding::Finding;
use crate::auth::{SecretHash, User, Users};
use crate::config::Config;
use crate::outcome::DenyReason;

/// The user with this name, if there is one, and the findings about it.
pub(super) fn find<'c>(config: &'c Config, name: Option<&str>) -> (Option<&'c User>, Vec<Finding>) {
    let finding = |value: &str, text: &str| Finding::new("user", value, text);
    match (&config.auth.users, name) {
        (None, None) => (None, Vec::new()),
        (None, Some(name)) => (
            None,
            vec![finding(name, "not checked: no credentials are required")],
        ),
        (Some(_), None) => (
            None,
            vec![finding(
                "-",
                "none given: credentials are required, and a user's own rules may narrow this",
            )],
        ),
        (Some(users), Some(name)) => match users.iter().find(|user| user.id.as_str() == name) {
            Some(user) => (Some(user), vec![facts(user, OffsetDateTime::now_utc())]),
            None => (
                None,
                vec![finding(name, &unknown(users)).refusing(DenyReason::AuthFailed)],
            ),
        },
    }
}

fn unknown(users: &Users) -> String {
    format!(
        "unknown: not one of the {} users in the users file",
        users.count()
    )
}

fn facts(user: &User, now: OffsetDateTime) -> Finding {
    let expiry = user
        .expires
        .and_then(|expires| expires.format(&Rfc3339).ok());
    let has_secret = user
        .secrets
        .iter()
        .any(|secret| *secret != SecretHash::default());
    let dead = match &expiry {
        _ if user.disabled => Some("disabled".to_owned()),
        Some(expiry) if user.has_expired(now) => Some(format!("expired {expiry}")),
        _ if !has_secret => Some("without a secret".to_owned()),
        _ => None,
    };
    let narrowed = [
        expiry
            .filter(|_| dead.is_none())
            .map(|expiry| format!("expires {expiry}")),
        listed("from", &user.sources),
        listed("leaves from", &user.egress),
        user.tunnels
            .map(|tunnels| format!("at most {tunnels} tunnels")),
        user.bytes_per_second
            .map(|bytes| format!("at most {bytes} bytes a second")),
    ];
    let refused = dead.is_some();
    let texts: Vec<_> = [Some(dead.unwrap_or("live".to_owned()))]
        .into_iter()
        .chain(narrowed)
        .flatten()
        .collect();
    let finding = Finding::new("user", &user.id, texts.join("; "));
    if refused {
        finding.refusing(DenyReason::AuthFailed)
    } else {
        finding
    }
}

fn listed(what: &str, items: &[impl ToString]) -> Option<String> {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    (!items.is_empty()).then(|| format!("{what} {} only", items.join(", ")))
}
