//! The time limits of relayed tunnels, with a clock of the test's own.

use std::cell::RefCell;
use std::net::TcpListener;
use std::sync::Arc;

use metrics::Counter;

use super::*;
use crate::limits::account::Account;
use crate::sys::poller::Interest;

/// An owner that notes how its tunnel has ended.
struct Noted {
    endings: Rc<RefCell<Vec<Ending>>>,
    is_ordered: bool,
}

impl Owner for Noted {
    fn idle_limits(&self) -> IdleLimits {
        IdleLimits {
            idle: Duration::from_secs(1_000),
            half_close: Duration::from_secs(1_000),
            stalled: Duration::from_secs(1_000),
            max_age: None,
        }
    }
    fn buffers(&self) -> Buffers {
        Buffers {
            bytes: 0,
            near: Duration::ZERO,
        }
    }
    fn account(&self) -> Option<&Arc<Account>> {
        None
    }
    fn answered(&self, _: Duration) {}
    fn stalled(&mut self) -> bool {
        true
    }
    fn unstalled(&mut self) {}
    fn moved(&self, _: TunnelBytes, _: bool, _: Instant) {}
    fn is_ordered_to_end(&self) -> bool {
        self.is_ordered
    }
    fn ended(self, ended: Ended, _: TunnelBytes, _: Timing) {
        self.endings.borrow_mut().push(ended.ending);
    }
}

/// A relay with one silent tunnel, the list of its endings, and the peers of both sockets.
fn relay(
    is_ordered: bool,
) -> (
    Relay<Noted>,
    Rc<RefCell<Vec<Ending>>>,
    [std::net::TcpStream; 2],
) {
    let poller = Rc::new(Poller::new().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pair = || {
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        let nothing = Interest {
            reads: false,
            writes: false,
        };
        poller.watch(&near, nothing, 0).unwrap();
        (near, listener.accept().unwrap().0)
    };
    let ((client, client_peer), (upstream, upstream_peer)) = (pair(), pair());
    let [up, down, spliced, copied] = [(); 4].map(|()| Counter::noop());
    let counters = ByteCounters {
        up,
        down,
        spliced,
        copied,
    };
    let bounds = Bounds { lent: 1, idle: 1 };
    let mut relay = Relay::new(Rc::clone(&poller), bounds, counters);
    let endings: Rc<RefCell<Vec<Ending>>> = Rc::default();
    relay.adopt(Tunnel {
        owner: Noted {
            endings: Rc::clone(&endings),
            is_ordered,
        },
        client,
        upstream,
        mode: Mode::Splice,
        bytes_moved: TunnelBytes::default(),
        backlog: Backlog::default(),
        grace: None,
    });
    (relay, endings, [client_peer, upstream_peer])
}

/// Takes a turn at each of these seconds, after the tunnel is judged as the second says; None: it is not judged.
/// Returns the second at which it has ended as revoked.
fn revoked_at(judged: &[(u64, Option<bool>)]) -> Option<u64> {
    const GRACE: Duration = Duration::from_secs(10);
    let (mut relay, endings, _peers) = relay(false);
    let start = relay.epoch;
    for (second, is_allowed) in judged {
        relay.tick(start + Duration::from_secs(*second));
        if let Some(is_allowed) = is_allowed {
            relay.judge_all(|_| *is_allowed, GRACE);
        }
        relay.finish_turn();
        if !endings.borrow().is_empty() {
            assert_eq!(*endings.borrow(), [Ending::Revoked]);
            assert!(relay.is_empty());
            return Some(*second);
        }
    }
    None
}

#[test]
fn a_revoked_tunnel_ends_a_grace_after_the_first_judgement_however_many_follow() {
    let once = [(5, Some(false)), (14, None), (15, None)];
    assert_eq!(revoked_at(&once), Some(15));
    let each_second: Vec<_> = (5..60).map(|second| (second, Some(false))).collect();
    assert_eq!(revoked_at(&each_second), Some(15));
}

#[test]
fn a_tunnel_that_is_allowed_again_stays_and_has_a_whole_grace_the_next_time() {
    let again = [(5, Some(false)), (14, Some(true)), (15, None), (900, None)];
    assert_eq!(revoked_at(&again), None);
    let twice = [
        (5, Some(false)),
        (14, Some(true)),
        (16, Some(false)),
        (25, Some(false)),
        (26, None),
    ];
    assert_eq!(revoked_at(&twice), Some(26));
}

/// Its worker may have searched the other tunnels for the order already.
#[test]
fn a_tunnel_that_was_ordered_to_end_during_its_set_up_ends_in_the_next_turn() {
    for (is_ordered, wanted) in [(false, vec![]), (true, vec![Ending::EndedByOperator])] {
        let (mut relay, endings, _peers) = relay(is_ordered);
        assert_eq!(
            relay.next_deadline().is_some_and(|at| at <= relay.turn),
            is_ordered,
            "the worker does not sleep first"
        );
        relay.finish_turn();
        assert_eq!(*endings.borrow(), wanted);
    }
}

/// Whether the upstream's socket of the only tunnel has keepalive, after a turn at `at`.
fn has_keepalive(relay: &mut Relay<Noted>, at: Duration) -> bool {
    relay.tick(relay.epoch + at);
    relay.finish_turn();
    let (_, tunnel) = relay.tunnels.iter_mut().next().unwrap();
    let upstream = &tunnel.watched_mut(Side::Upstream).socket;
    let upstream = socket2::SockRef::from(upstream);
    let is_set = upstream.keepalive().unwrap();
    assert!(!is_set || upstream.tcp_keepalive_time().unwrap() == Duration::from_secs(60));
    is_set
}

#[test]
fn a_tunnel_that_lasts_gets_keepalive_towards_its_upstream_by_a_deadline_of_the_relay() {
    let (mut relay, endings, _peers) = relay(false);
    let due = relay.next_deadline().unwrap() - relay.epoch;
    assert!(
        due <= Duration::from_secs(6),
        "the worker wakes up: {due:?}"
    );
    assert!(!has_keepalive(&mut relay, Duration::ZERO), "not in set-up");
    assert!(!has_keepalive(&mut relay, due - Duration::from_millis(1)));
    assert!(has_keepalive(&mut relay, due));
    // No deadline is left but the one of silence.
    let next = relay.next_deadline().unwrap() - relay.epoch;
    assert_eq!(next, Duration::from_secs(1_000));
    assert!(endings.borrow().is_empty());
}

#[test]
fn a_tunnel_without_a_byte_and_one_in_use_get_keepalive_alike() {
    let (mut relay, _endings, [mut client, mut upstream]) = relay(false);
    let limit = Some(Duration::from_secs(30));
    upstream.set_read_timeout(limit).unwrap();
    let event = |key| Event {
        key,
        readable: true,
        writable: false,
        has_ended: false,
        urgent: false,
        failed: false,
    };
    for second in 0..20 {
        let is_set = has_keepalive(&mut relay, Duration::from_secs(second));
        assert_eq!(is_set, second >= 5, "after {second} s");
        std::io::Write::write_all(&mut client, b"up").unwrap();
        relay.on_event(event(pack(0, Side::Client)));
        std::io::Read::read_exact(&mut upstream, &mut [0; 2]).unwrap();
    }
}
