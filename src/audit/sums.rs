//! Decides which refusals get a record of their own at once, and counts the others in sums, so that
//! a flood of refusals is a few records a second. A sum keeps the record of its first refusal; the
//! writer takes all sums twice a second. Every table is bounded; when one is full, a refusal is
//! counted under a coarser key, so no refusal is lost. Never writes and never waits.

mod clients;

use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use time::OffsetDateTime;

use super::daemon_record::DaemonRecord;
use super::record::TunnelRecord;
use crate::authority::UserId;
use crate::limits::bucket::Bucket;
use crate::limits::client::{ClientNetwork, ClientSite};
use crate::limits::sharded::Sharded;
use clients::{Clients, RATE, take_record};

/// The sums that the writer has not taken yet.
#[derive(Debug)]
pub(super) struct Sums {
    strangers: Class,
    users: Class,
    /// By outcome and code alone, for refusals that find no other place. There are some dozens of
    /// codes.
    by_code: Mutex<BTreeMap<(&'static str, &'static str), Sum>>,
    /// The first lock that was not written at once, and the number of such locks.
    lockouts: Mutex<Option<(DaemonRecord, u64)>>,
}

/// The key of a sum.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'r> {
    /// The client's address.
    pub client: IpAddr,
    /// The user whose credentials it presented.
    pub user: Option<&'r UserId>,
    /// `denied` or `failed`.
    pub outcome: &'static str,
    /// The short code.
    pub code: &'static str,
}

/// Separate tables for clients with and without a user's credentials: a flood of one class takes
/// nothing from the other.
#[derive(Debug)]
struct Class {
    /// By site, so that one site fills at most half of one part.
    clients: Sharded<ClientSite, Clients>,
    /// The rate of refusal records that are written at once, over all clients.
    at_once: Mutex<Bucket>,
    /// Sums of single clients.
    pending: AtomicUsize,
    /// The most sums that one client may have at a time.
    client_sums_max: usize,
}

#[derive(Debug)]
struct Sum {
    /// The first refusal. The writer sets `ts` and `count` when it takes the sum.
    record: TunnelRecord,
    count: u64,
    last: OffsetDateTime,
}

impl Sums {
    /// Counts a refusal. Returns its record if it is to be written at once, which happens only if
    /// `has_room`. Calls `record` only if it needs the record.
    pub(super) fn refused(
        &self,
        refused: &Refused<'_>,
        now: Instant,
        has_room: bool,
        record: impl FnOnce() -> TunnelRecord,
    ) -> Option<TunnelRecord> {
        let class = if refused.user.is_some() {
            &self.users
        } else {
            &self.strangers
        };
        let network = ClientNetwork::of(refused.client);
        let mut part = class.clients.lock(&network.site());
        let Some((client, site)) = part.entry(network, now) else {
            drop(part);
            self.count_by_code(refused, record);
            return None;
        };
        if let Some(sum) = client.sums.iter_mut().find(|sum| sum.is_of(refused)) {
            sum.add(OffsetDateTime::now_utc());
            return None;
        }
        if has_room && take_record(client, site, &mut lock(&class.at_once), now) {
            drop(part);
            return Some(record());
        }
        let may_have_one = client.sums.len() < class.client_sums_max && site.sums < SITE_SUMS_MAX;
        if may_have_one && class.reserve() {
            site.sums += 1;
            client.sums.push(Sum::of(record()));
        } else {
            drop(part);
            self.count_by_code(refused, record);
        }
        None
    }

    /// Counts a refusal whose record found no room in the queue.
    pub(super) fn keep(&self, record: TunnelRecord) {
        let (outcome, code) = (record.outcome, record.code);
        self.add_by_code(outcome, code, || record);
    }

    /// Counts a login lock. Returns its record if it is to be written at once.
    pub(super) fn lockout(&self, record: DaemonRecord, now: Instant) -> Option<DaemonRecord> {
        if lock(&self.strangers.at_once).take(now, RATE) {
            return Some(record);
        }
        self.keep_lockout(record);
        None
    }

    /// Counts a lock whose record found no room in the queue.
    pub(super) fn keep_lockout(&self, record: DaemonRecord) {
        let mut lockouts = lock(&self.lockouts);
        let (_, count) = lockouts.get_or_insert((record, 0));
        *count = count.saturating_add(1);
    }

    /// Takes the counted locks as one record.
    pub(super) fn take_lockouts(&self) -> Option<DaemonRecord> {
        let (mut record, locks) = lock(&self.lockouts).take()?;
        if let DaemonRecord::AuthLockout { count, .. } = &mut record {
            *count = (locks > 1).then_some(locks);
        }
        Some(record)
    }

    /// Takes every sum as a record.
    pub(super) fn take(&self) -> Vec<TunnelRecord> {
        let sums = [&self.strangers, &self.users]
            .into_iter()
            .flat_map(Class::take);
        let mut taken: Vec<_> = sums.map(Sum::into_record).collect();
        let by_code = mem::take(&mut *lock(&self.by_code));
        taken.extend(by_code.into_values().map(Sum::into_record_of_several));
        taken
    }

    fn count_by_code(&self, refused: &Refused<'_>, record: impl FnOnce() -> TunnelRecord) {
        self.add_by_code(refused.outcome, refused.code, record);
    }

    fn add_by_code(
        &self,
        outcome: &'static str,
        code: &'static str,
        record: impl FnOnce() -> TunnelRecord,
    ) {
        let mut by_code = lock(&self.by_code);
        match by_code.get_mut(&(outcome, code)) {
            Some(sum) => sum.add(OffsetDateTime::now_utc()),
            None => drop(by_code.insert((outcome, code), Sum::of(record()))),
        }
    }
}

impl Default for Sums {
    fn default() -> Self {
        let (strangers, users) = (Class::new(STRANGER_SUMS_MAX), Class::new(USER_SUMS_MAX));
        Self {
            strangers,
            users,
            by_code: Mutex::default(),
            lockouts: Mutex::default(),
        }
    }
}

impl Class {
    fn new(client_sums_max: usize) -> Self {
        Self {
            clients: Sharded::default(),
            at_once: Mutex::default(),
            pending: AtomicUsize::new(0),
            client_sums_max,
        }
    }

    /// Returns a place for the sum of a client.
    fn reserve(&self) -> bool {
        let one_more = |pending: usize| (pending < SUMS_MAX).then_some(pending + 1);
        self.pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .is_ok()
    }

    fn take(&self) -> Vec<Sum> {
        let mut taken = Vec::new();
        // Lets an idle daemon skip the parts.
        if self.pending.load(Ordering::Relaxed) > 0 {
            self.clients
                .each()
                .for_each(|mut clients| clients.take(&mut taken));
            self.pending.fetch_sub(taken.len(), Ordering::Relaxed);
        }
        taken
    }
}

impl Sum {
    fn of(record: TunnelRecord) -> Self {
        Self {
            last: record.ts,
            count: 1,
            record,
        }
    }

    fn is_of(&self, refused: &Refused<'_>) -> bool {
        let record = &self.record;
        record.code == refused.code
            && record.outcome == refused.outcome
            && record.user.as_ref() == refused.user
    }

    fn add(&mut self, at: OffsetDateTime) {
        self.count = self.count.saturating_add(1);
        self.last = self.last.max(at);
    }

    /// A sum of one refusal is an ordinary record.
    fn into_record(self) -> TunnelRecord {
        let Self {
            mut record,
            count,
            last,
        } = self;
        if count > 1 {
            record.first = Some(mem::replace(&mut record.ts, last));
            record.count = Some(count);
        }
        record
    }

    /// Keeps only the fields of the code, unless it counts one refusal.
    fn into_record_of_several(self) -> TunnelRecord {
        let record = self.into_record();
        if record.count.is_some() {
            record.of_several_clients()
        } else {
            record
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sums of all clients of a class at a time, so twice as many a second at most.
const SUMS_MAX: usize = 128;
/// Sums at a time of the clients of one site (IPv4 /24, IPv6 /48).
const SITE_SUMS_MAX: usize = SUMS_MAX / 2;
/// Sums at a time of a client without credentials: the number of codes.
const STRANGER_SUMS_MAX: usize = 2;
/// Sums at a time of a client with credentials: pairs of user and code.
const USER_SUMS_MAX: usize = 32;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "sums/tests.rs"]
mod tests;
