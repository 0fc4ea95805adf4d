//! A hand-over from a worker's point of view: it leaves its tunnels to the next daemon, or continues
//! those of another one. Ends only a tunnel that the poller refuses to watch again.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::{NAMED_MAX, Worker};
use crate::handover::format::Described;
use crate::handover::parking::Packer;
use crate::handover::state::TunnelState;
use crate::tunnel::{self, Destination, Parked, World};

/// Tunnels of another daemon for one worker.
#[derive(Debug)]
pub struct Inheritance {
    /// The tunnels and their descriptors.
    pub tunnels: Vec<(Described, Vec<OwnedFd>)>,
    /// The listeners, in the order of the configuration.
    pub listeners: Arc<[Arc<SocketAddr>]>,
    /// When the other daemon froze them.
    pub frozen: Instant,
    /// Receives the result.
    pub report: Sender<Continued>,
    /// The other workers that continue tunnels.
    pub others: Arc<Others>,
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
    /// Reset, because their state does not fit here.
    pub refused: usize,
    /// Reset, because their state or sockets are not what the other daemon says.
    pub unfit: Vec<Refused>,
}

impl Inheritance {
    /// Continues the tunnels and reports their number.
    pub(super) fn continue_in(self, world: &Rc<World>) {
        let states = self.tunnels.iter();
        let states = states.filter_map(|(described, _)| described.state.as_ref().ok());
        let oldest = states.map(|state| state.relay.age_ms).max().unwrap_or(0);
        let pause = self.frozen.elapsed();
        let age = Duration::from_millis(oldest).saturating_add(pause);
        world.relay.borrow_mut().begin_before(age);
        let destination = Destination {
            shared: &world.shared,
            listeners: &self.listeners,
            pause,
        };
        let (mut continued, mut log_lines) = (Continued::default(), NAMED_MAX);
        for (described, descriptors) in self.tunnels {
            let parked = match Parked::of(described, descriptors) {
                Ok(parked) => parked,
                Err((state, why)) => {
                    continued.unfit.push((state, why.to_string()));
                    continue;
                }
            };
            let id = parked.state.id.clone();
            match tunnel::continue_tunnel(parked, destination, &mut log_lines, world) {
                Ok(()) => continued.adopted += 1,
                Err(error) => {
                    continued.refused += 1;
                    warn!(id, %error, "a tunnel of the former daemon is reset");
                }
            }
        }
        // Nobody waits any more.
        let _too_late = self.report.send(continued);
        self.others.wait();
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

    /// Leaves the tunnels to the next daemon, once the daemon asks for them. If that succeeds, this
    /// thread does nothing more until the process ends: the sockets belong to the next daemon.
    pub(super) fn hand_over(&mut self) {
        let Some(parking) = self.world.shared.lifecycle.parking.get() else {
            return;
        };
        if !parking.is_frozen() {
            return;
        }
        self.world.relay.borrow_mut().settle(Instant::now());
        let relay = self.world.relay.borrow();
        let fill = |packer: &mut Packer<'_>| tunnel::park(&relay, packer);
        if parking.park(fill) {
            loop {
                std::thread::park();
            }
        }
    }
}

/// The longest wait for the other workers, which have equally many tunnels.
const PATIENCE: Duration = Duration::from_millis(100);
