//! `listener.proxy_protocol`: the balancers and TLS terminators whose word on a client's address a
//! listener takes. Required of every connection once it is set. Never guesses from the bytes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::fields::{Fields, network};

/// The PROXY protocol on a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Networks of the balancers and terminators; at least one.
    pub from: Vec<IpNet>,
}

impl ProxyProtocol {
    /// Whether a peer at this address may declare clients.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.from.iter().any(|net| net.contains(&peer))
    }
}

/// Reads the table; None after reporting why it cannot be used. `line` is its own.
pub(super) fn read(mut fields: Fields<'_, '_>, line: usize) -> Option<ProxyProtocol> {
    let is_given = fields.has("from");
    let from = fields.list("from", sender);
    if from.as_ref().is_none_or(Vec::is_empty) && (!is_given || from.is_some()) {
        fields.complain(line, "from", NOBODY);
    }
    fields.finish();
    from.filter(|from| !from.is_empty())
        .map(|from| ProxyProtocol { from })
}

/// Parses the network of a terminator.
fn sender(text: &str) -> Result<IpNet, &'static str> {
    match network(text)? {
        net if net.prefix_len() == 0 => Err(EVERYBODY),
        net => Ok(net),
    }
}

const NOBODY: &str = "names nobody: list the addresses or networks of the balancers or TLS terminators that send the \
     header, such as [\"10.0.0.7\"]";
const EVERYBODY: &str = "holds every address, so each client could declare any other address: list the balancers or TLS terminators only";
