//! The CONNECT head: HTTP/1.1 and 1.0, strict and incremental (RFC 9110 section 9.3.6, RFC 9112 sections 2 to 3).
//!
//! Accepts what real clients send: no Host (HTTP/1.0), a Host without the port, any other field.
//! Rejects every form that two readers could read differently: bare line ends, folded lines, a
//! repeated Host, a length above 0 or a transfer coding on a request without a body. Never compares
//! Host with the target: the target is the authority. Keeps no header value except the credentials.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Header, Request, Status};
use memchr::{memchr, memmem};
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError, Port};
use crate::wire::Parsed;

/// A checked CONNECT head.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The requested destination.
    pub authority: Authority,
    /// The proxy credentials.
    pub credentials: Credentials,
}

/// The content of `Proxy-Authorization` (RFC 7617).
#[derive(PartialEq, Eq)]
pub enum Credentials {
    /// No such field.
    Absent,
    /// A scheme other than Basic, or text that is not base64, not UTF-8 or has no colon.
    Unusable,
    /// Name and secret as the client sent them; wiped on drop.
    Basic {
        /// The text before the first colon.
        name: Zeroizing<String>,
        /// The text after it.
        secret: Zeroizing<String>,
    },
}

/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP/1.x, or a field that violates the grammar.
    #[error("not a well-formed HTTP/1.1 request head")]
    Syntax,
    /// The first bytes are those of a TLS handshake (RFC 8446, section 5.1).
    #[error("a TLS handshake, on a listener without TLS")]
    Tls,
    /// A line that does not end in CR LF, or a control byte.
    #[error("a bare line end or a control byte in the head")]
    ControlByte,
    /// HTTP/1.1 or 1.0 only.
    #[error("not HTTP/1.1 or 1.0")]
    Version,
    /// A method other than CONNECT.
    #[error("the method is not CONNECT")]
    Method,
    /// The request target is not an authority.
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    /// An invalid Host, or two of them (RFC 9112, section 3.2).
    #[error("an invalid or repeated Host")]
    Host,
    /// CONNECT has no body (RFC 9110, section 9.3.6). Clients may send `Content-Length: 0`, which
    /// means the same.
    #[error("a body on CONNECT: a Content-Length other than 0, or Transfer-Encoding")]
    Body,
    /// Two Proxy-Authorization fields.
    #[error("a repeated Proxy-Authorization")]
    RepeatedCredentials,
    /// Longer than the limit, or more than [`FIELDS_MAX`] fields.
    #[error("the head is longer than the limit")]
    TooLarge,
}

/// The progress of a head that arrives in pieces: no byte is searched twice, however small the
/// pieces are.
#[derive(Debug, Default)]
pub struct Scan {
    /// The end of the head begins at or after this position, less three bytes.
    searched: usize,
    /// Bytes of the first line without control bytes.
    line: usize,
    line_is_judged: bool,
}

/// Parses the head at the start of `bytes`, at most `head_bytes_max` long.
///
/// # Errors
/// One [`HeadError`] for each fault. A head beyond the limit is [`HeadError::TooLarge`], never
/// `Incomplete`.
pub fn parse(bytes: &[u8], head_bytes_max: usize) -> Result<Parsed<Head>, HeadError> {
    Scan::default().parse(bytes, head_bytes_max)
}

impl Scan {
    /// Like [`parse`], for a head that arrives in pieces: `bytes` holds all bytes received and
    /// begins like the last call's.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn parse(
        &mut self,
        bytes: &[u8],
        head_bytes_max: usize,
    ) -> Result<Parsed<Head>, HeadError> {
        match bytes {
            [HANDSHAKE_RECORD, VERSION_MAJOR, ..] => return Err(HeadError::Tls),
            [HANDSHAKE_RECORD] => return Ok(Parsed::Incomplete),
            _ => {}
        }
        let within = bytes.get(..head_bytes_max).unwrap_or(bytes);
        let (start, unsearched) = self.unsearched(within);
        let Some(end) = memmem::find(unsearched, END) else {
            self.searched = within.len();
            return self.unfinished(bytes, head_bytes_max);
        };
        let head = within
            .get(..start + end + END.len())
            .ok_or(HeadError::Syntax)?;
        whole(head)
    }

    /// The part of `bytes` in which the end of the head may still begin.
    fn unsearched<'a>(&self, within: &'a [u8]) -> (usize, &'a [u8]) {
        let start = self.searched.saturating_sub(END.len() - 1);
        (start, within.get(start..).unwrap_or_default())
    }

    /// Distinguishes a slow start from bytes that can never become a request, so that a peer that
    /// speaks TLS or SSH gets its reply at once.
    fn unfinished(
        &mut self,
        bytes: &[u8],
        head_bytes_max: usize,
    ) -> Result<Parsed<Head>, HeadError> {
        if !self.line_is_judged {
            let more = bytes.get(self.line..).unwrap_or_default();
            let end = memchr(b'\r', more);
            let more = more.get(..end.unwrap_or(more.len())).unwrap_or_default();
            if has_control_byte(more) {
                return Err(HeadError::Syntax);
            }
            self.line += more.len();
            self.line_is_judged = end.is_some();
            let line = bytes.get(..self.line).unwrap_or_default();
            if self.line_is_judged && !line.is_empty() && line.split(|b| *b == b' ').count() != 3 {
                return Err(HeadError::Syntax);
            }
        }
        if bytes.len() >= head_bytes_max {
            return Err(HeadError::TooLarge);
        }
        Ok(Parsed::Incomplete)
    }
}

/// Parses a complete head.
fn whole(head: &[u8]) -> Result<Parsed<Head>, HeadError> {
    let consumed = head.len();
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = Request::new(&mut fields);
    match request.parse(head) {
        Ok(Status::Complete(n)) if n == consumed => {}
        Ok(_) => return Err(HeadError::ControlByte),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(httparse::Error::Version) => return Err(HeadError::Version),
        Err(_) => return Err(HeadError::Syntax),
    }
    Ok(Parsed::Complete {
        value: check(&request, head)?,
        consumed,
    })
}

fn check(request: &Request<'_, '_>, head: &[u8]) -> Result<Head, HeadError> {
    if request.method != Some("CONNECT") {
        return Err(HeadError::Method);
    }
    if has_bare_line_end(head) {
        return Err(HeadError::ControlByte);
    }
    let mut host_seen = false;
    let mut credentials = Credentials::Absent;
    for field in request.headers.iter() {
        if named(field, "host") {
            if host_seen || !is_host_value(field.value) {
                return Err(HeadError::Host);
            }
            host_seen = true;
        } else if named(field, "transfer-encoding")
            || (named(field, "content-length") && !is_zero(field.value))
        {
            return Err(HeadError::Body);
        } else if named(field, "proxy-authorization") {
            if credentials != Credentials::Absent {
                return Err(HeadError::RepeatedCredentials);
            }
            credentials = Credentials::parse(field.value);
        }
    }
    let authority = Authority::parse(request.path.ok_or(HeadError::Syntax)?)?;
    Ok(Head {
        authority,
        credentials,
    })
}

impl Credentials {
    fn parse(value: &[u8]) -> Self {
        Self::basic(value).unwrap_or(Self::Unusable)
    }

    fn basic(value: &[u8]) -> Option<Self> {
        let (scheme, token) = value.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let decoded = Zeroizing::new(STANDARD.decode(token.trim_ascii()).ok()?);
        let (name, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some(Self::Basic {
            name: Zeroizing::new(name.to_owned()),
            secret: Zeroizing::new(secret.to_owned()),
        })
    }
}

impl std::fmt::Debug for Credentials {
    /// Never prints the name or the secret: a client may have put the secret into the name.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::Unusable => "Unusable",
            Self::Basic { .. } => "Basic(redacted)",
        })
    }
}

fn named(field: &Header<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name)
}

/// `uri-host [ ":" port ]` (RFC 9110, section 7.2); the host may be empty, the port too.
fn is_host_value(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value.trim_ascii()) else {
        return false;
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let port_ok = port.is_empty() || Port::parse(port).is_ok();
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_ok = match bracketed {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&b)),
    };
    port_ok && host_ok
}

/// Zero in decimal digits, once or as a list of zeros (RFC 9110, section 8.6).
fn is_zero(value: &[u8]) -> bool {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .all(|part| !part.is_empty() && part.iter().all(|b| *b == b'0'))
}

/// httparse accepts a bare LF as a line end; other readers do not.
fn has_bare_line_end(head: &[u8]) -> bool {
    let mut before = 0;
    head.iter().any(|byte| {
        let bare = *byte == b'\n' && before != b'\r';
        before = *byte;
        bare
    })
}

fn has_control_byte(line: &[u8]) -> bool {
    line.iter().any(|b| *b < b' ' || *b == 0x7f)
}

/// The end of a head.
const END: &[u8] = b"\r\n\r\n";
/// Browsers send about ten.
pub const FIELDS_MAX: usize = 64;

/// The type of the first record of every TLS client.
const HANDSHAKE_RECORD: u8 = 22;
/// The first byte of its version, in every version since SSL 3.
const VERSION_MAJOR: u8 = 3;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
