//! The hand-over from the side of the daemon that ends: stops accepting, lets set-ups finish, freezes
//! the workers, and leaves the tunnels in the queue that the service manager keeps.
//!
//! Until the description is sent, every failure returns the tunnels to the workers, and the daemon
//! drains instead. Closes no socket of a tunnel.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{info, warn};

use super::Daemon;
use super::signals::{Signal, Signals};
use crate::VERSION;
use crate::audit::{DaemonRecord, Then, timestamp};
use crate::handover::format::{Debt, Head};
use crate::handover::left;
use crate::handover::packing::Packed;
use crate::handover::parking::Parking;
use crate::outcome::CloseReason;
use crate::sys::parcel;
use crate::systemd::main_process::MainProcess;

/// Why the tunnels are not handed over.
#[derive(Debug)]
pub(super) enum Refused {
    /// The daemon drains.
    Drain(String),
    /// A signal asks for a drain, or for a stop at once.
    Asked(Signal),
}

impl Daemon {
    /// Hands the tunnels over if the signal asks for it. Returns None if it has; otherwise the daemon
    /// and how it stops.
    pub(super) fn unless_handed_over(
        mut self,
        asked: Option<Signal>,
        signals: &mut Signals,
        main_process: Option<MainProcess>,
    ) -> Option<(Self, Option<Signal>)> {
        let Some(signal @ (Signal::HandOver | Signal::HandOverOrStop)) = asked else {
            return Some((self, asked));
        };
        let stop = match self.hand_over(signals, main_process) {
            Ok(()) => {
                // The sockets stay open until the process has ended, and the log is written.
                std::mem::forget(self);
                return None;
            }
            Err(Refused::Asked(signal)) => signal,
            Err(Refused::Drain(reason)) => {
                // Ctrl-C in a terminal asks for a drain.
                if signal == Signal::HandOver || self.store.is_some() {
                    warn!(reason, "cannot hand over; draining");
                }
                Signal::Stop
            }
        };
        Some((self, Some(stop)))
    }

    /// Hands the tunnels over. After that the process has to end at once, without closing anything.
    ///
    /// # Errors
    /// Why not; the tunnels are still here.
    pub(super) fn hand_over(
        &mut self,
        signals: &mut Signals,
        main_process: Option<MainProcess>,
    ) -> Result<(), Refused> {
        let drain = |why: &str| Refused::Drain(why.to_owned());
        let store = self.store.as_ref().ok_or_else(|| drain(NO_MANAGER))?;
        let writer = store.take_writer().ok_or_else(|| drain(NO_STORE))?;
        if self.shared.evidence.audit.is_failing() {
            return Err(drain("audit records cannot be written"));
        }
        let parking = Arc::new(Parking::new(writer));
        // A process hands over once.
        let _once = self.shared.lifecycle.parking.set(Arc::clone(&parking));
        self.shared.lifecycle.stages.leaving.cancel();
        self.reload_requests.close();
        while self.reload_requests.try_recv().is_ok() {}
        self.service_notify.stopping();
        info!(
            tunnels = self.shared.evidence.active.load(Ordering::Relaxed),
            "handing over"
        );
        // The next daemon judges and dials for itself.
        self.shared.close_warm(CloseReason::HandOver);
        self.notify_workers();
        let handed_over = self.leave_tunnels(&parking, main_process, signals);
        if handed_over.is_err() {
            parking.give_up();
            if let Some(store) = &self.store {
                // The manager drops what is in the queue already, unless this process lives beside the service.
                store.close();
            }
        }
        handed_over
    }

    /// Puts the tunnels into the queue, at once or when the next daemon claims them.
    fn leave_tunnels(
        &mut self,
        parking: &Parking,
        main_process: Option<MainProcess>,
        signals: &mut Signals,
    ) -> Result<(), Refused> {
        self.finish_set_ups(parking, signals)?;
        if main_process.is_some() && !signals.is_announced() {
            // Of two signals at once the later one may be read first.
            let announced = async { timeout(ANNOUNCEMENT, other_signal(signals)).await };
            if let Ok(signal) = self.service.block_on(announced) {
                return Err(Refused::Asked(signal));
            }
        }
        let main_process = main_process.filter(|_| signals.is_announced());
        match self.begin_to_carry(parking, main_process) {
            Some(claims) => self.carry(parking, claims, signals),
            None => match self.park(parking) {
                Ok(_) => Ok(()),
                Err(error) => Err(Refused::Drain(error.to_string())),
            },
        }
    }

    /// Waits until no attempt is in set-up. After [`SET_UPS`] the others end as in a drain.
    fn finish_set_ups(&self, parking: &Parking, signals: &mut Signals) -> Result<(), Refused> {
        let stages = &self.shared.lifecycle.stages;
        let are_done = |patience: Duration| async move {
            let deadline = Instant::now() + patience;
            // First, so that no client comes after the last look.
            let is_done = || {
                parking.deaf() >= self.workers.len()
                    && self.tunnels.len() <= self.shared.evidence.active.load(Ordering::Relaxed)
            };
            while !is_done() && Instant::now() < deadline {
                tokio::time::sleep(TICK).await;
            }
        };
        let asked = self.service.block_on(async {
            tokio::select! {
                biased;
                () = stages.failed.cancelled() => Some(Signal::StopAtOnce),
                signal = other_signal(signals) => Some(signal),
                () = are_done(SET_UPS) => None,
            }
        });
        if let Some(signal) = asked {
            return Err(Refused::Asked(signal));
        }
        stages.set_ups_end.cancel();
        self.notify_workers();
        self.service.block_on(are_done(LAST_REPLIES));
        Ok(())
    }

    /// Asks the workers for their tunnels.
    pub(super) fn freeze(&self, parking: &Parking) {
        self.service_notify.alive();
        parking.freeze();
        self.notify_workers();
    }

    /// Freezes the workers and sends the parcel. Returns the number of tunnels in it.
    pub(super) fn park(&self, parking: &Parking) -> io::Result<usize> {
        let began = Instant::now();
        self.freeze(parking);
        let packed = parking.packed(self.workers.len(), FREEZE, self.head())?;
        let is_beside = parking.is_beside();
        let then = match is_beside {
            true => Then::NextDaemon,
            false => Then::GoesOn,
        };
        // Before the record: after it nobody could record the end of a tunnel that the list lacks.
        leave_list(&packed)?;
        let written = self.record(&packed, then)?;
        // While the record is on its way to the disk.
        let sealed = packed.seal();
        let written = until_written(&written);
        let is_written = written.is_ok();
        let sent = written.and_then(|()| parking.send(&sealed?));
        match sent {
            Ok(()) => {
                let tunnels = packed.tunnels;
                info!(tunnels, took_ms = millis(began.elapsed()), "parked");
                Ok(tunnels)
            }
            Err(error) => {
                // Unless the next daemon has the audit file, and has to record their end.
                if !(is_beside && is_written) {
                    remove_list();
                }
                Err(error)
            }
        }
    }

    /// Records the hand-over. The receiver learns that the record is on disk.
    pub(super) fn record(&self, packed: &Packed, then: Then) -> io::Result<Receiver<()>> {
        let record = DaemonRecord::Handover {
            ts: timestamp(),
            tunnels: packed.tunnels,
            ids: packed.ids.to_string(),
        };
        let written = self.shared.evidence.audit.daemon_synced(record, then);
        written.ok_or_else(|| io::Error::other("the audit queue is full"))
    }

    /// What the next daemon has to know besides the tunnels.
    pub(super) fn head(&self) -> Head {
        let now = Instant::now();
        let snapshot = self.shared.snapshot.load();
        let debts = snapshot.accounts.iter().filter_map(|account| {
            let due = account.debt(now);
            (!due.is_zero()).then(|| Debt {
                user: account.user().to_string(),
                due_us: u64::try_from(due.as_micros()).unwrap_or(u64::MAX),
            })
        });
        Head {
            daemon: VERSION.to_owned(),
            frozen_ns: clock_ns(),
            debts: debts.collect(),
            lockout: self.shared.limits.lockout.state(now),
            ..Head::default()
        }
    }
}

/// Waits for the record to reach the disk.
pub(super) fn until_written(written: &Receiver<()>) -> io::Result<()> {
    let written = written.recv_timeout(AUDIT);
    written.map_err(|_| io::Error::other("the audit record cannot be written"))
}

/// The time on the clock that all daemons of this machine share.
pub(super) fn clock_ns() -> u64 {
    u64::try_from(parcel::monotonic().as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The next signal that asks for something else.
pub(super) async fn other_signal(signals: &mut Signals) -> Signal {
    loop {
        match signals.next().await {
            Signal::Reload | Signal::HandOver | Signal::HandOverOrStop => {}
            signal => return signal,
        }
    }
}

/// Leaves the list of the tunnels on disk, so that the next daemon can tell which it has not got.
pub(super) fn leave_list(packed: &Packed) -> io::Result<()> {
    let Some(folder) = left::folder() else {
        return Ok(());
    };
    left::write(&folder, packed.lines()).inspect_err(|_| remove_list())
}

pub(super) fn remove_list() {
    report(left::folder().map_or(Ok(()), |folder| left::remove(&folder)));
}

/// Removes the list of the former daemon, whose tunnels have their records now.
pub(super) fn remove_former_list() {
    report(left::folder().map_or(Ok(()), |folder| left::remove_former(&folder)));
}

fn report(removed: io::Result<()>) {
    if let Err(error) = removed {
        warn!(%error, "the list of handed-over tunnels cannot be removed; its tunnels may be recorded twice");
    }
}

const NO_MANAGER: &str = "no service manager keeps descriptors";
const NO_STORE: &str =
    "the service manager keeps no descriptors; set FileDescriptorStoreMax= of the unit to 64";
/// For attempts in set-up. Their clients wait no longer, and newcomers wait so long in the queue.
const SET_UPS: Duration = Duration::from_secs(2);
/// For the replies of attempts that took longer.
const LAST_REPLIES: Duration = Duration::from_millis(300);
/// For the workers to stop and describe their tunnels.
pub(super) const FREEZE: Duration = Duration::from_secs(5);
/// For the audit record to reach the disk, while all tunnels stand still.
const AUDIT: Duration = Duration::from_secs(5);
/// For an announcement that is read after the signal.
const ANNOUNCEMENT: Duration = Duration::from_millis(50);
/// Between two looks at the set-ups.
const TICK: Duration = Duration::from_millis(5);
