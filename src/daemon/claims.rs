//! What the next daemon says on the stream of the claim, and how long a daemon that carries its tunnels listens. Never waits
//! without a limit, and answers nothing.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use crate::handover::claim::{REQUEST_BYTES, Said};

/// What this daemon hears while it carries its tunnels.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A next daemon starts.
    Starts,
    /// It asks for the tunnels ahead, by this number.
    Asks(u32),
    /// It claims the tunnels.
    Claims,
    /// It has all that it needs to continue them.
    Takes,
    /// It does not come. The tunnels wait for it in the queue.
    Nobody,
    /// The service manager has closed what it kept, so that none can come.
    Dropped,
}

/// The stream from the next daemon, and how long this one waits for it.
#[derive(Debug)]
pub(super) struct Claims {
    stream: UnixStream,
    began: Instant,
    deadline: Instant,
}

impl Claims {
    /// From now on.
    pub(super) fn on(stream: UnixStream) -> Self {
        let began = Instant::now();
        Self {
            stream,
            began,
            deadline: began + FIRST_START,
        }
    }

    /// Waits for what comes next: not long for a daemon that does not start, and longer for one whose starts fail. Not longer
    /// than `until`.
    pub(super) async fn next(&mut self, until: Option<Instant>) -> Heard {
        loop {
            let deadline = until.map_or(self.deadline, |until| until.min(self.deadline));
            let mut byte = [0];
            match timeout_at(deadline, self.stream.read(&mut byte)).await {
                Err(_late) => return Heard::Nobody,
                Ok(Ok(0) | Err(_)) => return Heard::Dropped,
                Ok(Ok(_)) => {}
            }
            let [byte] = byte;
            match Said::of(byte) {
                Some(Said::Starts) => {
                    self.deadline = self.began + CARRIED;
                    return Heard::Starts;
                }
                Some(Said::Asks) => {
                    // It has all but the tunnels, and must not find them in the queue.
                    self.deadline = self.deadline.max(Instant::now() + ASKED);
                    let mut number = [0; REQUEST_BYTES];
                    // It sends them together.
                    let whole = self.stream.read_exact(&mut number);
                    return match timeout_at(deadline, whole).await {
                        Err(_late) => Heard::Nobody,
                        Ok(Err(_)) => Heard::Dropped,
                        Ok(Ok(_)) => Heard::Asks(u32::from_be_bytes(number)),
                    };
                }
                Some(Said::Claims) => {
                    self.deadline = self.deadline.max(Instant::now() + 2 * TAKEN);
                    return Heard::Claims;
                }
                Some(Said::Takes) => return Heard::Takes,
                // Of a later version.
                None => {}
            }
        }
    }
}

/// For the next daemon to say that it has everything, while all tunnels stand still. One that has died is followed by another
/// one, which says that it starts.
pub(super) const TAKEN: Duration = Duration::from_secs(10);
/// For the first start of the next daemon.
const FIRST_START: Duration = Duration::from_secs(10);
/// For a next daemon that has asked for the tunnels ahead to claim them.
const ASKED: Duration = Duration::from_secs(15);
/// How long a daemon carries its tunnels while the starts of the next one fail. They may wait as long in the queue.
const CARRIED: Duration = Duration::from_secs(120);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_daemon_waits_not_long_for_a_start_and_longer_for_starts_that_fail() {
        let (own, _kept) = UnixStream::pair().unwrap();
        let began = Instant::now();
        assert_eq!(Claims::on(own).next(None).await, Heard::Nobody);
        assert_eq!(began.elapsed().as_secs(), 10);
        let (own, mut next) = UnixStream::pair().unwrap();
        let (mut claims, began) = (Claims::on(own), Instant::now());
        next.write_all(b"s?s").await.unwrap();
        assert_eq!(claims.next(None).await, Heard::Starts);
        assert_eq!(claims.next(None).await, Heard::Starts);
        let soon = Some(began + Duration::from_secs(5));
        assert_eq!(claims.next(soon).await, Heard::Nobody);
        assert_eq!(began.elapsed().as_secs(), 5);
        assert_eq!(claims.next(None).await, Heard::Nobody);
        assert_eq!(began.elapsed().as_secs(), 120);
    }

    /// It would find them in the queue and not know it.
    #[tokio::test(start_paused = true)]
    async fn a_next_daemon_that_has_asked_may_take_its_time_to_claim() {
        let (own, mut next) = UnixStream::pair().unwrap();
        let (mut claims, began) = (Claims::on(own), Instant::now());
        next.write_all(b"a\x00\x00\x01\x02").await.unwrap();
        assert_eq!(claims.next(None).await, Heard::Asks(0x0102));
        let late = Some(began + Duration::from_secs(14));
        assert_eq!(claims.next(late).await, Heard::Nobody);
        assert_eq!(began.elapsed().as_secs(), 14);
        next.write_all(b"c").await.unwrap();
        assert_eq!(claims.next(None).await, Heard::Claims);
        // And to take them.
        assert_eq!(claims.next(None).await, Heard::Nobody);
        assert_eq!(began.elapsed().as_secs(), 34);
    }

    #[tokio::test]
    async fn everything_that_the_next_daemon_says_is_heard() {
        let (own, mut next) = UnixStream::pair().unwrap();
        let mut claims = Claims::on(own);
        next.write_all(b"sa\x00\x00\x01\x02ct").await.unwrap();
        for heard in [
            Heard::Starts,
            Heard::Asks(0x0102),
            Heard::Claims,
            Heard::Takes,
        ] {
            assert_eq!(claims.next(None).await, heard);
        }
        drop(next);
        assert_eq!(claims.next(None).await, Heard::Dropped);
    }
}
