//! Ends the tunnels that an operator names: by identifier, by user, or by the network of their
//! clients. It waits, with a deadline, until they have ended, and reports the outcomes. It never
//! ends a tunnel that opens after the request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::info;

use super::Service;
use super::operation::{Ended, Outcome, OutcomeOf, Target};
use super::operator::Operator;
use crate::audit::TunnelId;
use crate::live::{Facts, Order, Phase};
use crate::shared::Shared;

/// The tunnels that the request selects, before the order to end.
pub(super) struct Found {
    target: Target,
    tunnels: Vec<Arc<Facts>>,
}

impl Target {
    /// Finds the live tunnels that the request names.
    pub(super) fn find(self, shared: &Shared) -> Found {
        let tunnels = match &self {
            Self::Ids(ids) => {
                let mut keys: Vec<_> = ids.iter().filter_map(|id| key_of(id)).collect();
                keys.sort_unstable();
                keys.dedup();
                let found = keys.iter().filter_map(|key| shared.live.get(*key));
                found.collect()
            }
            _ => shared.live.select(|facts| self.has(facts)),
        };
        let target = self;
        Found { target, tunnels }
    }

    /// Whether the tunnel belongs to the named user or network.
    fn has(&self, facts: &Facts) -> bool {
        match self {
            Self::Ids(_) => false,
            Self::User(user) => facts.user() == Some(user),
            Self::Client(network) => network.contains(&facts.client.ip().to_canonical()),
        }
    }

    /// The target in the audit record; None for identifiers.
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
        self.target.target()
    }

    /// The named identifiers that were found, for the audit record.
    pub(super) fn ids(&self) -> Vec<String> {
        match &self.target {
            Target::Ids(_) => {
                let ids = self.tunnels.iter().map(|facts| TunnelId::of(facts.key()));
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
    /// Orders the tunnels to end and waits until they have ended, at most [`ENDING_MAX`].
    pub(super) async fn end(&self, found: Found, by: Operator, reason: String) -> Ended {
        let Found { target, tunnels } = found;
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
            newer: self.newer(&target, &tunnels),
            outcomes: self.outcomes(&target, &tunnels),
        }
    }

    /// Counts the tunnels of the user or the network that opened after the first look.
    fn newer(&self, target: &Target, tunnels: &[Arc<Facts>]) -> usize {
        let is_new = |facts: &Facts| {
            let known = tunnels.binary_search_by_key(&facts.key(), |known| known.key());
            target.has(facts) && known.is_err()
        };
        self.shared.live.select(is_new).len()
    }

    fn outcomes(&self, target: &Target, tunnels: &[Arc<Facts>]) -> Vec<OutcomeOf> {
        let Target::Ids(ids) = target else {
            return Vec::new();
        };
        let outcome = |id: &String| {
            let key = key_of(id);
            let at = tunnels.binary_search_by_key(&key, |facts| Some(facts.key()));
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

/// The parts of an identifier in text. A tunnel that was handed over keeps that of the daemon which
/// accepted it.
fn key_of(id: &str) -> Option<(u64, u64)> {
    TunnelId::parse(id).map(|id| (id.start, id.number))
}

/// Longer than a worker needs to reset all its tunnels on a busy machine.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// The interval between two checks whether the tunnels have ended.
const TICK: Duration = Duration::from_millis(5);
