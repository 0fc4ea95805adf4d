//! One direction of a handshake in clear: the received bytes, how many of them may pass, and sending
//! those. Never judges a byte.

use std::io;

use bytes::{Buf, BytesMut};

use super::{Interrupted, broken};
use crate::greeting::GreetingError;
use crate::reactor::Socket;
use crate::relay::ByteCount;

/// The received and unsent bytes of one direction.
#[derive(Default)]
pub(super) struct Direction {
    pub(super) bytes: BytesMut,
    /// How many of them may pass; the others are not judged yet.
    pub(super) allowed: usize,
    pub(super) moved: ByteCount,
}

impl Direction {
    /// Asks how many of the unjudged bytes may pass.
    pub(super) fn judge(
        &mut self,
        says: impl FnOnce(&[u8]) -> Result<usize, GreetingError>,
    ) -> Result<(), Interrupted> {
        let rest = self.bytes.get(self.allowed..);
        let rest = rest.ok_or_else(|| Interrupted::Inside(broken()))?;
        self.allowed += says(rest).map_err(Interrupted::Refused)?;
        Ok(())
    }

    /// Sends as many allowed bytes as the socket accepts now, and counts them.
    pub(super) fn send(&mut self, to: &Socket) -> io::Result<()> {
        while self.allowed > 0 {
            let allowed = self.bytes.get(..self.allowed).ok_or_else(broken)?;
            match to.try_write(allowed) {
                Ok(sent) => {
                    self.bytes.advance(sent);
                    self.allowed -= sent;
                    self.moved.copied += sent as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if self.bytes.is_empty() {
            // The next bytes may come late and do not need this memory.
            self.bytes = BytesMut::new();
        }
        Ok(())
    }
}
