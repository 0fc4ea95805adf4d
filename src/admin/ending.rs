//! Ends tunnels that an operator names: by identifier, by user, or by the network of their clients. Waits until they have ended,
//! bounded, and says what became of each. Never ends one that opens after the request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::time::sleep;
use tracing::info;

use super::Service;
use super::operation::{EndRequest, Ended, IDS_MAX, Outcome, OutcomeOf};
use super::operator::Operator;
use crate::authority::UserId;
use crate::live::{Facts, Order, Phase};
use crate::shared::Shared;

/// Which tunnels.
pub(super) enum Which {
    /// Those with these identifiers.
    Ids(Vec<String>),
    /// Those of this user.
    User(UserId),
    /// Those whose clients are in this network.
    Client(IpNet),
}

/// The tunnels that were found, before they are ended.
pub(super) struct Found {
    which: Which,
    tunnels: Vec<Arc<Facts>>,
}

impl Which {
    /// What a request asks for, or what is wrong with it.
    pub(super) fn of(request: EndRequest) -> Result<Self, &'static str> {
        let EndRequest {
            ids, user, client, ..
        } = request;
        match (ids, user, client) {
            (Some(ids), None, None) if ids.is_empty() => Err(NOTHING),
            (Some(ids), None, None) if ids.len() > IDS_MAX => Err(TOO_MANY),
            (Some(ids), None, None) => Ok(Self::Ids(ids)),
            (None, Some(user), None) => UserId::parse(&user).map(Self::User).ok_or(NO_USER),
            (None, None, Some(client)) => network(&client).map(Self::Client).ok_or(NO_NETWORK),
            _ => Err(NOTHING),
        }
    }

    /// Finds the tunnels that there are now.
    pub(super) fn find(self, shared: &Shared) -> Found {
        let tunnels = match &self {
            Self::Ids(ids) => {
                let numbers = ids.iter().filter_map(|id| shared.ids.number_of(id));
                let mut numbers: Vec<u64> = numbers.collect();
                numbers.sort_unstable();
                numbers.dedup();
                let found = numbers.iter().filter_map(|number| shared.live.get(*number));
                found.collect()
            }
            _ => shared.live.select(|facts| self.has(facts)),
        };
        let which = self;
        Found { which, tunnels }
    }

    /// Whether a user or a network has this tunnel.
    fn has(&self, facts: &Facts) -> bool {
        match self {
            Self::Ids(_) => false,
            Self::User(user) => facts.user.as_ref() == Some(user),
            Self::Client(network) => network.contains(&facts.client.ip().to_canonical()),
        }
    }

    /// For the audit record.
    pub(super) fn target(&self) -> Option<String> {
        match self {
            Self::Ids(_) => None,
            Self::User(user) => Some(format!("user {user}")),
            Self::Client(network) => Some(format!("client {network}")),
        }
    }
}

impl Found {
    pub(super) fn target(&self) -> Option<String> {
        self.which.target()
    }

    /// The identifiers that were asked for and found, for the audit record.
    pub(super) fn ids(&self, shared: &Shared) -> Vec<String> {
        match &self.which {
            Which::Ids(_) => {
                let ids = self.tunnels.iter().map(|facts| shared.ids.of(facts.number));
                ids.map(|id| id.to_string()).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.tunnels.len()
    }
}

impl Service {
    /// Orders the tunnels to end and waits until they have, for [`ENDING_MAX`] at most.
    pub(super) async fn end(&self, found: Found, by: Operator, reason: String) -> Ended {
        let Found { which, tunnels } = found;
        info!(by = %by, reason, tunnels = tunnels.len(), "an operator ends tunnels");
        let by = by.to_string();
        self.shared
            .live
            .order(&tunnels, &Arc::new(Order { by, reason }));
        self.shared.wake_workers();
        let deadline = Instant::now() + ENDING_MAX;
        let is_live = |facts: &&Arc<Facts>| facts.phase() != Phase::Gone;
        while tunnels.iter().any(|facts| is_live(&facts)) && Instant::now() < deadline {
            sleep(TICK).await;
        }
        let ending = tunnels.iter().filter(is_live).count();
        Ended {
            ended: tunnels.len() - ending,
            ending,
            newer: self.newer(&which, &tunnels),
            outcomes: self.outcomes(&which, &tunnels),
        }
    }

    /// How many tunnels of the user or the network have opened since the first look.
    fn newer(&self, which: &Which, tunnels: &[Arc<Facts>]) -> usize {
        let is_new = |facts: &Facts| {
            let known = tunnels.binary_search_by_key(&facts.number, |known| known.number);
            which.has(facts) && known.is_err()
        };
        self.shared.live.select(is_new).len()
    }

    fn outcomes(&self, which: &Which, tunnels: &[Arc<Facts>]) -> Vec<OutcomeOf> {
        let Which::Ids(ids) = which else {
            return Vec::new();
        };
        let outcome = |id: &String| {
            let number = self.shared.ids.number_of(id);
            let at = tunnels.binary_search_by_key(&number, |facts| Some(facts.number));
            match at.ok().and_then(|at| tunnels.get(at)) {
                None => Outcome::NotFound,
                Some(facts) if facts.phase() == Phase::Gone => Outcome::Ended,
                Some(_) => Outcome::Ending,
            }
        };
        let of = |id: &String| OutcomeOf {
            id: id.clone(),
            outcome: outcome(id),
        };
        ids.iter().map(of).collect()
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

/// Longer than a worker takes to reset all its tunnels on a busy machine.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// Between two looks at whether they have ended.
const TICK: Duration = Duration::from_millis(5);
const NOTHING: &str = "name what to end, one of ids, user and client\n";
const TOO_MANY: &str = "more than 1000 ids: end them in parts, or by user or client\n";
const NO_USER: &str = "user: no user can have this name: 1 to 128 printable ASCII characters without space and colon\n";
const NO_NETWORK: &str = "client: not an address or a network such as 192.0.2.0/24\n";

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
        let of = |json: &str| Which::of(serde_json::from_str(json).unwrap()).is_ok();
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
