//! The kernel's routes for TCP to an address and port: to another host or to this one. Each thread
//! asks for itself.
//!
//! An answer is kept until the kernel reports a change of addresses, links, routes or rules, and a
//! second at most, so most dials cost one recv(2) that finds nothing. The kernel queues that
//! message before the command that made the change returns, so a new local address is refused from
//! then on. Never guesses: without an answer there is an error.
//! change returns: an address that is added is refused from then on. Never guesses: without an answer there is an error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::sys::routes::{RouteChanges, RouteKind, Routes};

/// The cached routes of one thread.
#[derive(Debug, Default)]
pub struct Routing(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    /// None before the first question, and after one that the kernel did not answer.
    sockets: Option<(Routes, RouteChanges)>,
    /// By source and destination, without a source port.
    known: HashMap<(IpAddr, SocketAddr), RouteKind>,
    asked: Option<Instant>,
}

impl Routing {
    /// Opens both sockets now, so that a later lack of descriptors cannot prevent a question.
    ///
    /// # Errors
    /// The error of socket(2) or bind(2).
    pub fn open() -> io::Result<Self> {
        let routing = Self::default();
        routing.0.borrow_mut().open()?;
        Ok(routing)
    }

    /// What the kernel does with TCP from `source` to `destination` for any source port, as far as
    /// it is known before connect(2).
    ///
    /// # Errors
    /// The kernel does not answer, even on new sockets.
    pub fn kind(
        &self,
        source: IpAddr,
        destination: SocketAddr,
        now: Instant,
    ) -> io::Result<RouteKind> {
        let mut state = self.0.borrow_mut();
        state.kind(source, destination, now).or_else(|_| {
            state.sockets = None;
            state.kind(source, destination, now)
        })
    }
}

impl State {
    fn open(&mut self) -> io::Result<&mut (Routes, RouteChanges)> {
        let sockets = match self.sockets.take() {
            Some(sockets) => sockets,
            None => {
                // Changes may have been missed, so the cache is dropped.
                self.known.clear();
                // The socket for changes first: no change may fall between an answer and its
                // report.
                let changes = RouteChanges::open()?;
                (Routes::open()?, changes)
            }
        };
        Ok(self.sockets.insert(sockets))
    }

    fn kind(
        &mut self,
        source: IpAddr,
        destination: SocketAddr,
        now: Instant,
    ) -> io::Result<RouteKind> {
        let has_changed = self.open()?.1.any();
        let is_old = self
            .asked
            .is_none_or(|asked| now.saturating_duration_since(asked) >= KEPT);
        if has_changed || is_old || self.known.len() >= KNOWN_MAX {
            self.known.clear();
            self.asked = Some(now);
        }
        if let Some(kind) = self.known.get(&(source, destination)) {
            return Ok(*kind);
        }
        let kind = self.open()?.0.ask(source, destination)?;
        self.known.insert((source, destination), kind);
        Ok(kind)
    }
}

/// Covers changes that the kernel does not report, such as the routes of an IPv4 link that goes
/// down.
const KEPT: Duration = Duration::from_secs(1);
/// A few for each upstream of a policy; each takes some 60 bytes.
const KNOWN_MAX: usize = 1_024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_answer_is_kept_for_a_second_and_in_a_bounded_table() {
        let (routing, now) = (Routing::open().unwrap(), Instant::now());
        assert_eq!(
            routing
                .kind(ip("127.0.0.2"), at("127.0.0.1:443"), now)
                .unwrap(),
            RouteKind::Local
        );
        // A cached answer is valid until it expires.
        routing
            .0
            .borrow_mut()
            .known
            .insert((ip("127.0.0.2"), at("127.0.0.1:443")), RouteKind::Unicast);
        assert_eq!(
            routing
                .kind(ip("127.0.0.2"), at("127.0.0.1:443"), now)
                .unwrap(),
            RouteKind::Unicast
        );
        assert_eq!(
            routing
                .kind(ip("127.0.0.2"), at("127.0.0.1:443"), now + KEPT)
                .unwrap(),
            RouteKind::Local
        );
        // For one source port only.
        routing
            .0
            .borrow_mut()
            .known
            .insert((ip("127.0.0.2"), at("127.0.0.1:443")), RouteKind::Unicast);
        assert_eq!(
            routing
                .kind(ip("127.0.0.2"), at("127.0.0.1:444"), now + KEPT)
                .unwrap(),
            RouteKind::Local
        );
        for number in 0..2 * KNOWN_MAX as u32 {
            let to = SocketAddr::new(std::net::Ipv4Addr::from(0x7f01_0000 + number).into(), 443);
            let _kind = routing.kind(ip("127.0.0.2"), to, now + KEPT);
            assert!(routing.0.borrow().known.len() <= KNOWN_MAX);
        }
    }

    #[test]
    fn a_socket_that_fails_is_opened_again() {
        let (routing, now) = (Routing::open().unwrap(), Instant::now());
        let (_, changes) = routing.0.borrow_mut().sockets.take().unwrap();
        routing.0.borrow_mut().sockets = Some((Routes::of_a_closed_peer(), changes));
        assert_eq!(
            routing
                .kind(ip("127.0.0.2"), at("127.0.0.1:443"), now)
                .unwrap(),
            RouteKind::Local
        );
    }
}
