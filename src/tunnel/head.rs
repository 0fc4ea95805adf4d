//! Reads the CONNECT head. Wipes its memory as soon as the head is parsed or refused, because it
//! holds the credentials. Keeps no header value; the caller sets the deadline.

use bytes::BytesMut;
use zeroize::Zeroize;

use super::ends;
use super::facts::TunnelFacts;
use crate::outcome::{DenyReason, End, Failure};
use crate::reactor::Socket;
use crate::sys;
use crate::wire::Parsed;
use crate::wire::connect::{Head, Scan};

/// The bytes of a head, wiped on drop.
#[derive(Default)]
pub(super) struct Secret(Vec<u8>);

/// Reads the whole head, which begins with the bytes in `buffer`, and returns the bytes after it.
pub(super) async fn read(
    client: &Socket,
    mut buffer: Secret,
    bytes_max: usize,
    facts: &mut TunnelFacts,
) -> Result<(Head, BytesMut), End> {
    let mut scan = Scan::default();
    if !buffer.0.is_empty() {
        facts.spoken();
        if let Some(read) = parse(&buffer, &mut scan, bytes_max, facts)? {
            return Ok(read);
        }
    }
    loop {
        match client
            .read_some(|bytes| buffer.take(bytes, bytes_max))
            .await
        {
            Ok(0) if buffer.0.is_empty() => return Err(Failure::ClientClosed.into()),
            Ok(0) => {
                return Err(facts.with_cause(
                    "the connection ended inside the request head",
                    DenyReason::BadRequest,
                ));
            }
            Ok(_) => facts.spoken(),
            Err(error) => {
                // Urgent data that the kernel has not reported.
                if error.raw_os_error().is_none() {
                    facts.spoken();
                }
                let end = ends::of_reading(&error);
                return Err(facts.with_cause(error, end));
            }
        }
        if let Some(read) = parse(&buffer, &mut scan, bytes_max, facts)? {
            return Ok(read);
        }
    }
}

/// The head and the bytes after it; None while it is not whole.
fn parse(
    buffer: &Secret,
    scan: &mut Scan,
    bytes_max: usize,
    facts: &mut TunnelFacts,
) -> Result<Option<(Head, BytesMut)>, End> {
    match scan.parse(&buffer.0, bytes_max) {
        Ok(Parsed::Complete { value, consumed }) => {
            let behind = buffer.0.get(consumed..).ok_or_else(|| {
                let cause = sys::broken_invariant("a head is longer than the bytes received");
                facts.with_cause(cause, Failure::InternalError)
            })?;
            Ok(Some((value, behind.into())))
        }
        Ok(Parsed::Incomplete) => Ok(None),
        Err(error) => Err(facts.with_cause(error, ends::of_head(error))),
    }
}

impl Secret {
    /// The bytes so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Drops the first bytes, in the same memory.
    pub(super) fn drop_front(&mut self, bytes: usize) {
        self.0.drain(..bytes.min(self.0.len()));
    }

    /// Copies bytes from the read buffer. A growing vector would leave its old memory unwiped, and
    /// take twice its bound.
    pub(super) fn take(&mut self, bytes: &mut [u8], bytes_max: usize) {
        let needed = self.0.len() + bytes.len();
        if self.0.capacity() < needed {
            let mut larger = Vec::with_capacity((self.0.capacity() * 2).min(bytes_max).max(needed));
            larger.extend_from_slice(&self.0);
            *self = Self(larger);
        }
        self.0.extend_from_slice(bytes);
        bytes.zeroize();
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_head_takes_no_more_memory_than_its_limit() {
        const MAX: usize = 16_384;
        let mut head = Secret(Vec::new());
        while head.0.len() + 100 < MAX {
            head.take(&mut [b'x'; 100], MAX);
            assert!(
                head.0.capacity() <= MAX,
                "{} for {}",
                head.0.capacity(),
                head.0.len()
            );
        }
    }
}
