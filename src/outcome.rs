//! The vocabulary of endings: every refusal, failure and ending has one variant, one short code and
//! one reply.
//!
//! This file never decides how a tunnel ends; it only names the endings.

mod close_reason;
mod codes;

pub use close_reason::CloseReason;
pub use codes::{DenyReason, Ending, Failure};

/// How a tunnel, or an attempt at one, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The policy, the protocol or a limit refused it.
    Denied(DenyReason),
    /// The network or a peer failed before the tunnel opened.
    Failed(Failure),
    /// The tunnel opened, and ended.
    Ended(Ending),
}

/// The reply to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Before the 200: an HTTP refusal with this status and RFC 9209 error type.
    Http(u16, &'static str),
    /// After the 200: a fatal TLS alert with this description (RFC 8446, section 6), then a close.
    Alert(u8),
    /// After the 200, if the client would not understand an alert or must not get one: a plain
    /// close.
    Close,
}

/// The result of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lookup {
    /// DNS answered, or a cached answer is still valid.
    Ok,
    /// The configuration or the hosts file holds the answer.
    Fixed,
    /// DNS is down, so its last answer was used.
    Stale,
    /// No answer in time.
    Timeout,
    /// No such name, or no usable address.
    NoAddress,
    /// DNS answered with an error, or no query could be sent.
    Failed,
}

impl End {
    /// The short code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Denied(reason) => reason.code(),
            Self::Failed(failure) => failure.code(),
            Self::Ended(ending) => ending.code(),
        }
    }

    /// The audit record's `outcome`.
    #[must_use]
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Failed(_) => "failed",
            Self::Ended(_) => "allowed",
        }
    }

    /// The reply to the client.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            Self::Denied(reason) => reason.reply(),
            Self::Failed(failure) => failure.reply(),
            Self::Ended(ending) => ending.reply(),
        }
    }

    /// Why it happened.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::Denied(reason) => reason.cause(),
            Self::Failed(failure) => failure.cause(),
            Self::Ended(ending) => ending.cause(),
        }
    }

    /// What to do; empty for an ending, which needs no cure.
    #[must_use]
    pub fn cure(self) -> &'static str {
        match self {
            Self::Denied(reason) => reason.cure(),
            Self::Failed(failure) => failure.cure(),
            Self::Ended(ending) => ending.cure(),
        }
    }
}

impl Lookup {
    /// All endings.
    pub const ALL: [Self; 6] = [
        Self::Ok,
        Self::Fixed,
        Self::Stale,
        Self::Timeout,
        Self::NoAddress,
        Self::Failed,
    ];

    /// The metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fixed => "fixed",
            Self::Stale => "stale",
            Self::Timeout => "timeout",
            Self::NoAddress => "no_address",
            Self::Failed => "failed",
        }
    }
}

impl From<DenyReason> for End {
    fn from(reason: DenyReason) -> Self {
        Self::Denied(reason)
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        Self::Ended(ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A shared code names one cause, before and after a tunnel is open; the reference lists them.
    #[test]
    fn failures_and_endings_share_the_codes_of_one_cause_only() {
        let failed: HashSet<_> = Failure::ALL.iter().map(|f| f.code()).collect();
        let ended: HashSet<_> = Ending::ALL.iter().map(|e| e.code()).collect();
        let shared: HashSet<_> = failed.intersection(&ended).copied().collect();
        let one_cause = [
            (Failure::ClientClosed, Ending::ClosedByClient),
            (Failure::UpstreamClosed, Ending::ClosedByUpstream),
            (Failure::ClientReset, Ending::ResetByClient),
            (Failure::UpstreamReset, Ending::ResetByUpstream),
            (Failure::EgressLost, Ending::EgressLost),
            (Failure::EndedByOperator, Ending::EndedByOperator),
            (Failure::InternalError, Ending::InternalError),
            (Failure::Drained, Ending::Drained),
        ];
        for (failure, ending) in one_cause {
            assert_eq!(failure.code(), ending.code());
            assert_ne!(End::from(failure).outcome(), End::from(ending).outcome());
        }
        assert_eq!(shared, one_cause.map(|(failure, _)| failure.code()).into());
        let denied = DenyReason::ALL.iter().map(|reason| reason.code());
        assert!(denied.into_iter().all(|code| !ended.contains(code)));
    }

    #[test]
    fn codes_are_unique_within_their_kind_and_short() {
        let denied: Vec<_> = DenyReason::ALL.iter().map(|r| r.code()).collect();
        let failed: Vec<_> = Failure::ALL.iter().map(|f| f.code()).collect();
        let ended: Vec<_> = Ending::ALL.iter().map(|e| e.code()).collect();
        for codes in [&denied, &failed, &ended] {
            assert_eq!(codes.iter().collect::<HashSet<_>>().len(), codes.len());
            assert!(
                codes
                    .iter()
                    .all(|c| c.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
            );
        }
        assert!(denied.iter().all(|code| !failed.contains(code)));
    }

    #[test]
    fn every_refusal_and_failure_has_a_cure() {
        let denied = DenyReason::ALL.iter().map(|reason| End::from(*reason));
        for end in denied.chain(Failure::ALL.iter().map(|failure| End::from(*failure))) {
            assert!(!end.cause().is_empty() && !end.cure().is_empty(), "{end:?}");
        }
    }
}
