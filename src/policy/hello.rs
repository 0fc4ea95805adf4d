//! What policy judges of a ClientHello, in three bytes, so that a tunnel can keep it and be judged again by another
//! policy. Holds verdicts on names, never the names.

use super::judge_name_of;
use crate::authority::Host;
use crate::outcome::DenyReason;
use crate::wire::client_hello::{ClientHello, TlsVersion};

/// The facts of a tunnel's ClientHellos that policy judges. No policy is part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloFacts {
    /// What is wrong with the name, compared with the host of the CONNECT; None: it is that host.
    pub(super) name: Option<DenyReason>,
    /// The newest version that was offered.
    pub(super) newest: Option<TlsVersion>,
    pub(super) has_ech: bool,
}

impl HelloFacts {
    /// Of one hello, sent to be connected with `host`.
    #[must_use]
    pub fn of(host: &Host, hello: &ClientHello) -> Self {
        Self {
            name: judge_name_of(host, hello.server_name()).err(),
            newest: hello.versions().max(),
            has_ech: hello.ech().is_some(),
        }
    }

    /// The facts of two hellos of one tunnel: a policy refuses them if it refuses either.
    #[must_use]
    pub fn and(self, second: Self) -> Self {
        Self {
            name: self.name.or(second.name),
            newest: self.newest.min(second.newest),
            has_ech: self.has_ech || second.has_ech,
        }
    }
}
