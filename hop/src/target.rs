//! Reads the token for the daemon's listener from its file. Opens no connection.

use sealway::config::admin;
use sealway::config::tls::TlsListener;

use crate::header::Token;
use crate::shared::Target;

/// The daemon behind a TLS listener.
///
/// # Errors
/// Why the token's file cannot be used; never its contents.
pub fn of(listener: &TlsListener) -> Result<Target, String> {
    let token = admin::text(&listener.token_file)?;
    Ok(Target {
        address: listener.core,
        token: Token::new(token.as_bytes().to_vec()),
    })
}
