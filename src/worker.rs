//! A worker: one thread, one epoll(7), and everything that its tunnels need.
//!
//! One wait wakes everything: listeners, the futures that set tunnels up, and the relay. Between
//! two waits the worker accepts connections, polls the woken futures, moves bytes and ends expired
//! tunnels. It shares no hot state with other workers. It never exits with live tunnels, and never
//! spins when no descriptor is free.

mod inheritance;
mod listener;
mod waker;

use std::cell::RefCell;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::dial::Routing;
use crate::outcome::Ending;
use crate::reactor::Reactor;
use crate::relay::{Bounds, ByteCounters, Relay};
use crate::shared::Shared;
use crate::sys::poller::{Events, Poller};
use crate::tunnel::{self, Ahead, Client, Flowing, World};
pub use inheritance::{Continued, Fate, Inheritance, Others, Refused, Start};
use listener::Listener;
pub use listener::{Bound, share};
pub use waker::WorkerWaker;

/// The parts of a worker.
#[derive(Debug)]
pub struct Settings {
    /// Shared with all workers.
    pub shared: Arc<Shared>,
    /// Its own listening sockets.
    pub listeners: Vec<Bound>,
    /// The number of workers.
    pub workers: usize,
    /// The number of pipes that it may have.
    pub pipes: Bounds,
    /// Counts its tunnels, until their records are written.
    pub tunnels: TaskTracker,
    /// Wakes it.
    pub waker: Arc<WorkerWaker>,
}

/// A worker that has its descriptors and does not run yet.
#[derive(Debug)]
pub struct Prepared {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    workers: usize,
    pipes: Bounds,
    tunnels: TaskTracker,
    waker: Arc<WorkerWaker>,
    poller: Poller,
    routing: Routing,
    /// Tunnels of another daemon.
    inheritance: Option<Inheritance>,
}

/// Opens the descriptors that a worker has from its start to its end: its epoll(7) instance, its
/// sockets for routes and the reserve of each listener. [`work`] opens none of these, so a daemon
/// that has prepared all its workers does not fail by the lack of a descriptor of theirs.
///
/// # Errors
/// No descriptor is free, or the kernel has no memory.
pub fn prepare(settings: Settings) -> io::Result<Prepared> {
    let Settings {
        shared,
        listeners,
        workers,
        pipes,
        tunnels,
        waker,
    } = settings;
    let poller = Poller::new()?;
    poller.watch_event_fd(waker.event_fd(), EVENT_FD)?;
    let listeners = listeners.into_iter().zip(LISTENERS..);
    let listeners = listeners
        .map(|(bound, key)| Listener::watch(bound, key, &poller))
        .collect::<io::Result<_>>()?;
    Ok(Prepared {
        shared,
        listeners,
        workers,
        pipes,
        tunnels,
        waker,
        poller,
        routing: Routing::open()?,
        inheritance: None,
    })
}

impl Prepared {
    /// Wakes the worker, also before it runs: it then looks at once.
    #[must_use]
    pub fn waker(&self) -> Arc<WorkerWaker> {
        Arc::clone(&self.waker)
    }

    /// Gives it tunnels of another daemon, which it continues before its first turn, and makes it wait for the start.
    pub fn inherit(&mut self, inheritance: Inheritance) {
        self.inheritance = Some(inheritance);
    }
}

/// The state of one thread.
struct Worker {
    world: Rc<World>,
    poller: Rc<Poller>,
    listeners: Vec<Listener>,
    /// The listeners of a daemon that hands its tunnels over: the next one accepts their clients.
    kept: Vec<Listener>,
    waker: Arc<WorkerWaker>,
    /// The generation by which its tunnels have been judged, or are judged now.
    generation: u64,
    /// Tunnels that the log may still name in this judgement.
    log_lines: usize,
    /// The number of orders that it has handled.
    orders: u64,
    /// Whether the kill has reset its tunnels.
    has_reset_all: bool,
    /// The number of egress losses that it has handled.
    losses: u64,
    /// Its tunnels that are described to the next daemon.
    ahead: Option<Ahead>,
}

/// Runs until the daemon drains and the last tunnel has ended, or until the daemon kills the
/// remaining ones.
///
/// # Errors
/// The kernel refuses to wait, because memory is short.
pub fn work(mut prepared: Prepared) -> io::Result<()> {
    let inheritance = prepared.inheritance.take();
    let mut worker = Worker::new(prepared);
    if let Some(inheritance) = inheritance
        && !inheritance.continue_in(&worker.world)
    {
        return Ok(());
    }
    let mut set_ups = pin!(FuturesUnordered::new());
    let waker = Waker::from(Arc::clone(&worker.waker));
    let mut context = Context::from_waker(&waker);
    let mut events = Events::with_capacity(EVENTS_MAX);
    loop {
        for client in worker.accept() {
            // A panic in one set-up ends that set-up only; the panic hook has reported it.
            set_ups.push(
                AssertUnwindSafe(tunnel::run(client, Rc::clone(&worker.world))).catch_unwind(),
            );
        }
        worker.waker.listen();
        while let Poll::Ready(Some(_)) = set_ups.as_mut().poll_next(&mut context) {}
        worker.keep_warm();
        worker.judge_tunnels();
        worker.heed_orders();
        worker.world.relay.borrow_mut().finish_turn();
        worker.hand_over();
        if worker.is_done(set_ups.is_empty()) {
            return Ok(());
        }
        worker.wait(&mut events)?;
        worker.dispatch(&events);
    }
}

impl Worker {
    fn new(prepared: Prepared) -> Self {
        let Prepared {
            shared,
            listeners,
            workers,
            pipes,
            tunnels,
            waker,
            poller,
            routing,
            inheritance: _,
        } = prepared;
        let poller = Rc::new(poller);
        let metrics = &shared.evidence.metrics;
        let byte_counters = ByteCounters {
            up: metrics.bytes_up.counter(),
            down: metrics.bytes_down.counter(),
            spliced: metrics.spliced.counter(),
            copied: metrics.copied.counter(),
        };
        let relay = RefCell::new(Relay::new(Rc::clone(&poller), pipes, byte_counters.clone()));
        let reactor = Reactor::new(Rc::clone(&poller));
        let (generation, losses) = (shared.generation(), shared.losses());
        let (pending, draining, warm_due) = Default::default();
        let kill = shared.lifecycle.stages.set_ups_end.child_token();
        let world = Rc::new(World {
            shared,
            workers,
            reactor,
            routing,
            relay,
            byte_counters,
            tunnels,
            pending,
            draining,
            warm_due,
            kill,
        });
        Self {
            world,
            poller,
            listeners,
            kept: Vec::new(),
            waker,
            generation,
            log_lines: NAMED_MAX,
            orders: 0,
            has_reset_all: false,
            losses,
            ahead: None,
        }
    }

    /// Sleeps until something happens or a deadline comes.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let deadlines = [
            self.world.reactor.next_deadline(),
            self.world.relay.borrow().next_deadline(),
            self.world.warm_due.get(),
            self.describes_again_at(),
        ];
        let paused = self.listeners.iter().filter_map(Listener::resumes_at);
        let next = deadlines.into_iter().flatten().chain(paused).min();
        let now = self.world.reactor.now();
        let limit = next.map(|at| at.saturating_duration_since(now));
        let sleeps = self.waker.going_to_sleep();
        let waited = self
            .poller
            .wait(events, if sleeps { limit } else { Some(Duration::ZERO) });
        self.waker.awake();
        waited
    }

    /// Passes each event to its owner; listeners get theirs when they accept.
    fn dispatch(&mut self, events: &Events) {
        let now = Instant::now();
        self.world.reactor.tick(now);
        let mut relay = self.world.relay.borrow_mut();
        relay.tick(now);
        let mut is_notified = false;
        for event in events.iter() {
            match event.key {
                EVENT_FD => is_notified = true,
                LISTENERS.. => self
                    .listeners
                    .iter_mut()
                    .for_each(|listener| listener.on_event(event)),
                _ if Reactor::is_of_socket(event) => self.world.reactor.on_event(event),
                _ => relay.on_event(event),
            }
        }
        drop(relay);
        if is_notified {
            self.look_around();
        }
    }

    /// Opens and closes warm sockets when that is due: after a tunnel has used one, and from then on once a second.
    fn keep_warm(&self) {
        let now = self.world.reactor.now();
        if self.world.warm_due.get().is_some_and(|due| due <= now) {
            self.world.warm_due.set(tunnel::keep_warm(&self.world));
        }
    }

    /// Judges all tunnels when the generation has changed, after a reload or the expiry of a user:
    /// some in each turn, so that the others do not wait.
    fn judge_tunnels(&mut self) {
        let (shared, mut relay) = (&self.world.shared, self.world.relay.borrow_mut());
        let generation = shared.generation();
        if generation != self.generation {
            (self.generation, self.log_lines) = (generation, NAMED_MAX);
            relay.judge_again();
        }
        if relay.is_judging() {
            let (snapshot, own) = (shared.snapshot.load(), shared.own_addresses.load());
            let log_lines = &mut self.log_lines;
            let is_allowed = |tunnel: &mut Flowing| tunnel.judge(&snapshot, &own, log_lines);
            relay.judge_some(is_allowed, snapshot.config.timeouts.drain);
        }
    }

    /// Finds the tunnels that an operator has ordered to end, after a new order.
    fn heed_orders(&mut self) {
        let orders = self.world.shared.live.orders();
        if orders != self.orders {
            self.orders = orders;
            self.find_ended();
        }
    }

    /// Finds the tunnels whose egress address is lost, including those in set-up.
    fn heed_losses(&mut self) {
        let losses = self.world.shared.losses();
        if losses != self.losses {
            self.losses = losses;
            self.find_ended();
        }
    }

    fn find_ended(&self) {
        self.world.relay.borrow_mut().find_ended();
        self.world.reactor.wake_all();
    }

    /// Acts on the present stage of stopping.
    fn look_around(&mut self) {
        self.waker.heard();
        self.heed_losses();
        self.keep_listeners();
        let stages = &self.world.shared.lifecycle.stages;
        self.world.draining.set(stages.draining.is_cancelled());
        if stages.kill.is_cancelled() && !std::mem::replace(&mut self.has_reset_all, true) {
            let mut relay = self.world.relay.borrow_mut();
            for tunnel in relay.owners().take(NAMED_MAX) {
                warn!("{} outlived timeouts.drain and is reset", tunnel.name());
            }
            relay.end_all(Ending::Drained);
        }
    }

    /// Accepts the new clients. In a drain it closes the listeners, after it has answered the
    /// clients in their queues; a queue that survives the daemon is left to the next one.
    fn accept(&mut self) -> Vec<Client> {
        let mut clients = Vec::new();
        let is_draining = self.world.draining.get();
        for listener in &mut self.listeners {
            match is_draining {
                true => {
                    if !listener.stays() {
                        listener.accept(WAITING_MAX, &self.poller, &self.world, &mut clients);
                    }
                    listener.stop(&self.poller);
                }
                false if listener.is_called(self.world.reactor.now()) => {
                    listener.accept(1, &self.poller, &self.world, &mut clients);
                }
                false => {}
            }
        }
        if is_draining {
            self.listeners.clear();
        }
        clients
    }

    fn is_done(&self, nothing_is_set_up: bool) -> bool {
        let has_nothing = nothing_is_set_up && self.world.relay.borrow().is_empty();
        self.world.draining.get()
            && (has_nothing || self.world.shared.lifecycle.stages.gone.is_cancelled())
    }
}

/// The key of the waker's eventfd.
const EVENT_FD: u64 = u64::MAX;
/// The first listener's key.
const LISTENERS: u64 = 1 << 63;
/// The most events of one wait; the next wait returns the others.
const EVENTS_MAX: usize = 256;
/// Tunnels of a worker that the log names when they outlive the drain or are revoked together. Each
/// has its audit record too.
const NAMED_MAX: usize = 100;
/// The longest queue that the kernel keeps.
const WAITING_MAX: usize = 4_096;
