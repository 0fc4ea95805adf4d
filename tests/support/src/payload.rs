//! Streams of bytes that cannot be confused with one another, sent and received in constant memory.

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How many bytes passed, and a digest of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Fingerprint {
    pub bytes: u64,
    pub sha256: [u8; 32],
}

/// An endless stream of pseudo-random bytes, a different one for each seed (xorshift64*).
pub struct Stream(u64);

impl Stream {
    pub fn new(seed: u64) -> Stream {
        Stream(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next bytes of the stream. Whole multiples of eight keep it continuous.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// The first `length` bytes of the stream `seed`.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Stream::new(seed).fill(&mut bytes);
    bytes
}

/// Sends `length` bytes of the stream `seed` and flushes them; leaves the connection open.
pub async fn send(to: &mut (impl AsyncWrite + Unpin), seed: u64, length: u64) -> Fingerprint {
    let (mut stream, mut sha256, mut left) = (Stream::new(seed), Sha256::new(), length);
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let chunk = &mut buffer[..size];
        stream.fill(chunk);
        sha256.update(&*chunk);
        to.write_all(chunk).await.expect("send the payload");
        left -= size as u64;
    }
    to.flush().await.expect("flush the payload");
    Fingerprint {
        bytes: length,
        sha256: sha256.finalize().into(),
    }
}

/// Sends like [`send`], then ends this direction.
pub async fn send_and_finish(
    to: &mut (impl AsyncWrite + Unpin),
    seed: u64,
    length: u64,
) -> Fingerprint {
    let sent = send(to, seed, length).await;
    to.shutdown().await.expect("end the direction");
    sent
}

/// Receives until the clean end of the direction. Any other end fails the test.
pub async fn receive(from: &mut (impl AsyncRead + Unpin)) -> Fingerprint {
    let (mut sha256, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => {
                return Fingerprint {
                    bytes,
                    sha256: sha256.finalize().into(),
                };
            }
            Ok(size) => {
                sha256.update(&buffer[..size]);
                bytes += size as u64;
            }
            Err(error) => panic!("no clean end after {bytes} bytes: {error}"),
        }
    }
}

/// A multiple of eight, as [`Stream::fill`] wants it.
const CHUNK: usize = 64 * 1024;
