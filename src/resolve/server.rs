//! The address of a name server, with the zone of a link-local one (RFC 4007, section 11).
//!
//! Keeps the zone as written and looks up the interface's index for each query, because an
//! interface can appear after the start or be replaced by another of the same name.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::sys;

/// The address and port of a name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    ip: IpAddr,
    port: u16,
    /// An interface by name or index; only with a link-local address.
    zone: Option<Box<str>>,
}

/// Why a text is not the address of a name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerTextError {
    /// Not an IP address, or brackets and a port where only an address is allowed.
    #[error("not an IP address")]
    NoAddress,
    /// Not `ip:port`.
    #[error("not ip:port or [ip]:port, such as \"192.0.2.53:53\"")]
    NoPort,
    /// The port is 0.
    #[error("nobody answers on port 0")]
    PortZero,
    /// A link-local address without a zone; it is a different host on each interface.
    #[error("a link-local address needs the interface after a %, as in fe80::53%eth0")]
    NoZone,
    /// A multicast or broadcast address.
    #[error("no single host has this address")]
    Many,
}

impl Server {
    /// Parses `ip` or `ip%zone` with port 53, as in resolv.conf(5). An IPv4-mapped IPv6 address
    /// becomes the IPv4 address; the unspecified address becomes loopback, as in the kernel.
    ///
    /// # Errors
    /// Why no server can be queried there.
    pub fn parse_address(text: &str) -> Result<Self, ServerTextError> {
        Self::new(text, DNS_PORT)
    }

    /// Parses `ip:port` or `[ip%zone]:port`.
    ///
    /// # Errors
    /// Why no server can be queried there.
    pub fn parse(text: &str) -> Result<Self, ServerTextError> {
        let (host, port) = text.rsplit_once(':').ok_or(ServerTextError::NoPort)?;
        let port = port.parse().map_err(|_| ServerTextError::NoPort)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let server = match bracketed {
            Some(inner) if inner.contains(':') => Self::new(inner, port),
            None if !host.contains(':') => Self::new(host, port),
            _ => return Err(ServerTextError::NoPort),
        };
        match server {
            Err(ServerTextError::NoAddress) => Err(ServerTextError::NoPort),
            Ok(_) if port == 0 => Err(ServerTextError::PortZero),
            server => server,
        }
    }

    /// The server that resolv.conf(5) implies when it names none: 127.0.0.1.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self {
            ip: Ipv4Addr::LOCALHOST.into(),
            port: DNS_PORT,
            zone: None,
        }
    }

    /// The socket address to query now.
    ///
    /// # Errors
    /// `NotFound` while no interface has the zone's name.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match (self.ip, self.zone.as_deref()) {
            (IpAddr::V6(ip), Some(zone)) => {
                let index = match zone.parse() {
                    Ok(number) => number,
                    Err(_) => sys::interface_index(zone).map_err(|_| {
                        io::Error::new(io::ErrorKind::NotFound, format!("no interface {zone}"))
                    })?,
                };
                Ok(SocketAddrV6::new(ip, self.port, 0, index).into())
            }
            (ip, _) => Ok(SocketAddr::new(ip, self.port)),
        }
    }

    fn new(text: &str, port: u16) -> Result<Self, ServerTextError> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().map_err(|_| ServerTextError::NoAddress)?;
        let ip = match ip.to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(ServerTextError::Many);
        }
        // glibc also ignores a zone of an address that needs none.
        let is_of_a_link = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        match zone.filter(|zone| !zone.is_empty()) {
            None if is_of_a_link => Err(ServerTextError::NoZone),
            zone => Ok(Self {
                ip,
                port,
                zone: zone.filter(|_| is_of_a_link).map(Into::into),
            }),
        }
    }
}

impl std::fmt::Display for Server {
    /// Writes the address with its zone, and with its port unless that is 53.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let zone = self
            .zone
            .as_ref()
            .map(|zone| format!("%{zone}"))
            .unwrap_or_default();
        match self.ip {
            ip if self.port == DNS_PORT => write!(f, "{ip}{zone}"),
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}{zone}]:{}", self.port),
        }
    }
}

const DNS_PORT: u16 = 53;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_stays_with_a_link_local_address_only() {
        for (text, wanted) in [
            ("fe80::53%eth0", "fe80::53%eth0"),
            ("fe80::53%7", "fe80::53%7"),
            ("2001:db8::53%eth0", "2001:db8::53"),
            ("::ffff:192.0.2.53", "192.0.2.53"),
            ("0.0.0.0", "127.0.0.1"),
            ("::", "::1"),
        ] {
            let server = Server::parse_address(text).unwrap();
            assert_eq!(server.to_string(), wanted, "{text}");
        }
        let numbered = Server::parse_address("fe80::53%7").unwrap();
        assert!(matches!(numbered.address().unwrap(), SocketAddr::V6(v6) if v6.scope_id() == 7));
        let unknown = Server::parse_address("fe80::53%no-such-link").unwrap();
        assert_eq!(
            unknown.address().unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn addresses_that_no_server_has_are_refused() {
        for (text, wrong) in [
            ("", ServerTextError::NoAddress),
            ("one.example", ServerTextError::NoAddress),
            ("192.0.2.", ServerTextError::NoAddress),
            ("127.1", ServerTextError::NoAddress),
            ("[2001:db8::1]", ServerTextError::NoAddress),
            ("fe80::53", ServerTextError::NoZone),
            ("fe80::53%", ServerTextError::NoZone),
            ("ff02::fb%eth0", ServerTextError::Many),
            ("255.255.255.255", ServerTextError::Many),
        ] {
            assert_eq!(Server::parse_address(text), Err(wrong), "{text}");
        }
    }

    #[test]
    fn the_configuration_names_a_port_too() {
        for (text, wanted) in [
            ("192.0.2.53:53", "192.0.2.53"),
            ("192.0.2.53:5353", "192.0.2.53:5353"),
            ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
            ("[fe80::53%eth0]:5353", "[fe80::53%eth0]:5353"),
        ] {
            assert_eq!(Server::parse(text).unwrap().to_string(), wanted);
        }
        for (text, wrong) in [
            ("192.0.2.53", ServerTextError::NoPort),
            ("2001:db8::53", ServerTextError::NoPort),
            ("[192.0.2.53]:53", ServerTextError::NoPort),
            ("dns.example:53", ServerTextError::NoPort),
            ("192.0.2.53:70000", ServerTextError::NoPort),
            ("192.0.2.53:0", ServerTextError::PortZero),
            ("[fe80::53]:53", ServerTextError::NoZone),
        ] {
            assert_eq!(Server::parse(text), Err(wrong), "{text}");
        }
    }
}
