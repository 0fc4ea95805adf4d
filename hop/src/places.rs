//! A bounded set of connections that have not sent a whole ClientHello. When it is full, the oldest one gives its place to a
//! new one: an honest client needs one round trip, a slow one loses. Never waits, and never refuses a new connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The places.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Mutex<State>>);

/// The place of one connection, held until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    number: u64,
    lost: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// In order of arrival.
    waiting: BTreeMap<u64, Arc<Notify>>,
    last: u64,
}

impl Places {
    /// Takes a place; more than `max` of them cost the oldest its own.
    #[must_use]
    pub fn enter(&self, max: usize) -> Place {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.last += 1;
        let number = state.last;
        let lost = Arc::new(Notify::new());
        state.waiting.insert(number, Arc::clone(&lost));
        while state.waiting.len() > max.max(1) {
            if let Some((_, oldest)) = state.waiting.pop_first() {
                oldest.notify_one();
            }
        }
        drop(state);
        Place {
            places: self.clone(),
            number,
            lost,
        }
    }

    /// How many places are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting
            .len()
    }
}

impl Place {
    /// Resolves when another connection has got the place.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_its_place_to_the_newest() {
        let places = Places::default();
        let held: Vec<_> = (0..3).map(|_| places.enter(2)).collect();
        let is_lost: Vec<_> = held
            .iter()
            .map(|place| futures_ready(place.lost()))
            .collect();
        assert_eq!((is_lost, places.taken()), (vec![true, false, false], 2));
        drop(held);
        assert_eq!(places.taken(), 0);
    }

    fn futures_ready(future: impl Future<Output = ()>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(future).poll(&mut context).is_ready()
    }
}
