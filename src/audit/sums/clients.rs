//! The clients whose refusals are counted, by site, and what each may have written of it. Bounded: a site has half of the
//! places of a table, so that no site keeps the clients of others out. Never waits.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Sum;
use crate::limits::bucket::{Bucket, Rate};
use crate::limits::client::{ClientNetwork, ClientSite};

/// Clients and the sites that they are part of. All clients of a site are in one table.
#[derive(Debug, Default)]
pub(super) struct Clients {
    clients: HashMap<ClientNetwork, Client>,
    sites: HashMap<ClientSite, Site>,
    /// When those with all of their rate were forgotten last.
    forgot: Option<Instant>,
}

/// One client: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Debug, Default)]
pub(super) struct Client {
    at_once: Bucket,
    pub(super) sums: Vec<Sum>,
}

/// The clients of one IPv4 /24 or IPv6 /48.
#[derive(Debug, Default)]
pub(super) struct Site {
    at_once: Bucket,
    /// Sums of its clients that wait for the writer.
    pub(super) sums: usize,
    clients: usize,
}

impl Clients {
    /// The entry of a client and that of its site. None while the table, or the site's half of it, is full of clients that were
    /// refused lately.
    pub(super) fn entry(
        &mut self,
        network: ClientNetwork,
        now: Instant,
    ) -> Option<(&mut Client, &mut Site)> {
        let site = network.site();
        if !self.clients.contains_key(&network) {
            let pause = |at| now.saturating_duration_since(at) < FORGET_PAUSE;
            if self.is_full(site) && !self.forgot.is_some_and(pause) {
                self.forget_old(now);
            }
            if self.is_full(site) {
                return None;
            }
            self.sites.entry(site).or_default().clients += 1;
        }
        let client = self.clients.entry(network).or_default();
        Some((client, self.sites.entry(site).or_default()))
    }

    fn is_full(&self, site: ClientSite) -> bool {
        let of_site = self.sites.get(&site).map(|site| site.clients);
        self.clients.len() >= CLIENTS_MAX
            || of_site.is_some_and(|clients| clients >= SITE_CLIENTS_MAX)
            || (of_site.is_none() && self.sites.len() >= CLIENTS_MAX)
    }

    /// Forgets each client that has all of its rate again and no sum, and each site that has no client and all of its rate.
    fn forget_old(&mut self, now: Instant) {
        self.forgot = Some(now);
        let Self { clients, sites, .. } = self;
        clients.retain(|network, client| {
            let is_kept = !client.sums.is_empty() || !client.at_once.is_full(now);
            if !is_kept && let Some(site) = sites.get_mut(&network.site()) {
                site.clients = site.clients.saturating_sub(1);
            }
            is_kept
        });
        sites.retain(|_, site| site.clients > 0 || !site.at_once.is_full(now));
    }

    /// Moves all sums to `taken`.
    pub(super) fn take(&mut self, taken: &mut Vec<Sum>) {
        for client in self.clients.values_mut() {
            taken.append(&mut client.sums);
        }
        for site in self.sites.values_mut() {
            site.sums = 0;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.clients.len().max(self.sites.len())
    }
}

/// Takes a record that is written at once from the client, its site and all clients together, if each has one.
pub(super) fn take_record(
    client: &mut Client,
    site: &mut Site,
    all: &mut Bucket,
    now: Instant,
) -> bool {
    let has = client.at_once.has(now, CLIENT_RATE) && site.at_once.has(now, SITE_RATE);
    let has = has && all.take(now, RATE);
    if has {
        client.at_once.take(now, CLIENT_RATE);
        site.at_once.take(now, SITE_RATE);
    }
    has
}

/// Records that one client has at once: a minute's worth, then one a second.
const CLIENT_RATE: Rate = Rate::new(60, Duration::from_secs(1));
/// Records that all clients of a class have at once, together: 64 a second.
pub(super) const RATE: Rate = Rate::new(1_024, Duration::from_nanos(1_000_000_000 / 64));
/// Half of that for the clients of one site.
const SITE_RATE: Rate = Rate::new(512, Duration::from_nanos(1_000_000_000 / 32));
/// In one of the tables of a class; with all of them 16,384 clients in each class, about 1 MB without their sums.
pub(super) const CLIENTS_MAX: usize = 256;
/// An IPv6 /48 is 65,536 clients at no cost.
const SITE_CLIENTS_MAX: usize = CLIENTS_MAX / 2;
/// A look at each client of a table that is full takes some microseconds, and a flood would have one for each refusal.
const FORGET_PAUSE: Duration = Duration::from_millis(20);
