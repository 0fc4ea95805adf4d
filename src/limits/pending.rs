//! A bounded pool of connections without a complete request or credentials. When it is full, the
//! oldest connection of the client with the most connections gives its place to the new one. A
//! flood from few addresses therefore displaces itself, and a client half a round trip from its
//! request keeps its place.
//!
//! Each worker thread has its own pool; a program with other threads locks a [`PendingTable`]. Never waits, and never
//! refuses a new connection.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::client::{ClientNetwork, ClientSite};

/// The pending connections of one worker.
#[derive(Clone, Debug, Default)]
pub struct PendingPool(Rc<RefCell<PendingTable>>);

/// The place of one connection, held until it is dropped.
#[derive(Debug)]
pub struct PendingPermit {
    pool: PendingPool,
    number: u64,
}

/// The pending connections, by number.
#[derive(Debug, Default)]
pub struct PendingTable {
    /// In order of arrival, without connections that were given up.
    connections: BTreeMap<u64, Connection>,
    last: u64,
    /// Kept only while the pool is well filled, so a pool that never fills costs nothing.
    ranking: Option<Ranking>,
}

#[derive(Debug)]
struct Connection {
    client: ClientNetwork,
    waiting: Option<Waker>,
}

/// The number of connections of each site, and of each client in it.
#[derive(Debug, Default)]
struct Ranking {
    numbers: HashMap<Holder, BTreeSet<u64>>,
    ranks: BTreeSet<Rank>,
    /// With fewer connections the ranking is not worth its cost.
    kept_above: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Holder {
    Site(ClientSite),
    Client(ClientNetwork),
}

/// Ranks holders: the site, its number of connections, its oldest place, and the holder. Within a site
/// the last holder has the most connections; among equals it has waited longest.
type Rank = (Option<ClientSite>, usize, Reverse<u64>, Holder);

impl PendingPool {
    /// Takes a place for a new connection. While the pool holds more than `max` (at least 1), gives
    /// up the oldest connection of the client with the most.
    #[must_use]
    pub fn enter(&self, client: ClientNetwork, max: usize) -> PendingPermit {
        let number = self.0.borrow_mut().enter(client, max);
        PendingPermit {
            pool: self.clone(),
            number,
        }
    }
}

impl PendingPermit {
    /// Resolves when the place has been given to another connection.
    pub async fn given_up(&self) {
        poll_fn(|context| {
            let mut table = self.pool.0.borrow_mut();
            table.poll_given_up(self.number, context)
        })
        .await;
    }

    /// Passes the place to another client, which keeps its rank by age. None if the place was given up.
    #[must_use]
    pub fn pass_to(self, client: ClientNetwork) -> Option<Self> {
        let is_held = self.pool.0.borrow_mut().pass_to(self.number, client);
        is_held.then_some(self)
    }

    /// Returns the place: the connection is no longer pending.
    pub fn leave(&self) {
        self.pool.0.borrow_mut().leave(self.number);
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        self.leave();
    }
}

impl PendingTable {
    /// Takes a place for a new connection and returns its number. While the table holds more than `max` (at least 1),
    /// gives up the oldest connection of the client with the most.
    pub fn enter(&mut self, client: ClientNetwork, max: usize) -> u64 {
        self.last += 1;
        let number = self.last;
        self.connections.insert(
            number,
            Connection {
                client,
                waiting: None,
            },
        );
        if let Some(ranking) = &mut self.ranking {
            ranking.change(client, |numbers| numbers.insert(number));
        }
        while self.connections.len() > max.max(1) {
            self.give_up_one();
        }
        number
    }

    /// Ready when the place has been given to another connection.
    pub fn poll_given_up(&mut self, number: u64, context: &mut Context<'_>) -> Poll<()> {
        let Some(connection) = self.connections.get_mut(&number) else {
            return Poll::Ready(());
        };
        match &mut connection.waiting {
            Some(waiting) => waiting.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Passes a place to another client; whether it was still held.
    fn pass_to(&mut self, number: u64, client: ClientNetwork) -> bool {
        let Some(connection) = self.connections.get_mut(&number) else {
            return false;
        };
        let before = std::mem::replace(&mut connection.client, client);
        if let Some(ranking) = &mut self.ranking {
            ranking.change(before, |numbers| numbers.remove(&number));
            ranking.change(client, |numbers| numbers.insert(number));
        }
        true
    }

    /// Returns a place: the connection is no longer pending.
    pub fn leave(&mut self, number: u64) {
        self.remove(number);
    }

    /// How many places are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.connections.len()
    }

    fn give_up_one(&mut self) {
        let ranking = self
            .ranking
            .get_or_insert_with(|| Ranking::of(&self.connections));
        let victim = ranking
            .first_to_go()
            .or_else(|| self.connections.keys().next().copied());
        if let Some(waiting) = victim.and_then(|number| self.remove(number)?.waiting) {
            waiting.wake();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        if let Some(ranking) = &mut self.ranking {
            ranking.change(connection.client, |numbers| numbers.remove(&number));
        }
        if self
            .ranking
            .as_ref()
            .is_some_and(|ranking| self.connections.len() < ranking.kept_above)
        {
            self.ranking = None;
        }
        Some(connection)
    }
}

impl Ranking {
    fn of(connections: &BTreeMap<u64, Connection>) -> Self {
        let mut ranking = Self {
            kept_above: connections.len() / 2,
            ..Self::default()
        };
        for (number, connection) in connections {
            ranking.change(connection.client, |numbers| numbers.insert(*number));
        }
        ranking
    }

    /// Changes the number of connections of a client and its site, and their ranks.
    fn change(&mut self, client: ClientNetwork, act: impl Fn(&mut BTreeSet<u64>) -> bool) {
        let site = client.site();
        for (within, holder) in [
            (None, Holder::Site(site)),
            (Some(site), Holder::Client(client)),
        ] {
            let numbers = self.numbers.entry(holder).or_default();
            let rank = |numbers: &BTreeSet<u64>| {
                Some((within, numbers.len(), Reverse(*numbers.first()?), holder))
            };
            if let Some(before) = rank(numbers) {
                self.ranks.remove(&before);
            }
            let _changed = act(numbers);
            match rank(numbers) {
                Some(after) => {
                    self.ranks.insert(after);
                }
                None => {
                    self.numbers.remove(&holder);
                }
            }
        }
    }

    /// The oldest place of the heaviest client of the heaviest site.
    fn first_to_go(&self) -> Option<u64> {
        let Holder::Site(site) = self.heaviest(None)? else {
            return None;
        };
        self.numbers
            .get(&self.heaviest(Some(site))?)?
            .first()
            .copied()
    }

    fn heaviest(&self, within: Option<ClientSite>) -> Option<Holder> {
        let (_, _, _, any) = self.ranks.first()?;
        // No holder has this many: it sorts after everything of this site and before the next.
        let behind_all = (within, usize::MAX, Reverse(0), *any);
        let (of, _, _, holder) = self.ranks.range(..behind_all).next_back()?;
        (*of == within).then_some(*holder)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
