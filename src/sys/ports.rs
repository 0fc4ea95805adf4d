//! The kernel's settings for local ports and first segments, and its search for a free port (ip(7), tcp(7)). Reads settings
//! of the machine and changes none; sets one option of a socket.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

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

/// Whether the kernel begins each connection with small segments and then finds the largest that arrives (ip-sysctl,
/// `tcp_mtu_probing` 2): the size of a first segment says nothing about the path then. False if the setting cannot be read.
#[must_use]
pub fn starts_with_small_segments() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mtu_probing");
    setting.is_ok_and(|setting| setting.trim() == "2")
}

/// Makes connect(2) search all ports of the range at once (`IP_LOCAL_PORT_RANGE`, which covers IPv6
/// too). Otherwise it first tries the ports of one parity, at 0.1 µs each, before it tries the others: with
/// the default range some milliseconds once half of the ports towards one upstream are in use. Linux
/// searches all of them since 6.8 if the socket has a range of its own; this one begins below any
/// range and has no end, so the range of the machine stays in force.
///
/// # Errors
/// ENOPROTOOPT before Linux 6.3.
pub fn search_all(socket: impl AsFd) -> io::Result<()> {
    Ok(setsockopt(&socket, LocalPortRange, &FROM_1)?)
}

/// `IP_LOCAL_PORT_RANGE`, which nix does not define.
#[derive(Clone, Copy, Debug)]
struct LocalPortRange;

nix::setsockopt_impl!(
    LocalPortRange,
    libc::IPPROTO_IP,
    IP_LOCAL_PORT_RANGE,
    u32,
    sockopt::SetStruct<'_, u32>
);

/// Of the kernel's `linux/in.h`; libc does not define it.
const IP_LOCAL_PORT_RANGE: i32 = 51;
/// The first port in the lower half; 0 in the upper half: no last port.
const FROM_1: u32 = 1;
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

    #[test]
    fn a_socket_that_searches_all_ports_takes_one_of_the_machines_range() {
        use std::io::ErrorKind;
        use std::net::{TcpListener, TcpStream};
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                assert!(address.starts_with('['), "a machine without IPv6");
                continue;
            };
            let source = listener.local_addr().unwrap();
            let bound: TcpStream = crate::sys::upstream_socket(source.ip()).unwrap();
            if let Err(error) = search_all(&bound) {
                assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT));
            }
            match crate::sys::connect(&bound, source) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                Ok(()) => assert_ne!(bound.local_addr().unwrap().port(), 0),
            }
        }
    }
}
