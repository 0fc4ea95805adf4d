//! The origin of a look-up, and the address families that it may return.

use std::net::IpAddr;

use crate::authority::UserId;
use crate::limits::client::{ClientNetwork, ClientSite};

/// Address families that may be dialled: those with an egress address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Families {
    /// A records are queried.
    pub v4: bool,
    /// AAAA records are queried.
    pub v6: bool,
}

/// The origin of a look-up and the kind of its name.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The holder whose share of the look-ups in flight this one uses.
    pub holder: Holder,
    /// Whether the operator wrote the name. Peers choose the names below a wildcard and in report
    /// mode.
    pub is_named: bool,
}

/// The holder of one share of the look-ups in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A user, from any address.
    User(UserId),
    /// Without users: an IPv4 address.
    Client(ClientNetwork),
    /// Without users: an IPv6 /48, because one site controls all of its /64s.
    Site(ClientSite),
}

impl Holder {
    /// The user if there is one, otherwise the network of this address.
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

    /// Whether no family has an egress address, so nothing may be dialled.
    #[must_use]
    pub fn is_empty(self) -> bool {
        !(self.v4 || self.v6)
    }

    pub(super) fn has(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}
