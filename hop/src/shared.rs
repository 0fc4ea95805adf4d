//! What all connections share: the configuration, the files of each listener, bounds, counters and events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sealway::config::Config;
use sealway::limits::Count;
use sealway::limits::client::ClientSite;
use sealway::limits::rate::Rates;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use crate::events::Events;
use crate::header::Token;
use crate::material::Material;
use crate::metrics::{Dates, Metrics, Moment};
use crate::places::Places;

/// The state of the program.
#[derive(Debug)]
pub struct Hop {
    /// Notified when a listener has a new token for the daemon.
    pub offered: Notify,
    /// The configuration in force.
    pub config: watch::Sender<Arc<Config>>,
    /// The TLS listeners, in the order of the configuration.
    pub listeners: Vec<Arc<Listener>>,
    /// Counters.
    pub metrics: Metrics,
    /// Events that wait for the daemon.
    pub events: Events,
    /// Unfinished handshakes.
    pub places: Places,
    /// Refused clients that may still read their alert.
    pub lingering: Count,
    /// Connections by client.
    pub rates: Rates,
    /// Connections by IPv6 site.
    pub site_rates: Rates<ClientSite>,
    /// The bounds.
    pub bounds: Bounds,
    /// Connections past their handshake without a request.
    pub idle: Places,
    /// Whether the program takes no more requests.
    pub draining: watch::Sender<bool>,
    /// Whether the program ends, and sessions with it.
    pub stop: watch::Sender<bool>,
    /// Accepts and runs handshakes, on threads of their own, so that strangers delay no session.
    pub handshakes: Handle,
    /// Runs sessions.
    pub sessions: Handle,
}

/// One TLS listener.
#[derive(Debug)]
pub struct Listener {
    /// Its address, with the port that the kernel chose for 0.
    pub address: SocketAddr,
    /// Its address in the configuration.
    pub configured: SocketAddr,
    /// Its files.
    pub material: watch::Sender<Arc<Material>>,
    /// The daemon behind it.
    pub target: watch::Sender<Target>,
    /// What replaces `target` once the daemon accepts it.
    pub next: watch::Sender<Option<Target>>,
}

/// The daemon's listener for the hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its address, on loopback.
    pub address: SocketAddr,
    /// What it knows the hop by.
    pub token: Token,
}

/// Bounds that follow from the machine.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Unfinished handshakes.
    pub waiting: usize,
    /// Sessions at once: two descriptors each.
    pub sessions: usize,
    /// Those of them that may be without a request.
    pub idle: usize,
}

impl Bounds {
    /// The bounds of a process with this many descriptors.
    #[must_use]
    pub fn of(descriptors: u64, pending: usize) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let waiting = pending.min(descriptors / 4).max(1);
        let rest = descriptors.saturating_sub(waiting + OWN_DESCRIPTORS);
        Self {
            waiting,
            sessions: (rest / 2).max(1),
            idle: (rest / 8).max(1),
        }
    }
}

impl Hop {
    /// Resolves when the program takes no more requests.
    pub async fn draining(&self) {
        let mut draining = self.draining.subscribe();
        // Fails only when the sender is gone, and it is in self.
        let _draining = draining.wait_for(|draining| *draining).await;
    }

    /// Resolves when the remaining sessions end.
    pub async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // Fails only when the sender is gone, and it is in self.
        let _stopped = stop.wait_for(|stop| *stop).await;
    }

    /// The gauges of this moment.
    #[must_use]
    pub fn moment(&self) -> Moment {
        let dates = self.listeners.iter().map(|listener| {
            let material = listener.material.borrow();
            Dates {
                listener: listener.address,
                certificate: material.certificate_expires,
                crl: material.crl_expires,
            }
        });
        Moment {
            dates: dates.collect(),
            waiting: self.places.taken(),
            idle: self.idle.taken(),
            events_waiting: self.events.waiting(),
        }
    }

    /// The daemon that takes the events.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        let first = self.listeners.first()?;
        Some(first.target.borrow().clone())
    }
}

/// The time, in seconds of Unix time.
#[must_use]
pub fn unix_now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Listeners, the admin listener, events, the log, epoll.
const OWN_DESCRIPTORS: usize = 64;
