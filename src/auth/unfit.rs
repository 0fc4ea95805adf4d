//! Why a user is rejected whatever the secret. Decides nothing.

use crate::outcome::DenyReason;

/// Why a user in the users file is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// `disabled`.
    #[error("the user is disabled")]
    Disabled,
    /// `expires` has passed.
    #[error("the user has expired")]
    Expired,
    /// `sources` does not hold the client's address.
    #[error("the user's sources do not contain the client's address")]
    ClientAddress,
}

impl Unfit {
    /// The code for the client, which must not learn whether a user is disabled or expired.
    #[must_use]
    pub fn reason(self) -> DenyReason {
        match self {
            Self::Disabled | Self::Expired => DenyReason::AuthFailed,
            Self::ClientAddress => DenyReason::ClientDenied,
        }
    }
}
