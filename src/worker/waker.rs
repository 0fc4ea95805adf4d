//! Wakes a worker out of its wait, from any thread, and costs nothing while it is awake. Whoever rings finds out whether the
//! worker has heard.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use crate::sys::poller::EventFd;

/// A bell that is rung only when the worker sleeps.
#[derive(Debug)]
pub struct WorkerWaker {
    event_fd: EventFd,
    asleep: AtomicBool,
    called: AtomicBool,
    /// The worker has heard the bell since that was last asked, or works no more.
    heard: AtomicBool,
    left: AtomicBool,
}

impl WorkerWaker {
    /// Of a worker that is awake.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let [asleep, called, heard, left] = Default::default();
        Ok(Self {
            event_fd: EventFd::new()?,
            asleep,
            called,
            heard,
            left,
        })
    }

    /// Whether the worker has heard the bell since this was last asked; one that has ended its work need not. Rings.
    pub fn take_heartbeat(&self) -> bool {
        let has_heard =
            self.heard.swap(false, Ordering::Relaxed) || self.left.load(Ordering::Relaxed);
        self.notify();
        has_heard
    }

    /// The worker has ended its work.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// The worker has heard the bell.
    pub(super) fn heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Rings, whatever the worker does: it is to look around.
    pub fn notify(&self) {
        self.event_fd.notify();
    }

    pub(super) fn event_fd(&self) -> &EventFd {
        &self.event_fd
    }

    /// Before the futures are looked at: calls from now on are for the next time.
    pub(super) fn listen(&self) {
        self.called.store(false, Ordering::SeqCst);
    }

    /// Before a wait. False when somebody has called meanwhile: then there is work and no time to sleep.
    pub(super) fn going_to_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        !self.called.load(Ordering::SeqCst)
    }

    /// After a wait.
    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }
}

/// Called by whatever a future waits for that is no socket and no deadline: an answer of DNS.
impl Wake for WorkerWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.called.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.event_fd.notify();
        }
    }
}
