//! Deadlines of futures. A future registers one when it first waits and removes it on drop.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use pin_project_lite::pin_project;

use super::Reactor;

/// The deadline passed before the future completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of time")]
pub struct Elapsed;

/// Deadlines in order. Their number is that of waiting futures: a few per tunnel in set-up.
#[derive(Debug, Default)]
pub(super) struct Timers {
    waiting: BTreeMap<(Instant, u64), Waker>,
    last: u64,
}

/// A future that completes at a time.
#[derive(Debug)]
pub struct Sleep {
    reactor: Reactor,
    at: Instant,
    /// Its key among the timers, while it waits.
    number: Option<u64>,
}

pin_project! {
    /// A future with a deadline. It stores the inner future once; an `async` function would store
    /// it for each move, and the future of a set-up is copied as a whole.
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

    pub(super) fn wake_all(&self) {
        self.waiting.values().for_each(Waker::wake_by_ref);
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

    /// A result that is ready at the deadline is in time.
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
