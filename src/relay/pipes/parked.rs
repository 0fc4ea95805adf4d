//! Buffers of a tunnel on its way from one daemon to the next.

use std::os::fd::BorrowedFd;

use super::{Buffer, Kind, PipePool, Storage};
use crate::relay::Held;

impl Buffer {
    /// The two ends of its pipe, if it has one.
    pub(in crate::relay) fn pipe_ends(&self) -> Option<[BorrowedFd<'_>; 2]> {
        use std::os::fd::AsFd;
        match &self.storage.as_ref()?.kind {
            Kind::Pipe(pipe) => Some([pipe.reader.as_fd(), pipe.writer.as_fd()]),
            Kind::Memory { .. } => None,
        }
    }

    /// Its bytes, if it has no pipe.
    pub(in crate::relay) fn bytes(&self) -> Option<&[u8]> {
        let storage = self.storage.as_ref()?;
        match &storage.kind {
            Kind::Pipe(_) => None,
            Kind::Memory { bytes, start } => bytes.get(*start..*start + storage.holds),
        }
    }
}

impl PipePool {
    /// Returns a buffer with what another daemon held. A pipe counts as lent, also beyond the bound.
    pub(in crate::relay) fn adopt(&self, held: Held) -> Buffer {
        let Held::Pipe { pipe, bytes } = held else {
            return match held {
                Held::Bytes(bytes) => self.holding(&bytes),
                Held::Pipe { .. } | Held::Nothing => self.holding(&[]),
            };
        };
        self.0.lent.set(self.0.lent.get() + 1);
        let storage = Storage {
            kind: Kind::Pipe(pipe),
            holds: bytes,
        };
        Buffer {
            pool: self.clone(),
            storage: Some(Box::new(storage)),
        }
    }
}
