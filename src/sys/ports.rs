//! What the kernel has of local ports, as its settings say (ip(7), tcp(7)). Changes nothing.

use std::net::IpAddr;

/// How many ports the kernel has for connections from one address to one other (ip(7), `ip_local_port_range`). What
/// cannot be read is taken for the kernel's default.
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

/// Whether the kernel gives a port in TIME_WAIT to a new connection to the same upstream after a second (tcp(7),
/// `tcp_tw_reuse`; it needs `tcp_timestamps`).
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

/// Where ports in TIME_WAIT are given out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// To no connection.
    Never,
    /// To connections from or to a loopback address: the kernel's default.
    OnLoopback,
    /// To all.
    Everywhere,
}

impl Reuse {
    /// Whether a port is given out again that such a connection held.
    #[must_use]
    pub fn covers(self, local: IpAddr, remote: IpAddr) -> bool {
        match self {
            Self::Never => false,
            Self::OnLoopback => local.is_loopback() || remote.is_loopback(),
            Self::Everywhere => true,
        }
    }
}

/// 32,768 to 60,999.
const EPHEMERAL_PORTS: usize = 28_232;
