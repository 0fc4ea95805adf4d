//! The account of each user: tunnels at once, bytes, and bytes a second.
//!
//! An account lives as long as its user is configured or has a tunnel, across reloads, so counts
//! and bounds continue. Never waits: it returns how much may move now, and when more may.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};

use crate::authority::UserId;

/// The accounts of the configured users, and of former users with a tunnel.
#[derive(Debug, Default)]
pub struct Accounts(HashMap<UserId, Arc<Account>>);

/// One user's account.
#[derive(Debug)]
pub struct Account {
    user: UserId,
    tunnels: AtomicUsize,
    active: Gauge,
    bytes: Counter,
    /// The counter, to be read.
    moved: AtomicU64,
    /// The origin of the times below.
    epoch: Instant,
    /// Bytes a second; 0: any number.
    pace: AtomicU64,
    /// When all bytes so far would have moved at the even pace, in nanoseconds since the epoch: the
    /// generic cell rate algorithm, as in `bucket`. Not a `Bucket`: workers add to it for each chunk
    /// without a lock, a chunk may cost more than the capacity, and a reload changes the pace.
    due: AtomicU64,
}

/// The permit of one tunnel. Dropping it gives it back.
#[derive(Debug)]
pub struct UserPermit(Arc<Account>);

impl Accounts {
    /// Creates one account for each user with its bytes a second (None: unlimited). Keeps the
    /// accounts in `before`; `series` creates the metrics of a new one.
    #[must_use]
    pub fn new<'a>(
        users: impl Iterator<Item = (&'a UserId, Option<u64>)>,
        before: &Self,
        series: impl Fn(&UserId) -> (Gauge, Counter),
    ) -> Self {
        let former = before.0.iter().filter(|(_, account)| account.tunnels() > 0);
        let mut accounts: HashMap<_, _> = former
            .map(|(user, account)| (user.clone(), Arc::clone(account)))
            .collect();
        for (user, pace) in users {
            let known = || before.0.get(user).map(Arc::clone);
            let account =
                known().unwrap_or_else(|| Arc::new(Account::new(user.clone(), series(user))));
            account.set_pace(pace.unwrap_or(0), Instant::now());
            accounts.insert(user.clone(), account);
        }
        Self(accounts)
    }

    /// Takes a permit for a tunnel of this user. Returns None if the user has `max` tunnels.
    #[must_use]
    pub fn acquire(&self, user: &UserId, max: usize) -> Option<UserPermit> {
        let account = self.0.get(user)?;
        let one_more = |out: usize| (out < max).then_some(out + 1);
        account
            .tunnels
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        account.active.increment(1.0);
        Some(UserPermit(Arc::clone(account)))
    }

    /// All accounts, unordered.
    pub fn iter(&self) -> impl Iterator<Item = &Account> {
        self.0.values().map(Arc::as_ref)
    }
}

impl Account {
    fn new(user: UserId, (active, bytes): (Gauge, Counter)) -> Self {
        let (tunnels, moved, pace, due) = Default::default();
        Self {
            user,
            tunnels,
            active,
            bytes,
            moved,
            epoch: Instant::now(),
            pace,
            due,
        }
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Its tunnels, including those in set-up.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Bytes that its tunnels have moved.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Counts moved bytes of both directions.
    pub fn spend(&self, bytes: u64, now: Instant) {
        self.bytes.increment(bytes);
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        if let Some(pace) = self.pace() {
            let (now, cost) = (self.since_epoch(now), nanoseconds(bytes, pace));
            let paid = |due: u64| Some(due.max(now).saturating_add(cost));
            // The closure always returns a value, so this cannot fail.
            let _paid = self
                .due
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid);
        }
    }

    /// How many bytes may move now. Returns 0 while they are so few that waiting until
    /// [`Account::resumes_at`] is better.
    #[must_use]
    pub fn allowance(&self, now: Instant) -> u64 {
        let Some(pace) = self.pace() else {
            return u64::MAX;
        };
        let now = self.since_epoch(now);
        let credit = (now + BURST_NS).saturating_sub(self.due.load(Ordering::Relaxed).max(now));
        let bytes = credit.saturating_mul(pace) / SECOND_NS;
        if bytes < portion(pace) / 4 { 0 } else { bytes }
    }

    /// How long until all moved bytes are paid for; zero if they are.
    #[must_use]
    pub fn debt(&self, now: Instant) -> Duration {
        let due = self.due.load(Ordering::Relaxed);
        Duration::from_nanos(due.saturating_sub(self.since_epoch(now)))
    }

    /// Continues a debt of another daemon, which is paid for this long after `since`.
    pub fn owe(&self, since: Instant, debt: Duration) {
        let due = since
            .checked_add(debt)
            .map_or(0, |due| self.since_epoch(due));
        self.due.fetch_max(due, Ordering::Relaxed);
    }

    /// When a waiting tunnel may continue.
    #[must_use]
    pub fn resumes_at(&self) -> Instant {
        let Some(pace) = self.pace() else {
            return self.epoch;
        };
        let due = self.due.load(Ordering::Relaxed);
        self.epoch
            + Duration::from_nanos(
                (due + nanoseconds(portion(pace), pace)).saturating_sub(BURST_NS),
            )
    }

    /// Sets the bytes a second; 0: unlimited. A debt from the former pace is repaid at this one if
    /// it is faster, and no more slowly than before if it is slower.
    fn set_pace(&self, pace: u64, now: Instant) {
        let former = self.pace.swap(pace, Ordering::Relaxed);
        let now = self.since_epoch(now);
        let shorter = |due: u64| {
            let debt =
                u128::from(due.saturating_sub(now)) * u128::from(former) / u128::from(pace.max(1));
            Some(due.min(now.saturating_add(u64::try_from(debt).unwrap_or(u64::MAX))))
        };
        // The closure always returns a value, so this cannot fail.
        let _set = self
            .due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, shorter);
    }

    fn pace(&self) -> Option<u64> {
        Some(self.pace.load(Ordering::Relaxed)).filter(|pace| *pace > 0)
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

impl Deref for UserPermit {
    type Target = Arc<Account>;

    fn deref(&self) -> &Arc<Account> {
        &self.0
    }
}

impl Drop for UserPermit {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
        self.0.active.decrement(1.0);
    }
}

/// The least that a waiting tunnel may move: a TLS record, or 20 ms' worth if that is more, so that
/// it is not woken for a few bytes; never more than a burst.
fn portion(pace: u64) -> u64 {
    (pace / 50).max(16 * 1024).min(pace)
}

fn nanoseconds(bytes: u64, pace: u64) -> u64 {
    bytes.saturating_mul(SECOND_NS).div_ceil(pace)
}

const SECOND_NS: u64 = 1_000_000_000;
/// A user that was silent may move a second's worth at once.
const BURST_NS: u64 = SECOND_NS;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn accounts(users: &[(&str, u64)], before: &Accounts) -> Accounts {
        let users: Vec<_> = users.iter().map(|(name, pace)| (id(name), *pace)).collect();
        let series = |_: &UserId| (Gauge::noop(), Counter::noop());
        Accounts::new(
            users.iter().map(|(user, pace)| (user, Some(*pace))),
            before,
            series,
        )
    }

    fn account(accounts: &Accounts, user: &str) -> Arc<Account> {
        Arc::clone(accounts.0.get(&id(user)).unwrap())
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn an_account_grants_max_permits_and_takes_them_back() {
        let all = accounts(&[("alice", 0), ("bob", 0)], &Accounts::default());
        let first = all.acquire(&id("alice"), 2).unwrap();
        let _second = all.acquire(&id("alice"), 2).unwrap();
        assert!(all.acquire(&id("alice"), 2).is_none());
        assert!(all.acquire(&id("alice"), 3).is_some(), "the bound may grow");
        assert!(all.acquire(&id("bob"), 1).is_some(), "each has its own");
        assert!(
            all.acquire(&id("carol"), 1).is_none(),
            "who is not configured has none"
        );
        drop(first);
        assert_eq!(account(&all, "alice").tunnels(), 1);
        assert!(all.acquire(&id("alice"), 2).is_some());
    }

    #[test]
    fn an_account_lives_while_its_user_is_configured_or_has_a_tunnel() {
        let first = accounts(
            &[("alice", 0), ("bob", 0), ("carol", 0)],
            &Accounts::default(),
        );
        let _permits = ["alice", "bob"].map(|user| first.acquire(&id(user), 5).unwrap());
        let second = accounts(&[("alice", 0)], &first);
        let names = |all: &Accounts| {
            let mut names: Vec<_> = all
                .iter()
                .map(|account| account.user().as_str().to_owned())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&second), ["alice", "bob"], "carol has no tunnel");
        let third = accounts(&[("bob", 7), ("carol", 0)], &second);
        assert_eq!(names(&third), ["alice", "bob", "carol"]);
        assert_eq!(
            account(&third, "bob").tunnels(),
            1,
            "counted on, though two reloads have come"
        );
        assert_eq!(
            account(&first, "bob").pace(),
            Some(7),
            "which live tunnels hear of"
        );
    }

    #[test]
    fn one_second_may_pass_at_once_and_then_the_even_pace() {
        let user = account(&accounts(&[("alice", MIB)], &Accounts::default()), "alice");
        let start = user.epoch + Duration::from_secs(60);
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(user.allowance(start), MIB);
        user.spend(MIB, start);
        assert_eq!(user.allowance(start), 0);
        assert_eq!(
            user.allowance(after(1)),
            0,
            "crumbs are not worth a wake-up"
        );
        let wait = user.resumes_at() - start;
        assert!(
            (Duration::from_millis(19)..=Duration::from_millis(20)).contains(&wait),
            "20 ms' worth: {wait:?}"
        );
        let enough = user.allowance(user.resumes_at());
        assert!((MIB / 50..=MIB / 50 + 32).contains(&enough), "{enough}");
        assert_eq!(user.allowance(after(500)), MIB / 2);
        user.spend(3 * MIB, after(500));
        assert_eq!(
            user.allowance(after(2_900)),
            0,
            "what was moved beyond it is paid back"
        );
        assert_eq!(user.allowance(after(4_000)), MIB);
        assert_eq!(
            user.allowance(after(60_000)),
            MIB,
            "and no more for a longer silence"
        );
    }

    #[test]
    fn a_reload_that_quickens_shortens_the_wait_and_one_that_slows_leaves_it() {
        let slow = accounts(&[("alice", MIB)], &Accounts::default());
        let user = account(&slow, "alice");
        let wait = || {
            user.resumes_at()
                .saturating_duration_since(Instant::now())
                .as_secs_f64()
        };
        user.spend(101 * MIB, Instant::now());
        assert!((98.0..=100.1).contains(&wait()), "{}", wait());
        let quick = accounts(&[("alice", 100 * MIB)], &slow);
        assert!(wait() < 0.1, "{}", wait());
        user.spend(100 * 100 * MIB, Instant::now());
        assert!((98.0..=101.1).contains(&wait()), "{}", wait());
        let slowed = accounts(&[("alice", 10 * MIB)], &quick);
        assert!((98.0..=101.1).contains(&wait()), "{}", wait());
        let lifted = accounts(&[("alice", 0)], &slowed);
        let _set_anew = accounts(&[("alice", MIB)], &lifted);
        assert!(
            user.allowance(Instant::now()) > 0,
            "nothing is owed for what was moved while any number was allowed"
        );
    }

    #[test]
    fn the_slowest_the_fastest_and_no_rate() {
        for pace in [1_024, 16 * 1024, MIB, 10_000_000_000] {
            let user = account(&accounts(&[("alice", pace)], &Accounts::default()), "alice");
            let mut now = user.epoch;
            let mut moved = 0;
            while now < user.epoch + Duration::from_secs(20) {
                let most = user.allowance(now);
                moved += most;
                user.spend(most, now);
                assert!(most > 0 && user.allowance(now) == 0, "{pace}: {most}");
                assert!(user.resumes_at() > now, "{pace}: nobody spins");
                now = user.resumes_at();
            }
            let (least, most) = (pace * 20, pace * 22);
            assert!(
                (least..=most).contains(&moved),
                "{pace}: {moved} is not 20 seconds' worth and a burst"
            );
        }
        let free = account(&accounts(&[("alice", 0)], &Accounts::default()), "alice");
        free.spend(u64::MAX, free.epoch);
        assert_eq!(free.allowance(free.epoch), u64::MAX);
        assert!(
            free.resumes_at() <= free.epoch,
            "who waited when the limit was lifted goes on"
        );
    }
}
