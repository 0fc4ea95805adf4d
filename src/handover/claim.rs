//! The claim: the next daemon asks a former one, which still carries its tunnels, to leave them.
//!
//! Both hold an end of one stream; the service manager keeps that of the next daemon. The next one says that it starts, asks
//! for the tunnels ahead, and claims them when nothing else of its start can fail. The former one then sends what has changed,
//! and leaves the tunnels when the next one says that it has all of it.
//!
//! A former daemon that does not send them ahead puts them into the queue and closes its end when they are claimed.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::ahead::{self, Changes, Message};
use super::parcel::{LookError, Tunnels, Unusable};
use crate::sys::process::{is_peer_alive, kill_peer};

/// What the next daemon says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It starts. What was sent ahead was for another one.
    Starts,
    /// It wants the tunnels ahead. The number of its request follows, [`REQUEST_BYTES`] long.
    Asks,
    /// It claims the tunnels.
    Claims,
    /// It has all that it needs to continue them.
    Takes,
}

impl Said {
    /// What this byte says; None for one of a later version.
    #[must_use]
    pub fn of(byte: u8) -> Option<Self> {
        match byte {
            STARTS => Some(Self::Starts),
            ASKS => Some(Self::Asks),
            CLAIMS => Some(Self::Claims),
            TAKES => Some(Self::Takes),
            _ => None,
        }
    }
}

/// Why tunnels that were sent ahead are not this daemon's.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// The former daemon has ended before it has said what has changed.
    #[error("the former daemon has ended")]
    Ended,
    /// The former daemon has ended its tunnels.
    #[error("the former daemon could not leave them, and has ended them")]
    Refused,
    /// The former daemon carries them again.
    #[error("they flow in the former daemon again")]
    Flow,
    /// The limit on open files.
    #[error("their pipes need more descriptors than the limit on open files allows")]
    TooMany,
    /// What has changed is not understood.
    #[error("what has changed is not understood: {0}")]
    Unusable(#[from] Unusable),
    /// The system.
    #[error("the former daemon cannot be heard: {0}")]
    System(#[from] io::Error),
}

/// A former daemon that carries its tunnels until they are claimed.
#[derive(Debug)]
pub struct Former(UnixStream);

/// Tells the daemon at the other end that the next one starts. Returns false if it has ended.
#[must_use]
pub fn greet(mut stream: &UnixStream) -> bool {
    stream.write_all(&[STARTS]).is_ok()
}

impl Former {
    /// The one at the other end of this stream; None if it has ended.
    #[must_use]
    pub fn at(stream: UnixStream) -> Option<Self> {
        greet(&stream).then_some(Self(stream))
    }

    /// Asks for its tunnels ahead. Returns None if they will come by the queue. This process may open `limit` descriptors.
    ///
    /// # Errors
    /// They have more descriptors, or this process cannot ask.
    pub fn ask_ahead(&mut self, limit: u64) -> Result<Option<Tunnels>, LookError> {
        // No other daemon that may have asked has this process's number.
        let request = std::process::id();
        let mut asks = vec![ASKS];
        asks.extend(request.to_be_bytes());
        self.0.set_read_timeout(Some(AHEAD))?;
        // Fails if it has ended.
        let _ended = self.0.write_all(&asks);
        loop {
            match ahead::next(&self.0, limit) {
                Ok(Message::Described(memory, sockets)) => {
                    match ahead::tunnels(memory, sockets, request) {
                        Ok(Some(tunnels)) => return Ok(Some(tunnels)),
                        Ok(None) => {}
                        Err(_unusable) => return Ok(None),
                    }
                }
                Ok(Message::TooMany(needed)) => return Err(LookError::TooMany(needed, limit)),
                // For one that has ended.
                Ok(Message::Changed(..) | Message::Flow) => {}
                Ok(Message::Refused | Message::Left | Message::Ended) => return Ok(None),
                Err(error) if is_over(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Claims the tunnels that it has sent ahead, and waits until they stand still. This process may open `limit` descriptors
    /// more.
    ///
    /// # Errors
    /// Nobody knows what has changed. The tunnels are still those of the former daemon, if it lives.
    pub fn claim_rest(&mut self, limit: u64) -> Result<Changes, NotTaken> {
        self.say(CLAIMS);
        let claimed = self.changes(limit);
        if claimed.is_err() {
            // They flow again at once.
            self.say(STARTS);
        }
        claimed
    }

    fn changes(&mut self, limit: u64) -> Result<Changes, NotTaken> {
        let request = std::process::id();
        loop {
            match self.hear(limit)? {
                Message::Changed(memory, pipes, pollers) => {
                    if let Some(changes) = ahead::changes(memory, pipes, pollers, request)? {
                        return Ok(changes);
                    }
                }
                Message::Described(..) => {}
                Message::Left => return Err(NotTaken::Flow),
                other => return Err(self.not_taken(&other)),
            }
        }
    }

    /// Says that this daemon can continue the tunnels, and waits until the former one has left them. One that has died meanwhile
    /// has left them too.
    ///
    /// # Errors
    /// They are not this daemon's.
    pub fn take(&mut self) -> Result<(), NotTaken> {
        self.say(TAKES);
        loop {
            match self.hear(u64::MAX)? {
                Message::Left | Message::Ended => return Ok(()),
                Message::Changed(..) | Message::Described(..) => {}
                other => return Err(self.not_taken(&other)),
            }
        }
    }

    fn not_taken(&mut self, heard: &Message) -> NotTaken {
        match heard {
            Message::Ended => NotTaken::Ended,
            Message::TooMany(_) => NotTaken::TooMany,
            Message::Refused => {
                // It records the end of its tunnels before its own, and may have the audit file until then.
                let _is_late = self.has_ended_within(PATIENCE);
                NotTaken::Refused
            }
            _ => NotTaken::Flow,
        }
    }

    fn say(&mut self, byte: u8) {
        // Fails if it has ended, and then the stream tells it.
        let _ended = self.0.write_all(&[byte]);
    }

    /// Waits for an answer. A daemon that gives none in time is killed: the machine would have no daemon otherwise.
    fn hear(&mut self, limit: u64) -> io::Result<Message> {
        self.0.set_read_timeout(Some(PATIENCE))?;
        let mut answer = ahead::next(&self.0, limit);
        if answer.as_ref().is_err_and(is_late) {
            kill_peer(&self.0)?;
            self.0.set_read_timeout(Some(DEATH))?;
            answer = ahead::next(&self.0, limit);
        }
        match answer {
            // What was written last may never be read.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Message::Ended),
            answer => answer,
        }
    }

    /// Claims its tunnels, and waits until they are in the queue, or it has died. It is killed if it does neither in time:
    /// the machine would have no daemon otherwise.
    ///
    /// # Errors
    /// It does not end even so.
    pub fn claim(&mut self) -> io::Result<()> {
        // What it has sent ahead, if anything, is not used. Fails if it has ended.
        let _ended = self.0.write_all(&[STARTS, CLAIMS]);
        if self.has_ended_within(PATIENCE)? {
            return Ok(());
        }
        kill_peer(&self.0)?;
        match self.has_ended_within(DEATH)? {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Waits until its process, and with it its watches of so many tunnels, is gone, if that takes no longer than it may.
    pub fn wait_until_gone(&self, tunnels: usize) {
        let deadline = Instant::now() + DEATH;
        while tunnels > BOTH_WATCH_MAX && is_peer_alive(&self.0) && Instant::now() < deadline {
            std::thread::sleep(TICK);
        }
    }

    fn has_ended_within(&mut self, patience: Duration) -> io::Result<bool> {
        self.0.set_read_timeout(Some(patience))?;
        loop {
            match self.0.read(&mut [0]) {
                Ok(0) => return Ok(true),
                // An answer that comes too late.
                Ok(_) => {}
                Err(error) if is_late(&error) => return Ok(false),
                // What was written last may never be read.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether no answer will come.
fn is_over(error: &io::Error) -> bool {
    is_late(error) || error.kind() == io::ErrorKind::ConnectionReset
}

fn is_late(error: &io::Error) -> bool {
    [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind())
}

/// So many tunnels may have their watches in the former epolls and in the new ones (epoll(7), max_user_watches): 40,000
/// watches, which the kernel allows from 180 MiB of memory on.
pub const BOTH_WATCH_MAX: usize = 10_000;
/// The length of the number of a request.
pub const REQUEST_BYTES: usize = 4;
const STARTS: u8 = b's';
const ASKS: u8 = b'a';
const CLAIMS: u8 = b'c';
const TAKES: u8 = b't';
/// For a former daemon to describe its tunnels while they flow. Clients wait so long in the queue.
const AHEAD: Duration = Duration::from_secs(5);
/// Longer than all waits of a daemon that puts its tunnels into the queue.
const PATIENCE: Duration = Duration::from_secs(15);
const DEATH: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(1);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_former_daemon_hears_the_start_and_the_claim_and_answers_with_its_end() {
        let (mut former, next) = UnixStream::pair().unwrap();
        let mut next = Former::at(next).unwrap();
        let listener = std::thread::spawn(move || {
            let mut said = [0; 3];
            former.read_exact(&mut said).unwrap();
            said.map(Said::of)
        });
        next.claim().unwrap();
        let said = [Said::Starts, Said::Starts, Said::Claims];
        assert_eq!(listener.join().unwrap(), said.map(Some));
        assert_eq!(Said::of(b'?'), None);
    }

    #[test]
    fn a_former_daemon_that_has_ended_is_none() {
        let (former, next) = UnixStream::pair().unwrap();
        drop(former);
        assert!(Former::at(next).is_none());
        // It may end between the two.
        let (former, next) = UnixStream::pair().unwrap();
        let mut next = Former::at(next).unwrap();
        drop(former);
        next.claim().unwrap();
    }
}
