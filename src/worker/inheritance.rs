//! A hand-over from a worker's point of view: it leaves its tunnels to the next daemon, or continues
//! those of another one. Ends only a tunnel that the poller refuses to watch again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{NAMED_MAX, Worker};
use crate::handover::format::Described;
use crate::handover::parking::Packer;
use crate::handover::state::TunnelState;
use crate::tunnel::{self, Ahead, Change, Destination, Parked, Ready, Unusable, World};

/// Tunnels of another daemon for one worker.
#[derive(Debug)]
pub struct Inheritance {
    /// The tunnels and their descriptors, by numbers that no other tunnel has.
    pub tunnels: Vec<(usize, Described, Vec<OwnedFd>)>,
    /// The listeners, in the order of the configuration.
    pub listeners: Arc<[Arc<SocketAddr>]>,
    /// When their states were these.
    pub described: Instant,
    /// Learns that they are ready to flow.
    pub is_ready: Sender<()>,
    /// Says that they flow here from now on. The worker waits for it, also without tunnels: it accepts nobody before.
    pub start: Receiver<Start>,
    /// Receives the result.
    pub report: Sender<Continued>,
    /// The other workers that continue tunnels.
    pub others: Arc<Others>,
}

/// What has become of the tunnels of one worker by the time from which they flow here.
#[derive(Debug)]
pub struct Start {
    /// When the other daemon froze them.
    pub frozen: Instant,
    /// By their numbers; nothing has happened to the others.
    pub fates: HashMap<usize, Fate>,
}

/// What has become of a tunnel since it was described.
#[derive(Debug)]
pub enum Fate {
    /// It has ended, and is no tunnel of this daemon.
    Ended,
    /// Bytes have moved, or something else has happened.
    Changed(Box<Change>),
}

/// Makes workers wait for one another: a tunnel that flows takes processor time from those that do not yet.
#[derive(Debug)]
pub struct Others {
    /// The workers that have not continued their tunnels.
    left: Mutex<usize>,
    changed: Condvar,
}

impl Others {
    /// For this many workers.
    #[must_use]
    pub fn of(workers: usize) -> Self {
        Self {
            left: Mutex::new(workers),
            changed: Condvar::new(),
        }
    }

    /// Reports that one worker is done, and waits for the others, not for long: one can have failed.
    fn wait(&self) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_sub(1);
        self.changed.notify_all();
        let waited = self
            .changed
            .wait_timeout_while(left, PATIENCE, |left| *left > 0);
        drop(waited);
    }
}

/// The state of a tunnel that is reset, if it is understood, and the reason.
pub type Refused = (Option<Box<TunnelState>>, String);

/// How many tunnels a worker has continued.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Continued {
    /// Continued.
    pub adopted: usize,
    /// Reset, because their state or sockets are not what the other daemon says.
    pub unfit: Vec<Refused>,
}

impl Inheritance {
    /// Prepares the tunnels, waits for the start, and continues them. Returns false if the start of this daemon has failed.
    pub(super) fn continue_in(self, world: &Rc<World>) -> bool {
        let destination = Destination {
            shared: &world.shared,
            listeners: &self.listeners,
            described: self.described,
        };
        let mut log_lines = NAMED_MAX;
        let prepare = |(number, described, descriptors)| {
            let parked = Parked::of(described, descriptors);
            let ready = parked.and_then(|parked| parked.admit(destination, &mut log_lines, world));
            (number, ready)
        };
        let prepared: Vec<_> = self.tunnels.into_iter().map(prepare).collect();
        // Nobody waits any more.
        let _too_late = self.is_ready.send(());
        let Ok(start) = self.start.recv() else {
            return false;
        };
        let continued = start.continue_all(prepared, self.described, world);
        let _too_late = self.report.send(continued);
        self.others.wait();
        true
    }
}

/// A tunnel that is ready to flow, or why it cannot, by its number.
type Prepared = (usize, Result<Ready, Unusable>);

impl Start {
    fn continue_all(
        mut self,
        prepared: Vec<Prepared>,
        described: Instant,
        world: &Rc<World>,
    ) -> Continued {
        let mut continued = Continued::default();
        let after = self.frozen.saturating_duration_since(described);
        let pause = self.frozen.elapsed();
        let ready = prepared.iter().filter_map(|(_, ready)| ready.as_ref().ok());
        let oldest = ready.map(Ready::age).max();
        let oldest = oldest.unwrap_or_default().saturating_add(after + pause);
        world.relay.borrow_mut().begin_before(oldest);
        for (number, ready) in prepared {
            let change = match self.fates.remove(&number) {
                Some(Fate::Ended) => continue,
                Some(Fate::Changed(change)) => Some(*change),
                None => None,
            };
            let flows = match ready {
                Ok(ready) => ready
                    .after(after, change)
                    .and_then(|ready| ready.flow(pause, world)),
                Err((mut state, why)) => {
                    // Its record has the bytes of now.
                    let change = change.and_then(|(change, _)| change.state.ok());
                    if let Some(state) = &mut state {
                        state.age(after);
                        change.into_iter().for_each(|change| state.change(*change));
                    }
                    Err((state, why))
                }
            };
            match flows {
                Ok(()) => continued.adopted += 1,
                Err((state, why)) => continued.unfit.push((state, why.to_string())),
            }
        }
        continued
    }
}

impl Worker {
    /// Stops accepting when the daemon hands over. The sockets stay open and their clients wait.
    pub(super) fn keep_listeners(&mut self) {
        let parking = self.world.shared.lifecycle.parking.get();
        if parking.is_some_and(|parking| parking.is_beside()) {
            // The service manager has them, and the next daemon may need their ports.
            self.kept.clear();
        }
        if let Some(parking) = parking.filter(|_| !self.listeners.is_empty()) {
            parking.accepts_nobody();
        }
        let is_parking = parking.is_some();
        let is_draining = self.world.shared.lifecycle.stages.draining.is_cancelled();
        if is_parking && !is_draining {
            self.listeners
                .iter()
                .for_each(|listener| listener.stop(&self.poller));
            self.kept.append(&mut self.listeners);
            // While the tunnels still flow.
            self.world.relay.borrow_mut().reset_if_lost();
        } else {
            // The drain answers the clients in their queues.
            self.listeners.append(&mut self.kept);
        }
    }

    /// Describes the tunnels ahead and leaves them to the next daemon, once the daemon asks for it. If that succeeds, this
    /// thread does nothing more until the process ends: the sockets belong to the next daemon.
    pub(super) fn hand_over(&mut self) {
        let world = &self.world;
        let Some(parking) = world.shared.lifecycle.parking.get() else {
            return;
        };
        let asked = parking.asked();
        if self.ahead.as_ref().map(Ahead::asked) != asked {
            world.relay.borrow_mut().reset_if_lost();
            self.ahead = asked.map(|asked| Ahead::begin(asked, &world.relay.borrow()));
        }
        if let Some(ahead) = self.ahead.as_mut().filter(|ahead| !ahead.is_done()) {
            ahead.go_on(&world.relay.borrow(), parking);
        }
        if !parking.is_frozen() {
            return;
        }
        world.relay.borrow_mut().settle(Instant::now());
        let relay = world.relay.borrow();
        let fill = |packer: &mut Packer<'_>| tunnel::park(&relay, self.ahead.as_ref(), packer);
        if parking.park(fill) {
            loop {
                std::thread::park();
            }
        }
    }

    /// When it has to go on with that; None: when it is woken.
    pub(super) fn describes_again_at(&self) -> Option<Instant> {
        let is_done = self.ahead.as_ref().is_none_or(Ahead::is_done);
        (!is_done).then(|| self.world.reactor.now())
    }
}

/// The longest wait for the other workers, which have equally many tunnels.
const PATIENCE: Duration = Duration::from_millis(100);
