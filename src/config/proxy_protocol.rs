//! `listener.proxy_protocol`: the balancers and TLS terminators that may declare client addresses to
//! a listener. Once it is set, every connection needs a header. Never guesses from the bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};

use super::Overrides;
use super::admin::{self, Token};
use super::fields::{Fields, network};
use crate::auth::SecretHash;

/// The PROXY protocol on a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Networks of the balancers and terminators; at least one.
    pub from: Vec<IpNet>,
    /// Whether the certificate that a terminator has verified authenticates a user.
    pub identity: bool,
    /// The token that each header must have; None: none.
    pub token: Option<Token>,
    /// Tokens that reloads have replaced, and until when they count; the newest first.
    pub former: Vec<FormerToken>,
}

/// A token that a reload has replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerToken {
    hash: SecretHash,
    until: Instant,
}

impl ProxyProtocol {
    /// The protocol of a listener that the daemon opens on loopback for the hop. The token is None where the daemon does not
    /// read it.
    pub(super) fn of_hop(token: Option<Token>) -> Self {
        Self {
            from: vec![
                IpNet::V4(LOOPBACK4),
                IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            ],
            identity: true,
            token,
            former: Vec::new(),
        }
    }

    /// Whether a peer at this address may declare clients.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.from.iter().any(|net| net.contains(&peer))
    }

    /// Whether a header with this token comes from a terminator of the operator, in constant time.
    #[must_use]
    pub fn knows(&self, token: Option<&[u8]>) -> bool {
        match &self.token {
            None => true,
            Some(known) => token.is_some_and(|token| {
                known.hash.is_of(token) || self.knows_former(token, Instant::now())
            }),
        }
    }

    fn knows_former(&self, token: &[u8], now: Instant) -> bool {
        let mut former = self.former.iter();
        former.any(|former| now < former.until && former.hash.is_of(token))
    }

    /// Keeps the token that a reload at `now` replaces for [`FORMER_FOR`], and the former tokens whose time is not over:
    /// a terminator may read the new token later than the daemon.
    pub fn succeed(&mut self, before: &Self, now: Instant) {
        let (Some(token), Some(replaced)) = (&self.token, &before.token) else {
            return;
        };
        let replaced = (token.hash != replaced.hash).then_some(FormerToken {
            hash: replaced.hash,
            until: now + FORMER_FOR,
        });
        let earlier = before.former.iter().copied();
        let former = replaced.into_iter().chain(earlier);
        self.former = former
            .filter(|former| now < former.until)
            .take(FORMER_MAX)
            .collect();
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
            former: Vec::new(),
        })
}

/// Parses the network of a terminator.
fn sender(text: &str) -> Result<IpNet, &'static str> {
    match network(text)? {
        net if net.prefix_len() == 0 => Err(EVERYBODY),
        net => Ok(net),
    }
}

/// Linux connects from 127.0.0.1 to every address of this network.
const LOOPBACK4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
/// How long a token counts after the reload that replaces it.
pub const FORMER_FOR: Duration = Duration::from_secs(60);
/// The most replaced tokens of a listener that count at once.
const FORMER_MAX: usize = 4;
const NO_TOKEN: &str =
    "needs token_file: without a token any process at such an address could impersonate any user";
const NOBODY: &str = "names nobody: list the addresses or networks of the balancers or TLS terminators that send the \
     header, such as [\"10.0.0.7\"]";
const EVERYBODY: &str = "holds every address, so each client could declare any other address: list the balancers or TLS terminators only";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(token: &str) -> ProxyProtocol {
        ProxyProtocol {
            from: vec!["192.0.2.1/32".parse().unwrap()],
            identity: true,
            token: Some(Token {
                file: "token".into(),
                hash: SecretHash::of(token),
            }),
            former: Vec::new(),
        }
    }

    #[test]
    fn replaced_tokens_count_for_a_bounded_time_and_number() {
        let mut now = Instant::now();
        let mut protocol = with("token 0");
        for number in 1..10 {
            now += Duration::from_secs(1);
            let mut next = with(&format!("token {number}"));
            next.succeed(&protocol, now);
            protocol = next;
            // A reload that replaces nothing prolongs nothing.
            let mut same = with(&format!("token {number}"));
            same.succeed(&protocol, now);
            assert_eq!(same, protocol);
        }
        let counts = |at: Instant| {
            let known =
                (0..10).filter(|n| protocol.knows_former(format!("token {n}").as_bytes(), at));
            known.collect::<Vec<_>>()
        };
        assert_eq!(counts(now), [5, 6, 7, 8]);
        let last = now + FORMER_FOR;
        assert_eq!(counts(last - Duration::from_secs(1)), [8]);
        assert!(counts(last).is_empty());
        let mut later = with("token 10");
        later.succeed(&protocol, last);
        assert_eq!(later.former.len(), 1, "expired tokens are dropped");
        let mut open = protocol.clone();
        (open.token, open.former) = (None, Vec::new());
        let mut closed = with("token 11");
        closed.succeed(&open, last);
        assert!(closed.former.is_empty());
    }
}
