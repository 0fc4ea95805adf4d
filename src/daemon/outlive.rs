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
use tracing::{error, info, warn};

use super::Daemon;
use super::hand_over::{
    FREEZE, Refused, clock_ns, leave_list, millis, other_signal, remove_list, until_written,
};
use super::signals::{Signal, Signals};
use super::store::Store;
use crate::VERSION;
use crate::audit::Then;
use crate::handover::ahead::Sender;
use crate::handover::claim::{BOTH_WATCH_MAX, REQUEST_BYTES, Said};
use crate::handover::format::Head;
use crate::handover::parking::{Asked, Parking};
use crate::systemd::main_process::MainProcess;

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

/// What has become of tunnels that the next daemon has ahead, and has claimed.
enum Rest {
    /// They are the next daemon's.
    Left,
    /// It has not said that it takes them.
    NotTaken,
    /// They cannot be described.
    Kept(io::Error),
}

/// The stream from the next daemon, and how long this one waits for it.
#[derive(Debug)]
pub(super) struct Claims {
    stream: UnixStream,
    began: Instant,
    deadline: Instant,
}

impl Daemon {
    /// Starts to carry the tunnels, if this process may outlive the main one. Returns the stream from the next daemon.
    pub(super) fn begin_to_carry(
        &mut self,
        parking: &Parking,
        main_process: Option<MainProcess>,
    ) -> Option<Claims> {
        let Some((claims, next)) = self.outlive(main_process) else {
            if let Some(store) = &self.store {
                store.expect_no_claim();
            }
            return None;
        };
        parking.live_beside(Sender::on(next));
        self.notify_workers();
        if let Some(server) = self.watched_by.take() {
            // The next daemon has the same socket, or needs its port.
            server.stop();
        }
        info!("the tunnels flow until the next daemon claims them");
        Some(claims)
    }

    /// Carries the tunnels until the next daemon has them.
    pub(super) fn carry(
        &self,
        parking: &Parking,
        mut claims: Claims,
        signals: &mut Signals,
    ) -> Result<(), Refused> {
        let mut can_send_ahead = true;
        loop {
            match self.hear(&mut claims, None, signals)? {
                Heard::Starts => parking.forget_ahead(),
                Heard::Asks(request) if can_send_ahead => self.send_ahead(parking, request),
                Heard::Asks(_) => parking.next().into_iter().for_each(Sender::refused),
                Heard::Claims if parking.ahead().is_some() => {
                    match self.leave_rest(parking, &mut claims, signals)? {
                        Rest::Left => return Ok(()),
                        Rest::NotTaken => {
                            warn!("the next daemon has not taken the tunnels: they flow again");
                        }
                        Rest::Kept(error) => {
                            warn!(%error, "the tunnels cannot be left at once: they flow again");
                            can_send_ahead = false;
                        }
                    }
                    parking.thaw().map_err(|error| cannot_leave(&error))?;
                }
                Heard::Claims => return self.leave_in_queue(parking),
                Heard::Takes | Heard::Dropped => {}
                Heard::Nobody => {
                    warn!("no next daemon claims the tunnels; they stand still and wait for it");
                    parking.forget_ahead();
                    return self.leave_in_queue(parking);
                }
            }
        }
    }

    /// Puts the tunnels into the queue. The end of the stream tells the next daemon that they are there.
    fn leave_in_queue(&self, parking: &Parking) -> Result<(), Refused> {
        match self.park(parking) {
            Ok(tunnels) => {
                parking.hang_up();
                live_on(tunnels);
                Ok(())
            }
            // The next daemon waits for the end of this process.
            Err(error) => Err(cannot_leave(&error)),
        }
    }

    /// Sends the tunnels ahead, while they flow.
    fn send_ahead(&self, parking: &Parking, request: u32) {
        let began = Instant::now();
        parking.ask_ahead(Asked {
            request,
            at: began.into_std(),
        });
        self.notify_workers();
        let head = Head {
            daemon: VERSION.to_owned(),
            frozen_ns: clock_ns(),
            request: Some(request),
            ..Head::default()
        };
        match parking.send_ahead(self.workers.len(), FREEZE, head) {
            Ok(tunnels) => info!(tunnels, took_ms = millis(began.elapsed()), "sent ahead"),
            Err(error) => {
                warn!(%error, "the tunnels cannot be sent ahead: they will stand still longer");
                if let Ok(next) = parking.next() {
                    next.refused();
                }
            }
        }
    }

    /// Freezes the workers and sends what has changed since the tunnels were sent ahead.
    ///
    /// # Errors
    /// Something else is asked for, or the next daemon has said that it takes them, and they cannot be left.
    fn leave_rest(
        &self,
        parking: &Parking,
        claims: &mut Claims,
        signals: &mut Signals,
    ) -> Result<Rest, Refused> {
        let began = Instant::now();
        self.freeze(parking);
        let packed = parking.packed(self.workers.len(), FREEZE, self.head());
        let packed = packed.and_then(|packed| {
            parking.next()?.changed(packed.seal()?)?;
            // While the next daemon reads.
            leave_list(&packed)?;
            Ok(packed)
        });
        let packed = match packed {
            Ok(packed) => packed,
            Err(error) => return Ok(Rest::Kept(error)),
        };
        let heard = self.hear(claims, Some(Instant::now() + TAKEN), signals);
        if !matches!(heard, Ok(Heard::Takes)) {
            remove_list();
            return heard.map(|_| Rest::NotTaken);
        }
        let written = self.record(&packed, Then::NextDaemon);
        written
            .and_then(|written| until_written(&written))
            .map_err(|error| {
                remove_list();
                cannot_leave(&error)
            })?;
        let took_ms = millis(began.elapsed());
        info!(tunnels = packed.tunnels, took_ms, "left");
        // If it cannot be told, the next daemon waits for the end of this process.
        let _has_ended = parking.leave();
        live_on(packed.tunnels);
        Ok(Rest::Left)
    }

    /// Waits for what the next daemon says, at most until this time, if any.
    ///
    /// # Errors
    /// Something else is asked for. A daemon that lives beside the service then ends at once.
    pub(super) fn hear(
        &self,
        claims: &mut Claims,
        until: Option<Instant>,
        signals: &mut Signals,
    ) -> Result<Heard, Refused> {
        let failed = &self.shared.lifecycle.stages.failed;
        let heard = self.service.block_on(async {
            tokio::select! {
                biased;
                () = failed.cancelled() => None,
                _any = other_signal(signals) => None,
                heard = claims.next(until) => Some(heard),
            }
        });
        match heard {
            Some(Heard::Dropped) => {
                warn!("the service was stopped, so that no next daemon can take the tunnels");
                Err(Refused::Asked(Signal::StopAtOnce))
            }
            Some(heard) => Ok(heard),
            None => Err(Refused::Asked(Signal::StopAtOnce)),
        }
    }

    /// Ends the main process, and returns the stream from the next daemon, and the same to it. None: this process is as it was.
    fn outlive(&self, main_process: Option<MainProcess>) -> Option<(Claims, net::UnixStream)> {
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
        let next = claims.try_clone().ok()?;
        let _in_this_runtime = self.service.enter();
        let claims = Claims::on(UnixStream::from_std(claims).ok()?);
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
        Some((claims, next))
    }
}

impl Claims {
    fn on(stream: UnixStream) -> Self {
        let began = Instant::now();
        Self {
            stream,
            began,
            deadline: began + FIRST_START,
        }
    }

    /// Waits for what comes next: not long for a daemon that does not start, and longer for one whose starts fail. Not longer
    /// than `until`.
    async fn next(&mut self, until: Option<Instant>) -> Heard {
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

fn cannot_leave(error: &io::Error) -> Refused {
    error!(%error, "cannot hand over, and the next daemon waits: the tunnels end");
    Refused::Asked(Signal::StopAtOnce)
}

/// Lets the next daemon continue so many tunnels before this process ends.
fn live_on(tunnels: usize) {
    if tunnels <= BOTH_WATCH_MAX {
        std::thread::sleep(TAKEOVER);
    }
}

/// Whether the other end is open. Nobody has written yet.
fn is_kept(mut claims: &net::UnixStream) -> bool {
    let read = claims
        .set_nonblocking(true)
        .and_then(|()| claims.read(&mut [0]));
    read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// For the next daemon to say that it has everything, while all tunnels stand still. One that has died is followed by another
/// one, which says that it starts.
const TAKEN: Duration = Duration::from_secs(10);
/// For the next daemon to continue the tunnels: the end of a process with thousands of sockets takes as much processor time.
const TAKEOVER: Duration = Duration::from_millis(500);
/// For the first start of the next daemon.
const FIRST_START: Duration = Duration::from_secs(10);
/// The longest life beside the service: the wait for a claim, and a minute for everything after it.
const LIFE: Duration = Duration::from_secs(180);
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
