//! State that a worker shares with its tunnels. Holds no tunnel's own state.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Flowing;
use crate::authority::UserId;
use crate::config::Limits;
use crate::dial::{Dialler, Egress, Routing};
use crate::limits::pending::PendingPool;
use crate::live::Facts;
use crate::reactor::Reactor;
use crate::relay::{ByteCounters, Relay};
use crate::shared::Shared;

/// State that a worker shares with its tunnels.
#[derive(Debug)]
pub struct World {
    /// Shared with all workers.
    pub shared: Arc<Shared>,
    /// The number of workers.
    pub workers: usize,
    /// This worker's sockets and deadlines.
    pub reactor: Reactor,
    /// The kernel's routes.
    pub routing: Routing,
    /// This worker's relay.
    pub relay: RefCell<Relay<Flowing>>,
    /// Counts the bytes of handshakes.
    pub byte_counters: ByteCounters,
    /// Live tunnels, including those in set-up.
    pub tunnels: TaskTracker,
    /// This worker's connections without an allowed request.
    pub pending: PendingPool,
    /// Whether the daemon accepts no new tunnels.
    pub draining: Cell<bool>,
    /// When this worker looks at the warm sockets next; None: when a tunnel has used their pool.
    pub warm_due: Cell<Option<Instant>>,
    /// Cancelled when the daemon's drain is over: every attempt in set-up ends then.
    pub kill: CancellationToken,
}

/// What ends a set-up from outside.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interruption {
    /// The drain has ended.
    Killed,
    /// An operator has ordered the end.
    Ordered,
}

impl World {
    /// This worker's share of `limits.pending`, bounded by the limit on open files.
    pub(super) fn pending_max(&self, limits: &Limits) -> usize {
        limits.pending.min(self.shared.limits.budget.pending) / self.workers.max(1)
    }

    /// What dials from `egress`; a user keeps to one address.
    pub(super) fn dialler<'w>(
        &'w self,
        egress: &'w Egress,
        user: Option<&'w UserId>,
    ) -> Dialler<'w> {
        let limits = &self.shared.limits;
        Dialler {
            egress,
            user,
            routing: &self.routing,
            reactor: &self.reactor,
            attempts: &limits.attempts,
            attempts_max: limits.budget.attempts,
        }
    }

    /// Waits for an interruption of the set-up. After an order the worker wakes every set-up
    /// ([`Reactor::wake_all`]). The kill wakes the waker of the first poll, so later polls by the
    /// same task only look.
    pub(super) async fn interruption(&self, facts: &OnceCell<Arc<Facts>>) -> Interruption {
        let mut killed = pin!(self.kill.cancelled());
        let mut waiting: Option<Waker> = None;
        poll_fn(|context| {
            if facts.get().is_some_and(|facts| facts.order().is_some()) {
                return Poll::Ready(Interruption::Ordered);
            }
            match &waiting {
                Some(waker) if waker.will_wake(context.waker()) && !self.kill.is_cancelled() => {
                    Poll::Pending
                }
                _ => {
                    waiting = Some(context.waker().clone());
                    let killed = killed.as_mut().poll(context);
                    killed.map(|()| Interruption::Killed)
                }
            }
        })
        .await
    }
}
