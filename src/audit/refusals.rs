//! The last refusals and failures, for the status page. Each code has a bounded table, in which
//! each client has few entries and a repeated refusal adds to the count of its entry, so a flood
//! displaces nothing else. Takes no lock, so it stalls no worker. Holds no more than an audit
//! record does.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use time::OffsetDateTime;

use super::record::{TunnelId, TunnelRecord};
use crate::authority::{Destination, UserId};
use crate::limits::client::ClientNetwork;
use crate::outcome::{DenyReason, Ending, Failure};

/// The tables, by code.
#[derive(Debug)]
pub struct Refusals {
    hasher: RandomState,
    next: AtomicU64,
    by_code: HashMap<&'static str, [RefusalEntry; ENTRIES_OF_ONE_CODE]>,
}

/// The entry of one entry. Two threads that fill it at the same moment may combine the numbers of
/// one with the refusal of the other.
#[derive(Debug, Default)]
struct RefusalEntry {
    /// A hash of the client, or of its site (IPv6); 0 if the entry is free.
    client: AtomicU64,
    /// A hash of the client, its user and its destination.
    same: AtomicU64,
    /// Increases with time.
    number: AtomicU64,
    count: AtomicU64,
    last: ArcSwapOption<Refusal>,
}

/// A recent refusal. The fields are those of the audit record.
#[derive(Debug)]
pub struct Refusal {
    /// When it ended.
    pub ts: OffsetDateTime,
    /// The record's id.
    pub id: TunnelId,
    /// `denied` or `failed`.
    pub outcome: &'static str,
    /// The short code.
    pub code: &'static str,
    /// The client's address and port.
    pub client: Option<SocketAddr>,
    /// The user whose credentials it had.
    pub user: Option<UserId>,
    /// The requested host.
    pub host: Option<Destination>,
    /// The requested port.
    pub port: Option<u16>,
    /// The SNI.
    pub sni: Option<Arc<str>>,
    /// Details of the error.
    pub error: Option<Box<str>>,
}

impl Refusals {
    /// Adds a refusal.
    pub fn note(&self, record: &TunnelRecord) {
        let Some(entries) = self.by_code.get(record.code) else {
            return;
        };
        let peer = record.client.map(|client| ClientNetwork::of(client.ip()));
        // One holder may own all networks of an IPv6 site.
        let client = match peer.map(ClientNetwork::site) {
            Some(site) if site.is_ipv6() => self.hasher.hash_one(site),
            _ => self.hasher.hash_one(peer),
        };
        let client = client.max(1);
        let same = self
            .hasher
            .hash_one((peer, &record.user, &record.host, record.port));
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let Some((entry, is_again)) = choose(entries, client, same) else {
            return;
        };
        entry.client.store(client, Ordering::Relaxed);
        entry.same.store(same, Ordering::Relaxed);
        entry.number.store(number, Ordering::Relaxed);
        if is_again {
            entry.count.fetch_add(1, Ordering::Relaxed);
        } else {
            entry.count.store(1, Ordering::Relaxed);
        }
        entry.last.store(Some(Arc::new(Refusal {
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
        })));
    }

    /// A hundred refusals, the newest first, each with its count. Includes the newest of every
    /// code.
    #[must_use]
    pub fn last(&self) -> Vec<(Arc<Refusal>, u64)> {
        let mut noted = Vec::new();
        for entries in self.by_code.values() {
            let mut of_code: Vec<_> = entries.iter().filter_map(RefusalEntry::read).collect();
            of_code.sort_by_key(|(number, ..)| Reverse(*number));
            noted.extend(of_code.into_iter().enumerate());
        }
        // The newest of each code, then the second newest of each, and so on.
        noted.sort_by_key(|(rank, (number, ..))| (*rank, Reverse(*number)));
        noted.truncate(SHOWN);
        noted.sort_by_key(|(_, (number, ..))| Reverse(*number));
        noted
            .into_iter()
            .map(|(_, (_, refusal, count))| (refusal, count))
            .collect()
    }
}

/// Finds the entry of the same refusal and says whether it exists; otherwise the oldest entry of
/// the client if it has used its share, otherwise the oldest of all.
fn choose(
    entries: &[RefusalEntry; ENTRIES_OF_ONE_CODE],
    client: u64,
    same: u64,
) -> Option<(&RefusalEntry, bool)> {
    if let Some(entry) = entries
        .iter()
        .find(|entry| entry.is_of(client) && entry.same.load(Ordering::Relaxed) == same)
    {
        return Some((entry, true));
    }
    let number = |entry: &&RefusalEntry| entry.number.load(Ordering::Relaxed);
    let own = || entries.iter().filter(|entry| entry.is_of(client));
    let oldest = if own().count() >= OF_ONE_CLIENT {
        own().min_by_key(number)
    } else {
        entries.iter().min_by_key(number)
    };
    oldest.map(|entry| (entry, false))
}

impl RefusalEntry {
    fn is_of(&self, client: u64) -> bool {
        self.client.load(Ordering::Relaxed) == client
    }

    fn read(&self) -> Option<(u64, Arc<Refusal>, u64)> {
        let refusal = self.last.load_full()?;
        Some((
            self.number.load(Ordering::Relaxed),
            refusal,
            self.count.load(Ordering::Relaxed),
        ))
    }
}

impl Default for Refusals {
    fn default() -> Self {
        let denied = DenyReason::ALL.iter().map(|reason| reason.code());
        let failed = Failure::ALL.iter().map(|failure| failure.code());
        let codes = denied
            .chain(failed)
            .chain(Ending::ALL.iter().map(|ending| ending.code()));
        let entries = || std::array::from_fn(|_| RefusalEntry::default());
        let by_code = codes.map(|code| (code, entries())).collect();
        Self {
            hasher: RandomState::new(),
            next: AtomicU64::new(0),
            by_code,
        }
    }
}

/// How many refusals are shown.
const SHOWN: usize = 100;
/// Entries of one code.
const ENTRIES_OF_ONE_CODE: usize = 32;
/// How many of those one client, or one IPv6 site, may use.
const OF_ONE_CLIENT: usize = 4;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::record::tests::bare;

    fn record(code: &'static str, client: &str, number: u64) -> TunnelRecord {
        let client = Some(format!("{client}:1").parse().unwrap());
        TunnelRecord {
            id: TunnelId { start: 0, number },
            code,
            client,
            port: u16::try_from(number).ok(),
            ..bare()
        }
    }

    fn shown(refusals: &Refusals) -> Vec<(u64, u64)> {
        refusals
            .last()
            .iter()
            .map(|(refusal, count)| (refusal.id.number, *count))
            .collect()
    }

    #[test]
    fn the_newest_comes_first_and_the_same_again_is_counted() {
        let refusals = Refusals::default();
        assert!(refusals.last().is_empty());
        for number in [1, 2, 1, 1, 3] {
            refusals.note(&record("host_denied", "192.0.2.1", number));
        }
        assert_eq!(shown(&refusals), [(3, 1), (1, 3), (2, 1)]);
        refusals.note(&record("host_denied", "192.0.2.2", 1));
        assert_eq!(
            shown(&refusals),
            [(1, 1), (3, 1), (1, 3), (2, 1)],
            "another client's is another"
        );
    }

    #[test]
    fn a_client_displaces_its_own_and_a_code_its_own() {
        let refusals = Refusals::default();
        refusals.note(&record("host_denied", "192.0.2.1", 1));
        refusals.note(&record("bad_request", "192.0.2.1", 2));
        (100..1_000).for_each(|number| refusals.note(&record("host_denied", "192.0.2.9", number)));
        assert_eq!(
            shown(&refusals),
            [(999, 1), (998, 1), (997, 1), (996, 1), (2, 1), (1, 1)]
        );
        // The addresses of one /48 count as one client, in one /64 or in many.
        for number in 1_000..1_100 {
            let network = if number < 1_050 { 0 } else { number };
            refusals.note(&record(
                "bad_request",
                &format!("[2001:db8:0:{network:x}::{number:x}]"),
                number,
            ));
        }
        assert_eq!(shown(&refusals).len(), 10);
        for number in 0..200 {
            refusals.note(&record(
                "host_denied",
                &format!("198.51.100.{number}"),
                2_000 + number,
            ));
        }
        let now = shown(&refusals);
        assert_eq!(
            now.len(),
            ENTRIES_OF_ONE_CODE + 5,
            "many clients have the code to themselves"
        );
        assert!(now.contains(&(2, 1)) && !now.contains(&(1, 1)));
    }

    #[test]
    fn every_code_has_its_newest_among_the_hundred() {
        let refusals = Refusals::default();
        let codes: Vec<_> = DenyReason::ALL.iter().map(|reason| reason.code()).collect();
        for number in 0..40 {
            for code in &codes {
                refusals.note(&record(code, &format!("192.0.2.{number}"), number));
            }
        }
        let last = refusals.last();
        assert_eq!(last.len(), SHOWN);
        for code in &codes {
            assert!(
                last.iter()
                    .any(|(refusal, _)| refusal.code == *code && refusal.id.number == 39),
                "{code}"
            );
        }
    }

    #[test]
    fn a_flood_from_many_threads_is_noted_while_it_is_read() {
        let refusals = Refusals::default();
        std::thread::scope(|threads| {
            for thread in 0..4_u64 {
                let refusals = &refusals;
                threads.spawn(move || {
                    for number in 0..5_000 {
                        refusals.note(&record(
                            "host_denied",
                            &format!("192.0.{thread}.{}", number % 200),
                            number,
                        ));
                    }
                });
            }
            for _ in 0..1_000 {
                assert!(refusals.last().len() <= ENTRIES_OF_ONE_CODE);
            }
        });
        assert_eq!(refusals.last().len(), ENTRIES_OF_ONE_CODE);
    }
}
