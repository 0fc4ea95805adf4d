//! What a worker gives each of its tunnels, and what it tells all of them at once. Holds no tunnel's own state.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::Poll;

use tokio_util::task::TaskTracker;

use super::Flowing;
use crate::reactor::Reactor;
use crate::relay::{Relay, Totals};
use crate::shared::Shared;

/// What a worker gives each of its tunnels.
#[derive(Debug)]
pub struct World {
    /// Shared with all workers.
    pub shared: Arc<Shared>,
    /// This worker's sockets and deadlines.
    pub reactor: Reactor,
    /// This worker's tunnels that are set up.
    pub relay: RefCell<Relay<Flowing>>,
    /// Where the bytes of handshakes are counted.
    pub totals: Totals,
    /// Live tunnels, those that are being set up among them.
    pub tunnels: TaskTracker,
    /// Whether the daemon takes no new tunnels.
    pub draining: Cell<bool>,
    /// Whether the daemon's drain has run out; whoever says so wakes everybody.
    pub killed: Cell<bool>,
}

impl World {
    /// Done when the daemon's drain has run out. Whoever is set up waits for a deadline too, and is woken by that.
    pub(super) async fn end_of_the_drain(&self) {
        std::future::poll_fn(|_| if self.killed.get() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}
