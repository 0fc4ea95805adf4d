//! A reload, and the wait for what asks for one: reads the configuration again, applies it or rejects
//! it as a whole, and reports the result to the log, the audit and the operator. Ends no tunnel
//! itself; each worker judges its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::OptionFuture;
use time::OffsetDateTime;
use tracing::{error, info, warn};

use super::hop::Hop;
use super::reload_error::{ANSWERED_MAX, ReloadError};
use super::signals::{Signal, Signals};
use super::watch::{Seen, Watch};
use super::{Daemon, Fixed, start, warnings};
use crate::admin::ReloadRequest;
use crate::admin::operation::Reloaded;
use crate::audit::{DaemonRecord, timestamp};
use crate::auth::Users;
use crate::auth::changes::Changes;
use crate::config::allow_files::Pattern;
use crate::config::contents::Kept;
use crate::config::{Config, Listener};
use crate::dial::warm::WarmPool;
use crate::resolve::Resolver;
use crate::shared::{Reload, Snapshot, unix_time};
use crate::sys;

impl Daemon {
    /// Reloads until something else is asked for; None: a part of the daemon has failed.
    pub(super) fn until_asked(&mut self, signals: &mut Signals) -> Option<Signal> {
        // Within the runtime, whose clock it uses.
        let mut watch = self.service.block_on(async { Watch::new() });
        let failed = self.shared.lifecycle.stages.failed.clone();
        loop {
            let watched = self.watched();
            let is_watched = watched.is_some();
            let kept = self.probed();
            let lost = self.hop.as_ref().map(Hop::lost);
            let has_hop = lost.is_some();
            let (service, requests) = (&self.service, &mut self.reload_requests);
            let request = service.block_on(async {
                tokio::select! {
                    biased;
                    signal = signals.next() => Err(Some(signal)),
                    () = failed.cancelled() => Err(None),
                    Some(()) = OptionFuture::from(lost), if has_hop => {
                        failed.cancel();
                        Err(None)
                    }
                    Some(request) = requests.recv() => Ok(Some(request)),
                    () = watch.changed(watched.unwrap_or_default(), &kept), if is_watched => Ok(None),
                }
            });
            match request {
                Ok(None) => watch.reloaded(self.reload().is_ok()),
                Ok(Some(ReloadRequest { reply })) => {
                    let reloaded = self.reload_for_operator();
                    watch.reloaded(reloaded.problems.is_empty());
                    // An operator who has disconnected finds the result in the log.
                    let _gone = reply.send(reloaded);
                }
                Err(Some(Signal::Reload)) => watch.reloaded(self.reload().is_ok()),
                Err(asked) => return asked,
            }
            // After the daemon's own reload, so that the daemon knows a new token first.
            if let Some(hop) = &mut self.hop {
                hop.reload();
            }
        }
    }

    /// Reads the configuration again and applies it to new tunnels. A faulty one changes nothing; a
    /// file that cannot be read keeps its former content.
    ///
    /// # Errors
    /// Why the old configuration stays in force; the log and the audit record have it too.
    pub(super) fn reload(&self) -> Result<(), ReloadError> {
        self.service_notify.reloading();
        let before = self.shared.snapshot.load_full();
        let loaded = self.origin.load(Some(&before.config));
        let result = loaded
            .map_err(ReloadError::Configuration)
            .and_then(|config| self.put_in_force(config));
        let now = result.is_ok().then(|| unix_time().as_secs_f64());
        self.shared.evidence.metrics.reloaded(now);
        match &result {
            Ok(()) => info!("configuration reloaded"),
            Err(reason) => {
                error!(%reason, "the new configuration is refused; the old one stays in force")
            }
        }
        let error = result.as_ref().err().map(ReloadError::to_string);
        let reload = Reload {
            at: OffsetDateTime::now_utc(),
            error: error.clone(),
        };
        self.shared
            .lifecycle
            .last_reload
            .store(Some(Arc::new(reload)));
        self.audit(DaemonRecord::Reload {
            ts: timestamp(),
            result: if result.is_ok() { "ok" } else { "failed" },
            error,
            kept: match &result {
                Ok(()) => self.kept(KEPT_MAX, |kept| kept.file.display().to_string()),
                Err(_) => Vec::new(),
            },
            policy_before: before.config.policy.hash().to_string(),
            policy: self.policy_hash(),
        });
        self.audit_users(before.config.auth.users.as_deref());
        self.service_notify.reloaded();
        result
    }

    /// Reloads, and words the result for the operator who asked for it.
    pub(super) fn reload_for_operator(&self) -> Reloaded {
        match self.reload() {
            Ok(()) => Reloaded {
                kept: self.kept(ANSWERED_MAX, Kept::to_string),
                ..Reloaded::default()
            },
            Err(error) => Reloaded {
                problems: error.each(),
                ..Reloaded::default()
            },
        }
    }

    /// The files whose former content is in force, at most `count`.
    pub(super) fn kept<T>(&self, count: usize, show: impl Fn(&Kept) -> T) -> Vec<T> {
        let snapshot = self.shared.snapshot.load();
        snapshot.config.kept.iter().take(count).map(show).collect()
    }

    /// The files and patterns whose former content is in force, for `reload.watch` to probe. Leaves
    /// out files that do not exist, because stat(2) shows their return. None after a refused reload,
    /// because the next change of a file is what can mend that.
    pub(super) fn probed(&self) -> Vec<Pattern> {
        let last = self.shared.lifecycle.last_reload.load();
        if last.as_ref().is_some_and(|reload| reload.error.is_some()) {
            return Vec::new();
        }
        let config = &self.shared.snapshot.load().config;
        let exists = |kept: &&Kept| kept.error.kind() != io::ErrorKind::NotFound;
        let pattern = |kept: &Kept| {
            let named = config.files.iter().find(|named| named.path() == kept.file);
            named.map_or_else(|| Pattern::of_file(&kept.file), Pattern::clone)
        };
        let kept = config.kept.iter().filter(exists).take(PROBED_MAX);
        kept.map(pattern).collect()
    }

    /// The state of the files to compare with; None without `reload.watch`.
    pub(super) fn watched(&self) -> Option<Seen> {
        let is_on = self.shared.snapshot.load().config.watch;
        is_on.then(|| self.origin.seen())
    }

    fn put_in_force(&self, mut config: Config) -> Result<(), ReloadError> {
        let fixed = Fixed::of(&config);
        let is_fixed_alike = self.fixed == fixed;
        let old = self.shared.snapshot.load();
        if self.fixed.listeners != fixed.listeners {
            config.listeners = still_open(&old.config.listeners, &config.listeners);
        }
        keep_tokens(&old.config.listeners, &mut config.listeners);
        let can_be_reached = |open: &SocketAddr, listener: &Listener| {
            !open.ip().is_loopback() || listener.proxy_protocol.is_some()
        };
        let mut open = self.listeners.iter().zip(&config.listeners);
        if let Some((open, _)) = open.find(|(open, listener)| can_be_reached(open, listener))
            && !config.auth.is_closed_to_strangers()
        {
            return Err(ReloadError::OpenRelay(*open));
        }
        if let Some(open) = self
            .admin
            .filter(|open| !open.ip().is_loopback() && config.admin_token.is_none())
        {
            return Err(ReloadError::OpenAdmin(open));
        }
        let resolver = Resolver::new(
            config.dns.clone(),
            self.dns.handle().clone(),
            self.shared.limits.budget.look_ups,
            Some(&old.resolver),
        );
        if !is_fixed_alike {
            warn!(
                "listeners, admin, relay.workers, log and audit.file need a restart to change; the rest is in force now"
            );
        }
        warnings::give(&config);
        match sys::interface_addresses() {
            Ok(interfaces) => self.shared.own_addresses.renew(interfaces),
            Err(error) => warn!(%error, "cannot list this host's addresses"),
        }
        let egress = start::egress_after(&config, &old);
        let accounts = start::accounts(&config, &old.accounts, &self.shared.evidence.metrics);
        let closed = self.shared.put_in_force(Snapshot {
            egress,
            accounts,
            warm: WarmPool::new(config.warm),
            config,
            resolver,
        });
        self.shared.evidence.metrics.warm.closed(closed.each());
        self.notify_workers();
        Ok(())
    }

    /// Records which users were added, removed or changed.
    pub(super) fn audit_users(&self, before: Option<&Users>) {
        let after = self.shared.snapshot.load();
        for part in
            Changes::between(before, after.config.auth.users.as_deref()).in_parts(USERS_EACH)
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

/// Lets terminators use the tokens that this reload replaces for a while. `next` are the listeners in the order of `before`.
fn keep_tokens(before: &[Listener], next: &mut [Listener]) {
    let now = Instant::now();
    for (before, next) in before.iter().zip(next) {
        if let (Some(before), Some(next)) = (&before.proxy_protocol, &mut next.proxy_protocol) {
            Arc::make_mut(next).succeed(before, now);
        }
    }
}

/// The most names in one record.
const USERS_EACH: usize = 1_000;
/// The most files that are probed, each once a second.
const PROBED_MAX: usize = 16;
/// The most files in one record; a pattern can match a thousand.
const KEPT_MAX: usize = 100;

/// The open listeners, each with its new settings. A socket stays open until the restart, and keeps
/// its settings if the configuration no longer names its address, or names it twice (port 0).
fn still_open(open: &[Listener], named: &[Listener]) -> Vec<Listener> {
    let settings = |listener: &Listener| {
        let is_same = |other: &&Listener| other.address == listener.address;
        let mut same = named.iter().filter(is_same);
        match (same.next(), same.next()) {
            (Some(one), None) if open.iter().filter(is_same).count() == 1 => one.clone(),
            _ => listener.clone(),
        }
    };
    open.iter().map(settings).collect()
}
