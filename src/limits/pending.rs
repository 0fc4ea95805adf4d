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
mod tests {
    use super::*;
    use std::net::Ipv6Addr;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    fn client(address: &str) -> ClientNetwork {
        ClientNetwork::of(address.parse().unwrap())
    }

    fn v6(site: u16, network: u16) -> ClientNetwork {
        ClientNetwork::of(Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 1).into())
    }

    fn is_given_up(permit: &PendingPermit) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(permit.given_up()).poll(&mut context).is_ready()
    }

    fn remaining(permits: &[PendingPermit]) -> Vec<usize> {
        (0..)
            .zip(permits)
            .filter(|(_, permit)| !is_given_up(permit))
            .map(|(number, _)| number)
            .collect()
    }

    #[test]
    fn a_flood_displaces_its_own_oldest_first() {
        let pool = PendingPool::default();
        let good = pool.enter(client("192.0.2.7"), 4);
        let flood: Vec<_> = (0..10)
            .map(|_| pool.enter(client("198.51.100.66"), 4))
            .collect();
        assert!(!is_given_up(&good));
        assert_eq!(remaining(&flood), [7, 8, 9]);
        let late = pool.enter(client("203.0.113.5"), 4);
        assert_eq!(
            (is_given_up(&late), is_given_up(&good), remaining(&flood)),
            (false, false, vec![8, 9])
        );
    }

    #[test]
    fn networks_of_one_site_displace_only_each_other() {
        let pool = PendingPool::default();
        let good = [client("192.0.2.7"), v6(2, 0), v6(3, 0)].map(|client| pool.enter(client, 8));
        let flood: Vec<_> = (0..1_000)
            .map(|network| pool.enter(v6(1, network), 8))
            .collect();
        assert_eq!(remaining(&good), [0, 1, 2]);
        assert_eq!(remaining(&flood), [995, 996, 997, 998, 999]);
        let v4: Vec<_> = (0..=255)
            .map(|host| pool.enter(client(&format!("198.51.100.{host}")), 8))
            .collect();
        assert_eq!(remaining(&good), [0, 1, 2]);
        assert_eq!(remaining(&flood).len() + remaining(&v4).len(), 5);
    }

    #[test]
    fn a_client_of_a_heavy_site_keeps_its_place_while_a_neighbour_has_more() {
        let pool = PendingPool::default();
        let good = pool.enter(v6(1, 7), 4);
        let _flood: Vec<_> = (0..10).map(|_| pool.enter(v6(1, 8), 4)).collect();
        assert!(!is_given_up(&good));
    }

    #[test]
    fn among_equal_clients_the_oldest_is_displaced() {
        let addresses = ["192.0.2.7", "2001:db8:1::", "198.51.100.7", "2001:db8::"];
        for start in 0..addresses.len() {
            let pool = PendingPool::default();
            let order = addresses.iter().cycle().skip(start).take(addresses.len());
            let permits: Vec<_> = order
                .map(|address| pool.enter(client(address), 3))
                .collect();
            assert_eq!(remaining(&permits), [1, 2, 3]);
        }
    }

    #[test]
    fn a_pool_keeps_nothing_of_connections_that_left() {
        let pool = PendingPool::default();
        let mut permits: Vec<_> = (0..9)
            .map(|network| pool.enter(v6(network % 3, network), 8))
            .collect();
        assert!(pool.0.borrow().ranking.is_some());
        permits.truncate(3);
        assert!(
            pool.0.borrow().ranking.is_none(),
            "a pool that is nearly empty keeps no ranking"
        );
        permits.clear();
        assert!(pool.0.borrow().connections.is_empty());
        let first = pool.enter(v6(1, 1), 1);
        let second = pool.enter(v6(1, 1), 0);
        assert!(
            is_given_up(&first) && !is_given_up(&second),
            "there is room for one at least"
        );
        drop((first, second));
        let _third = pool.enter(v6(1, 1), 1);
        let _fourth = pool.enter(v6(1, 2), 1);
        let state = pool.0.borrow();
        let ranking = state.ranking.as_ref().unwrap();
        assert_eq!(
            (ranking.numbers.len(), ranking.ranks.len()),
            (2, 2),
            "one client and its site"
        );
    }

    #[test]
    fn a_place_that_is_passed_on_counts_for_its_new_client_with_its_age() {
        let (balancer, declared) = (client("192.0.2.7"), client("198.51.100.66"));
        let other = client("203.0.113.5");
        let pool = PendingPool::default();
        let first = pool.enter(balancer, 3);
        let second = pool.enter(balancer, 3).pass_to(declared).unwrap();
        let third = pool.enter(declared, 3);
        let fourth = pool.enter(other, 3);
        assert!(is_given_up(&second), "the declared client held two places");
        assert!(second.pass_to(balancer).is_none());
        // The pool keeps a ranking now.
        let third = third.pass_to(other).unwrap();
        let holders = pool.0.borrow().ranking.as_ref().unwrap().numbers.len();
        assert_eq!(holders, 4, "two clients and their sites");
        let fifth = pool.enter(v6(1, 1), 3);
        let permits = [first, third, fourth, fifth];
        assert_eq!(remaining(&permits), [0, 2, 3]);
        drop(permits);
        assert!(pool.0.borrow().connections.is_empty());
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_waiting_connection_learns_that_it_was_displaced() {
        let pool = PendingPool::default();
        let first = pool.enter(v6(1, 1), 1);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut given_up = pin!(first.given_up());
        assert!(
            given_up
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        let _second = pool.enter(v6(2, 1), 1);
        assert_eq!(woken.0.load(Relaxed), 1);
        assert!(
            given_up
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
        );
    }
}
