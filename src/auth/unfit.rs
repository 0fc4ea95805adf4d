//! Why a user is not let in, whatever the secret. Decides nothing.

use crate::outcome::DenyReason;

/// Why a user who is in the users file is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// `disabled`.
    #[error("the user is disabled")]
    Disabled,
    /// `expires` has passed.
    #[error("the user has expired")]
    Expired,
    /// `sources` does not hold the client's address.
    #[error("the user's sources do not hold the client's address")]
    Source,
}

impl Unfit {
    /// What a client is told: whether a user is disabled or expired is nobody's business.
    #[must_use]
    pub fn reason(self) -> DenyReason {
        match self {
            Self::Disabled | Self::Expired => DenyReason::AuthFailed,
            Self::Source => DenyReason::ClientDenied,
        }
    }
}
