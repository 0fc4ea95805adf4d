//! A bounded set of unfinished handshakes. When it is full, the oldest one of the client with the most gives its place to
//! the new one, so a flood displaces itself. The rules are those of the daemon's pending connections
//! ([`sealway::limits::pending`]), behind a lock, because several threads perform handshakes. Never waits, and never refuses
//! a new connection.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealway::limits::client::ClientNetwork;
use sealway::limits::pending::PendingTable;

/// The places.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Mutex<PendingTable>>);

/// The place of one connection, held until it is dropped.
#[derive(Debug)]
pub struct PlacePermit {
    places: Places,
    number: u64,
}

impl Places {
    /// Takes a place; more than `max` of them cost the heaviest client its oldest.
    #[must_use]
    pub fn enter(&self, client: IpAddr, max: usize) -> PlacePermit {
        PlacePermit {
            number: self.table().enter(ClientNetwork::of(client), max),
            places: self.clone(),
        }
    }

    /// How many places are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.table().taken()
    }

    fn table(&self) -> MutexGuard<'_, PendingTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PlacePermit {
    /// Resolves when another connection has the place.
    pub async fn lost(&self) {
        poll_fn(|context| self.places.table().poll_given_up(self.number, context)).await;
    }
}

impl Drop for PlacePermit {
    fn drop(&mut self) {
        self.places.table().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_flood_gives_its_own_places_away_and_the_last_drop_frees_them() {
        let places = Places::default();
        let honest = places.enter(IpAddr::from([192, 0, 2, 7]), 3);
        // One /64, whatever the address in it.
        let flood: Vec<_> = (1..=4_u16)
            .map(|host| places.enter([0x2001, 0xdb8, 0, 0, 0, 0, 0, host].into(), 3))
            .collect();
        let is_lost: Vec<_> = flood.iter().map(is_lost).collect();
        assert_eq!(is_lost, [true, true, false, false]);
        assert!(!self::is_lost(&honest));
        assert_eq!(places.taken(), 3);
        drop((honest, flood));
        assert_eq!(places.taken(), 0);
    }

    fn is_lost(place: &PlacePermit) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(place.lost()).as_mut().poll(&mut context).is_ready()
    }
}
