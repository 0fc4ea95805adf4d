//! The hand-over of a daemon that outlives the service's main process: that one ends, so that the service manager starts the
//! next daemon, and this one carries its tunnels until the next one claims them. Never waits without a limit, and accepts no
//! connection meanwhile.

use std::io::{self, Read};
use std::os::unix::net;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::Daemon;
use super::hand_over::{Refused, other_signal};
use super::signals::{Signal, Signals};
use super::store::Store;
use crate::handover::claim::Said;
use crate::handover::parking::Parking;
use crate::systemd::main_process::MainProcess;

/// Why the wait for the claim ends.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// The next daemon claims the tunnels.
    Claimed,
    /// It does not come. The tunnels wait for it in the queue.
    Nobody,
    /// The service manager has closed what it kept, so that none can come.
    Dropped,
}

impl Daemon {
    /// Carries the tunnels until the next daemon claims them, if this process may outlive the main one. Returns the stream
    /// that tells the next daemon by its end that the tunnels are in the queue.
    ///
    /// # Errors
    /// Something else is asked for. A daemon that lives beside the service then ends at once.
    pub(super) fn carry_until_claimed(
        &mut self,
        parking: &Parking,
        main_process: Option<MainProcess>,
        signals: &mut Signals,
    ) -> Result<Option<UnixStream>, Refused> {
        let Some(claims) = self.outlive(main_process) else {
            self.expect_no_claim();
            return Ok(None);
        };
        parking.live_beside();
        self.notify_workers();
        if let Some(server) = self.watched_by.take() {
            // The next daemon has the same socket, or needs its port.
            server.stop();
        }
        info!("the tunnels flow until the next daemon claims them");
        let failed = &self.shared.lifecycle.stages.failed;
        let heard = self.service.block_on(async {
            let mut claims = UnixStream::from_std(claims).ok()?;
            tokio::select! {
                biased;
                () = failed.cancelled() => None,
                _any = other_signal(signals) => None,
                heard = hear(&mut claims) => Some((claims, heard)),
            }
        });
        match heard {
            Some((claims, Heard::Claimed)) => Ok(Some(claims)),
            Some((claims, Heard::Nobody)) => {
                warn!("no next daemon claims the tunnels; they stand still and wait for it");
                Ok(Some(claims))
            }
            Some((_, Heard::Dropped)) => {
                warn!("the service was stopped, so that no next daemon can take the tunnels");
                Err(Refused::Asked(Signal::StopAtOnce))
            }
            None => Err(Refused::Asked(Signal::StopAtOnce)),
        }
    }

    /// Ends the main process, and returns the stream on which the next daemon claims the tunnels. None: this process is as it
    /// was.
    fn outlive(&self, main_process: Option<MainProcess>) -> Option<net::UnixStream> {
        let main_process = main_process?;
        let claims = self.store.as_ref().and_then(Store::take_claims)?;
        // Without a tunnel there is nothing to carry.
        if self.shared.evidence.active.load(Ordering::Relaxed) == 0 {
            return None;
        }
        if !is_kept(&claims) {
            warn!(
                "the service manager has no room for the stream of a claim, so that the tunnels stand still while the next daemon starts: set FileDescriptorStoreMax= of the unit to 64"
            );
            return None;
        }
        if let Err(error) = main_process.leave() {
            warn!(%error, "the tunnels stand still while the next daemon starts: the service manager does not answer");
            return None;
        }
        // Nobody else watches over this process now.
        let guard = std::thread::Builder::new().name("guard".to_owned());
        let guarded = guard.spawn(|| {
            std::thread::sleep(LIFE);
            std::process::exit(1);
        });
        if let Err(error) = guarded {
            warn!(%error, "nothing ends this process if it stands still");
        }
        Some(claims)
    }

    fn expect_no_claim(&self) {
        if let Some(store) = &self.store {
            store.expect_no_claim();
        }
    }
}

/// Whether the other end is open. Nobody has written yet.
fn is_kept(mut claims: &net::UnixStream) -> bool {
    let read = claims
        .set_nonblocking(true)
        .and_then(|()| claims.read(&mut [0]));
    read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Waits for the claim: not long for a daemon that does not start, and longer for one whose starts fail.
async fn hear(claims: &mut UnixStream) -> Heard {
    let began = Instant::now();
    let mut deadline = began + FIRST_START;
    loop {
        let mut byte = [0];
        match timeout_at(deadline, claims.read(&mut byte)).await {
            Err(_late) => return Heard::Nobody,
            Ok(Ok(0) | Err(_)) => return Heard::Dropped,
            Ok(Ok(_)) => {}
        }
        let [byte] = byte;
        match Said::of(byte) {
            Some(Said::Claims) => return Heard::Claimed,
            Some(Said::Starts) => deadline = began + CARRIED,
            // Of a later version.
            None => {}
        }
    }
}

/// For the first start of the next daemon.
const FIRST_START: Duration = Duration::from_secs(10);
/// The longest life beside the service: the wait for a claim, and a minute for everything after it.
const LIFE: Duration = Duration::from_secs(180);
/// How long a daemon carries its tunnels while the starts of the next one fail. They may wait as long in the queue.
const CARRIED: Duration = Duration::from_secs(120);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_daemon_waits_not_long_for_a_start_and_longer_for_starts_that_fail() {
        let (mut own, _kept) = UnixStream::pair().unwrap();
        let began = Instant::now();
        assert_eq!(hear(&mut own).await, Heard::Nobody);
        assert_eq!(began.elapsed().as_secs(), 10);
        let (mut own, mut next) = UnixStream::pair().unwrap();
        next.write_all(b"s?s").await.unwrap();
        let began = Instant::now();
        assert_eq!(hear(&mut own).await, Heard::Nobody);
        assert_eq!(began.elapsed().as_secs(), 120);
        next.write_all(b"sc").await.unwrap();
        assert_eq!(hear(&mut own).await, Heard::Claimed);
        drop(next);
        assert_eq!(hear(&mut own).await, Heard::Dropped);
    }
}
