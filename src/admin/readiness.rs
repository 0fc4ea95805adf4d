//! Reports whether the daemon can carry new tunnels, why not, and what is missing while it can.
//! Never sends anything on the network.

use std::net::IpAddr;

use time::OffsetDateTime;

use crate::auth::{User, Users};
use crate::dial::Source;
use crate::shared::{Shared, Snapshot};
use crate::sys;

/// What `/readyz`, `/status`, the metrics and systemd are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Why no new tunnel can be carried, one reason a line; empty when one can.
    pub not_ready: Vec<String>,
    /// Why no new tunnel could be carried even if this host had the floating egress addresses. A
    /// hand-over is no reason: the next daemon is about to carry them.
    pub not_on_standby: Vec<String>,
    /// What is wrong although new tunnels are carried.
    pub degraded: Vec<String>,
    /// Whether the daemon itself has all it needs; only an address or a port of the machine may still
    /// be missing.
    pub has_started: bool,
}

impl Readiness {
    /// As it is now.
    #[must_use]
    pub fn of(shared: &Shared) -> Self {
        let snapshot = shared.snapshot.load();
        let mut readiness = Self::of_daemon(shared, &snapshot);
        readiness.has_started = readiness.not_ready.is_empty();
        if !shared.own_addresses.are_known() {
            readiness
                .not_ready
                .push("this host's addresses cannot be listed".to_owned());
        }
        readiness.add_files(&snapshot);
        let exhausted = snapshot.egress.nearly_exhausted().into_iter();
        readiness
            .not_ready
            .extend(exhausted.map(|address| format!("egress ports nearly exhausted: {address}")));
        let (now, egress) = (OffsetDateTime::now_utc(), &snapshot.egress);
        let on_standby = egress.awaits_floating().then(|| {
            let mut on_standby = readiness.clone();
            on_standby.add_egress(&snapshot, now, |source| {
                source.is_up() || egress.is_floating(source.address())
            });
            on_standby.not_ready
        });
        readiness.add_egress(&snapshot, now, Source::is_up);
        readiness.not_on_standby = on_standby.unwrap_or_else(|| readiness.not_ready.clone());
        // An address that moved meanwhile would end the tunnels that the hand-over keeps.
        readiness
            .not_on_standby
            .retain(|reason| reason != HANDING_OVER);
        readiness
    }

    /// Whether a new tunnel can be carried.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.not_ready.is_empty()
    }

    /// Whether only a floating egress address is missing for a new tunnel to be carried, or the next
    /// daemon after a hand-over.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        !self.is_ready() && self.not_on_standby.is_empty()
    }

    /// The body of `/readyz`: `ready`, or the reasons; then what is wrong besides. One line each.
    #[must_use]
    pub fn lines(&self) -> String {
        let ready = self.is_ready().then_some(READY);
        self.listed(ready, &self.not_ready)
    }

    /// The body of `/standbyz`: `ready`, or `standby` and what is missing, or the
    /// reasons why not even those would help; then what is wrong besides. One line each.
    #[must_use]
    pub fn standby_lines(&self) -> String {
        if self.is_standby() {
            self.listed(Some(STANDBY), &self.not_ready)
        } else {
            let ready = self.is_ready().then_some(READY);
            self.listed(ready, &self.not_on_standby)
        }
    }

    fn listed(&self, first: Option<&str>, reasons: &[String]) -> String {
        let first = first.into_iter().map(str::to_owned);
        let degraded = self.degraded.iter().map(|what| format!("degraded: {what}"));
        let lines = first.chain(reasons.iter().cloned()).chain(degraded);
        lines.map(|line| on_one_line(&line) + "\n").collect()
    }

    fn of_daemon(shared: &Shared, snapshot: &Snapshot) -> Self {
        let mut readiness = Self::default();
        if shared.lifecycle.stages.leaving.is_cancelled() {
            let is_parking = shared.lifecycle.parking.get().is_some();
            let reason = if is_parking { HANDING_OVER } else { "draining" };
            readiness.not_ready.push(reason.to_owned());
        }
        if shared.lifecycle.drain.load().is_some() {
            readiness.not_ready.push(DRAINED.to_owned());
        }
        if shared.evidence.audit.is_failing() {
            let reasons = if snapshot.config.audit_required {
                &mut readiness.not_ready
            } else {
                &mut readiness.degraded
            };
            reasons.push("audit unavailable".to_owned());
        }
        if sys::pipe().is_err() {
            readiness.not_ready.push("no descriptors left".to_owned());
        }
        readiness
    }

    /// Files that the last reload could not read. Their former content is in force, so tunnels are
    /// carried.
    fn add_files(&mut self, snapshot: &Snapshot) {
        let kept = &snapshot.config.kept;
        let shown = kept.iter().take(FILES_MAX).map(|kept| {
            let (file, error) = (kept.file.display(), &kept.error);
            format!("file not read, its former content is in force: {file}: {error}")
        });
        self.degraded.extend(shown);
        if let more @ 1.. = kept.len().saturating_sub(FILES_MAX) {
            self.degraded.push(format!("{more} more files not read"));
        }
    }

    /// Adds the egress addresses for which `is_up` is false. The daemon stays ready while it can serve
    /// at least one user, because a balancer that leaves it would cut off that user too. A floating
    /// address is normally on another host, so its absence alone degrades nothing.
    fn add_egress(
        &mut self,
        snapshot: &Snapshot,
        now: OffsetDateTime,
        is_up: impl Fn(&Source) -> bool,
    ) {
        let egress = &snapshot.egress;
        let was_for_want = |address: IpAddr| address.is_loopback();
        if snapshot.config.egress.is_empty() && egress.addresses().all(was_for_want) {
            self.not_ready.push(NO_ROUTE.to_owned());
            return;
        }
        let away = |is_floating: bool| {
            let missing = egress.sources().filter(|source| !is_up(source));
            let addresses = missing.map(|source| source.address());
            addresses.filter(move |address| egress.is_floating(*address) == is_floating)
        };
        let can_leave = |allowed: &[IpAddr]| {
            let mut up = egress.sources().filter(|source| is_up(source));
            up.any(|source| allowed.is_empty() || allowed.contains(&source.address()))
        };
        let fixed = away(false).map(|address| format!("egress address missing: {address}"));
        let floating =
            away(true).map(|address| format!("floating egress address missing: {address}"));
        let users = snapshot.config.auth.users.as_deref();
        let stranded = Stranded::among(users, now, |user| !can_leave(&user.egress));
        if can_leave(&[]) && !stranded.is_everybody() {
            self.degraded.extend(fixed);
            let is_elsewhere = |user: &User| user.egress.iter().any(|of| egress.is_floating(*of));
            let stranded = Stranded::among(users, now, |user| {
                !can_leave(&user.egress) && !is_elsewhere(user)
            });
            self.degraded.extend(stranded.in_words());
        } else {
            self.not_ready.extend(fixed.chain(floating));
            if can_leave(&[]) {
                self.not_ready
                    .push("no user has an egress address that is on this host".to_owned());
            }
        }
    }
}

/// The users who may ask for tunnels, and how many of them have no egress address that is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stranded {
    live: usize,
    stranded: usize,
}

impl Stranded {
    /// A user who is disabled or has expired needs no address.
    fn among(
        users: Option<&Users>,
        now: OffsetDateTime,
        is_stranded: impl Fn(&User) -> bool,
    ) -> Self {
        let users = users.into_iter().flat_map(Users::iter);
        let live = users.filter(|user| !user.disabled && !user.has_expired(now));
        live.fold(Self::default(), |count, user| Self {
            live: count.live + 1,
            stranded: count.stranded + usize::from(is_stranded(user)),
        })
    }

    /// Of nobody nothing is said.
    fn is_everybody(self) -> bool {
        self.live > 0 && self.stranded == self.live
    }

    fn in_words(self) -> Option<String> {
        match self.stranded {
            0 => None,
            1 => Some("1 user has no egress address that is on this host".to_owned()),
            count => Some(format!(
                "{count} users have no egress address that is on this host"
            )),
        }
    }
}

/// Escapes control characters, which the name of a file may hold.
fn on_one_line(text: &str) -> String {
    text.chars().fold(String::new(), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
        line
    })
}

/// The most files that are named; a pattern can match a thousand.
const FILES_MAX: usize = 8;
const DRAINED: &str = "drained by an operator: sealway undrain accepts new tunnels again";
/// Where no address is configured and none could be pinned.
const NO_ROUTE: &str = "no egress address: there was no default route to take one from; set egress.addresses, or reload when there is a route";
/// The first line where new tunnels can be carried.
pub const READY: &str = "ready";
/// The first line of `/standbyz` while only a floating egress address is missing, or the next daemon.
pub const STANDBY: &str = "standby";
const HANDING_OVER: &str = "handing over";

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that can create files of rules must not be able to add lines to the page.
    #[test]
    fn each_reason_is_one_line() {
        let readiness = Readiness {
            degraded: vec!["file not read: x\nready\r\u{1b}[31mé\u{85}".to_owned()],
            ..Readiness::default()
        };
        let shown = "ready\ndegraded: file not read: x\\nready\\r\\u{1b}[31mé\\u{85}\n";
        assert_eq!(readiness.lines(), shown);
        let readiness = Readiness {
            not_ready: vec!["a\nready".to_owned()],
            ..Readiness::default()
        };
        assert_eq!(readiness.lines(), "a\\nready\n");
        assert_eq!(readiness.standby_lines(), "standby\na\\nready\n");
    }
}
