//! What operators see of each live tunnel, and how they order one to end. A tunnel has an entry
//! here from the moment its request is allowed until its record is made.
//!
//! Workers store changes with relaxed atomics, so a chunk costs no lock and no system call; listing
//! reads the same atomics. An entry takes one short lock when it is added and one when it is
//! removed, and its addresses have a lock of their own. This module never ends a tunnel; the tunnel's worker does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::authority::{Authority, UserId};

/// All live tunnels.
#[derive(Clone, Debug)]
pub struct Live(Arc<Tables>);

#[derive(Debug)]
struct Tables {
    /// Each tunnel is in the table that its number selects.
    tables: [Mutex<Slab<Arc<Facts>>>; TABLES],
    /// Incremented by each order, so that workers notice it.
    orders: AtomicU64,
}

/// The facts of one tunnel.
#[derive(Debug)]
pub struct Facts {
    /// The process in the tunnel's identifier: the one that accepted it.
    pub start: u64,
    /// The number in the tunnel's identifier.
    pub number: u64,
    /// When the worker accepted the connection.
    pub accepted: Instant,
    /// The client's address.
    pub client: SocketAddr,
    user: Option<UserId>,
    authority: Option<Authority>,
    /// The egress address and the upstream address, once connected.
    ends: Mutex<Option<[SocketAddr; 2]>>,
    phase: AtomicU8,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    /// When a byte last moved, in milliseconds since the accept.
    moved_ms: AtomicU64,
    order: OnceLock<Arc<Order>>,
}

/// An operator's order to end tunnels.
#[derive(Debug)]
pub struct Order {
    /// The operator, as in the audit record.
    pub by: String,
    /// The reason that the operator gave.
    pub reason: String,
}

/// The stage of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The resolver looks up the name.
    Resolving,
    /// The worker dials the upstream.
    Connecting,
    /// The worker waits for the ClientHello.
    ClientHello,
    /// The worker waits for the ServerHello.
    ServerHello,
    /// Bytes flow in both directions.
    Relaying,
    /// One direction has ended.
    HalfClosed,
    /// The tunnel has ended.
    Gone,
}

/// The entry of a live tunnel. Dropping it removes the tunnel from the list.
#[derive(Debug)]
pub struct Entry {
    live: Live,
    /// Where in the table of this number the tunnel is.
    table: u32,
    key: u32,
}

impl Default for Live {
    fn default() -> Self {
        Self(Arc::new(Tables {
            tables: std::array::from_fn(|_| Mutex::default()),
            orders: AtomicU64::new(0),
        }))
    }
}

impl Live {
    /// Adds a tunnel.
    #[must_use]
    pub fn enter(&self, facts: &Arc<Facts>) -> Entry {
        let table = table_of(facts.number);
        let key = self.with(table, |tunnels| tunnels.insert(Arc::clone(facts)));
        Entry {
            live: self.clone(),
            table,
            // No machine has so many tunnels.
            key: u32::try_from(key).unwrap_or(u32::MAX),
        }
    }

    /// Returns the live tunnels that `wanted` selects, ordered by [`Facts::key`].
    #[must_use]
    pub fn select(&self, wanted: impl Fn(&Facts) -> bool) -> Vec<Arc<Facts>> {
        let mut selected = Vec::new();
        for table in &self.0.tables {
            // A table holds a few hundred entries at most, so a worker waits for microseconds at
            // most.
            let table = table.lock().unwrap_or_else(PoisonError::into_inner);
            let tunnels = table.iter().map(|(_, facts)| facts);
            selected.extend(tunnels.filter(|facts| wanted(facts)).map(Arc::clone));
        }
        selected.sort_unstable_by_key(|facts| facts.key());
        selected
    }

    /// Returns the live tunnel with this key.
    #[must_use]
    pub fn get(&self, key: (u64, u64)) -> Option<Arc<Facts>> {
        self.with(table_of(key.1), |tunnels| {
            let mut tunnels = tunnels.iter().map(|(_, facts)| facts);
            tunnels.find(|facts| facts.key() == key).map(Arc::clone)
        })
    }

    /// Orders tunnels to end. Each worker finds the orders in its next turn; the caller wakes the
    /// workers.
    pub fn order(&self, tunnels: &[Arc<Facts>], order: &Arc<Order>) {
        for facts in tunnels {
            // The first order counts.
            let _first = facts.order.set(Arc::clone(order));
        }
        self.0.orders.fetch_add(1, Ordering::Release);
    }

    /// The number of orders so far. A worker that reads this first and then looks for orders finds
    /// every order in the count.
    #[must_use]
    pub fn orders(&self) -> u64 {
        self.0.orders.load(Ordering::Acquire)
    }

    fn with<T>(&self, table: u32, act: impl FnOnce(&mut Slab<Arc<Facts>>) -> T) -> T {
        let [first, ..] = &self.0.tables;
        let table = self.0.tables.get(table as usize).unwrap_or(first);
        act(&mut table.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Facts {
    /// The facts of a tunnel that was accepted now, before its request is known.
    #[must_use]
    pub fn new((start, number): (u64, u64), accepted: Instant, client: SocketAddr) -> Self {
        let (user, authority, ends, order) = Default::default();
        let (phase, [bytes_up, bytes_down, moved_ms]) = Default::default();
        Self {
            start,
            number,
            accepted,
            client,
            user,
            authority,
            ends,
            phase,
            bytes_up,
            bytes_down,
            moved_ms,
            order,
        }
    }

    /// The two parts of its identifier.
    #[must_use]
    pub fn key(&self) -> (u64, u64) {
        (self.start, self.number)
    }

    /// The authenticated user; None without authentication.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// Stores the user.
    pub fn identified(&mut self, user: UserId) {
        self.user = Some(user);
    }

    /// The destination of the CONNECT request; None before the request.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Stores the destination.
    pub fn requested(&mut self, authority: Authority) {
        self.authority = Some(authority);
    }

    /// The egress address and the upstream address; None until the tunnel is connected.
    #[must_use]
    pub fn ends(&self) -> Option<[SocketAddr; 2]> {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the egress address and the upstream address. A tunnel whose warm socket the upstream had closed connects twice.
    pub fn connected(&self, egress: SocketAddr, upstream: SocketAddr) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = Some([egress, upstream]);
    }

    /// The stage of the tunnel.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let number = self.phase.load(Ordering::Acquire);
        let phase = Phase::ALL.get(usize::from(number));
        phase.map_or(Phase::Gone, |(phase, _)| *phase)
    }

    /// Stores the stage.
    pub fn reach(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Stores the total bytes in each direction, and `now` as the time of the last byte.
    pub fn moved(&self, bytes_up: u64, bytes_down: u64, now: Instant) {
        let since_accept = now.saturating_duration_since(self.accepted);
        let since_ms = since_accept.as_secs() * 1_000 + u64::from(since_accept.subsec_millis());
        self.bytes_up.store(bytes_up, Ordering::Relaxed);
        self.bytes_down.store(bytes_down, Ordering::Relaxed);
        self.moved_ms.store(since_ms, Ordering::Relaxed);
    }

    /// Bytes from the client and from the upstream. Handshake bytes are added when the handshake
    /// ends.
    #[must_use]
    pub fn bytes(&self) -> [u64; 2] {
        [&self.bytes_up, &self.bytes_down].map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// The time since the last byte, or since the accept if no byte has moved.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Duration {
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(self.accepted)
            .saturating_sub(moved)
    }

    /// The operator's order to end this tunnel.
    #[must_use]
    pub fn order(&self) -> Option<&Order> {
        self.order.get().map(Arc::as_ref)
    }
}

impl Phase {
    /// Ordered by discriminant.
    const ALL: [(Self, &'static str); 7] = [
        (Self::Resolving, "resolving"),
        (Self::Connecting, "connecting"),
        (Self::ClientHello, "client_hello"),
        (Self::ServerHello, "server_hello"),
        (Self::Relaying, "relaying"),
        (Self::HalfClosed, "half_closed"),
        (Self::Gone, "gone"),
    ];

    /// The name in `/tunnels` and in `sealway tunnels`.
    #[must_use]
    pub fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(phase, _)| *phase == self);
        named.map_or("", |(_, name)| name)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let key = self.key as usize;
        let facts = self
            .live
            .with(self.table, |tunnels| tunnels.try_remove(key));
        facts.inspect(|facts| facts.reach(Phase::Gone));
    }
}

fn table_of(number: u64) -> u32 {
    u32::try_from(number % TABLES as u64).unwrap_or(0)
}

/// Enough tables that workers seldom contend for a lock.
const TABLES: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn enter(live: &Live, number: u64, user: &str) -> (Entry, Arc<Facts>) {
        let mut facts = Facts::new((1, number), Instant::now(), "192.0.2.1:5".parse().unwrap());
        facts.identified(UserId::parse(user).unwrap());
        facts.requested(Authority::parse("api.example.com:443").unwrap());
        let facts = Arc::new(facts);
        (live.enter(&facts), facts)
    }

    #[test]
    fn a_tunnel_is_listed_from_its_entry_to_its_end() {
        let live = Live::default();
        let entries: Vec<_> = (0..200).map(|n| enter(&live, n * 7, "alice")).collect();
        let numbers = |of: &[Arc<Facts>]| of.iter().map(|facts| facts.number).collect::<Vec<_>>();
        let all = live.select(|_| true);
        assert_eq!(numbers(&all), (0..200).map(|n| n * 7).collect::<Vec<_>>());
        assert_eq!(numbers(&live.select(|facts| facts.number == 14)), [14]);
        assert_eq!(live.get((1, 21)).unwrap().number, 21);
        assert!(live.get((1, 22)).is_none() && live.get((2, 21)).is_none());
        drop(entries);
        assert!(live.select(|_| true).is_empty() && live.get((1, 21)).is_none());
        assert!(all.iter().all(|facts| facts.phase() == Phase::Gone));
    }

    #[test]
    fn noted_facts_are_read_back() {
        let live = Live::default();
        let (_listed, entry) = enter(&live, 1, "alice");
        entry.reach(Phase::Resolving);
        assert_eq!((entry.phase(), entry.ends()), (Phase::Resolving, None));
        for (phase, name) in Phase::ALL {
            entry.reach(phase);
            assert_eq!((entry.phase(), phase.name()), (phase, name));
        }
        let later = entry.accepted + Duration::from_secs(3);
        assert_eq!(
            entry.silence(later),
            Duration::from_secs(3),
            "none has moved"
        );
        entry.moved(5, 6, entry.accepted + Duration::from_secs(1));
        assert_eq!(entry.bytes(), [5, 6]);
        assert_eq!(entry.silence(later), Duration::from_secs(2));
        assert_eq!(entry.silence(entry.accepted), Duration::ZERO);
    }

    #[test]
    fn the_first_order_wins_and_other_tunnels_stay() {
        let live = Live::default();
        let (first, second) = (enter(&live, 1, "alice"), enter(&live, 2, "bob"));
        let order = |by: &str| {
            Arc::new(Order {
                by: by.to_owned(),
                reason: "why".to_owned(),
            })
        };
        assert_eq!(live.orders(), 0);
        live.order(&[Arc::clone(&first.1)], &order("one"));
        live.order(&[Arc::clone(&first.1)], &order("two"));
        assert_eq!(live.orders(), 2);
        assert_eq!(first.1.order().unwrap().by, "one");
        assert!(second.1.order().is_none());
    }
}
