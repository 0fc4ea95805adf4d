//! Look-ups in flight, one for each question. Further askers of the same question join it. The task
//! is aborted when its last waiter is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::cache::Key;
use super::{ResolveError, Resolved};

type Outcome = Result<Resolved, ResolveError>;
/// The handle of a waiter; dropping the last one aborts the task.
pub(super) type Flight = Shared<BoxFuture<'static, Outcome>>;

/// The look-ups in flight.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    flights: HashMap<Key, (u64, WeakShared<BoxFuture<'static, Outcome>>)>,
    numbers: u64,
}

/// Removes its key from the table when its task ends.
struct Entry {
    flights: Arc<Flights>,
    key: Key,
    number: u64,
}

impl Flights {
    /// The running look-up of this question, if there is one.
    pub(super) fn join(&self, key: &Key) -> Option<Flight> {
        self.with(|table| table.flights.get(key)?.1.upgrade())
    }

    /// Joins the running look-up of this question, or starts `look_up` as a task on `runtime`.
    /// Everything that `look_up` owns is dropped when the task ends or is aborted.
    pub(super) fn join_or_start(
        self: &Arc<Self>,
        key: Key,
        runtime: &Handle,
        look_up: impl Future<Output = Outcome> + Send + 'static,
    ) -> Flight {
        self.with(|table| {
            if let Some(flight) = table
                .flights
                .get(&key)
                .and_then(|(_, flight)| flight.upgrade())
            {
                return flight;
            }
            table.numbers += 1;
            let number = table.numbers;
            let entry = Entry {
                flights: Arc::clone(self),
                key: key.clone(),
                number,
            };
            let task = runtime.spawn(async move {
                let _entry = entry;
                look_up.await
            });
            let flight = AbortOnDropHandle::new(task)
                .map(|ended| ended.unwrap_or(Err(ResolveError::Stopped)));
            let flight = flight.boxed().shared();
            if let Some(waiting) = flight.downgrade() {
                table.flights.insert(key, (number, waiting));
            }
            flight
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.flights.with(|table| {
            // After an abort the table may already hold the next look-up of the same question.
            if table
                .flights
                .get(&self.key)
                .is_some_and(|(number, _)| *number == self.number)
            {
                table.flights.remove(&self.key);
            }
        });
    }
}
