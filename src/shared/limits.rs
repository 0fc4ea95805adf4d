//! The bounds that all workers share, and the keys that they count by. Decides nothing.

use std::sync::atomic::AtomicBool;

use crate::auth::lockout::Lockout;
use crate::authority::UserId;
use crate::limits::budget::Budget;
use crate::limits::client::{ClientNetwork, ClientSite};
use crate::limits::handshakes::HandshakeMemory;
use crate::limits::rate::Rates;
use crate::limits::{Count, Table};

/// The bounds of tunnels and clients, over all workers.
#[derive(Debug)]
pub struct Limits {
    /// The limits that follow from the limit on open files.
    pub budget: Budget,
    /// Set when accept(2) finds no free descriptor, cleared when a descriptor is free again.
    pub is_short: AtomicBool,
    /// Accepted connections by client.
    pub accepts: Rates,
    /// Accepted connections by IPv6 site.
    pub site_accepts: Rates<ClientSite>,
    /// CONNECT requests by client, and by user if the credentials are right.
    pub connects: Rates<Requester>,
    /// Failed logins.
    pub lockout: Lockout,
    /// The number of tunnels, those in set-up included.
    pub tunnels: Count,
    /// Tunnels by client, and by user if users are configured.
    pub clients: Table<Requester>,
    /// Tunnels by IPv6 site, if no users are configured.
    pub sites: Table<ClientSite>,
    /// Long-stalled tunnels by holder.
    pub stalled: Table<Holder>,
    /// The memory pool of unfinished handshakes.
    pub handshakes: HandshakeMemory<Holder>,
    /// Dials beyond the first one of each tunnel, and warm sockets.
    pub attempts: Count,
    /// Warm sockets.
    pub warm: Count,
    /// Refused connections that wait for the client to close.
    pub lingering: Count,
}

/// The key of limits before a tunnel opens: a client, and its user if users are configured. Users
/// behind one address therefore do not share a limit with each other or with a stranger.
pub type Requester = (ClientNetwork, Option<UserId>);

/// The key of limits on open tunnels: the user, from every address, or the client if no users are
/// configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// The user.
    User(UserId),
    /// The client.
    Client(ClientNetwork),
}

impl Limits {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            budget,
            is_short: Default::default(),
            accepts: Default::default(),
            site_accepts: Default::default(),
            connects: Default::default(),
            lockout: Default::default(),
            tunnels: Default::default(),
            clients: Default::default(),
            sites: Default::default(),
            stalled: Default::default(),
            handshakes: Default::default(),
            attempts: Default::default(),
            warm: Default::default(),
            lingering: Default::default(),
        }
    }
}
