//! Asks the kernel for the route of a connection (rtnetlink(7), `RTM_GETROUTE`), and listens for
//! changes of routes.
//!
//! One request, one answer, both in messages of a fixed shape. The kernel answers before send(2)
//! returns, without the lock that changes of routes hold. Never changes a route, and never caches
//! an answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, recv,
    send, socket,
};

/// What the kernel does with packets to an address (rtnetlink(7), `rtm_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends them to another host.
    Unicast,
    /// Delivers them to this host, or sends them over its loopback interface, which has the same
    /// effect: an IPv6 address that is being added has such a route before the one of type local.
    Local,
    /// Delivers them to several hosts: broadcast, anycast, multicast and all others.
    Other,
    /// Drops them: there is no route, and connect(2) would fail with this error number.
    None(i32),
}

/// A socket for route requests.
#[derive(Debug)]
pub struct Routes {
    socket: OwnedFd,
    sequence: u32,
}

/// A socket that receives every change of addresses, links, routes and rules, of both families.
#[derive(Debug)]
pub struct RouteChanges(OwnedFd);

impl Routes {
    /// Opens the socket.
    ///
    /// # Errors
    /// EMFILE or ENFILE when no descriptor is free; EAFNOSUPPORT if a filter forbids netlink.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: netlink(SockProtocol::NetlinkRoute, 0)?,
            sequence: 0,
        })
    }

    /// Asks what the kernel does with TCP packets from `source` to `destination`, which are of the
    /// same family.
    ///
    /// # Errors
    /// The kernel does not answer: `InvalidData` if the message is not an answer to this question,
    /// ENOBUFS if memory is short.
    pub fn ask(&mut self, source: IpAddr, destination: SocketAddr) -> io::Result<RouteKind> {
        // connect(2) replaces the unspecified address by a loopback one; a question for `::` has
        // the answer of any other address.
        if destination.ip().to_canonical().is_unspecified() {
            return Ok(RouteKind::Local);
        }
        let mut buffer = [0; ANSWER_BYTES];
        let answer = self.answer(source, destination, &mut buffer)?;
        understood(answer, self.sequence)
    }

    /// As [`Routes::ask`], with the number of the interface by which the packets leave.
    ///
    /// # Errors
    /// As [`Routes::ask`].
    pub fn ask_device(
        &mut self,
        source: IpAddr,
        destination: SocketAddr,
    ) -> io::Result<(RouteKind, Option<u32>)> {
        let mut buffer = [0; ANSWER_BYTES];
        let answer = self.answer(source, destination, &mut buffer)?;
        let kind = understood(answer, self.sequence)?;
        let is_error = matches!(kind, RouteKind::None(_));
        Ok((kind, interface(answer).filter(|_| !is_error)))
    }

    /// Whether the kernel delivers packets for this address to this host (`RTN_LOCAL`).
    ///
    /// # Errors
    /// As [`Routes::ask`].
    pub fn is_own(&mut self, address: IpAddr) -> io::Result<bool> {
        // Without a source: a rule for packets from the address says nothing about packets for it.
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut buffer = [0; ANSWER_BYTES];
        let answer = self.answer(any, SocketAddr::new(address, ANY_PORT), &mut buffer)?;
        let is_route = !matches!(understood(answer, self.sequence)?, RouteKind::None(_));
        Ok(is_route && piece(answer, HEADER + ROUTE_TYPE) == Some([nix::libc::RTN_LOCAL]))
    }

    /// One question and the kernel's answer to it, which [`understood`] reads.
    fn answer<'b>(
        &mut self,
        source: IpAddr,
        destination: SocketAddr,
        buffer: &'b mut [u8; ANSWER_BYTES],
    ) -> io::Result<&'b [u8]> {
        self.sequence = self.sequence.wrapping_add(1);
        send(
            self.socket.as_raw_fd(),
            &question(source, destination, self.sequence),
            MsgFlags::MSG_DONTWAIT,
        )?;
        // The answer is shorter; attributes that a later kernel may add are cut off.
        let read = recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?;
        Ok(buffer.get(..read).unwrap_or_default())
    }
}

impl RouteChanges {
    /// Opens the socket; it receives all later changes.
    ///
    /// # Errors
    /// As [`Routes::open`].
    pub fn open() -> io::Result<Self> {
        Ok(Self(netlink(SockProtocol::NetlinkRoute, GROUPS)?))
    }

    /// Whether something may have changed since the last call. Reads at most 64 messages; more of
    /// them are a change for the next call.
    #[must_use]
    pub fn any(&self) -> bool {
        let heard = || match recv(self.0.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => false,
            // Any error counts, such as ENOBUFS: the kernel dropped messages.
            Ok(_) | Err(_) => true,
        };
        let first = heard();
        if first {
            let _rest = (0..MESSAGES_MAX).take_while(|_| heard()).count();
        }
        first
    }
}

/// Opens a netlink socket that talks only to the kernel and receives these groups.
pub(super) fn netlink(protocol: SockProtocol, groups: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    // From now on the kernel rejects messages of other processes.
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// `nlmsghdr`, `rtmsg` and attributes: the addresses, and the other selectors of a rule, which are
/// protocol and port (ip-rule(8): `ipproto`, `dport`). The source port is unknown before the
/// connection exists.
fn question(source: IpAddr, destination: SocketAddr, sequence: u32) -> Vec<u8> {
    let (family, to, from) = match (destination.ip(), source) {
        (IpAddr::V4(to), IpAddr::V4(from)) => (
            nix::libc::AF_INET,
            to.octets().to_vec(),
            from.octets().to_vec(),
        ),
        (to, from) => (nix::libc::AF_INET6, sixteen(to), sixteen(from)),
    };
    let bits = u8::try_from(to.len() * 8).unwrap_or_default();
    let attribute = |kind: u16, value: &[u8]| {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or_default();
        let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
        [&length.to_ne_bytes(), &kind.to_ne_bytes(), value, &padding].concat()
    };
    let attributes = [
        attribute(nix::libc::RTA_DST, &to),
        attribute(nix::libc::RTA_SRC, &from),
        attribute(RTA_IP_PROTO, &[TCP]),
        attribute(RTA_DPORT, &destination.port().to_be_bytes()),
    ]
    .concat();
    let family = u8::try_from(family).unwrap_or_default();
    // Family and the length of both addresses in bits, then zeros: tos, table, protocol, scope,
    // type, flags.
    let route = [&[family, bits, bits][..], &[0; ROUTE_HEADER - 3]].concat();
    let length = u32::try_from(HEADER + route.len() + attributes.len()).unwrap_or_default();
    let (kind, flags) = (
        nix::libc::RTM_GETROUTE,
        u16::try_from(nix::libc::NLM_F_REQUEST).unwrap_or_default(),
    );
    let header = [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &sequence.to_ne_bytes(),
        &0_u32.to_ne_bytes(),
    ]
    .concat();
    [header, route, attributes].concat()
}

fn sixteen(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Parses a complete answer to this question.
fn understood(answer: &[u8], sequence: u32) -> io::Result<RouteKind> {
    let unknown = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = u16::from_ne_bytes(piece(answer, 4).ok_or_else(unknown)?);
    if u32::from_ne_bytes(piece(answer, 8).ok_or_else(unknown)?) != sequence {
        return Err(unknown());
    }
    if i32::from(kind) == nix::libc::NLMSG_ERROR {
        let errno = i32::from_ne_bytes(piece(answer, HEADER).ok_or_else(unknown)?);
        return if errno < 0 {
            Ok(RouteKind::None(-errno))
        } else {
            Err(unknown())
        };
    }
    if kind != nix::libc::RTM_NEWROUTE {
        return Err(unknown());
    }
    let [route] = piece(answer, HEADER + ROUTE_TYPE).ok_or_else(unknown)?;
    Ok(match route {
        nix::libc::RTN_UNICAST if interface(answer) == Some(LOOPBACK) => RouteKind::Local,
        nix::libc::RTN_UNICAST => RouteKind::Unicast,
        nix::libc::RTN_LOCAL => RouteKind::Local,
        _ => RouteKind::Other,
    })
}

/// The index of the interface by which a route leaves (`RTA_OIF`).
fn interface(answer: &[u8]) -> Option<u32> {
    let mut at = HEADER + ROUTE_HEADER;
    loop {
        let length = usize::from(u16::from_ne_bytes(piece(answer, at)?));
        if u16::from_ne_bytes(piece(answer, at + 2)?) == nix::libc::RTA_OIF {
            return Some(u32::from_ne_bytes(piece(answer, at + ATTRIBUTE_HEADER)?));
        }
        // Attributes are aligned to four bytes. One shorter than its header is the end.
        at += length.max(ATTRIBUTE_HEADER).next_multiple_of(4);
    }
}

pub(super) fn piece<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// `nlmsghdr`: length, type, flags, sequence, port.
const HEADER: usize = 16;
/// `rtattr`: length and type.
const ATTRIBUTE_HEADER: usize = 4;
/// `rtmsg`.
const ROUTE_HEADER: usize = 12;
/// The offset of the type in `rtmsg`: after family, both lengths, tos, table, protocol and scope.
const ROUTE_TYPE: usize = 7;
/// `rtnetlink.h` of Linux 4.17 and later; libc has no constants for these.
const RTA_IP_PROTO: u16 = 27;
const RTA_DPORT: u16 = 29;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// The index of `lo` in every network namespace (the kernel's `LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;
/// Discard (RFC 863): a rule that selects by port is not meant.
const ANY_PORT: u16 = 9;
/// Header, `rtmsg` and the attributes that an answer can have; some 200 bytes come.
const ANSWER_BYTES: usize = 4_096;
/// Groups for links, addresses, routes and rules.
const GROUPS: u32 = (nix::libc::RTMGRP_LINK
    | nix::libc::RTMGRP_IPV4_IFADDR
    | nix::libc::RTMGRP_IPV4_ROUTE
    | nix::libc::RTMGRP_IPV4_RULE
    | nix::libc::RTMGRP_IPV6_IFADDR
    | nix::libc::RTMGRP_IPV6_ROUTE
    | RTMGRP_IPV6_RULE)
    .cast_unsigned();
/// `RTNLGRP_IPV6_RULE` as a bit; libc has no constant for it.
const RTMGRP_IPV6_RULE: i32 = 1 << 18;
/// A router that learns a whole table sends more; then each call reports one change.
const MESSAGES_MAX: usize = 63;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
