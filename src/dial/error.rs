//! Why no upstream was connected, and which of several failures says most. Pure.

use std::io;
use std::net::IpAddr;

use crate::policy::guard::Forbidden;
use crate::sys;

/// Why no upstream was connected.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No address of the name has a family with an egress address.
    #[error("no egress address of the upstream's family")]
    NoFamily,
    /// An address leads to this host, or to several hosts.
    #[error("{0}")]
    Denied(#[from] Forbidden),
    /// The kernel does not say where an address leads.
    #[error("the kernel does not report a route to the upstream: {0}")]
    Routing(#[source] io::Error),
    /// No descriptor or memory is free for a socket.
    #[error("no socket: {0}")]
    Socket(#[source] io::Error),
    /// The egress address is not on this host, or the kernel chose another source.
    #[error("the egress address {0} cannot be used")]
    Egress(IpAddr),
    /// Every port of the egress address towards this upstream is in use.
    #[error("no free port on {0} towards the upstream")]
    Ports(IpAddr),
    /// There is no route, or a firewall rejects the connection.
    #[error("unreachable: {0}")]
    Unreachable(#[source] io::Error),
    /// The kernel gave up.
    #[error("no answer: {0}")]
    Timeout(#[source] io::Error),
    /// The connection was reset.
    #[error("reset: {0}")]
    Reset(#[source] io::Error),
    /// No process listens.
    #[error("refused: {0}")]
    Refused(#[source] io::Error),
}

impl DialError {
    pub(super) fn of_connect(error: io::Error, source: IpAddr) -> Self {
        match error.kind() {
            // The bind succeeded, so the address is present: connect(2) found no free port.
            io::ErrorKind::AddrNotAvailable => Self::Ports(source),
            io::ErrorKind::ConnectionRefused => Self::Refused(error),
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset(error),
            io::ErrorKind::TimedOut => Self::Timeout(error),
            _ if sys::is_out_of_descriptors(&error) => Self::Socket(error),
            _ => Self::Unreachable(error),
        }
    }

    pub(super) fn or_worse(self, other: Self) -> Self {
        if other.rank() >= self.rank() {
            other
        } else {
            self
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NoFamily => 0,
            Self::Socket(_) => 1,
            Self::Routing(_) => 2,
            Self::Egress(_) => 3,
            Self::Ports(_) => 4,
            Self::Unreachable(_) => 5,
            Self::Timeout(_) => 6,
            Self::Reset(_) => 7,
            Self::Refused(_) => 8,
            Self::Denied(_) => 9,
        }
    }
}
