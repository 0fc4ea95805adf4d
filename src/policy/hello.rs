//! The facts of a ClientHello that policy judges, in three bytes, so that a tunnel can keep them
//! and a later policy can judge them again. Holds verdicts on names, never the names.

use super::judge_name_of;
use crate::authority::Host;
use crate::outcome::DenyReason;
use crate::wire::client_hello::{ClientHello, TlsVersion};

/// The facts of a tunnel's ClientHellos. They are independent of any policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloFacts {
    /// The mismatch between SNI and the host of the CONNECT; None if they are equal.
    pub(super) name: Option<DenyReason>,
    /// The newest offered version.
    pub(super) newest: Option<TlsVersion>,
    pub(super) has_ech: bool,
}

impl HelloFacts {
    /// The facts of one ClientHello, sent in a tunnel to `host`.
    #[must_use]
    pub fn of(host: &Host, hello: &ClientHello) -> Self {
        Self {
            name: judge_name_of(host, hello.server_name()).err(),
            newest: hello.versions().max(),
            has_ech: hello.ech().is_some(),
        }
    }

    /// The facts that another daemon has kept: the mismatch between SNI and host, the newest offered
    /// version, and whether it had ECH.
    #[must_use]
    pub fn kept(name: Option<DenyReason>, newest: Option<TlsVersion>, has_ech: bool) -> Self {
        Self {
            name,
            newest,
            has_ech,
        }
    }

    /// The same, for another daemon.
    #[must_use]
    pub fn parts(self) -> (Option<DenyReason>, Option<TlsVersion>, bool) {
        (self.name, self.newest, self.has_ech)
    }

    /// Combines the facts of two ClientHellos of one tunnel: a policy refuses the result exactly if
    /// it refuses either.
    #[must_use]
    pub fn and(self, second: Self) -> Self {
        Self {
            name: self.name.or(second.name),
            newest: self.newest.min(second.newest),
            has_ech: self.has_ech || second.has_ech,
        }
    }
}
