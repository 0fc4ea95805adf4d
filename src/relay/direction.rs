//! One direction of a tunnel: drain a socket into a vessel, pump the vessel into the other socket, until the FIN.
//!
//! Two invariants give each answer of splice(2) one meaning, for EAGAIN does not say which side blocked and is not
//! the end of a stream:
//! 1. **Drain only into an empty vessel.** Then EAGAIN means that the source has nothing, and 0 means its FIN.
//! 2. **Pump exactly what was drained before draining again.** Then EAGAIN means that the sink is full.
//!
//! Never sends a FIN itself: whether one is owed depends on the other direction too.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant};

use super::pipes::{PipePool, Vessel};
use crate::sys;

/// Counts one direction of one tunnel, while it runs.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    last_byte_ms: AtomicU64,
    spliced: AtomicU64,
    copied: AtomicU64,
    direction_total: Counter,
    spliced_total: Counter,
    copied_total: Counter,
}

/// One direction.
pub(super) struct Direction<'a> {
    pub(super) from: &'a TcpStream,
    pub(super) to: &'a TcpStream,
    pub(super) pipes: &'a PipePool,
    pub(super) meter: &'a Meter,
}

/// What broke.
pub(super) enum Broken {
    /// The source was reset, or its kernel gave it up.
    From(io::Error),
    /// The sink was.
    To(io::Error),
    /// Neither: a fault of our own or of this machine.
    Inside(io::Error),
}

impl Direction<'_> {
    /// Carries bytes until the source's FIN and the delivery of every byte before it.
    pub(super) async fn carry(&self) -> Result<(), Broken> {
        loop {
            self.from.readable().await.map_err(Broken::Inside)?;
            let mut vessel = self.pipes.borrow();
            for _ in 0..BURST {
                match self.from.try_io(Interest::READABLE, || vessel.drain(self.from)) {
                    Ok(0) => return self.ended(),
                    Ok(_) => self.pump(&mut vessel).await?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(self.reading(error)),
                }
            }
            // A tunnel that always has more must not keep its worker from the others.
            drop(vessel);
            tokio::task::yield_now().await;
        }
    }

    /// A FIN, unless bytes are there all the same: then splice has met urgent data, which no TLS peer sends and which
    /// it cannot move.
    fn ended(&self) -> Result<(), Broken> {
        match sys::has_byte(self.from) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Broken::From(io::Error::new(io::ErrorKind::ConnectionReset, "urgent data"))),
            Err(error) => Err(self.reading(error)),
        }
    }

    async fn pump(&self, vessel: &mut Vessel<'_>) -> Result<(), Broken> {
        while vessel.holds() > 0 {
            match self.to.try_io(Interest::WRITABLE, || vessel.pump(self.to)) {
                Ok(bytes) => self.meter.moved(bytes, vessel.is_spliced()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_for_sink().await?,
                Err(error) => return Err(writing(error)),
            }
        }
        Ok(())
    }

    /// While the sink is full nobody reads the source, so its reset must be watched for.
    async fn wait_for_sink(&self) -> Result<(), Broken> {
        tokio::select! {
            ready = self.to.writable() => ready.map_err(Broken::Inside),
            _ = self.from.ready(Interest::ERROR) => Err(Broken::From(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn reading(&self, error: io::Error) -> Broken {
        if is_fault_of_a_peer(&error) { Broken::From(error) } else { Broken::Inside(error) }
    }
}

impl Meter {
    /// A meter at zero; what it counts is added to the totals at once.
    #[must_use]
    pub fn new(direction_total: Counter, spliced_total: Counter, copied_total: Counter) -> Self {
        let started = Instant::now();
        let zero = || AtomicU64::new(0);
        let (last_byte_ms, spliced, copied) = (zero(), zero(), zero());
        Self { started, last_byte_ms, spliced, copied, direction_total, spliced_total, copied_total }
    }

    /// Counts bytes that the sink has taken.
    pub fn moved(&self, bytes: usize, spliced: bool) {
        let bytes = bytes as u64;
        let (own, total) =
            if spliced { (&self.spliced, &self.spliced_total) } else { (&self.copied, &self.copied_total) };
        own.fetch_add(bytes, Ordering::Relaxed);
        total.increment(bytes);
        self.direction_total.increment(bytes);
        self.last_byte_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// All bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.spliced_bytes() + self.copied.load(Ordering::Relaxed)
    }

    /// Those that never entered user space.
    #[must_use]
    pub fn spliced_bytes(&self) -> u64 {
        self.spliced.load(Ordering::Relaxed)
    }

    /// When the last byte was counted, to the millisecond; the start if none was.
    pub(super) fn last_byte(&self) -> Instant {
        self.started + Duration::from_millis(self.last_byte_ms.load(Ordering::Relaxed))
    }
}

fn writing(error: io::Error) -> Broken {
    if is_fault_of_a_peer(&error) { Broken::To(error) } else { Broken::Inside(error) }
}

/// All that TCP reports of a peer or of the way to it. EPIPE and ECONNRESET are resets; the others are a kernel that
/// gave up.
fn is_fault_of_a_peer(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionReset
            | K::BrokenPipe
            | K::ConnectionAborted
            | K::NotConnected
            | K::TimedOut
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
            | K::ConnectionRefused
            | K::PermissionDenied
    )
}

/// Sixteen full pipes are 4 MiB, about a millisecond.
const BURST: usize = 16;
