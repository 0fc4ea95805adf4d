//! The hand-over of a daemon that outlives the service's main process: that one ends, so that the service manager starts the
//! next daemon, and this one carries its tunnels until the next one claims them. Never waits without a limit, and accepts no
//! connection meanwhile.

use std::io::{self, Read};
use std::os::unix::net;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Daemon;
use super::claims::{Claims, Heard, TAKEN};
use super::hand_over::{
    FREEZE, Refused, clock_ns, leave_list, millis, other_signal, remove_list, until_written,
};
use super::signals::{Signal, Signals};
use super::store::Store;
use crate::VERSION;
use crate::audit::Then;
use crate::handover::ahead::Sender;
use crate::handover::claim::BOTH_WATCH_MAX;
use crate::handover::format::Head;
use crate::handover::parking::{Asked, Parking};
use crate::systemd::main_process::MainProcess;

/// What has become of tunnels that the next daemon has ahead, and has claimed.
enum Rest {
    /// They are the next daemon's.
    Left,
    /// It has not said that it takes them.
    NotTaken,
    /// They cannot be described.
    Kept(io::Error),
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

/// For the next daemon to continue the tunnels: the end of a process with thousands of sockets takes as much processor time.
const TAKEOVER: Duration = Duration::from_millis(500);
/// The longest life beside the service: the wait for a claim, and a minute for everything after it.
const LIFE: Duration = Duration::from_secs(180);
