//! Limits the look-ups in flight: a bound on all of them, a share for each user (without users, for
//! each client), and a fair queue.
//!
//! Names that the operator wrote have turns of their own, so that names chosen by a peer, which a
//! dead server may hold for seconds, cannot take them. The queue is round robin over holders: a
//! waiting holder gets its next turn after every other waiting holder has had one. A turn is a
//! guard; a waiter that leaves the queue leaves nothing in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::{Asker, Holder};

/// The turns of both kinds of names.
#[derive(Debug)]
pub(super) struct Turns {
    named: Arc<Mutex<Pool>>,
    others: Arc<Mutex<Pool>>,
}

/// The permit of one look-up in flight; dropping it passes it to the next waiter.
#[derive(Debug)]
pub(super) struct Turn {
    pool: Arc<Mutex<Pool>>,
    holder: Holder,
}

#[derive(Debug)]
struct Pool {
    free: usize,
    /// The most turns of one holder.
    share: usize,
    /// The number of turns by holder.
    taken: HashMap<Holder, usize>,
    waiting: HashMap<Holder, Waiting>,
    /// The waiting holders, each once, the next one first.
    ring: BTreeMap<u64, Holder>,
    numbers: u64,
}

/// The waiters of one holder.
#[derive(Debug)]
struct Waiting {
    /// The key of the holder in the ring.
    place: u64,
    /// The waiters in the order of their arrival.
    tickets: BTreeMap<u64, oneshot::Sender<Turn>>,
}

/// A waiter's entry in the queue; dropping it removes the entry.
struct Ticket<'a> {
    pool: &'a Mutex<Pool>,
    holder: &'a Holder,
    number: u64,
}

impl Turns {
    /// Creates turns for `max` look-ups, half of them for each kind of name.
    pub(super) fn new(max: usize) -> Self {
        let pool = || Arc::new(Mutex::new(Pool::new((max / 2).max(1))));
        Self {
            named: pool(),
            others: pool(),
        }
    }

    /// Takes a turn. Returns None if none is free or the holder's share is used up.
    pub(super) fn try_take(&self, asker: &Asker) -> Option<Turn> {
        let (pool, holder) = self.queue_of(asker);
        let granted = lock(pool).grant(&holder);
        granted.then(|| Turn {
            pool: Arc::clone(pool),
            holder,
        })
    }

    /// Waits for a turn.
    pub(super) async fn take(&self, asker: &Asker) -> Turn {
        let (pool, holder) = self.queue_of(asker);
        loop {
            let (sender, receiver) = oneshot::channel();
            let number = {
                let mut queue = lock(pool);
                if queue.grant(&holder) {
                    return Turn {
                        pool: Arc::clone(pool),
                        holder,
                    };
                }
                queue.wait(&holder, sender)
            };
            let _ticket = Ticket {
                pool,
                holder: &holder,
                number,
            };
            // The sender is dropped only after it has sent a turn; the error case retries.
            if let Ok(turn) = receiver.await {
                return turn;
            }
        }
    }

    fn queue_of(&self, asker: &Asker) -> (&Arc<Mutex<Pool>>, Holder) {
        (
            if asker.is_named {
                &self.named
            } else {
                &self.others
            },
            asker.holder.clone(),
        )
    }
}

impl Pool {
    fn new(max: usize) -> Self {
        let (taken, waiting, ring) = Default::default();
        Self {
            free: max,
            share: (max / 2).max(1),
            taken,
            waiting,
            ring,
            numbers: 0,
        }
    }

    /// Takes a turn for this holder if its share allows it.
    fn grant(&mut self, holder: &Holder) -> bool {
        let taken = self.taken.get(holder).copied().unwrap_or(0);
        let granted = self.free > 0 && taken < self.share;
        if granted {
            self.free -= 1;
            self.taken.insert(holder.clone(), taken + 1);
        }
        granted
    }

    fn give_back(&mut self, holder: &Holder) {
        self.free += 1;
        if let Some(taken) = self.taken.get_mut(holder) {
            *taken -= 1;
            if *taken == 0 {
                self.taken.remove(holder);
            }
        }
    }

    fn wait(&mut self, holder: &Holder, sender: oneshot::Sender<Turn>) -> u64 {
        self.numbers += 1;
        let number = self.numbers;
        let waiting = self.waiting.entry(holder.clone()).or_insert_with(|| {
            self.ring.insert(number, holder.clone());
            Waiting {
                place: number,
                tickets: BTreeMap::new(),
            }
        });
        waiting.tickets.insert(number, sender);
        number
    }

    /// Takes a turn for the next waiter that may have one.
    fn next(&mut self) -> Option<(Holder, oneshot::Sender<Turn>)> {
        // Skips at most two holders: no more can have their whole share.
        for _ in 0..self.ring.len() {
            if self.free == 0 {
                return None;
            }
            let (_, holder) = self.ring.pop_first()?;
            let granted = self.grant(&holder);
            let waiting = self.waiting.get_mut(&holder)?;
            let ticket = if granted {
                waiting.tickets.pop_first()
            } else {
                None
            };
            if waiting.tickets.is_empty() {
                self.waiting.remove(&holder);
            } else {
                self.numbers += 1;
                waiting.place = self.numbers;
                self.ring.insert(waiting.place, holder.clone());
            }
            if let Some((_, sender)) = ticket {
                return Some((holder, sender));
            }
        }
        None
    }

    fn leave(&mut self, holder: &Holder, number: u64) {
        let Some(waiting) = self.waiting.get_mut(holder) else {
            return;
        };
        waiting.tickets.remove(&number);
        if waiting.tickets.is_empty() {
            self.ring.remove(&waiting.place);
            self.waiting.remove(holder);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        lock(self.pool).leave(self.holder, self.number);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut pool = lock(&self.pool);
            pool.give_back(&self.holder);
            pool.next()
        };
        if let Some((holder, sender)) = next {
            // A waiter that has just left drops the turn unread, and that drop passes it on.
            let _taken_or_dropped = sender.send(Turn {
                pool: Arc::clone(&self.pool),
                holder,
            });
        }
    }
}

fn lock(pool: &Mutex<Pool>) -> std::sync::MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn asker(last: u8) -> Asker {
        asker_at(IpAddr::from([192, 0, 2, last]))
    }

    fn asker_at(address: IpAddr) -> Asker {
        Asker {
            holder: Holder::of(None, address),
            is_named: false,
        }
    }

    /// This user, at the address of one of many networks.
    fn user_at(user: &str, network: u16) -> Asker {
        let address = if network.is_multiple_of(2) {
            IpAddr::from([0x2001, 0xdb8, network, network, 0, 0, 0, 1])
        } else {
            IpAddr::from([198, 51, 100, u8::try_from(network).unwrap()])
        };
        Asker {
            holder: Holder::of(
                Some(&crate::authority::UserId::parse(user).unwrap()),
                address,
            ),
            is_named: false,
        }
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn one_client_has_half_of_the_turns_and_the_operators_names_their_own() {
        let turns = Turns::new(16);
        let held: Vec<_> = (0..20).filter_map(|_| turns.try_take(&asker(1))).collect();
        assert_eq!(held.len(), 4);
        let more: Vec<_> = (2..20)
            .filter_map(|last| turns.try_take(&asker(last)))
            .collect();
        assert_eq!(more.len(), 4);
        let named: Vec<_> = (1..20)
            .filter_map(|last| {
                turns.try_take(&Asker {
                    is_named: true,
                    ..asker(last)
                })
            })
            .collect();
        assert_eq!(named.len(), 8);
        drop((held, more));
        assert!(turns.try_take(&asker(1)).is_some());
    }

    #[test]
    fn networks_of_one_ipv6_site_are_one_client() {
        let turns = Turns::new(16);
        let held: Vec<_> = (0..40)
            .filter_map(|last| {
                turns.try_take(&asker_at(IpAddr::from([
                    0x2001, 0xdb8, 1, last, 0, 0, 0, last,
                ])))
            })
            .collect();
        assert_eq!(held.len(), 4);
        assert!(
            turns
                .try_take(&asker_at(IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, 1])))
                .is_some()
        );
        assert!(turns.try_take(&asker(1)).is_some() && turns.try_take(&asker(2)).is_some());
    }

    #[test]
    fn forty_networks_of_one_user_do_not_delay_another_user() {
        let turns = Turns::new(8);
        let askers: Vec<_> = (0..40).map(|network| user_at("greedy", network)).collect();
        let held: Vec<_> = askers
            .iter()
            .filter_map(|asker| turns.try_take(asker))
            .collect();
        assert_eq!(held.len(), 2, "half of the turns");
        let mut greedy: Vec<_> = askers
            .iter()
            .map(|asker| Box::pin(turns.take(asker)))
            .collect();
        assert!(
            greedy
                .iter_mut()
                .all(|waiting| poll(waiting.as_mut()).is_pending())
        );
        let (at_home, away) = (user_at("modest", 1), user_at("modest", 2));
        let (first, second) = (
            turns.try_take(&at_home).unwrap(),
            turns.try_take(&away).unwrap(),
        );
        // All turns are taken: the next that is free is the third user's, though forty have waited for longer.
        let third_asker = user_at("third", 1);
        let mut third = pin!(turns.take(&third_asker));
        assert!(poll(third.as_mut()).is_pending());
        drop(first);
        assert!(poll(third.as_mut()).is_ready());
        drop((held, second));
        assert!(
            greedy
                .iter_mut()
                .all(|waiting| poll(waiting.as_mut()).is_ready())
        );
    }

    #[test]
    fn clients_that_wait_take_turns() {
        let turns = Turns::new(4);
        let (first, second) = (
            turns.try_take(&asker(1)).unwrap(),
            turns.try_take(&asker(2)).unwrap(),
        );
        let (greedy, modest) = (asker(1), asker(3));
        let mut greedy: Vec<_> = (0..10).map(|_| Box::pin(turns.take(&greedy))).collect();
        let mut modest = pin!(turns.take(&modest));
        assert!(
            greedy
                .iter_mut()
                .all(|waiting| poll(waiting.as_mut()).is_pending())
        );
        assert!(poll(modest.as_mut()).is_pending());
        drop(second);
        assert!(
            poll(modest.as_mut()).is_ready(),
            "the greedy client has its share"
        );
        drop(first);
        let served: Vec<_> = greedy
            .iter_mut()
            .map(|waiting| poll(waiting.as_mut()).is_ready())
            .collect();
        assert_eq!(
            served, [true; 10],
            "each gives its turn to the next as it is dropped"
        );
    }

    #[test]
    fn a_client_that_leaves_the_queue_leaves_nothing_in_it() {
        let turns = Turns::new(2);
        let held = turns.try_take(&asker(1)).unwrap();
        for last in 0..200 {
            let asker = asker(last);
            let mut waiting = pin!(turns.take(&asker));
            assert!(poll(waiting.as_mut()).is_pending());
        }
        let seventh = asker(7);
        let mut gone = Box::pin(turns.take(&seventh));
        assert!(poll(gone.as_mut()).is_pending());
        assert_eq!(lock(&turns.others).ring.len(), 1);
        drop(held);
        // The turn is on its way to one that leaves before it has looked.
        drop(gone);
        let pool = lock(&turns.others);
        assert!(
            pool.waiting.is_empty()
                && pool.ring.is_empty()
                && pool.taken.is_empty()
                && pool.free == 1
        );
    }
}
