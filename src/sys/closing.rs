//! Lists the local ports that the kernel still holds for connections without a process
//! (sock_diag(7)): most are in TIME_WAIT, which lasts a minute on the side that closed first. Sees
//! only this network namespace, and closes no socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, SockProtocol, recv, send};

use super::routes::{netlink, piece};

/// A connection without a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// Its source.
    pub local: SocketAddr,
    /// Its destination.
    pub remote: SocketAddr,
    /// Milliseconds until the kernel forgets it.
    pub left_ms: u32,
}

/// Calls `each` for every such connection of one family, at most a million.
///
/// # Errors
/// The kernel refuses: no descriptor or memory is free, netlink is forbidden, or the module
/// `tcp_diag` is missing.
pub fn abandoned(is_ipv4: bool, mut each: impl FnMut(Abandoned)) -> io::Result<()> {
    let socket = netlink(SockProtocol::NetlinkSockDiag, 0)?;
    send(
        socket.as_raw_fd(),
        &question(is_ipv4),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let mut buffer = vec![0; ANSWER_BYTES];
    for _ in 0..READS_MAX {
        // The kernel prepares the next part while this one is read, so the next part is always
        // there until the last.
        let read = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        if understood(buffer.get(..read).unwrap_or_default(), &mut each)? {
            return Ok(());
        }
    }
    Ok(())
}

/// `nlmsghdr` and `inet_diag_req_v2`: every TCP socket of the family in one of these states.
fn question(is_ipv4: bool) -> Vec<u8> {
    let family = if is_ipv4 {
        nix::libc::AF_INET
    } else {
        nix::libc::AF_INET6
    };
    let flags = u16::try_from(nix::libc::NLM_F_REQUEST | nix::libc::NLM_F_DUMP).unwrap_or_default();
    let family = u8::try_from(family).unwrap_or_default();
    let tcp = u8::try_from(nix::libc::IPPROTO_TCP).unwrap_or_default();
    [
        &(QUESTION_BYTES as u32).to_ne_bytes()[..],
        &BY_FAMILY.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &[0; 8],
        &[family, tcp, 0, 0],
        &STATES.to_ne_bytes(),
        &[0; SOCKET_ID],
    ]
    .concat()
}

/// Reads one part of the answer. Returns true after the last.
fn understood(mut part: &[u8], each: &mut impl FnMut(Abandoned)) -> io::Result<bool> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    while !part.is_empty() {
        let length = u32::from_ne_bytes(piece(part, 0).ok_or_else(wrong)?) as usize;
        let kind = u16::from_ne_bytes(piece(part, 4).ok_or_else(wrong)?);
        let message = part.get(HEADER..length).ok_or_else(wrong)?;
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let errno = i32::from_ne_bytes(piece(message, 0).ok_or_else(wrong)?);
                return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
            }
            BY_FAMILY => {
                if let Some(abandoned) = connection(message) {
                    each(abandoned);
                }
            }
            _ => return Err(wrong()),
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Parses an `inet_diag_msg`. None for a socket of a process.
fn connection(message: &[u8]) -> Option<Abandoned> {
    let [family, state] = piece(message, 0)?;
    let inode = u32::from_ne_bytes(piece(message, 68)?);
    if state != TIME_WAIT && inode != 0 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        Some(match i32::from(family) {
            nix::libc::AF_INET => Ipv4Addr::from(piece::<4>(message, at)?).into(),
            _ => Ipv6Addr::from(piece::<16>(message, at)?).into(),
        })
    };
    let port = |at: usize| Some(u16::from_be_bytes(piece(message, at)?));
    Some(Abandoned {
        local: SocketAddr::new(address(8)?, port(4)?),
        remote: SocketAddr::new(address(24)?, port(6)?),
        left_ms: u32::from_ne_bytes(piece(message, 52)?),
    })
}

const HEADER: usize = 16;
/// `inet_diag_sockid`: ports, addresses, interface, cookie.
const SOCKET_ID: usize = 48;
const QUESTION_BYTES: usize = HEADER + 8 + SOCKET_ID;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// The kernel's number of the state.
const TIME_WAIT: u8 = 6;
/// FIN-WAIT-1, FIN-WAIT-2, TIME-WAIT, LAST-ACK and CLOSING, as bits.
const STATES: u32 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11;
/// The size of one part of the answer.
const ANSWER_BYTES: usize = 32 * 1_024;
/// Parts of some 370 connections each.
const READS_MAX: usize = 2_700;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_side_that_closes_first_is_found_with_both_its_ends() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let first = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (local, remote) = (first.local_addr().unwrap(), first.peer_addr().unwrap());
            let (second, _) = listener.accept().unwrap();
            // Both ends: the kernel may hold the same local port towards another one.
            let found = || {
                let mut found = Vec::new();
                abandoned(local.is_ipv4(), |one| {
                    let is_it = (one.local, one.remote) == (local, remote);
                    found.extend(is_it.then_some(one));
                })
                .unwrap();
                found
            };
            assert_eq!(found(), [], "a process has it");
            drop((first, second));
            let found = found();
            assert!(
                matches!(found[..], [one] if (1..=60_000).contains(&one.left_ms)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_truncated_kernel_answer_is_refused() {
        let mut whole = [
            &(HEADER as u32 + 72).to_ne_bytes()[..],
            &BY_FAMILY.to_ne_bytes(),
            &[0; 10],
            &[0; 72],
        ]
        .concat();
        whole[HEADER] = 2;
        let mut seen = 0;
        assert!(!understood(&whole, &mut |_| seen += 1).unwrap());
        for end in 1..whole.len() {
            assert!(
                understood(&whole[..end], &mut |_| seen += 1).is_err(),
                "{end}"
            );
        }
        assert_eq!(seen, 1);
        assert!(
            understood(
                &[&whole[..4], &ERROR.to_ne_bytes(), &whole[6..]].concat(),
                &mut |_| ()
            )
            .is_err()
        );
    }
}
