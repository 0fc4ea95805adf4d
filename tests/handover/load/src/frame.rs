//! The bytes of a tunnel: numbered frames, whose every line of 64 bytes names its tunnel, its frame and its place, so that no
//! two are alike. Both ends hash all of them.

use sha2::{Digest, Sha256};

/// The length of a frame's header: its size, its tunnel, its number, and when it was sent, as little-endian numbers.
pub(crate) const HEADER: usize = 24;
/// The least distance between two marks in a frame.
const LINE: usize = 64;
/// The longest frame.
pub(crate) const LONGEST: usize = 64 * 1024;

/// One direction of a tunnel, at its sender.
pub(crate) struct Outgoing {
    tunnel: u32,
    next: u64,
    hash: Sha256,
    bytes: u64,
    frame: Vec<u8>,
}

impl Outgoing {
    pub(crate) fn new(tunnel: u32) -> Outgoing {
        Outgoing {
            tunnel,
            next: 0,
            hash: Sha256::new(),
            bytes: 0,
            frame: Vec::new(),
        }
    }

    /// The next frame of this size; `sent` is the time that it carries.
    pub(crate) fn frame(&mut self, size: usize, sent: u64) -> &[u8] {
        let size = size.clamp(HEADER, LONGEST);
        self.frame.resize(size, 0);
        let (header, rest) = self.frame.split_at_mut(HEADER);
        let fields = [
            u32::try_from(size).unwrap_or(0).to_le_bytes().as_slice(),
            &self.tunnel.to_le_bytes(),
            &self.next.to_le_bytes(),
            &sent.to_le_bytes(),
        ]
        .concat();
        header.copy_from_slice(&fields);
        for (place, line) in rest.chunks_exact_mut(LINE).enumerate() {
            let place = u64::try_from(place).unwrap_or(0);
            let mark = (self.next << 24) ^ (place << 8) ^ u64::from(self.tunnel).rotate_right(16);
            if let Some(start) = line.first_chunk_mut::<8>() {
                *start = mark.to_le_bytes();
            }
        }
        self.hash.update(&self.frame);
        self.bytes += u64::try_from(size).unwrap_or(0);
        self.next += 1;
        &self.frame
    }

    /// All that was sent: its length and its digest.
    pub(crate) fn sum(self) -> (u64, String) {
        (self.bytes, hex::encode(self.hash.finalize()))
    }
}

/// One direction of a tunnel, at its receiver.
pub(crate) struct Incoming {
    tunnel: u32,
    next: u64,
    hash: Sha256,
    bytes: u64,
    header: Vec<u8>,
    left: usize,
    sent: u64,
}

impl Incoming {
    pub(crate) fn new(tunnel: u32) -> Incoming {
        Incoming {
            tunnel,
            next: 0,
            hash: Sha256::new(),
            bytes: 0,
            header: Vec::with_capacity(HEADER),
            left: 0,
            sent: 0,
        }
    }

    /// Takes received bytes and reports the time that each completed frame carries.
    ///
    /// Fails at the first frame that is not the next one of this tunnel.
    pub(crate) fn take(
        &mut self,
        mut bytes: &[u8],
        mut completed: impl FnMut(u64),
    ) -> Result<(), String> {
        self.hash.update(bytes);
        self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        while !bytes.is_empty() {
            if self.left == 0 {
                let missing = HEADER - self.header.len();
                let (part, rest) = bytes.split_at(missing.min(bytes.len()));
                self.header.extend_from_slice(part);
                bytes = rest;
                if self.header.len() < HEADER {
                    break;
                }
                self.left = self.begin()?;
                self.header.clear();
            } else {
                let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= part.len();
                bytes = rest;
            }
            if self.left == 0 {
                completed(self.sent);
            }
        }
        Ok(())
    }

    /// Checks a complete header and returns how many bytes of the frame follow it.
    fn begin(&mut self) -> Result<usize, String> {
        let size = u32::from_le_bytes(self.field(0)) as usize;
        let tunnel = u32::from_le_bytes(self.field(4));
        let number = u64::from_le_bytes(self.field(8));
        self.sent = u64::from_le_bytes(self.field(16));
        if tunnel != self.tunnel || number != self.next || !(HEADER..=LONGEST).contains(&size) {
            return Err(format!(
                "frame {number} of tunnel {tunnel} with {size} bytes, where frame {} of tunnel {} begins",
                self.next, self.tunnel
            ));
        }
        self.next += 1;
        Ok(size - HEADER)
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        let field = self
            .header
            .get(at..)
            .and_then(|rest| rest.first_chunk::<N>());
        field.copied().unwrap_or([0; N])
    }

    /// Whether the last frame is complete.
    pub(crate) fn is_whole(&self) -> bool {
        self.left == 0 && self.header.is_empty()
    }

    /// All that was received: its length and its digest.
    pub(crate) fn sum(self) -> (u64, String) {
        (self.bytes, hex::encode(self.hash.finalize()))
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn received(bytes: &[u8], piece: usize) -> (Result<(), String>, Vec<u64>, Incoming) {
        let (mut incoming, mut times) = (Incoming::new(7), Vec::new());
        for part in bytes.chunks(piece) {
            if let Err(error) = incoming.take(part, |sent| times.push(sent)) {
                return (Err(error), times, incoming);
            }
        }
        (Ok(()), times, incoming)
    }

    #[test]
    fn frames_arrive_in_any_pieces() {
        let mut outgoing = Outgoing::new(7);
        let bytes = [
            outgoing.frame(24, 1).to_vec(),
            outgoing.frame(200, 2).to_vec(),
            outgoing.frame(70_000, 3).to_vec(),
        ]
        .concat();
        let sum = outgoing.sum();
        for piece in [1, 23, 24, 199, 65_536, 100_000] {
            let (result, times, incoming) = received(&bytes, piece);
            assert!(result.is_ok() && incoming.is_whole());
            assert_eq!(times, [1, 2, 3]);
            assert_eq!(incoming.sum(), sum);
        }
    }

    #[test]
    fn a_lost_repeated_or_changed_byte_is_found() {
        let mut outgoing = Outgoing::new(7);
        let frames = [
            outgoing.frame(200, 1).to_vec(),
            outgoing.frame(200, 2).to_vec(),
        ];
        let sum = outgoing.sum();
        let (lost, _, _) = received(frames.last().map_or(&[], |frame| frame), 64);
        assert!(lost.is_err());
        let (short, _, _) = received(&[&frames[0][..199], &frames[1]].concat(), 64);
        assert!(short.is_err());
        let mut changed = frames.concat();
        changed[150] ^= 1;
        let (result, _, incoming) = received(&changed, 64);
        assert!(result.is_ok());
        assert_ne!(incoming.sum(), sum);
        let (_, _, partial) = received(&frames.concat()[..399], 64);
        assert!(!partial.is_whole());
    }
}
