//! A reload: reads the configuration again, applies it or rejects it as a whole, and reports the
//! result to the log, the audit and the operator. Ends no tunnel itself; each worker judges its
//! own.

use std::sync::Arc;

use time::OffsetDateTime;
use tracing::{error, info, warn};

use super::reload_error::ReloadError;
use super::watch::Seen;
use super::{Daemon, Fixed, start, warnings};
use crate::audit::{DaemonRecord, timestamp};
use crate::auth::Users;
use crate::auth::changes::Changes;
use crate::config::Config;
use crate::config::file::Problem;
use crate::resolve::Resolver;
use crate::shared::{Reload, Snapshot, unix_time};
use crate::sys;

impl Daemon {
    /// Reads the configuration again and applies it to new tunnels. A faulty one changes nothing.
    ///
    /// # Errors
    /// Every problem of the new configuration, at most a thousand; the log and the audit record
    /// have them too.
    pub fn reload(&self) -> Result<(), Vec<String>> {
        self.service_notify.reloading();
        let before = self.shared.snapshot.load_full();
        let mut each = Vec::new();
        let loaded = self.origin.load(&before.config.files).map_err(|problems| {
            let shown = problems.iter().take(PROBLEMS_ANSWERED_MAX);
            each = shown.map(Problem::to_string).collect();
            let reasons = lines(&problems);
            if reasons.contains(DENIED) {
                reasons + OUT_OF_REACH
            } else {
                reasons
            }
        });
        let result = loaded.and_then(|config| {
            self.put_in_force(config)
                .map_err(|refused| refused.to_string())
        });
        let now = result.is_ok().then(|| unix_time().as_secs_f64());
        self.shared.metrics.reloaded(now);
        match &result {
            Ok(()) => info!("configuration reloaded"),
            Err(reason) => {
                error!(%reason, "the new configuration is refused; the old one stays in force")
            }
        }
        let reload = Reload {
            at: OffsetDateTime::now_utc(),
            error: result.as_ref().err().cloned(),
        };
        self.shared.last_reload.store(Some(Arc::new(reload)));
        // A program that rotates the audit file and cannot wait a second sends SIGHUP.
        self.shared.audit.look_again();
        self.audit(DaemonRecord::Reload {
            ts: timestamp(),
            result: if result.is_ok() { "ok" } else { "failed" },
            error: result.as_ref().err().cloned(),
            policy_before: before.config.policy.hash().to_string(),
            policy: self.policy_hash(),
        });
        self.audit_users(before.config.auth.users.as_ref());
        self.service_notify.reloaded();
        // Returns the problems one by one, even if the record has room for a part only.
        result.map_err(|reason| match each.is_empty() {
            true => vec![reason],
            false => {
                each.extend(
                    reason
                        .ends_with(OUT_OF_REACH)
                        .then(|| OUT_OF_REACH.trim_start_matches("; ").to_owned()),
                );
                each
            }
        })
    }

    /// The state of the files to compare with; None without `reload.watch`.
    pub(super) fn watched(&self) -> Option<Seen> {
        let is_on = self.shared.snapshot.load().config.watch;
        is_on.then(|| self.origin.seen())
    }

    fn put_in_force(&self, config: Config) -> Result<(), ReloadError> {
        // Open sockets stay open, whatever listeners the file names now.
        if let Some(open) = self
            .listeners
            .iter()
            .find(|open| !open.ip().is_loopback() && !config.auth.is_closed_to_strangers())
        {
            return Err(ReloadError::OpenRelay(*open));
        }
        if let Some(open) = self
            .admin
            .filter(|open| !open.ip().is_loopback() && config.admin_token.is_none())
        {
            return Err(ReloadError::OpenAdmin(open));
        }
        let known = Arc::clone(&self.shared.snapshot.load().resolver);
        let resolver = Resolver::new(
            config.dns.clone(),
            self.dns.handle().clone(),
            self.shared.budget.look_ups,
            Some(&known),
        );
        let old = self.shared.snapshot.load();
        if self.fixed != Fixed::of(&config) {
            warn!(
                "listeners, admin, relay.workers, log and audit.file change with a restart only; the rest is in force now"
            );
        }
        warnings::give(&config);
        match sys::interface_addresses() {
            Ok(interfaces) => self.shared.own_addresses.renew(interfaces),
            Err(error) => warn!(%error, "cannot list this host's addresses"),
        }
        let egress = start::egress_after(&config, &old);
        let accounts = start::accounts(&config, &old.accounts, &self.shared.metrics);
        self.shared.put_in_force(Snapshot {
            egress,
            accounts,
            config,
            resolver,
        });
        self.notify_workers();
        Ok(())
    }

    /// Records which users were added, removed or changed.
    pub(super) fn audit_users(&self, before: Option<&Users>) {
        let after = self.shared.snapshot.load();
        for part in Changes::between(before, after.config.auth.users.as_ref()).in_parts(USERS_EACH)
        {
            let Changes {
                added,
                removed,
                rotated,
                changed,
            } = part;
            self.audit(DaemonRecord::UserChange {
                ts: timestamp(),
                added,
                removed,
                rotated,
                changed,
            });
        }
    }
}

/// Joins problems to one text, of which a record keeps the first part.
fn lines(problems: &[Problem]) -> String {
    let mut text = problems
        .iter()
        .take(PROBLEMS_MAX)
        .map(Problem::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    if problems.len() > PROBLEMS_MAX {
        text += &format!(
            "; and {} more, see sealway check",
            problems.len() - PROBLEMS_MAX
        );
    }
    match text.char_indices().nth(PROBLEMS_CHARS_MAX) {
        Some((at, _)) => text.get(..at).unwrap_or_default().to_owned(),
        None => text,
    }
}

/// The most problems in the answer to an operator.
const PROBLEMS_ANSWERED_MAX: usize = 1_000;
/// The most problems in one record; a configuration can have thousands.
const PROBLEMS_MAX: usize = 100;
/// A tenth of the longest record, to leave room for escapes.
const PROBLEMS_CHARS_MAX: usize = 16_384;
/// The most names in one record.
const USERS_EACH: usize = 1_000;
/// EACCES as the standard library prints it.
const DENIED: &str = "(os error 13)";
const OUT_OF_REACH: &str = "; since its start the daemon reads beneath the folders of what was configured then, and no others: for a file elsewhere, restart";
