//! Streams at an even pace: one thread writes each chunk when it is due, on a grid of absolute
//! times, so a late chunk does not delay the next and the chunks of all tunnels stay spread over
//! the interval. It skips a chunk that is a whole interval late and never sends two at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::protocol::order::{Order, finish};

/// An order for a stream, and the tunnel it is for.
pub(crate) type Paced = (Order, TcpStream);

struct Stream {
    socket: TcpStream,
    chunk: Vec<u8>,
    interval_ns: u64,
    phase_ns: u64,
    end_ns: u64,
    sent: u64,
}

/// Starts the thread; it ends with the process.
pub(crate) fn start() -> io::Result<Sender<Paced>> {
    let (sender, orders) = channel();
    std::thread::Builder::new()
        .name("pacer".into())
        .spawn(move || pace(&orders))?;
    Ok(sender)
}

fn pace(orders: &Receiver<Paced>) {
    let epoch = Instant::now();
    let now_ns = || epoch.elapsed().as_nanos() as u64;
    let (mut streams, mut due, mut next) =
        (std::collections::HashMap::new(), BinaryHeap::new(), 0_u64);
    loop {
        let wait_ns = due
            .peek()
            .map_or(u64::MAX, |Reverse((at_ns, _)): &Reverse<(u64, u64)>| {
                at_ns.saturating_sub(now_ns())
            });
        if wait_ns > 0 {
            match orders.recv_timeout(Duration::from_nanos(wait_ns.min(FOREVER_NS))) {
                Ok((order, socket)) => {
                    if let Some(stream) = Stream::new(order, socket, now_ns()) {
                        due.push(Reverse((stream.due_after(now_ns()), next)));
                        streams.insert(next, stream);
                        next += 1;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            continue;
        }
        let Some(Reverse((_, number))) = due.pop() else {
            continue;
        };
        let Some(mut stream) = streams.remove(&number) else {
            continue;
        };
        // A tunnel that failed is dropped here; the client agent reports it.
        if stream.step(now_ns()).is_ok_and(|goes_on| goes_on) {
            due.push(Reverse((stream.due_after(now_ns()), number)));
            streams.insert(number, stream);
        }
    }
}

impl Stream {
    fn new(order: Order, socket: TcpStream, now_ns: u64) -> Option<Self> {
        let Order::Stream {
            chunk,
            interval_ns,
            phase_ns,
            lasts_ns,
        } = order
        else {
            return None;
        };
        socket
            .set_write_timeout(Some(Duration::from_secs(15)))
            .ok()?;
        Some(Self {
            socket,
            chunk: vec![0; chunk as usize],
            interval_ns,
            phase_ns,
            end_ns: now_ns + lasts_ns,
            sent: 0,
        })
    }

    /// The next time on this stream's grid.
    fn due_after(&self, now_ns: u64) -> u64 {
        let intervals = now_ns.saturating_sub(self.phase_ns) / self.interval_ns + 1;
        intervals * self.interval_ns + self.phase_ns
    }

    /// Sends a chunk, or the end when the time is up. Returns whether the stream continues.
    fn step(&mut self, now_ns: u64) -> io::Result<bool> {
        if now_ns >= self.end_ns {
            finish(&mut self.socket, self.sent)?;
            return Ok(false);
        }
        self.socket.write_all(&self.chunk)?;
        self.sent += self.chunk.len() as u64;
        Ok(true)
    }
}

const FOREVER_NS: u64 = 3_600_000_000_000;
