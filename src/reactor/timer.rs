//! Deadlines of futures: a future registers one when it first has to wait and takes it back when it is dropped.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use pin_project_lite::pin_project;

use super::Reactor;

/// A time has come before a future had anything to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of time")]
pub struct Elapsed;

/// Deadlines in their order; as many as futures wait for, at most a few per tunnel that is set up.
#[derive(Debug, Default)]
pub(super) struct Timers {
    waiting: BTreeMap<(Instant, u64), Waker>,
    last: u64,
}

/// A future that is done at a time.
#[derive(Debug)]
pub struct Sleep {
    reactor: Reactor,
    at: Instant,
    /// Its place among the timers, while it waits.
    number: Option<u64>,
}

pin_project! {
    /// What a future gives before a time. It holds the future once: an `async` function would hold it for each time it
    /// is moved, and what sets a tunnel up is copied as a whole.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

impl Timers {
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn wake_until(&mut self, now: Instant) {
        while let Some(entry) = self
            .waiting
            .first_entry()
            .filter(|entry| entry.key().0 <= now)
        {
            entry.remove().wake();
        }
    }

    fn add(&mut self, at: Instant, waker: &Waker) -> u64 {
        self.last += 1;
        self.waiting.insert((at, self.last), waker.clone());
        self.last
    }
}

impl Sleep {
    pub(super) fn new(reactor: Reactor, at: Instant) -> Self {
        Self {
            reactor,
            at,
            number: None,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.reactor.now() >= self.at {
            return Poll::Ready(());
        }
        let at = self.at;
        let number = self.number.take();
        let mut timers = self.reactor.0.timers.borrow_mut();
        let known =
            number.and_then(|number| Some((number, timers.waiting.get_mut(&(at, number))?)));
        let number = match known {
            Some((number, waker)) => {
                waker.clone_from(context.waker());
                number
            }
            None => timers.add(at, context.waker()),
        };
        drop(timers);
        self.number = Some(number);
        Poll::Pending
    }
}

impl<F> Timeout<F> {
    pub(super) fn new(future: F, sleep: Sleep) -> Self {
        Self { future, sleep }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    /// What is there in the very moment that time is up is in time.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.future.poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => Pin::new(this.sleep).poll(context).map(|()| Err(Elapsed)),
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.reactor
                .0
                .timers
                .borrow_mut()
                .waiting
                .remove(&(self.at, number));
        }
    }
}
