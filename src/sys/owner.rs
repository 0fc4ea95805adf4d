//! Asks the kernel which user owns the other end of a TCP connection on this machine
//! (sock_diag(7)).
//!
//! Answers only for a connected socket that a process has open: the kernel reports uid 0 for a
//! socket without a process and for one in TIME_WAIT, so a stranger could pass for root by closing
//! early.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, SockProtocol, recv, send};

use super::routes::{netlink, piece};

/// The uid, in this process' user namespace, of the process that created the socket at `local`
/// connected to `remote`. None: there is no such socket, or its user is not mapped in this
/// namespace.
///
/// # Errors
/// The kernel cannot be asked: no descriptor or memory is free, netlink is forbidden, or the module
/// `tcp_diag` is missing.
pub fn owner_of(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let socket = netlink(SockProtocol::NetlinkSockDiag, 0)?;
    let question = question(local, remote);
    send(socket.as_raw_fd(), &question, MsgFlags::MSG_DONTWAIT)?;
    let mut answer = [0; ANSWER_BYTES];
    // The kernel answers before send(2) returns.
    let read = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    let uid = understood(answer.get(..read).unwrap_or_default(), local, remote)?;
    // Only if every user is mapped does this number mean that user.
    Ok(uid.filter(|uid| *uid != UNMAPPED || every_user_has_a_number()))
}

/// Whether every user of the machine is mapped in this process' user namespace
/// (user_namespaces(7)).
fn every_user_has_a_number() -> bool {
    std::fs::read_to_string(UID_MAP).is_ok_and(|map| is_complete(&map))
}

/// Whether a map covers all uids; 2³² − 1 is not a valid uid.
fn is_complete(map: &str) -> bool {
    let counts = map
        .lines()
        .map(|line| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok());
    counts.sum::<Option<u64>>() == Some(u32::MAX.into())
}

/// The map of this process.
#[must_use]
pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Builds `nlmsghdr` and `inet_diag_req_v2` for exactly one socket.
fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = match local {
        SocketAddr::V4(_) => nix::libc::AF_INET,
        SocketAddr::V6(_) => nix::libc::AF_INET6,
    };
    let byte = |number: i32| u8::try_from(number).unwrap_or_default();
    let flags = u16::try_from(nix::libc::NLM_F_REQUEST).unwrap_or_default();
    [
        &(QUESTION_BYTES as u32).to_ne_bytes()[..],
        &BY_FAMILY.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &[0; 8],
        &[byte(family), byte(nix::libc::IPPROTO_TCP), 0, 0],
        &ANY_STATE.to_ne_bytes(),
        &local.port().to_be_bytes(),
        &remote.port().to_be_bytes(),
        &sixteen(local.ip()),
        &sixteen(remote.ip()),
        // Any interface; no cookie (INET_DIAG_NOCOOKIE).
        &[0; 4],
        &[0xff; 8],
    ]
    .concat()
}

/// Parses an `inet_diag_msg`, or an error in its place. ENOENT is an answer: there is no such
/// socket.
fn understood(answer: &[u8], local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let length = u32::from_ne_bytes(piece(answer, 0).ok_or_else(wrong)?) as usize;
    let kind = u16::from_ne_bytes(piece(answer, 4).ok_or_else(wrong)?);
    let message = answer.get(HEADER..length).ok_or_else(wrong)?;
    if kind == ERROR {
        let errno = i32::from_ne_bytes(piece(message, 0).ok_or_else(wrong)?).saturating_neg();
        return match errno {
            nix::libc::ENOENT => Ok(None),
            _ => Err(io::Error::from_raw_os_error(errno)),
        };
    }
    if kind != BY_FAMILY {
        return Err(wrong());
    }
    let [_, state] = piece(message, 0).ok_or_else(wrong)?;
    let ports = [piece(message, 4), piece(message, 6)].map(|port| port.map(u16::from_be_bytes));
    let uid = u32::from_ne_bytes(piece(message, 64).ok_or_else(wrong)?);
    // The kernel reads the inode after the uid, so a nonzero inode means that the uid is that of a
    // process.
    let inode = u32::from_ne_bytes(piece(message, 68).ok_or_else(wrong)?);
    let is_it = ports == [Some(local.port()), Some(remote.port())];
    let has_process = state == ESTABLISHED && inode != 0;
    Ok((is_it && has_process && uid != u32::MAX).then_some(uid))
}

/// The kernel's form of an address: an IPv4 address is followed by zeros.
fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// `nlmsghdr`.
const HEADER: usize = 16;
/// `inet_diag_req_v2` has 8 bytes before its `inet_diag_sockid` of 48.
const QUESTION_BYTES: usize = HEADER + 8 + 48;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// For a request about one socket the kernel ignores the states.
const ANY_STATE: u32 = u32::MAX;
/// `TCP_ESTABLISHED`.
const ESTABLISHED: u8 = 1;
/// The uid that the kernel shows for an unmapped user (`/proc/sys/kernel/overflowuid`).
const UNMAPPED: u32 = 65_534;
/// See user_namespaces(7).
const UID_MAP: &str = "/proc/self/uid_map";
/// One `inet_diag_msg` of 72 bytes, and attributes.
const ANSWER_BYTES: usize = 1_024;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_other_end_has_an_owner_only_while_it_is_connected() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (served, peer) = listener.accept().unwrap();
            let own = served.local_addr().unwrap();
            assert_eq!(owner_of(peer, own).unwrap(), Some(own_uid()));
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(owner_of(peer, own).unwrap(), None, "half closed");
            drop(client);
            // FIN_WAIT2 without a process: the kernel reports uid 0.
            assert_eq!(owner_of(peer, own).unwrap(), None, "closed");
            drop(served);
            // TIME_WAIT, then gone; the listener does not count either.
            assert_eq!(owner_of(peer, own).unwrap(), None, "gone");
            assert_eq!(owner_of(own, peer).unwrap(), None, "the listener");
        }
    }

    #[test]
    fn the_overflow_uid_is_a_user_only_where_every_user_has_a_number() {
        assert!(is_complete("         0          0 4294967295\n"));
        assert!(is_complete("0 0 1000\n1000 1000 4294966295\n"));
        for map in [
            "",
            "0 100000 65536\n",
            "0 1000 1\n1 100000 65536\n",
            "65534 65534 1\n",
            "0 0 x\n",
            "0 0 4294967295\n0\n",
        ] {
            assert!(!is_complete(map), "{map:?}");
        }
    }

    #[test]
    fn a_truncated_or_foreign_kernel_answer_is_refused() {
        let [local, remote] = ["127.0.0.1:5", "127.0.0.1:6"].map(|text| text.parse().unwrap());
        let mut whole = [
            &(HEADER as u32 + 72).to_ne_bytes()[..],
            &BY_FAMILY.to_ne_bytes(),
            &[0; 10],
            &[2, ESTABLISHED, 0, 0, 0, 5, 0, 6],
            &[0; 56],
            &7_u32.to_ne_bytes(),
            &9_u32.to_ne_bytes(),
        ]
        .concat();
        assert_eq!(understood(&whole, local, remote).unwrap(), Some(7));
        assert_eq!(understood(&whole, remote, local).unwrap(), None);
        for end in 0..whole.len() {
            assert!(understood(&whole[..end], local, remote).is_err(), "{end}");
        }
        for (at, value) in [(HEADER + 1, 6), (HEADER + 68, 0)] {
            let before = std::mem::replace(&mut whole[at], value);
            assert_eq!(understood(&whole, local, remote).unwrap(), None, "{at}");
            whole[at] = before;
        }
        whole[HEADER + 64..HEADER + 68].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(understood(&whole, local, remote).unwrap(), None);
    }
}
