//! Who asks for a name, and which address families it may have.

use std::net::IpAddr;

use crate::authority::UserId;
use crate::limits::client::{ClientNetwork, ClientSite};

/// Address families that may be dialled: those with an egress address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Families {
    /// A records are asked for.
    pub v4: bool,
    /// AAAA records are asked for.
    pub v6: bool,
}

/// Who asks, and for what kind of name.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Whose share of the look-ups in flight it takes.
    pub holder: Holder,
    /// Whether the operator wrote the name. Others are made up by peers: of a wildcard, or in report mode.
    pub is_named: bool,
}

/// Who has one share of the look-ups in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A user, wherever it connects from.
    User(UserId),
    /// Where there are no users, an IPv4 address.
    Client(ClientNetwork),
    /// Where there are no users, an IPv6 /48: one holder can have all of its /64s.
    Site(ClientSite),
}

impl Holder {
    /// The user if there is one, else who has this address.
    #[must_use]
    pub fn of(user: Option<&UserId>, address: IpAddr) -> Self {
        let client = ClientNetwork::of(address);
        match user {
            Some(user) => Self::User(user.clone()),
            None if client.site().is_ipv6() => Self::Site(client.site()),
            None => Self::Client(client),
        }
    }
}

impl Families {
    pub(super) const BOTH: Self = Self { v4: true, v6: true };

    /// The families of these egress addresses.
    #[must_use]
    pub fn of(egress: impl Iterator<Item = IpAddr>) -> Self {
        egress.fold(
            Self {
                v4: false,
                v6: false,
            },
            |found, address| Self {
                v4: found.v4 || address.is_ipv4(),
                v6: found.v6 || address.is_ipv6(),
            },
        )
    }

    /// Whether there is none, so that nothing may be dialled.
    #[must_use]
    pub fn is_empty(self) -> bool {
        !(self.v4 || self.v6)
    }

    pub(super) fn has(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}
