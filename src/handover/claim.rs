//! The claim: the next daemon asks a former one, which still carries its tunnels, to leave them.
//!
//! Both hold an end of one stream; the service manager keeps that of the next daemon. The next one says that it starts,
//! and claims the tunnels when nothing else of its start can fail. The former one puts them into the queue and closes its
//! end, so an end without a parcel means that it has died or could not. Carries no descriptor and no data.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::sys::process::{is_peer_alive, kill_peer};

/// What the next daemon says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It starts.
    Starts,
    /// It takes the tunnels.
    Claims,
}

impl Said {
    /// What this byte says; None for one of a later version.
    #[must_use]
    pub fn of(byte: u8) -> Option<Self> {
        match byte {
            STARTS => Some(Self::Starts),
            CLAIMS => Some(Self::Claims),
            _ => None,
        }
    }
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

    /// Claims its tunnels, and waits until they are in the queue, or it has died. It is killed if it does neither in time:
    /// the machine would have no daemon otherwise.
    ///
    /// # Errors
    /// It does not end even so.
    pub fn claim(&mut self) -> io::Result<()> {
        // Fails if it has ended.
        let _ended = self.0.write_all(&[CLAIMS]);
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
        match self.0.read(&mut [0]) {
            Ok(_) => Ok(true),
            Err(error) if is_late(&error) => Ok(false),
            // What was written last may never be read.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn is_late(error: &io::Error) -> bool {
    [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind())
}

/// So many tunnels may have their watches in the former epolls and in the new ones (epoll(7), max_user_watches): 40,000
/// watches, which the kernel allows from 180 MiB of memory on.
pub const BOTH_WATCH_MAX: usize = 10_000;
const STARTS: u8 = b's';
const CLAIMS: u8 = b'c';
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
            let mut said = [0; 2];
            former.read_exact(&mut said).unwrap();
            said.map(Said::of)
        });
        next.claim().unwrap();
        assert_eq!(
            listener.join().unwrap(),
            [Some(Said::Starts), Some(Said::Claims)]
        );
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
