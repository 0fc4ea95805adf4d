//! Defines what counts as one client for every limit. A host may use every address of its IPv6 /64,
//! so the /64 is the client. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One client: an IPv4 address (also if written as IPv4-mapped), or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientNetwork(IpAddr);

/// A network whose holder gets many clients at no cost: an IPv6 /48, or an IPv4 /24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientSite(IpAddr);

impl ClientNetwork {
    /// The client of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(first_of(address, 32, 64))
    }

    /// The site of this client.
    #[must_use]
    pub fn site(self) -> ClientSite {
        ClientSite(first_of(self.0, 24, 48))
    }

    /// The first address of the client.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.0
    }
}

impl ClientSite {
    /// Returns its first address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.0
    }

    /// Whether it is a /48, which may hold 65,536 clients.
    #[must_use]
    pub fn is_ipv6(self) -> bool {
        self.0.is_ipv6()
    }
}

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        Self::of(address)
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

impl fmt::Display for ClientSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, if self.0.is_ipv4() { 24 } else { 48 })
    }
}

/// The first address of the network with this many bits.
fn first_of(address: IpAddr, v4_bits: u32, v6_bits: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(32 - v4_bits).unwrap_or(0))
                .into()
        }
        IpAddr::V6(v6) => {
            Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(128 - v6_bits).unwrap_or(0))
                .into()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn client(address: &str) -> ClientNetwork {
        ClientNetwork::of(address.parse().unwrap())
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_a_64() {
        assert_ne!(client("192.0.2.7"), client("192.0.2.8"));
        assert_eq!(client("::ffff:192.0.2.7"), client("192.0.2.7"));
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:0:0:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        let shown = ["192.0.2.7", "2001:db8:1:2:3::4"].map(|address| client(address).to_string());
        assert_eq!(shown, ["192.0.2.7", "2001:db8:1:2::/64"]);
    }

    #[test]
    fn a_site_is_an_ipv4_24_or_a_48() {
        let site = |address| client(address).site();
        assert_eq!(site("192.0.2.7"), site("192.0.2.200"));
        assert_ne!(site("192.0.2.7"), site("192.0.3.7"));
        assert_eq!(
            [site("192.0.2.7"), site("2001:db8:1:2::1")].map(|site| site.to_string()),
            ["192.0.2.0/24", "2001:db8:1::/48"]
        );
        assert_eq!(site("2001:db8:1:2::1"), site("2001:db8:1:ffff::1"));
        assert_ne!(site("2001:db8:1::1"), site("2001:db8:2::1"));
    }
}
