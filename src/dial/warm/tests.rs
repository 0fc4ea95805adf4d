mod keys;

use std::net::TcpListener;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::socket::{AGE_MAX, Peeked, SocketState, state_of};
use super::*;
use crate::dial::{Egress, Source};
use crate::limits::Count;
use crate::policy::guard::{AddressGuard, OwnAddresses};
use crate::sys;

const SOURCE: &str = "127.0.0.2";
const SECOND: Duration = Duration::from_secs(1);

/// An upstream, and what dials it.
struct Rig {
    listener: TcpListener,
    egress: Egress,
    counts: [Count; 2],
    pool: WarmPool,
    host: Host,
}

impl Rig {
    fn new(per_key_max: usize) -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            egress: Egress::new(&[SOURCE.parse().unwrap()], None, 28_000),
            counts: Default::default(),
            pool: WarmPool::new(per_key_max),
            host: Host::parse("busy.example").unwrap(),
        }
    }

    fn upstream(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn key(&self) -> Key {
        Key {
            source: SOURCE.parse().unwrap(),
            upstream: self.upstream(),
        }
    }

    fn port(&self) -> Port {
        Port::parse(&self.upstream().port().to_string()).unwrap()
    }

    fn source(&self) -> Arc<Source> {
        Arc::clone(self.egress.sources().next().unwrap())
    }

    /// A socket whose connect(2) was called at `opened`.
    fn socket(&self, opened: Instant) -> WarmSocket {
        let key = self.key();
        let (port, _) = self.egress.port(&self.source(), key.upstream).unwrap();
        let stream = sys::upstream_socket(key.source).unwrap();
        sys::connect(&stream, key.upstream).unwrap();
        let began = Instant::now();
        while stream.peer_addr().is_err() {
            assert!(
                began.elapsed() < 10 * SECOND,
                "the connection does not come"
            );
            std::thread::sleep(SECOND / 200);
        }
        let permits = [0, 1].map(|at: usize| self.counts[at].acquire(usize::MAX).unwrap());
        WarmSocket::new((stream, port), permits, opened)
    }

    fn used(&self, now: Instant) -> bool {
        self.used_for(&judged(&["127.0.0.1"]), now).0
    }

    fn used_for(&self, addresses: &[UpstreamAddress], now: Instant) -> (bool, Closed) {
        let (key, port) = (self.key(), self.port());
        let used = TunnelUse {
            host: &self.host,
            key,
            addresses,
            port,
            connect: Some(Duration::from_micros(100)),
        };
        self.pool.used(&used, now)
    }

    /// Does what a worker does, and returns how many sockets it has opened, and what was closed.
    fn look(&self, now: Instant) -> (usize, Closed) {
        let look = self.pool.maintain(now);
        for key in &look.open {
            assert_eq!(*key, self.key());
            assert!(self.pool.opened(*key, Some(self.socket(now)), now));
        }
        (look.open.len(), look.closed)
    }

    fn take(&self, now: Instant) -> (bool, Closed) {
        let wanted = Wanted {
            addresses: &judged(&["127.0.0.1"]),
            port: self.port(),
            sources: &[SOURCE.parse().unwrap()],
        };
        let (taken, closed) = self.pool.take(&wanted, now);
        (taken.is_some(), closed)
    }

    /// A pool with two sockets after three tunnels.
    fn warmed(now: Instant) -> Self {
        let rig = Self::new(4);
        assert_eq!([0; 3].map(|_| rig.used(now)), [false; 3]);
        assert_eq!(rig.look(now), (2, Closed::default()));
        rig
    }
}

fn judged(addresses: &[&str]) -> Vec<UpstreamAddress> {
    let addresses: Vec<IpAddr> = addresses.iter().map(|one| one.parse().unwrap()).collect();
    // Each is named, because those on loopback are this host's own.
    let all = AddressGuard::new(addresses.iter().map(|one| (*one).into()).collect());
    all.judge(&addresses, &OwnAddresses::default()).unwrap()
}

fn over(reason: CloseReason) -> Closed {
    Closed::all(reason, 1)
}

#[test]
fn three_tunnels_open_a_pair_and_each_further_one_replaces_what_it_takes() {
    let (rig, now) = (Rig::new(4), Instant::now());
    for _ in 0..2 {
        assert!(!rig.used(now));
        assert_eq!((rig.look(now).0, rig.take(now).0), (0, false));
    }
    assert!(!rig.used(now));
    assert_eq!(rig.look(now).0, 2);
    for _ in 0..5 {
        assert!(rig.take(now).0);
        assert!(rig.used(now), "the name had three tunnels before");
        assert_eq!((rig.look(now).0, rig.pool.open()), (1, 2));
    }
    assert_eq!(rig.look(now), (0, Closed::default()));
    // Their ports and descriptors are counted.
    assert_eq!(rig.source().ports_in_use(), 2);
    assert!(
        rig.counts
            .iter()
            .all(|count| count.acquire(3).is_some() && count.acquire(2).is_none())
    );
    rig.pool.clear();
    assert_eq!(rig.source().ports_in_use(), 0);
    assert!(rig.counts.iter().all(|count| count.acquire(1).is_some()));
}

#[test]
fn no_socket_is_used_after_eight_seconds_and_six_are_opened_for_a_tunnel() {
    let start = Instant::now();
    let rig = Rig::warmed(start);
    let end = start + AGE_MAX;
    assert!(rig.take(end - SECOND / 1_000).0);
    let (taken, closed) = rig.take(end);
    assert_eq!((taken, closed), (false, over(CloseReason::Expired)));

    let rig = Rig::warmed(start);
    assert!(rig.pool.maintain(start).next.unwrap() <= start + SECOND);
    let mut opened = 2;
    for tick in 1..=70 {
        opened += rig.look(start + SECOND * tick).0;
        assert!(rig.pool.open() <= 2);
    }
    assert_eq!((opened, rig.pool.open()), (CREDIT, 0));
    assert_eq!(
        rig.pool.maintain(start + SECOND * 71).next,
        None,
        "nothing to look at"
    );
    assert!(
        !rig.used(start + SECOND * 72),
        "the name is not busy any more"
    );
    assert_eq!(rig.look(start + SECOND * 72).0, 0);
}

/// The worker wakes at the moment in which the first socket is too old, also between two sweeps.
#[test]
fn the_next_look_is_at_the_first_expiry_at_the_latest() {
    let start = Instant::now();
    let rig = Rig::warmed(start);
    let mut now = start;
    let mut closed_at = None;
    while closed_at.is_none() {
        let next = rig.pool.maintain(now).next.unwrap();
        assert!(next > now && next <= now + SECOND);
        now = next;
        let closed = rig.pool.maintain(now).closed;
        closed_at = (closed == Closed::all(CloseReason::Expired, 2)).then_some(now);
    }
    assert_eq!(closed_at, Some(start + AGE_MAX));
}

#[test]
fn a_socket_whose_upstream_has_spoken_or_gone_is_closed() {
    use std::io::Write;
    for act in 0..3 {
        let now = Instant::now();
        let rig = Rig::warmed(now);
        let peers = [0; 2].map(|_| rig.listener.accept().unwrap().0);
        for mut peer in peers {
            match act {
                0 => peer.write_all(b"early").unwrap(),
                1 => drop(peer),
                _ => {
                    sys::reset_on_close(&peer).unwrap();
                    drop(peer);
                }
            }
        }
        let both = Closed::all(CloseReason::Upstream, 2);
        let began = Instant::now();
        let mut sum = Closed::default();
        while sum != both {
            // On loopback it is there at once; the clock only bounds the loop.
            assert!(began.elapsed() < 10 * SECOND, "{sum:?} after act {act}");
            let (taken, closed) = rig.take(now);
            assert!(!taken, "taken after act {act}");
            let found: usize = closed.each().sum();
            (0..found).for_each(|_| sum.add(CloseReason::Upstream, 1));
        }
        assert_eq!(rig.pool.open(), 0);
    }
}

#[test]
fn a_failed_connect_pauses_the_key() {
    let now = Instant::now();
    let rig = Rig::new(4);
    for _ in 0..3 {
        rig.used(now);
    }
    let look = rig.pool.maintain(now);
    assert_eq!(look.open.len(), 2);
    for key in look.open {
        assert!(!rig.pool.opened(key, None, now));
    }
    assert!(rig.used(now));
    assert_eq!(rig.look(now + PAUSE - SECOND).0, 0);
    assert_eq!(rig.look(now + PAUSE).0, 2);
}

#[test]
fn a_source_that_is_away_or_was_lost_closes_its_sockets() {
    let now = Instant::now();
    for is_lost in [false, true] {
        let rig = Rig::warmed(now);
        match is_lost {
            true => rig.source().lose(),
            false => rig.source().set_up(false),
        }
        assert_eq!(rig.take(now), (false, Closed::all(CloseReason::Egress, 2)));
    }
}

#[test]
fn a_closed_pool_gives_and_takes_none() {
    let now = Instant::now();
    let rig = Rig::warmed(now);
    assert!(rig.take(now).0 && rig.used(now));
    // A worker opens one while the daemon reloads.
    let [key] = rig.pool.maintain(now).open[..] else {
        unreachable!("one is missing")
    };
    let late = rig.socket(now);
    assert_eq!(rig.pool.close(), 1);
    assert!(!rig.pool.opened(key, Some(late), now));
    assert_eq!(rig.take(now), (false, Closed::default()));
    assert_eq!([0; 4].map(|_| rig.used(now)), [false; 4]);
    assert_eq!((rig.look(now).0, rig.pool.open()), (0, 0));
    assert_eq!(rig.source().ports_in_use(), 0);
}

#[test]
fn an_answer_without_the_address_closes_its_sockets() {
    let now = Instant::now();
    let rig = Rig::warmed(now);
    let both = judged(&["127.0.0.9", "127.0.0.1"]);
    assert_eq!(rig.used_for(&both, now).1, Closed::default());
    // The tunnel of a user whose egress is IPv6 alone has not asked for IPv4 addresses.
    let of_other_family = judged(&["2001:db8::9"]);
    assert_eq!(rig.used_for(&of_other_family, now).1, Closed::default());
    let other = judged(&["127.0.0.9"]);
    let (_, closed) = rig.used_for(&other, now);
    assert_eq!(closed, Closed::all(CloseReason::Answer, 2));
}

#[test]
fn names_keys_and_sockets_are_bounded() {
    let (pool, now) = (WarmPool::new(4), Instant::now());
    for number in 0..1_000_u16 {
        let at = now + SECOND / 1_000 * u32::from(number);
        let host = Host::parse(&format!("n{number}.example")).unwrap();
        let address = format!("127.1.{}.{}", number / 250, number % 250 + 1);
        let addresses = judged(&[&address]);
        let used = TunnelUse {
            host: &host,
            key: Key {
                source: SOURCE.parse().unwrap(),
                upstream: SocketAddr::new(addresses[0].ip(), 443),
            },
            addresses: &addresses,
            port: Port::parse("443").unwrap(),
            connect: Some(SECOND),
        };
        for _ in 0..50 {
            let _noted = pool.used(&used, at);
        }
        let look = pool.maintain(at);
        assert!(look.open.len() <= 4, "{}", look.open.len());
        let state = pool.lock();
        assert!(state.names.len() <= NAMES_MAX && state.pools.len() <= KEYS_MAX);
    }
    assert!(!WarmPool::new(0).is_on());
}

#[test]
fn only_a_young_connected_silent_socket_of_a_present_source_is_usable() {
    for peeked in [Peeked::Nothing, Peeked::Something, Peeked::Failed] {
        for flags in 0..8 {
            let [is_connected, has_source, is_young] = [1, 2, 4].map(|bit| flags & bit != 0);
            let found = state_of(peeked, is_connected, has_source, is_young);
            let is_good = peeked == Peeked::Nothing && flags == 7;
            assert_eq!(found == SocketState::Usable, is_good, "{peeked:?} {flags}");
            let waits = peeked == Peeked::Nothing && flags == 6;
            assert_eq!(
                found == SocketState::Connecting,
                waits,
                "{peeked:?} {flags}"
            );
        }
    }
}

fn ip() -> impl Strategy<Value = IpAddr> {
    // Few enough that sets overlap.
    prop_oneof![
        (0..6_u8).prop_map(|last| IpAddr::from([203, 0, 113, last])),
        (0..6_u8).prop_map(|last| IpAddr::from([10, 0, 0, last])),
        (0..6_u16).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])),
    ]
}

proptest! {
    /// Whatever a former configuration has opened: a tunnel takes only what the guard in force passes, what its own answer
    /// has, and what its source and port are.
    #[test]
    fn no_tunnel_takes_what_its_configuration_forbids(
        exempt in vec(ip(), 0..6),
        own in vec(ip(), 0..3),
        answer in vec(ip(), 1..5),
        sources in vec(ip(), 0..3),
        keys in vec((ip(), ip(), 442..445_u16), 1..20),
        port in 442..445_u16,
    ) {
        let guard = AddressGuard::new(exempt.iter().map(|one| (*one).into()).collect());
        let own = OwnAddresses::new(own);
        let Ok(addresses) = guard.judge(&answer, &own) else {
            // The tunnel is refused before it asks for a socket.
            return Ok(());
        };
        let wanted = Wanted {
            addresses: &addresses,
            port: Port::parse(&port.to_string()).unwrap(),
            sources: &sources,
        };
        for (source, ip, at) in keys {
            let key = Key { source, upstream: SocketAddr::new(ip, at) };
            let allowed = wanted.allows(key);
            let is_judged = answer.contains(&ip) && guard.standing(ip, &own).refused().is_none();
            prop_assert_eq!(
                allowed.map(UpstreamAddress::ip),
                (is_judged && sources.contains(&source) && at == port).then_some(ip)
            );
        }
    }
}
