//! A handshake whose upstream closed before its first byte: its hello can go to another connection. Decides when; never dials.

use bytes::BytesMut;

use super::{ClientEnd, Handshake, Interrupted};
use crate::greeting::negotiation::Negotiation;
use crate::reactor::Socket;
use crate::relay::TunnelBytes;
use crate::sys;

/// The client's bytes of a handshake without an answer, for another upstream.
pub(in crate::tunnel) struct Unanswered {
    bytes: BytesMut,
    allowed: usize,
}

impl<'a> Handshake<'a> {
    /// Keeps the hello of a tunnel with a warm upstream, so that another upstream can get it if that one does not answer.
    pub(in crate::tunnel) fn keep_hello(&mut self, is_warm: bool) {
        let hello = self.up.bytes.get(..self.up.allowed);
        self.kept = hello.filter(|_| is_warm).map(Into::into);
    }

    /// Continues the handshake with another upstream.
    pub(in crate::tunnel) fn again(
        client: &'a Socket,
        upstream: &'a Socket,
        Unanswered { bytes, allowed }: Unanswered,
    ) -> Self {
        Self::new(client, upstream, bytes, allowed)
    }

    /// The bytes for another upstream. None if the hello was not kept, if this upstream has sent a byte, or if it has got
    /// more than the hello: early data is never sent twice (RFC 8470).
    pub(in crate::tunnel) fn unanswered(
        &mut self,
        interrupted: &Interrupted,
        negotiation: &Negotiation<'_>,
    ) -> Option<Unanswered> {
        let hello = self.kept.take()?;
        if !interrupted.is_of_silent_upstream() {
            return None;
        }
        let TunnelBytes { up, down } = self.bytes_moved();
        let sent = usize::try_from(up.bytes()).ok()?;
        let is_silent = down.bytes() == 0 && self.down.bytes.is_empty();
        if !is_silent || self.client_end != ClientEnd::Open || negotiation.outcome().is_some() {
            return None;
        }
        let mut bytes = BytesMut::from(hello.get(..sent)?);
        bytes.extend_from_slice(&self.up.bytes);
        Some(Unanswered {
            bytes,
            allowed: sent + self.up.allowed,
        })
    }
}

impl Interrupted {
    /// Whether the upstream closed before its first byte.
    fn is_of_silent_upstream(&self) -> bool {
        match self {
            Self::UpstreamClosed => true,
            Self::Upstream(error) => !sys::is_fault_in_here(error),
            _ => false,
        }
    }
}
