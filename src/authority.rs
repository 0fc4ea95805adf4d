//! Names of a destination: [`Host`], [`Port`], [`Authority`]; and [`UserId`].
//!
//! Parses the request target of CONNECT (RFC 9112, section 3.2.3) into checked types, once, at the
//! edge. Canonicalises host names (UTS 46, lower case, A-labels, no trailing dot). Never resolves a
//! name. Never accepts an IPv4 address in the decimal, octal, hexadecimal or short forms that some
//! resolvers take (RFC 6943, section 3.1.1): a name with two readings is a bypass.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// The destination that a client requests: `host:port`, both always present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// A name or an address literal.
    pub destination: Destination,
    /// The TCP port.
    pub port: Port,
}

/// The host part of an authority.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A canonical DNS name.
    Name(Host),
    /// An address literal. Parsed so that the policy can name it in a refusal; never dialled.
    Address(IpAddr),
}

/// A canonical DNS name: ASCII, lower case, letters, digits, hyphens, underscores (RFC 2181, section 11) and dots, at
/// most 253 octets, no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Arc<str>);

/// A TCP port, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(NonZeroU16);

/// The name of a configured user: 1 to 128 printable ASCII characters except space and colon. In
/// Basic credentials a colon ends the name (RFC 7617).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

/// Why an authority, a host or a port was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Not `host:port`: a part is missing or superfluous.
    #[error("the target is not host:port")]
    Shape,
    /// `user@host`: CONNECT has no userinfo (RFC 9110, section 9.3.6).
    #[error("the target holds userinfo")]
    Userinfo,
    /// Not 1 to 65535 in plain decimal digits.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// The brackets do not hold an IPv6 address. Zones are not allowed (RFC 6874 does not apply to
    /// CONNECT).
    #[error("the brackets do not hold an IPv6 address")]
    Bracket,
    /// Not a name that DNS and IDNA allow.
    #[error("the host is not a valid name")]
    Host,
    /// Ends in a number but is not a dotted-decimal address.
    #[error("the host is an IPv4 address in a form other than four decimal numbers")]
    AmbiguousAddress,
}

impl Authority {
    /// Parses `host:port` or `[v6]:port` from the bytes of a request target.
    ///
    /// # Errors
    /// One [`AuthorityError`] for each way to be malformed.
    pub fn parse(target: &str) -> Result<Self, AuthorityError> {
        if target.contains('@') {
            return Err(AuthorityError::Userinfo);
        }
        let (host, port) = target.rsplit_once(':').ok_or(AuthorityError::Shape)?;
        let destination = match host.strip_prefix('[') {
            Some(rest) => Destination::Address(bracketed(rest)?),
            None if host.contains(':') => return Err(AuthorityError::Shape),
            None => Destination::parse(host)?,
        };
        Ok(Self {
            destination,
            port: Port::parse(port)?,
        })
    }
}

impl Destination {
    fn parse(host: &str) -> Result<Self, AuthorityError> {
        match host.parse::<Ipv4Addr>() {
            Ok(address) => Ok(Self::Address(address.into())),
            Err(_) => Host::parse(host).map(Self::Name),
        }
    }
}

impl Host {
    /// The canonical text, shared instead of copied.
    #[must_use]
    pub fn as_shared(&self) -> &Arc<str> {
        &self.0
    }

    /// Canonicalises a name: converts it to A-labels and lower case and removes one trailing dot.
    ///
    /// # Errors
    /// [`AuthorityError::Host`] if it is not a host name, [`AuthorityError::AmbiguousAddress`] if
    /// some resolver would read it as an IPv4 address (its last label is a number, as in the URL
    /// Standard's "ends in a number").
    pub fn parse(name: &str) -> Result<Self, AuthorityError> {
        if name.len() > HOST_INPUT_BYTES_MAX || name.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(AuthorityError::Host);
        }
        let ascii = Uts46::new()
            .to_ascii(
                name.as_bytes(),
                NOT_IN_A_HOST,
                Hyphens::CheckFirstLast,
                DnsLength::VerifyAllowRootDot,
            )
            .map_err(|_| AuthorityError::Host)?;
        let canonical = ascii.strip_suffix('.').unwrap_or(&ascii);
        let last = canonical.rsplit('.').next().unwrap_or(canonical);
        if canonical.is_empty() {
            return Err(AuthorityError::Host);
        }
        if is_number(last) {
            return Err(AuthorityError::AmbiguousAddress);
        }
        Ok(Self(canonical.into()))
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a name from an SNI is this host. Ignores the case of ASCII letters and one trailing
    /// dot. RFC 6066, section 3, forbids the dot, but clients that put it into CONNECT put it into
    /// the SNI too.
    #[must_use]
    pub fn equals_server_name(&self, name: &str) -> bool {
        self.0
            .eq_ignore_ascii_case(name.strip_suffix('.').unwrap_or(name))
    }
}

impl Port {
    /// Parses plain decimal digits without sign or leading zero.
    ///
    /// # Errors
    /// [`AuthorityError::Port`] for any other text, for 0 and for numbers above 65535.
    pub fn parse(digits: &str) -> Result<Self, AuthorityError> {
        let plain = !digits.starts_with('0')
            && digits.len() <= 5
            && digits.bytes().all(|b| b.is_ascii_digit());
        let number: Option<NonZeroU16> = if plain { digits.parse().ok() } else { None };
        number.map(Self).ok_or(AuthorityError::Port)
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0.get()
    }

    /// The port of HTTPS, and of every rule without a port.
    pub const HTTPS: Self = Self(NonZeroU16::MIN.saturating_add(442));
}

impl UserId {
    /// Checks a user's name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_graphic() && b != b':';
        ((1..=Self::BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed))
            .then(|| Self(name.into()))
    }

    /// Describes a valid name in an error message.
    pub const FORM: &str =
        "a user's name is 1 to 128 printable ASCII characters without space and colon";

    /// The longest name in bytes; real e-mail addresses are shorter.
    pub const BYTES_MAX: usize = 128;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(host) => f.write_str(host.as_str()),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn bracketed(rest: &str) -> Result<IpAddr, AuthorityError> {
    let inner = rest.strip_suffix(']').ok_or(AuthorityError::Bracket)?;
    inner
        .parse::<Ipv6Addr>()
        .map(IpAddr::V6)
        .map_err(|_| AuthorityError::Bracket)
}

/// The URL Standard's "ends in a number" test on one label: all digits, or hexadecimal with a prefix.
fn is_number(label: &str) -> bool {
    let hex = label
        .strip_prefix("0x")
        .is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || (!label.is_empty() && label.bytes().all(|b| b.is_ascii_digit()))
}

/// Every ASCII character except letters, digits, hyphen, dot and underscore. Storage buckets and
/// services have names with underscores, and certificates and browsers accept them.
const NOT_IN_A_HOST: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");
/// A name in Unicode is shorter than four times its 253 octets in ASCII; a longer one is refused
/// before the IDNA tables are read.
const HOST_INPUT_BYTES_MAX: usize = 1_024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
