//! Limits the look-ups in flight: a bound on all of them, a share for each user (without users, for
//! each client), and a fair queue.
//!
//! Names that the operator wrote have permits of their own, so that names chosen by a peer, which a
//! dead server may hold for seconds, cannot take them. The queue is round robin over holders: a
//! waiting holder gets its next permit after every other waiting holder has had one. A permit is a
//! guard; a waiter that leaves the queue leaves nothing in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::{Asker, Holder};

/// The permits of both kinds of names.
#[derive(Debug)]
pub(super) struct LookupPermits {
    named: Arc<Mutex<Pool>>,
    others: Arc<Mutex<Pool>>,
}

/// The permit of one look-up in flight; dropping it passes it to the next waiter.
#[derive(Debug)]
pub(super) struct LookupPermit {
    pool: Arc<Mutex<Pool>>,
    holder: Holder,
}

#[derive(Debug)]
struct Pool {
    free: usize,
    /// The most permits of one holder.
    share: usize,
    /// The number of permits by holder.
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
    tickets: BTreeMap<u64, oneshot::Sender<LookupPermit>>,
}

/// A waiter's entry in the queue; dropping it removes the entry.
struct Ticket<'a> {
    pool: &'a Mutex<Pool>,
    holder: &'a Holder,
    number: u64,
}

impl LookupPermits {
    /// Creates permits for `max` look-ups, half of them for each kind of name.
    pub(super) fn new(max: usize) -> Self {
        let pool = || Arc::new(Mutex::new(Pool::new((max / 2).max(1))));
        Self {
            named: pool(),
            others: pool(),
        }
    }

    /// Takes a permit. Returns None if none is free or the holder's share is used up.
    pub(super) fn try_acquire(&self, asker: &Asker) -> Option<LookupPermit> {
        let (pool, holder) = self.queue_of(asker);
        let granted = lock(pool).grant(&holder);
        granted.then(|| LookupPermit {
            pool: Arc::clone(pool),
            holder,
        })
    }

    /// Waits for a permit.
    pub(super) async fn acquire(&self, asker: &Asker) -> LookupPermit {
        let (pool, holder) = self.queue_of(asker);
        loop {
            let (sender, receiver) = oneshot::channel();
            let number = {
                let mut queue = lock(pool);
                if queue.grant(&holder) {
                    return LookupPermit {
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
            // The sender is dropped only after it has sent a permit; the error case retries.
            if let Ok(permit) = receiver.await {
                return permit;
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

    /// Takes a permit for this holder if its share allows it.
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

    fn wait(&mut self, holder: &Holder, sender: oneshot::Sender<LookupPermit>) -> u64 {
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

    /// Takes a permit for the next waiter that may have one.
    fn next(&mut self) -> Option<(Holder, oneshot::Sender<LookupPermit>)> {
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

impl Drop for LookupPermit {
    fn drop(&mut self) {
        let next = {
            let mut pool = lock(&self.pool);
            pool.give_back(&self.holder);
            pool.next()
        };
        if let Some((holder, sender)) = next {
            // A waiter that has just left drops the permit unread, and that drop passes it on.
            let _taken_or_dropped = sender.send(LookupPermit {
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
mod tests;
