//! The table of the admin listener's connections: whose they are, and which one is closed to make room for a new one.
//!
//! A new connection always gets a place. When the table is full, the peer with the most strangers loses its oldest idle
//! one; a connection that has shown the token is never closed for a stranger, and such connections hold half of the
//! table at most. Never waits, reads or writes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;

use crate::limits::rate::host_of;

/// All connections that are open.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    /// Those whose task still holds the socket, closed ones included.
    open: AtomicUsize,
    table: Mutex<Table>,
}

/// The place of one connection; dropped with its socket.
#[derive(Debug)]
pub(super) struct Permit {
    connections: Arc<Connections>,
    number: u64,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: Vec<Entry>,
    /// How many entries of each rank a peer has.
    counts: HashMap<(IpAddr, Rank), usize>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// An IPv4 address, or the /64 of an IPv6 address.
    peer: IpAddr,
    rank: Rank,
    /// A whole request waits for its page.
    is_answering: bool,
    /// Grows with time: when it was accepted, or when it last showed the token.
    since: u64,
    task: Option<AbortHandle>,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Rank {
    /// It has shown nothing yet.
    Stranger,
    /// It has shown the token, or was let in where none is set.
    Known,
}

impl Connections {
    /// A table with so many places, two at least.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(2), open: AtomicUsize::new(0), table: Mutex::default() })
    }

    /// Gives a new connection of this peer a place, and closes another one if there is none left.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Permit {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.entries.len() >= self.max {
            table.close_one(Rank::Stranger, None);
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Permit { connections: Arc::clone(self), number: table.add(host_of(peer.to_canonical())) }
    }

    /// Names the task that serves a connection, so that it can be ended.
    pub(super) fn served_by(&self, number: u64, task: AbortHandle) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match table.entry(number) {
            Some(entry) => entry.task = Some(task),
            // It has been closed already.
            None => task.abort(),
        }
    }

    /// Closes the oldest idle connection, a stranger's if there is one, to free a descriptor. Whether there was one.
    pub(super) fn close_one(&self) -> bool {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.close_one(Rank::Stranger, None) || table.close_one(Rank::Known, None)
    }

    /// Whether tasks that were told to end still hold sockets beyond the table's places.
    pub(super) fn is_over_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.max
    }
}

impl Permit {
    /// Identifies the connection.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The connection has shown the token. Another such connection is closed when they hold more than half of the table.
    pub(super) fn trust(&self) {
        let mut table = self.connections.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.trust(self.number);
        if table.known() > self.connections.max / 2 {
            table.close_one(Rank::Known, Some(self.number));
        }
    }

    /// Notes whether a whole request waits for its page.
    pub(super) fn answering(&self, is_answering: bool) {
        let mut table = self.connections.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = table.entry(self.number) {
            entry.is_answering = is_answering;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut table = self.connections.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.remove(self.number);
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Table {
    fn add(&mut self, peer: IpAddr) -> u64 {
        let number = self.tick();
        let entry = Entry { number, peer, rank: Rank::Stranger, is_answering: false, since: number, task: None };
        self.entries.push(entry);
        *self.counts.entry((peer, Rank::Stranger)).or_default() += 1;
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
        let Some(entry) = self.entry(number) else { return };
        entry.since = now;
        let (peer, before) = (entry.peer, std::mem::replace(&mut entry.rank, Rank::Known));
        self.uncount(peer, before);
        *self.counts.entry((peer, Rank::Known)).or_default() += 1;
    }

    fn known(&self) -> usize {
        self.counts.iter().filter(|((_, rank), _)| *rank == Rank::Known).map(|(_, count)| count).sum()
    }

    fn uncount(&mut self, peer: IpAddr, rank: Rank) {
        if let Some(count) = self.counts.get_mut(&(peer, rank)) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&(peer, rank));
            }
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(at) = self.entries.iter().position(|entry| entry.number == number) {
            let entry = self.entries.swap_remove(at);
            self.uncount(entry.peer, entry.rank);
        }
    }

    /// Of the peer with the most connections of this rank, the oldest one that is idle, or else the oldest.
    fn close_one(&mut self, rank: Rank, but: Option<u64>) -> bool {
        let candidates = self.entries.iter().filter(|entry| entry.rank == rank && Some(entry.number) != but);
        let share = |entry: &Entry| self.counts.get(&(entry.peer, rank)).copied().unwrap_or(0);
        let victim = candidates.max_by_key(|entry| (share(entry), !entry.is_answering, std::cmp::Reverse(entry.since)));
        let Some(number) = victim.map(|entry| entry.number) else { return false };
        if let Some(task) = self.entry(number).and_then(|entry| entry.task.take()) {
            task.abort();
        }
        self.remove(number);
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const A: &str = "192.0.2.1";
    const B: &str = "192.0.2.2";

    fn enter(connections: &Arc<Connections>, peer: &str) -> Permit {
        connections.enter(peer.parse().unwrap())
    }

    fn has(permit: &Permit) -> bool {
        permit.connections.table.lock().unwrap().entry(permit.number).is_some()
    }

    fn which(permits: &[Permit]) -> Vec<bool> {
        permits.iter().map(has).collect()
    }

    #[test]
    fn the_newest_connection_displaces_the_oldest_of_the_peer_with_the_most() {
        let connections = Connections::new(4);
        let permits: Vec<_> = [B, A, A, A].iter().map(|peer| enter(&connections, peer)).collect();
        let newest = enter(&connections, A);
        assert_eq!(which(&permits), [true, false, true, true], "B was first, but A has more");
        assert!(has(&newest) && connections.is_over_full(), "the closed one still holds its socket");
        drop(permits);
        assert!(!connections.is_over_full());
        assert_eq!(connections.table.lock().unwrap().entries.len(), 1);
        drop(newest);
        assert!(connections.table.lock().unwrap().counts.is_empty());
    }

    #[test]
    fn an_ipv6_peer_is_its_64_and_a_mapped_address_is_the_ipv4_one() {
        let connections = Connections::new(3);
        let permits: Vec<_> = [A, "2001:db8::1", "2001:db8::2"].iter().map(|peer| enter(&connections, peer)).collect();
        let _newest = enter(&connections, "2001:db8::3");
        assert_eq!(which(&permits), [true, false, true]);
        let connections = Connections::new(3);
        let permits: Vec<_> = [B, "::ffff:192.0.2.1", A].iter().map(|peer| enter(&connections, peer)).collect();
        let _newest = enter(&connections, "192.0.2.9");
        assert_eq!(which(&permits), [true, false, true]);
    }

    #[test]
    fn a_request_that_waits_for_its_page_goes_after_idle_ones() {
        let connections = Connections::new(3);
        let permits: Vec<_> = [A, A, A].iter().map(|peer| enter(&connections, peer)).collect();
        permits[0].answering(true);
        let second = enter(&connections, A);
        assert_eq!(which(&permits), [true, false, true]);
        permits[0].answering(false);
        let _third = enter(&connections, A);
        assert_eq!(which(&permits), [false, false, true]);
        assert!(has(&second));
    }

    #[test]
    fn strangers_never_displace_who_has_shown_the_token() {
        let connections = Connections::new(8);
        let known: Vec<_> = (0..4).map(|_| enter(&connections, A)).collect();
        known.iter().for_each(Permit::trust);
        let crowd: Vec<_> = (0..1_000).map(|_| enter(&connections, B)).collect();
        assert!(known.iter().all(has));
        assert_eq!(crowd.iter().filter(|permit| has(permit)).count(), 4);
        assert!(crowd.iter().rev().take(4).all(has), "the newest are left");
        let fifth = enter(&connections, A);
        fifth.trust();
        assert_eq!(which(&known), [false, true, true, true], "half of the table, the oldest goes");
        assert!(has(&fifth));
        fifth.trust();
        assert_eq!(which(&known), [false, true, true, true], "to show it again takes no place");
    }

    #[test]
    fn a_descriptor_is_freed_by_a_stranger_first() {
        let connections = Connections::new(4);
        let (known, stranger) = (enter(&connections, A), enter(&connections, A));
        known.trust();
        assert!(connections.close_one() && has(&known) && !has(&stranger));
        assert!(connections.close_one() && !has(&known));
        assert!(!connections.close_one());
    }
}
