//! `listener.proxy_protocol`: the balancers and TLS terminators that may declare client addresses to
//! a listener. Once it is set, every connection needs a header. Never guesses from the bytes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Overrides;
use super::admin::{self, Token};
use super::fields::{Fields, network};

/// The PROXY protocol on a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Networks of the balancers and terminators; at least one.
    pub from: Vec<IpNet>,
    /// Whether the certificate that a terminator has verified authenticates a user.
    pub identity: bool,
    /// The token that each header must have; None: none.
    pub token: Option<Token>,
}

impl ProxyProtocol {
    /// Whether a peer at this address may declare clients.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.from.iter().any(|net| net.contains(&peer))
    }

    /// Whether a header with this token comes from a terminator of the operator, in constant time.
    #[must_use]
    pub fn knows(&self, token: Option<&[u8]>) -> bool {
        let token = token.and_then(|token| std::str::from_utf8(token).ok());
        match &self.token {
            None => true,
            Some(known) => token.is_some_and(|token| known.hash.is_of(token)),
        }
    }
}

/// Reads the table; None after reporting why it cannot be used. `line` is its own.
pub(super) fn read(
    mut fields: Fields<'_, '_>,
    line: usize,
    overrides: &Overrides,
) -> Option<ProxyProtocol> {
    let path = fields.reader.path().to_owned();
    let identity = fields.flag_or("identity", false);
    let token = admin::token(&mut fields, "token_file", &path, overrides);
    // An unusable file is reported separately.
    if identity && matches!(token, Some(None)) {
        fields.complain(line, "identity", NO_TOKEN);
    }
    let is_given = fields.has("from");
    let from = fields.list("from", sender);
    if from.as_ref().is_none_or(Vec::is_empty) && (!is_given || from.is_some()) {
        fields.complain(line, "from", NOBODY);
    }
    fields.finish();
    from.filter(|from| !from.is_empty())
        .map(|from| ProxyProtocol {
            from,
            identity,
            token: token.flatten(),
        })
}

/// Parses the network of a terminator.
fn sender(text: &str) -> Result<IpNet, &'static str> {
    match network(text)? {
        net if net.prefix_len() == 0 => Err(EVERYBODY),
        net => Ok(net),
    }
}

const NO_TOKEN: &str =
    "needs token_file: without a token any process at such an address could impersonate any user";
const NOBODY: &str = "names nobody: list the addresses or networks of the balancers or TLS terminators that send the \
     header, such as [\"10.0.0.7\"]";
const EVERYBODY: &str = "holds every address, so each client could declare any other address: list the balancers or TLS terminators only";
