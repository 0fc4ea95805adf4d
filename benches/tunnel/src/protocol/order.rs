//! The order of the client to the upstream. The client sends it through the tunnel directly after
//! the greetings, so the upstream needs to know nothing of the run. Forty bytes: five numbers.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};

/// What a tunnel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Answer every `up` bytes with `down` bytes.
    Exchange { up: u64, down: u64 },
    /// Send `chunk` bytes at every interval for `lasts_ns`, then the total and a FIN.
    Stream {
        chunk: u64,
        interval_ns: u64,
        phase_ns: u64,
        lasts_ns: u64,
    },
    /// Send as fast as possible for `lasts_ns`, then the total and a FIN.
    Down { lasts_ns: u64 },
    /// Take everything; acknowledge every [`ACKNOWLEDGED_BYTES`] with one byte.
    Up,
}

impl Order {
    /// Encodes the order: [`ORDER_BYTES`] bytes.
    pub(crate) fn encode(self) -> Vec<u8> {
        let numbers = match self {
            Self::Exchange { up, down } => [1, up, down, 0, 0],
            Self::Stream {
                chunk,
                interval_ns,
                phase_ns,
                lasts_ns,
            } => [2, chunk, interval_ns, phase_ns, lasts_ns],
            Self::Down { lasts_ns } => [3, lasts_ns, 0, 0, 0],
            Self::Up => [4, 0, 0, 0, 0],
        };
        numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }

    /// Decodes an order; None if the bytes are no order.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let numbers: Vec<u64> = numbers
            .iter()
            .map(|number| u64::from_le_bytes(*number))
            .collect();
        match (numbers.as_slice(), rest) {
            ([1, up, down, _, _], []) => Some(Self::Exchange {
                up: *up,
                down: *down,
            }),
            ([2, chunk, interval_ns, phase_ns, lasts_ns], []) => Some(Self::Stream {
                chunk: *chunk,
                interval_ns: *interval_ns,
                phase_ns: *phase_ns,
                lasts_ns: *lasts_ns,
            }),
            ([3, lasts_ns, ..], []) => Some(Self::Down {
                lasts_ns: *lasts_ns,
            }),
            ([4, ..], []) => Some(Self::Up),
            _ => None,
        }
    }
}

/// Ends a stream: sends its total, [`TRAILER_BYTES`] long, and a FIN.
pub(crate) fn finish(socket: &mut TcpStream, total: u64) -> io::Result<()> {
    socket.write_all(&total.to_le_bytes())?;
    socket.shutdown(Shutdown::Write)
}

/// The length of every order.
pub(crate) const ORDER_BYTES: usize = 40;

/// Rare enough to cost nothing, frequent enough to end a run in time.
pub(crate) const ACKNOWLEDGED_BYTES: u64 = 16 << 20;

/// The length of the total at the end of a stream.
pub(crate) const TRAILER_BYTES: u64 = 8;
