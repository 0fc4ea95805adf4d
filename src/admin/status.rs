//! Builds the [`Report`] from the state that all tunnels share. Reads counters and short tables;
//! never touches a tunnel.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::readiness::Readiness;
use super::report::{
    AuditHead, Denial, Drain, EgressAddress, Handover, Policy, Refusal, Reload, Report, Throughput,
    Totals, Tunnels, User as UserReport, Users as UsersReport, Warm,
};
use crate::audit::{self, timestamp};
use crate::auth::{User, Users};
use crate::dial;
use crate::metrics::Metrics;
use crate::metrics::recent::{MINUTES, Refused};
use crate::outcome::{End, Ending};
use crate::policy::guard::not_global;
use crate::shared::{self, Shared, Snapshot};
use crate::{REVISION, VERSION};

/// Builds the report of the current state.
pub(super) fn report(shared: &Shared) -> Report {
    let (snapshot, metrics) = (shared.snapshot.load(), &shared.evidence.metrics);
    let refused = shared.evidence.recent.refused(metrics);
    let rate = shared.evidence.recent.rate();
    let policy = &snapshot.config.policy;
    let readiness = Readiness::of(shared);
    Report {
        version: VERSION.to_owned(),
        revision: REVISION.to_owned(),
        ts: timestamp(),
        uptime_seconds: shared.lifecycle.started.elapsed().as_secs_f64(),
        drain: shared.lifecycle.drain.load().as_ref().map(|drain| Drain {
            ts: audit::time_text(drain.at),
            by: drain.by.clone(),
            reason: drain.reason.clone(),
        }),
        handover: shared.lifecycle.takeover.load().as_deref().map(handover),
        standby: readiness.is_standby(),
        not_ready: readiness.not_ready,
        degraded: readiness.degraded,
        policy: Policy {
            hash: policy.hash().to_string(),
            mode: policy.enforcement().as_str().to_owned(),
        },
        audit: shared.evidence.audit.head().map(audit_head),
        last_reload: shared.lifecycle.last_reload.load().as_deref().map(reload),
        egress: sources(&snapshot),
        egress_public: snapshot.config.public.clone(),
        egress_ports_max: snapshot.egress.ports_max(),
        tunnels: Tunnels {
            active: shared.evidence.active.load(Ordering::Relaxed),
            max: shared.tunnels_max(),
        },
        warm: snapshot.warm.is_on().then(|| warm(&snapshot, metrics)),
        throughput: Throughput {
            up_bytes_per_second: rate.up,
            down_bytes_per_second: rate.down,
        },
        totals: totals(metrics, &refused),
        denials_minutes: MINUTES,
        denials: refused.iter().map(denial).collect(),
        users: snapshot
            .config
            .auth
            .users
            .as_ref()
            .map(|users| load(&snapshot, users, shared.tunnels_max())),
        refusals: shared
            .evidence
            .refusals
            .last()
            .iter()
            .map(|(refusal, count)| self::refusal(refusal, *count))
            .collect(),
    }
}

fn warm(snapshot: &Snapshot, metrics: &Metrics) -> Warm {
    let [opened, hits, misses, redials] = metrics.warm.totals();
    Warm {
        max: snapshot.config.warm,
        open: snapshot.warm.open(),
        opened,
        hits,
        misses,
        redials,
    }
}

fn handover(takeover: &shared::Takeover) -> Handover {
    Handover {
        ts: audit::time_text(takeover.at),
        adopted: takeover.adopted,
        refused: takeover.refused,
        lost: takeover.lost,
        pause_ms: u64::try_from(takeover.pause.as_millis()).unwrap_or(u64::MAX),
    }
}

fn reload(reload: &shared::Reload) -> Reload {
    let is_ok = reload.error.is_none();
    Reload {
        ts: audit::time_text(reload.at),
        result: if is_ok { "ok" } else { "failed" }.to_owned(),
        error: reload.error.clone(),
    }
}

fn audit_head(head: audit::Head) -> AuditHead {
    AuditHead {
        seq: head.chain.seq,
        hash: head.chain.hash.to_string(),
        written_at: audit::time_text(head.written_at),
    }
}

fn sources(snapshot: &Snapshot) -> Vec<EgressAddress> {
    let source = |source: &Arc<dial::Source>| EgressAddress {
        address: source.address(),
        up: source.is_up(),
        floating: snapshot.egress.is_floating(source.address()),
        not_global: not_global(source.address()).map(str::to_owned),
        ports_in_use: source.ports_in_use(),
        ports_busiest: source.busiest(),
    };
    snapshot.egress.sources().map(source).collect()
}

fn totals(metrics: &Metrics, refused: &[Refused]) -> Totals {
    Totals {
        opened: metrics.opened.get(),
        closed: Ending::ALL
            .iter()
            .map(|ending| metrics.count(End::from(*ending)))
            .sum(),
        denied: refused.iter().map(|refused| refused.total).sum(),
        bytes_up: metrics.bytes_up.get(),
        bytes_down: metrics.bytes_down.get(),
        bytes_spliced: metrics.spliced.get(),
        bytes_copied: metrics.copied.get(),
    }
}

fn denial(refused: &Refused) -> Denial {
    Denial {
        code: refused.end.code().to_owned(),
        recent: refused.recent,
        total: refused.total,
        cause: refused.end.cause().to_owned(),
        cure: refused.end.cure().to_owned(),
    }
}

fn load(snapshot: &Snapshot, users: &Users, tunnels_max: usize) -> UsersReport {
    let mut live: Vec<_> = snapshot
        .accounts
        .iter()
        .filter(|account| account.tunnels() > 0)
        .collect();
    live.sort_by_cached_key(|account| (Reverse(account.tunnels()), account.user().to_string()));
    let of_all = snapshot
        .config
        .limits
        .of_one_user(tunnels_max, users.count());
    let limit = |user: &User| user.tunnels.unwrap_or(of_all);
    let busiest = live.iter().take(USERS_MAX).map(|account| UserReport {
        name: account.user().to_string(),
        tunnels: account.tunnels(),
        tunnels_max: users.named(account.user()).map(|user| limit(user)),
        bytes: account.moved(),
    });
    UsersReport {
        configured: users.count(),
        active: live.len(),
        busiest: busiest.collect(),
    }
}

fn refusal(refusal: &audit::Refusal, count: u64) -> Refusal {
    Refusal {
        ts: audit::time_text(refusal.ts),
        id: refusal.id.to_string(),
        outcome: refusal.outcome.to_owned(),
        code: refusal.code.to_owned(),
        count,
        client: refusal
            .client
            .map(|client| client.to_string())
            .unwrap_or_default(),
        user: refusal.user.as_ref().map(ToString::to_string),
        host: refusal.host.as_ref().map(ToString::to_string),
        port: refusal.port,
        sni: refusal.sni.as_deref().map(str::to_owned),
        error: refusal.error.as_deref().map(str::to_owned),
    }
}

/// The most users in the report.
const USERS_MAX: usize = 100;
