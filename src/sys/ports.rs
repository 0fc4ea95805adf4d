//! The kernel's settings for local ports (ip(7), tcp(7)). Changes nothing.

use std::net::IpAddr;

/// How many ports the kernel has for connections from one address to one other (ip(7),
/// `ip_local_port_range`). Returns the kernel's default if the setting cannot be read.
#[must_use]
pub fn ephemeral() -> usize {
    let range =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range
        .split_whitespace()
        .filter_map(|end| end.parse::<usize>().ok());
    match (ends.next(), ends.next()) {
        (Some(first), Some(last)) if first <= last => last - first + 1,
        _ => EPHEMERAL_PORTS,
    }
}

/// Whether the kernel reuses a port in TIME_WAIT for a new connection to the same upstream after a
/// second (tcp(7), `tcp_tw_reuse`; it needs `tcp_timestamps`).
#[must_use]
pub fn reuse() -> Reuse {
    let setting = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default()
    };
    match (
        setting("tcp_timestamps").trim(),
        setting("tcp_tw_reuse").trim(),
    ) {
        ("0", _) | (_, "0") => Reuse::Never,
        (_, "1") => Reuse::Everywhere,
        _ => Reuse::OnLoopback,
    }
}

/// For which connections the kernel reuses ports in TIME_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// None.
    Never,
    /// Connections from or to a loopback address: the kernel's default.
    OnLoopback,
    /// All.
    Everywhere,
}

impl Reuse {
    /// Whether the kernel reuses the port of a connection between these addresses.
    #[must_use]
    pub fn covers(self, local: IpAddr, remote: IpAddr) -> bool {
        match self {
            Self::Never => false,
            Self::OnLoopback => local.is_loopback() || remote.is_loopback(),
            Self::Everywhere => true,
        }
    }

    /// Whether it reuses every port of this address, whatever the other end is.
    #[must_use]
    pub fn covers_all_of(self, local: IpAddr) -> bool {
        match self {
            Self::Never => false,
            Self::OnLoopback => local.is_loopback(),
            Self::Everywhere => true,
        }
    }
}

/// 32,768 to 60,999.
const EPHEMERAL_PORTS: usize = 28_232;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_whose_ports_are_all_reused_is_covered_towards_every_other() {
        let addresses = ["127.0.0.2", "192.0.2.1", "::1", "2001:db8::1"];
        let addresses = addresses.map(|address| address.parse::<IpAddr>().unwrap());
        for reuse in [Reuse::Never, Reuse::OnLoopback, Reuse::Everywhere] {
            let wanted = addresses.map(|local| {
                let mut others = addresses.iter();
                others.all(|remote| reuse.covers(local, *remote))
            });
            assert_eq!(
                addresses.map(|local| reuse.covers_all_of(local)),
                wanted,
                "{reuse:?}"
            );
        }
    }
}
