//! The last refusals and failures, for whoever watches the daemon: a bounded ring of what their audit records say. Takes
//! no lock, so that a flood of refusals on all workers stalls none of them. Holds no more than an audit record does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use time::OffsetDateTime;

use super::record::{TunnelId, TunnelRecord};
use crate::authority::{Destination, UserId};

/// The ring.
#[derive(Debug)]
pub struct Refusals {
    next: AtomicUsize,
    slots: [ArcSwapOption<Refusal>; SLOTS],
}

/// One of them. The fields are those of the audit record.
#[derive(Debug)]
pub struct Refusal {
    number: usize,
    /// When it ended.
    pub ts: OffsetDateTime,
    /// The record's.
    pub id: TunnelId,
    /// `denied` or `failed`.
    pub outcome: &'static str,
    /// The short code.
    pub code: &'static str,
    /// The client's address and port.
    pub client: Option<SocketAddr>,
    /// Whose credentials it had.
    pub user: Option<UserId>,
    /// The host asked for.
    pub host: Option<Destination>,
    /// The port asked for.
    pub port: Option<u16>,
    /// What the ClientHello named.
    pub sni: Option<Arc<str>>,
    /// What went wrong in detail.
    pub error: Option<Box<str>>,
}

impl Refusals {
    /// Notes one.
    pub fn note(&self, record: &TunnelRecord) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let refusal = Refusal {
            number,
            ts: record.ts,
            id: record.id,
            outcome: record.outcome,
            code: record.code,
            client: record.client,
            user: record.user.clone(),
            host: record.host.clone(),
            port: record.port,
            sni: record.hello.as_ref().and_then(|hello| hello.sni.clone()),
            error: record.error.clone(),
        };
        if let Some(slot) = self.slots.get(number % SLOTS) {
            slot.store(Some(Arc::new(refusal)));
        }
    }

    /// The last hundred of them, the newest first.
    #[must_use]
    pub fn last(&self) -> Vec<Arc<Refusal>> {
        let mut noted: Vec<_> = self.slots.iter().filter_map(ArcSwapOption::load_full).collect();
        noted.sort_by_key(|refusal| std::cmp::Reverse(refusal.number));
        noted.truncate(SHOWN);
        noted
    }
}

impl Default for Refusals {
    fn default() -> Self {
        Self { next: AtomicUsize::new(0), slots: [const { ArcSwapOption::const_empty() }; SLOTS] }
    }
}

/// How many are shown.
const SHOWN: usize = 100;
/// More than are shown: those that are just being written may be out of turn.
const SLOTS: usize = 128;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::record::tests::bare;

    fn record(number: u64) -> TunnelRecord {
        TunnelRecord { id: TunnelId { start: 0, number }, error: Some("why".into()), ..bare() }
    }

    fn numbers(refusals: &Refusals) -> Vec<u64> {
        refusals.last().iter().map(|refusal| refusal.id.number).collect()
    }

    #[test]
    fn the_newest_hundred_are_kept_the_newest_first() {
        let refusals = Refusals::default();
        assert!(refusals.last().is_empty());
        for number in 0..3 {
            refusals.note(&record(number));
        }
        assert_eq!(numbers(&refusals), [2, 1, 0]);
        for number in 3..1_000 {
            refusals.note(&record(number));
        }
        assert_eq!(numbers(&refusals), (900..1_000).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_flood_from_many_threads_is_noted_while_it_is_read() {
        let refusals = Refusals::default();
        std::thread::scope(|threads| {
            for thread in 0..4 {
                let refusals = &refusals;
                threads.spawn(move || (0..20_000).for_each(|number| refusals.note(&record(thread * 20_000 + number))));
            }
            for _ in 0..1_000 {
                assert!(refusals.last().len() <= SHOWN);
            }
        });
        assert_eq!(refusals.last().len(), SHOWN);
    }
}
