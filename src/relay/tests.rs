//! The time limits of relayed tunnels, with a clock of the test's own.

mod continued;

use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::sync::Arc;

use metrics::Counter;

use super::*;
use crate::limits::account::Account;
use crate::sys::poller::Interest;

/// What the owners of all tunnels of a test share.
#[derive(Default)]
struct Notes {
    endings: RefCell<Vec<Ending>>,
    must_end: Cell<Option<Ending>>,
    /// How often a sweep has asked one of them for its limits.
    asked: Cell<usize>,
}

/// An owner that notes how its tunnel has ended.
struct Noted(Rc<Notes>);

impl Owner for Noted {
    fn idle_limits(&self) -> IdleLimits {
        self.0.asked.set(self.0.asked.get() + 1);
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
    fn still_stalled(&mut self) {}
    fn unstalled(&mut self) {}
    fn moved(&self, _: TunnelBytes, _: bool, _: Instant) {}
    fn must_end(&self) -> Option<Ending> {
        self.0.must_end.get()
    }
    fn ended(self, ended: Ended, _: TunnelBytes, _: Timing) {
        self.0.endings.borrow_mut().push(ended.ending);
    }
}

/// A relay with silent tunnels that share two connections, what their owners share, and the peers
/// of the connections.
fn relay(
    tunnels: usize,
    must_end: Option<Ending>,
) -> (Relay<Noted>, Rc<Notes>, [std::net::TcpStream; 2]) {
    let poller = Rc::new(Poller::new().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pair = || {
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
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
    let notes: Rc<Notes> = Rc::default();
    notes.must_end.set(must_end);
    let another = |socket: &std::net::TcpStream| {
        let socket = socket.try_clone().unwrap();
        let nothing = Interest {
            reads: false,
            writes: false,
        };
        poller.watch(&socket, nothing, 0).unwrap();
        socket
    };
    for _ in 0..tunnels {
        relay.adopt(Tunnel {
            owner: Noted(Rc::clone(&notes)),
            client: another(&client),
            upstream: another(&upstream),
            mode: Mode::Splice,
            bytes_moved: TunnelBytes::default(),
            backlog: Backlog::default(),
            grace: None,
        });
    }
    (relay, notes, [client_peer, upstream_peer])
}

/// The tunnels that end in each turn, until a turn has nothing left to do at once.
fn ended_by_turn(relay: &mut Relay<Noted>, notes: &Notes) -> Vec<usize> {
    let mut ended = Vec::new();
    loop {
        relay.finish_turn();
        ended.push(notes.endings.take().len());
        if relay.next_deadline().is_none_or(|at| at > relay.turn) {
            return ended;
        }
    }
}

/// Takes a turn at each of these seconds, after the tunnel is judged as the second says; None: it is not judged.
/// Returns the second at which it has ended as revoked.
fn revoked_at(judged: &[(u64, Option<bool>)]) -> Option<u64> {
    const GRACE: Duration = Duration::from_secs(10);
    let (mut relay, notes, _peers) = relay(1, None);
    let start = relay.epoch;
    for (second, is_allowed) in judged {
        relay.tick(start + Duration::from_secs(*second));
        if let Some(is_allowed) = is_allowed {
            relay.judge_again();
            relay.judge_some(|_| *is_allowed, GRACE);
        }
        relay.finish_turn();
        let endings = notes.endings.take();
        if !endings.is_empty() {
            assert_eq!(endings, [Ending::Revoked]);
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

/// Its worker may have searched the other tunnels already.
#[test]
fn a_tunnel_that_had_to_end_during_its_set_up_ends_when_the_relay_takes_it() {
    for must_end in [
        None,
        Some(Ending::EndedByOperator),
        Some(Ending::EgressLost),
    ] {
        let (relay, notes, _peers) = relay(1, must_end);
        assert_eq!(notes.endings.take(), Vec::from_iter(must_end));
        assert_eq!(relay.is_empty(), must_end.is_some());
    }
}

/// One end takes some 30 µs, so the ends of a hundred thousand would delay everybody for seconds.
#[test]
fn a_turn_ends_a_few_tunnels_and_the_next_turns_end_the_others() {
    for ending in [Ending::EndedByOperator, Ending::EgressLost] {
        let (mut relay, notes, _peers) = relay(100, None);
        assert_eq!(ended_by_turn(&mut relay, &notes), [0], "nothing to do");
        notes.must_end.set(Some(ending));
        relay.find_ended();
        assert_eq!(ended_by_turn(&mut relay, &notes), [32, 32, 32, 4]);
        assert!(relay.is_empty());
    }
    let (mut relay, notes, _peers) = relay(100, None);
    relay.tick(relay.epoch + Duration::from_secs(1_001));
    let ended = ended_by_turn(&mut relay, &notes);
    assert_eq!(ended, [32, 32, 32, 4], "they have been idle for too long");
}

/// A search that begins again ends the tunnels that it has passed before.
#[test]
fn a_second_order_during_a_search_is_not_missed() {
    let (mut relay, notes, _peers) = relay(100, None);
    notes.must_end.set(Some(Ending::EndedByOperator));
    relay.find_ended();
    relay.finish_turn();
    notes.must_end.set(None);
    relay.finish_turn();
    assert_eq!(notes.endings.take().len(), 32, "the order is withdrawn");
    notes.must_end.set(Some(Ending::EgressLost));
    relay.find_ended();
    assert_eq!(ended_by_turn(&mut relay, &notes), [32, 32, 4]);
}

#[test]
fn a_turn_checks_a_thousand_deadlines_and_judges_a_hundred_tunnels() {
    crate::sys::raise_descriptor_limit().unwrap();
    let (mut relay, notes, _peers) = relay(2_500, None);
    relay.tick(relay.epoch + Duration::from_secs(1_000) - Duration::from_millis(1));
    relay.finish_turn();
    while relay.sweep.is_under_way() {
        relay.finish_turn();
    }
    notes.asked.take();
    relay.next_sweep = relay.now;
    let mut asked = Vec::new();
    while relay.now >= relay.next_sweep || relay.sweep.is_under_way() {
        relay.finish_turn();
        asked.push(notes.asked.take());
    }
    assert_eq!(asked, [1_024, 1_024, 452]);
    assert_eq!(notes.endings.take(), []);
    assert_eq!(relay.next_sweep, relay.now + 100, "not at once again");

    let mut judged = Vec::new();
    relay.judge_again();
    while relay.is_judging() {
        assert_eq!(relay.next_deadline(), Some(relay.turn), "does not sleep");
        let mut each = 0;
        let first_is_allowed = |_: &mut Noted| {
            each += 1;
            each == 1
        };
        relay.judge_some(first_is_allowed, Duration::ZERO);
        judged.push(each);
        if judged.len() == 3 {
            // The next configuration comes before all are judged by this one.
            relay.judge_again();
        }
    }
    assert_eq!(judged.len(), 3 + 2_500_usize.div_ceil(128));
    assert_eq!(judged.iter().sum::<usize>(), 3 * 128 + 2_500);
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
    let (mut relay, notes, _peers) = relay(1, None);
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
    assert!(notes.endings.borrow().is_empty());
}

#[test]
fn a_tunnel_without_a_byte_and_one_in_use_get_keepalive_alike() {
    let (mut relay, _notes, [mut client, mut upstream]) = relay(1, None);
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
