//! Whether new tunnels can be carried, why not, and what is missing while they can. Asks the daemon and this machine,
//! nobody on the network.

use std::net::IpAddr;

use time::OffsetDateTime;

use crate::auth::{User, Users};
use crate::shared::{Shared, Snapshot};
use crate::sys;

/// What `/readyz`, `/status`, the metrics and systemd are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Why no new tunnel can be carried, one reason a line; empty when one can.
    pub not_ready: Vec<String>,
    /// What is wrong although new tunnels are carried.
    pub degraded: Vec<String>,
    /// Whether the daemon itself has all it needs. What it then lacks is for the machine to bring: an address, a port.
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
        readiness.add_egress(&snapshot, OffsetDateTime::now_utc());
        let exhausted = snapshot.egress.nearly_exhausted().into_iter();
        readiness
            .not_ready
            .extend(exhausted.map(|address| format!("egress ports nearly exhausted: {address}")));
        readiness
    }

    /// Whether a new tunnel can be carried.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.not_ready.is_empty()
    }

    /// `ready`, or the reasons; then what is wrong besides. One line each.
    #[must_use]
    pub fn lines(&self) -> String {
        let ready = self.is_ready().then(|| READY.to_owned());
        let reasons = ready.into_iter().chain(self.not_ready.iter().cloned());
        let degraded = self.degraded.iter().map(|what| format!("degraded: {what}"));
        reasons.chain(degraded).map(|line| line + "\n").collect()
    }

    fn of_daemon(shared: &Shared, snapshot: &Snapshot) -> Self {
        let mut readiness = Self::default();
        if shared.stages.leaving.is_cancelled() {
            readiness.not_ready.push("draining".to_owned());
        }
        if shared.drain.load().is_some() {
            readiness.not_ready.push(DRAINED.to_owned());
        }
        if shared.audit.is_failing() {
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

    /// What the egress addresses that are away mean for those who may ask for tunnels: while somebody can be carried, the
    /// daemon is ready, because a balancer that turns away from it would take the others' way too.
    fn add_egress(&mut self, snapshot: &Snapshot, now: OffsetDateTime) {
        let was_for_want = |address: IpAddr| address.is_loopback();
        if snapshot.config.egress.is_empty() && snapshot.egress.addresses().all(was_for_want) {
            self.not_ready.push(NO_ROUTE.to_owned());
            return;
        }
        let sources = snapshot.egress.sources();
        let away: Vec<IpAddr> = sources
            .filter(|source| !source.is_up())
            .map(|source| source.address())
            .collect();
        if away.is_empty() {
            return;
        }
        let mut reasons: Vec<String> = away
            .iter()
            .map(|address| format!("egress address missing: {address}"))
            .collect();
        let users = snapshot.config.auth.users.as_deref();
        let stranded = Stranded::among(users, now, |user| {
            !snapshot.egress.can_leave_from(&user.egress)
        });
        if snapshot.egress.can_leave_from(&[]) && !stranded.is_everybody() {
            reasons.extend(stranded.in_words());
            self.degraded.extend(reasons);
        } else {
            if snapshot.egress.can_leave_from(&[]) {
                reasons.push("no user has an egress address that is on this host".to_owned());
            }
            self.not_ready.extend(reasons);
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

/// The most files that are named; a pattern can match a thousand.
const FILES_MAX: usize = 8;
const DRAINED: &str = "drained by an operator: sealway undrain takes new tunnels again";
/// Where no address is configured and none could be pinned.
const NO_ROUTE: &str = "no egress address: there was no default route to take one from; set egress.addresses, or reload when there is a route";
/// The first line where new tunnels can be carried.
pub const READY: &str = "ready";
