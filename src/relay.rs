//! The relay: bytes from client to upstream and back through pipes, inside the kernel, until both sides have ended.
//!
//! A FIN on one side is a FIN on the other after every byte before it; a reset on one side is a reset on the other,
//! never a clean end. Ends by itself when nothing moves for too long. Never looks at a byte. See splice(2) and
//! tcp(7).

mod direction;
mod pipes;

use std::io;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::outcome::Ending;
use crate::sys;
pub use direction::Meter;
use direction::{Broken, Direction};
pub use pipes::PipePool;

/// How long a tunnel may do what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a byte either way.
    pub idle: Duration,
    /// Without a byte after one side has ended.
    pub half_close: Duration,
    /// In all; None: no limit.
    pub max_age: Option<Duration>,
}

/// Two sockets and what bounds them.
#[derive(Debug)]
pub struct Relay<'a> {
    /// The client's.
    pub client: &'a TcpStream,
    /// The upstream's.
    pub upstream: &'a TcpStream,
    /// Where pipes are borrowed.
    pub pipes: &'a PipePool,
    /// Deadlines.
    pub patience: Patience,
    /// Ends the tunnel at once: the daemon's drain has run out.
    pub kill: &'a CancellationToken,
    /// Counts what goes from client to upstream.
    pub up: &'a Meter,
    /// Counts what goes from upstream to client.
    pub down: &'a Meter,
}

/// How a relay ended, and what the kernel said if that was the cause.
#[derive(Debug)]
pub struct Ended {
    /// The ending.
    pub ending: Ending,
    /// The error behind a reset or an internal error.
    pub cause: Option<io::Error>,
}

/// What has happened to one direction, or to the whole.
enum Event {
    /// This side has ended cleanly and every byte before its FIN is delivered.
    Fin(Side),
    /// This side no longer takes bytes; what it sent before may still be read.
    Unwritable(Side, io::Error),
    /// The tunnel is over.
    Over(Ended),
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Upstream,
}

impl Relay<'_> {
    /// Relays until the end. Both sockets are open still; unless the end was clean, closing them sends resets.
    pub async fn run(self) -> Ended {
        let ended = self.carry().await;
        if !matches!(ended.ending, Ending::ClosedByClient | Ending::ClosedByUpstream) {
            for socket in [self.client, self.upstream] {
                // Fails only on a socket that is dead already, whose peer knows.
                let _peer_knows = sys::reset_on_close(socket);
            }
        }
        ended
    }

    async fn carry(&self) -> Ended {
        let up = Direction { from: self.client, to: self.upstream, pipes: self.pipes, meter: self.up };
        let down = Direction { from: self.upstream, to: self.client, pipes: self.pipes, meter: self.down };
        tokio::pin! {
            let going_up = up.carry();
            let going_down = down.carry();
        }
        let started = Instant::now();
        let (mut up_done, mut down_done) = (None, None);
        let (mut first_fin, mut reset) = (None, None);
        loop {
            let event = tokio::select! {
                done = &mut going_up, if up_done.is_none() => { up_done = Some(Instant::now()); Event::of(done, Side::Client) }
                done = &mut going_down, if down_done.is_none() => { down_done = Some(Instant::now()); Event::of(done, Side::Upstream) }
                // A side that has ended is no longer read, so its reset must be watched for.
                _ = self.client.ready(Interest::ERROR), if up_done.is_some() => Event::Over(Side::Client.reset(None)),
                _ = self.upstream.ready(Interest::ERROR), if down_done.is_some() => Event::Over(Side::Upstream.reset(None)),
                ending = self.out_of_patience(started, up_done.or(down_done)) => Event::Over(ending.into()),
                () = self.kill.cancelled() => Event::Over(Ending::Drained.into()),
            };
            match event {
                Event::Fin(side) if reset.is_none() => {
                    first_fin.get_or_insert(side);
                    // A socket that cannot be shut down is dead, which its own direction finds out.
                    let _found_out_there = sys::shutdown_write(self.socket(side.other()));
                }
                Event::Fin(_) => {}
                Event::Unwritable(side, cause) => reset = reset.or(Some(side.reset(Some(cause)))),
                Event::Over(ended) => return reset.unwrap_or(ended),
            }
            if up_done.is_some() && down_done.is_some() {
                return reset.unwrap_or_else(|| first_fin.unwrap_or(Side::Client).closed());
            }
        }
    }

    /// Returns when the tunnel has been silent, half closed or alive for too long. One timer, set again only when it
    /// has run out.
    async fn out_of_patience(&self, started: Instant, half_closed_at: Option<Instant>) -> Ending {
        let (silence, silent_for_too_long) = match half_closed_at {
            None => (self.patience.idle, Ending::IdleTimeout),
            Some(_) => (self.patience.half_close, Ending::HalfCloseTimeout),
        };
        let end_of_life = self.patience.max_age.map(|age| started + age);
        loop {
            let last_byte = self.up.last_byte().max(self.down.last_byte());
            let quiet_since = half_closed_at.map_or(last_byte, |at| at.max(last_byte));
            let deadline = end_of_life.map_or(quiet_since + silence, |end| end.min(quiet_since + silence));
            if Instant::now() >= deadline {
                return if end_of_life == Some(deadline) { Ending::MaxAge } else { silent_for_too_long };
            }
            sleep_until(deadline).await;
        }
    }

    fn socket(&self, side: Side) -> &TcpStream {
        match side {
            Side::Client => self.client,
            Side::Upstream => self.upstream,
        }
    }
}

impl Event {
    fn of(done: Result<(), Broken>, from: Side) -> Self {
        match done {
            Ok(()) => Self::Fin(from),
            Err(Broken::From(error)) => Self::Over(from.reset(Some(error))),
            Err(Broken::To(error)) => Self::Unwritable(from.other(), error),
            Err(Broken::Inside(error)) => Self::Over(Ended { ending: Ending::InternalError, cause: Some(error) }),
        }
    }
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }

    fn closed(self) -> Ended {
        match self {
            Self::Client => Ending::ClosedByClient.into(),
            Self::Upstream => Ending::ClosedByUpstream.into(),
        }
    }

    fn reset(self, cause: Option<io::Error>) -> Ended {
        match self {
            Self::Client => Ended { ending: Ending::ResetByClient, cause },
            Self::Upstream => Ended { ending: Ending::ResetByUpstream, cause },
        }
    }
}

impl From<Ending> for Ended {
    fn from(ending: Ending) -> Self {
        Self { ending, cause: None }
    }
}
