//! The table of the admin listener's connections: their clients, and the choice of the connection
//! to close for a new one.
//!
//! A new connection always gets a place. When the table is full, the site with the most strangers,
//! and in it the client with the most, loses its oldest idle connection. A connection that has
//! shown the token is never closed for a stranger, and such connections hold at most half of the
//! table. This module never waits, reads or writes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;

use crate::limits::client::{ClientNetwork, ClientSite};

/// All open connections.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    /// Tasks that still hold their socket, those of closed connections included.
    open: AtomicUsize,
    table: Mutex<Table>,
}

/// The place of one connection. Drop it with the socket.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    connections: Arc<Connections>,
    number: u64,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: Vec<Entry>,
    /// The number of entries of each rank, by client and by site.
    counts: HashMap<(Holder, Rank), usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Site(ClientSite),
    Client(ClientNetwork),
}

#[derive(Debug)]
struct Entry {
    number: u64,
    peer: ClientNetwork,
    rank: Rank,
    /// Whether a whole request waits for its page.
    is_answering: bool,
    /// A logical time: of the accept, or of the last request with the token.
    since: u64,
    task: Option<AbortHandle>,
}

/// Whether a connection has shown the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Rank {
    /// No valid request so far.
    Stranger,
    /// The connection has shown the token, or no token is configured.
    Known,
}

impl Connections {
    /// Creates a table with `max` places, at least two.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max: max.max(2),
            open: AtomicUsize::new(0),
            table: Mutex::default(),
        })
    }

    /// Adds a connection of this peer, and closes another one if the table is full.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> ConnectionPermit {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.entries.len() >= self.max {
            table.close_one(Rank::Stranger, None);
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        ConnectionPermit {
            connections: Arc::clone(self),
            number: table.add(ClientNetwork::of(peer)),
        }
    }

    /// Stores the task that serves a connection, so that the table can abort it.
    pub(super) fn served_by(&self, number: u64, task: AbortHandle) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match table.entry(number) {
            Some(entry) => entry.task = Some(task),
            // The table has closed it already.
            None => task.abort(),
        }
    }

    /// Closes the oldest idle connection to free a descriptor, strangers first. Returns false if
    /// there is none.
    pub(super) fn close_one(&self) -> bool {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.close_one(Rank::Stranger, None) || table.close_one(Rank::Known, None)
    }

    /// Whether aborted tasks still hold more sockets than the table has places.
    pub(super) fn is_over_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.max
    }
}

impl ConnectionPermit {
    /// The number that identifies the connection.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Marks that the connection has shown the token. If such connections hold more than half of
    /// the table, it closes another one of them.
    pub(super) fn trust(&self) {
        let mut table = self
            .connections
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        table.trust(self.number);
        if table.known() > self.connections.max / 2 {
            table.close_one(Rank::Known, Some(self.number));
        }
    }

    /// Marks whether a whole request waits for its page.
    pub(super) fn answering(&self, is_answering: bool) {
        let mut table = self
            .connections
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = table.entry(self.number) {
            entry.is_answering = is_answering;
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut table = self
            .connections
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        table.remove(self.number);
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Table {
    fn add(&mut self, peer: ClientNetwork) -> u64 {
        let number = self.tick();
        let entry = Entry {
            number,
            peer,
            rank: Rank::Stranger,
            is_answering: false,
            since: number,
            task: None,
        };
        self.entries.push(entry);
        self.count(peer, Rank::Stranger);
        number
    }

    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.number == number)
    }

    fn trust(&mut self, number: u64) {
        let now = self.tick();
        let Some(entry) = self.entry(number) else {
            return;
        };
        entry.since = now;
        let (peer, before) = (entry.peer, std::mem::replace(&mut entry.rank, Rank::Known));
        self.uncount(peer, before);
        self.count(peer, Rank::Known);
    }

    fn known(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.rank == Rank::Known)
            .count()
    }

    fn count(&mut self, peer: ClientNetwork, rank: Rank) {
        for holder in holders(peer) {
            *self.counts.entry((holder, rank)).or_default() += 1;
        }
    }

    fn uncount(&mut self, peer: ClientNetwork, rank: Rank) {
        for key in holders(peer).map(|holder| (holder, rank)) {
            if let Some(count) = self.counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&key);
                }
            }
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(at) = self.entries.iter().position(|entry| entry.number == number) {
            let entry = self.entries.swap_remove(at);
            self.uncount(entry.peer, entry.rank);
        }
    }

    /// Closes one connection of this rank: of the site with the most, and in it of the client with
    /// the most, the oldest idle one, or the oldest. A holder of a /48, which has 65,536 clients,
    /// therefore displaces only its own connections.
    fn close_one(&mut self, rank: Rank, but: Option<u64>) -> bool {
        let candidates = self
            .entries
            .iter()
            .filter(|entry| entry.rank == rank && Some(entry.number) != but);
        let share = |entry: &Entry| {
            holders(entry.peer).map(|holder| self.counts.get(&(holder, rank)).copied().unwrap_or(0))
        };
        let victim = candidates.max_by_key(|entry| {
            (
                share(entry),
                !entry.is_answering,
                std::cmp::Reverse(entry.since),
            )
        });
        let Some(number) = victim.map(|entry| entry.number) else {
            return false;
        };
        if let Some(task) = self.entry(number).and_then(|entry| entry.task.take()) {
            task.abort();
        }
        self.remove(number);
        true
    }
}

/// The keys under which a connection of this client counts.
fn holders(client: ClientNetwork) -> [Holder; 2] {
    [Holder::Site(client.site()), Holder::Client(client)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
