//! Wakes a worker from any thread, at no cost while it is awake. Reports whether the worker still
//! reacts.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use crate::sys::poller::EventFd;

/// Wakes one worker; writes to its eventfd only while it sleeps.
#[derive(Debug)]
pub struct WorkerWaker {
    event_fd: EventFd,
    asleep: AtomicBool,
    called: AtomicBool,
    /// Whether the worker has reacted since the last [`take_heartbeat`](Self::take_heartbeat).
    heard: AtomicBool,
    /// Whether the worker has ended.
    left: AtomicBool,
}

impl WorkerWaker {
    /// Creates a waker for a worker that is awake.
    ///
    /// # Errors
    /// No descriptor is free.
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

    /// Notifies the worker and returns whether it has reacted since the last call, or has ended its work.
    pub fn take_heartbeat(&self) -> bool {
        let has_heard =
            self.heard.swap(false, Ordering::Relaxed) || self.left.load(Ordering::Relaxed);
        self.notify();
        has_heard
    }

    /// Records that the worker has ended.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Records that the worker has reacted.
    pub(super) fn heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Makes the worker check for changes, asleep or not.
    pub fn notify(&self) {
        self.event_fd.notify();
    }

    pub(super) fn event_fd(&self) -> &EventFd {
        &self.event_fd
    }

    /// Call it before polling the futures: a later wake counts for the next turn.
    pub(super) fn listen(&self) {
        self.called.store(false, Ordering::SeqCst);
    }

    /// Call it before a wait. Returns false after a wake since [`listen`](Self::listen): work is
    /// pending.
    pub(super) fn going_to_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        !self.called.load(Ordering::SeqCst)
    }

    /// Call it after a wait.
    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }
}

/// For futures that wait for something other than sockets and deadlines, such as a DNS answer.
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
