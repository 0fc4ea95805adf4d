//! Decides who may list tunnels and change what the daemon does: a client that shows the operators'
//! token (the admin token if operators have none of their own) or, if no token is set, a local
//! process of root or of the daemon's own user. Browsers never may.
//!
//! TCP on loopback carries no credentials, so for each request the kernel reports the owner of the
//! peer's socket (`sys/owner.rs`). If the kernel does not know it, the request is refused.

use std::fmt;
use std::net::SocketAddr;

use hyper::Request;
use hyper::header::{HeaderName, ORIGIN};
use tracing::warn;

use super::access;
use crate::auth::SecretHash;
use crate::sys::owner;

/// An operator, as the audit record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    /// A client that has shown the token.
    Token,
    /// A local process of this user.
    Uid(u32),
}

/// The two addresses of a connection, as this process sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) own: SocketAddr,
}

/// Identifies the operator of a request, or says why the sender may not operate. `token` is the
/// token that it has to show.
pub(super) fn judge<B>(
    request: &Request<B>,
    token: Option<&SecretHash>,
    ends: Ends,
) -> Result<Operator, String> {
    // A browser adds one of these headers to every request that another site can make it send
    // (Fetch, W3C Fetch Metadata).
    if [ORIGIN, SEC_FETCH_SITE]
        .iter()
        .any(|name| request.headers().contains_key(name))
    {
        return Err(NO_BROWSER.to_owned());
    }
    if let Some(token) = token {
        let is_shown = access::shows(request.headers(), token);
        return is_shown
            .then_some(Operator::Token)
            .ok_or_else(|| OTHER_TOKEN.to_owned());
    }
    let refused = match owner::owner_of(ends.peer, ends.own) {
        _ if !ends.peer.ip().is_loopback() => "the client is not on this machine".to_owned(),
        Ok(Some(uid)) if uid == 0 || uid == owner::own_uid() => return Ok(Operator::Uid(uid)),
        Ok(Some(uid)) => format!("the client runs as uid {uid}"),
        Ok(None) => "the kernel does not report the client's uid".to_owned(),
        Err(error) => format!("the kernel does not report the client's uid ({error})"),
    };
    warn!(peer = %ends.peer, path = request.uri().path(), "an operator's request was refused: {refused}");
    Err(format!(
        "without admin.token_file only root and the daemon's user (uid {}) may do this, but {refused}: run the command with sudo, or set admin.token_file\n",
        owner::own_uid()
    ))
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token => f.write_str("token"),
            Self::Uid(uid) => write!(f, "uid {uid}"),
        }
    }
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const OTHER_TOKEN: &str =
    "this requires the token in admin.operator_token_file: use a --config FILE that names it\n";
const NO_BROWSER: &str = "browsers may not operate the daemon: use sealway on the command line\n";
