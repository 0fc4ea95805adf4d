//! The greeting: reads the whole ClientHello, in any segments and records, before any byte goes
//! upstream.
//!
//! Keeps every byte unchanged, including bytes after the hello, so that they can be sent in order
//! and once. [`negotiation`] judges the bytes from there to the ServerHello. Never answers or
//! forwards; the caller does.

pub mod negotiation;

use std::io;

use bytes::BytesMut;

use crate::outcome::{DenyReason, End};
use crate::reactor::Socket;
use crate::wire::Parsed;
use crate::wire::client_hello::{ClientHello, HelloError, Incoming};
use crate::wire::message::MessageError;
use crate::wire::server_hello::ServerFlightError;

/// Why reading a hello failed.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// The bytes are not an acceptable ClientHello.
    #[error("{0}")]
    Hello(#[from] HelloError),
    /// The client sent a FIN before the first byte.
    #[error("the client closed the connection before its ClientHello")]
    Closed,
    /// The client sent a FIN within the hello.
    #[error("the client closed the connection inside its ClientHello")]
    Truncated,
    /// The policy does not allow the second hello, or the answer.
    #[error("{}", End::from(*.0).cause())]
    Denied(DenyReason),
    /// The unfinished ClientHello is longer than real ones, and no memory is free for it.
    #[error(
        "no memory for the client's bytes: unfinished handshakes hold all of the 64 MiB that they share, or this user or client holds half of it"
    )]
    HelloMemory,
    /// The unfinished answer of the upstream is longer than real ones, and no memory is free for
    /// it.
    #[error(
        "no memory for the upstream's answer: unfinished handshakes hold all of the 64 MiB that they share, or this user or client holds half of it"
    )]
    AnswerMemory,
    /// A record of the client that must not come before the ServerHello: an unrequested second
    /// hello, or data that was not announced.
    #[error("an unexpected record before the ServerHello")]
    OutOfPlace,
    /// A malformed record of the client.
    #[error("{0}")]
    Record(#[from] MessageError),
    /// A malformed answer of the upstream.
    #[error("{0}")]
    ServerFlight(#[from] ServerFlightError),
    /// A second HelloRetryRequest, or an answer before the hello was sent.
    #[error("the upstream answered out of turn")]
    FlightOutOfTurn,
    /// The upstream sent a FIN within its answer.
    #[error("the upstream closed the connection inside its ServerHello")]
    AnswerTruncated,
    /// The daemon's own bookkeeping is inconsistent.
    #[error("broken invariant: {0}")]
    Inside(&'static str),
    /// The socket failed.
    #[error("reading the ClientHello: {0}")]
    Read(#[source] io::Error),
}

/// A hello and its size on the wire.
#[derive(Debug)]
pub struct Greeting {
    /// The parsed hello.
    pub hello: ClientHello,
    /// The length of its records in bytes.
    pub hello_bytes: usize,
}

/// Reads until `buffer`, which may hold the first bytes already, starts with a complete
/// ClientHello. `covers` says whether memory for this many bytes of an unfinished hello is
/// available.
///
/// # Errors
/// One [`GreetingError`] for each way to fail.
pub async fn read_hello(
    client: &Socket,
    buffer: &mut BytesMut,
    bytes_max: usize,
    mut covers: impl FnMut(usize) -> bool,
) -> Result<Greeting, GreetingError> {
    let mut incoming = Incoming::new(bytes_max);
    loop {
        if let Parsed::Complete { value, consumed } = incoming.parse(buffer)? {
            return Ok(Greeting {
                hello: value,
                hello_bytes: consumed,
            });
        }
        if !covers(buffer.capacity()) {
            return Err(GreetingError::HelloMemory);
        }
        match client
            .read_some(|bytes| extend(buffer, bytes, bytes_max))
            .await
        {
            Ok(0) if buffer.is_empty() => return Err(GreetingError::Closed),
            Ok(0) => return Err(GreetingError::Truncated),
            Ok(_) => {}
            Err(error) => return Err(GreetingError::Read(error)),
        }
    }
}

/// Appends to a buffer that may keep at most `bytes_max` bytes. Its allocation stays below that
/// bound too, where a doubling buffer would take twice as much.
pub fn extend(buffer: &mut BytesMut, bytes: &[u8], bytes_max: usize) {
    let needed = buffer.len() + bytes.len();
    if buffer.capacity() < needed {
        let mut larger =
            BytesMut::with_capacity((2 * buffer.capacity()).min(bytes_max).max(needed));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_hello_takes_no_more_memory_than_its_limit() {
        const MAX: usize = 65_536 + 1_000;
        let mut hello = BytesMut::new();
        while hello.len() + 100 < MAX {
            extend(&mut hello, &[0; 100], MAX);
            assert!(
                hello.capacity() <= MAX,
                "{} for {}",
                hello.capacity(),
                hello.len()
            );
        }
    }
}
