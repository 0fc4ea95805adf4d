//! Why a running daemon refuses a new configuration. Changes nothing and never logs.

use std::net::SocketAddr;

/// Why a configuration that is valid by itself cannot replace the one in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// This listener stays open, and the new configuration does not say who may use it.
    #[error(
        "{0} is open and would be an open relay: keep auth.users_file or auth.clients, or restart"
    )]
    OpenRelay(SocketAddr),
    /// The admin listener stays open, and the new configuration does not say who may use it.
    #[error("{0} is open and would tell anybody who asks: keep admin.token_file, or restart")]
    OpenAdmin(SocketAddr),
}
