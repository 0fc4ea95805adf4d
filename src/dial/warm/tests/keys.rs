//! Several names, keys and sockets on their way.

use super::*;
use crate::dial::warm::demand::PERIOD;

/// Another name, port and answer than those of the pool.
fn other_tunnel(rig: &Rig, host: &str, port: u16, now: Instant) -> Closed {
    let (host, addresses) = (Host::parse(host).unwrap(), judged(&["127.0.0.9"]));
    let used = TunnelUse {
        host: &host,
        key: Key {
            source: SOURCE.parse().unwrap(),
            upstream: SocketAddr::new(addresses[0].ip(), port),
        },
        addresses: &addresses,
        port: Port::parse(&port.to_string()).unwrap(),
        connect: Some(Duration::from_micros(100)),
    };
    rig.pool.used(&used, now).1
}

#[test]
fn the_answer_for_another_name_or_port_closes_nothing() {
    let now = Instant::now();
    let rig = Rig::warmed(now);
    let port = rig.upstream().port();
    for (host, port) in [("other.example", port), ("busy.example", port ^ 1)] {
        assert_eq!(other_tunnel(&rig, host, port, now), Closed::default());
    }
    assert_eq!(rig.pool.open(), 2);
}

#[test]
fn sockets_on_their_way_count() {
    let (rig, now) = (Rig::new(4), Instant::now());
    for _ in 0..3 {
        rig.used(now);
    }
    let due = rig.pool.maintain(now);
    assert_eq!(due.open.len(), 2);
    // Another worker, before the first one has opened them.
    rig.used(now);
    assert!(rig.pool.maintain(now).open.is_empty());
    for key in due.open {
        assert!(rig.pool.opened(key, Some(rig.socket(now)), now));
    }
    assert!(rig.pool.maintain(now).open.is_empty());
    assert!(rig.take(now).0);
    assert_eq!(rig.pool.maintain(now).open.len(), 1);
}

#[test]
fn a_drained_pool_forgets_its_names() {
    let now = Instant::now();
    let rig = Rig::warmed(now);
    assert_eq!(rig.pool.clear(), 2);
    for _ in 0..3 {
        assert_eq!((rig.look(now).0, rig.used(now)), (0, false));
    }
    assert_eq!(rig.look(now).0, 2);
}

#[test]
fn an_unanswered_connect_is_passed_over_and_fails_with_its_age() {
    let now = Instant::now();
    let rig = Rig::warmed(now);
    // A full backlog leaves further connections without an answer. The pool's own are open already.
    let mut held = Vec::new();
    let waiting = loop {
        let (port, _) = rig.egress.port(&rig.source(), rig.upstream()).unwrap();
        let stream = sys::upstream_socket(SOURCE.parse().unwrap()).unwrap();
        sys::connect(&stream, rig.upstream()).unwrap();
        match stream.peer_addr() {
            Ok(_) => held.push((stream, port)),
            Err(_) => break (stream, port),
        }
        assert!(held.len() < 20_000, "the backlog has no end");
    };
    let permits = [0, 1].map(|at: usize| rig.counts[at].acquire(usize::MAX).unwrap());
    let waiting = WarmSocket::new(waiting, permits, now);
    rig.pool.lock().pools[0].idle.push_front(waiting);
    assert_eq!([0; 3].map(|_| rig.take(now).0), [true, true, false]);
    assert_eq!(rig.pool.open(), 1);
    rig.used(now);
    let end = now + AGE_MAX;
    assert_eq!(rig.pool.maintain(end).closed, over(CloseReason::Failed));
    // A connect that has failed pauses the key.
    rig.used(end);
    assert!(rig.pool.maintain(end + PAUSE - SECOND).open.is_empty());
    assert!(!rig.pool.maintain(end + PAUSE).open.is_empty());
}

#[test]
fn tunnels_take_from_all_sources_in_turn() {
    let (pool, now) = (WarmPool::new(4), Instant::now());
    let rig = Rig::new(4);
    let sources: Vec<IpAddr> = ["127.0.0.2", "127.0.0.3"]
        .map(|one| one.parse().unwrap())
        .into();
    let addresses = judged(&["127.0.0.1"]);
    for source in &sources {
        let key = Key {
            source: *source,
            upstream: rig.upstream(),
        };
        let used = TunnelUse {
            host: &rig.host,
            key,
            addresses: &addresses,
            port: rig.port(),
            connect: Some(Duration::from_micros(100)),
        };
        for _ in 0..3 {
            let _noted = pool.used(&used, now);
        }
    }
    for key in pool.maintain(now).open {
        assert!(pool.opened(key, Some(rig.socket(now)), now));
    }
    let wanted = Wanted {
        addresses: &addresses,
        port: rig.port(),
        sources: &sources,
    };
    let mut taken = [0; 4].map(|_| pool.take(&wanted, now).0.unwrap().key.source);
    assert_ne!(taken[0], taken[1]);
    taken.sort();
    assert_eq!(
        taken.to_vec(),
        [sources[0], sources[0], sources[1], sources[1]]
    );
}

/// A key that nobody uses makes room; so does the name that was not used for the longest time.
#[test]
fn what_is_used_stays() {
    let (rig, now) = (Rig::new(4), Instant::now());
    let name = |number: usize| format!("n{number}.example");
    for number in 0..NAMES_MAX.max(KEYS_MAX) {
        let at = now + SECOND / 1_000 * u32::try_from(number).unwrap();
        for _ in 0..3 {
            other_tunnel(
                &rig,
                &name(number),
                1_000 + u16::try_from(number).unwrap(),
                at,
            );
        }
    }
    let later = now + SECOND;
    other_tunnel(&rig, &name(0), 1_000, later);
    other_tunnel(&rig, &name(99), 1_099, later);
    let state = rig.pool.lock();
    let known = |number| {
        state
            .names
            .iter()
            .any(|(host, ..)| *host == Host::parse(&name(number)).unwrap())
    };
    assert!(known(0) && !known(1) && known(2) && known(99));
    let has_key = |state: &State, port| {
        state
            .pools
            .iter()
            .any(|pool| pool.key.upstream.port() == port)
    };
    assert!(!has_key(&state, 1_099), "all keys are in use");
    drop(state);
    let after = later + PERIOD;
    other_tunnel(&rig, &name(98), 1_098, after);
    assert!(has_key(&rig.pool.lock(), 1_098));
}

#[test]
fn the_time_of_a_connect_follows_the_last_ones() {
    let (rig, now) = (Rig::new(4), Instant::now());
    let key = rig.key();
    let note = |connect| {
        let used = TunnelUse {
            host: &rig.host,
            key,
            addresses: &judged(&["127.0.0.1"]),
            port: rig.port(),
            connect,
        };
        let _noted = rig.pool.used(&used, now);
        rig.pool.lock().pools[0].rtt
    };
    assert_eq!(note(Some(SECOND)), SECOND);
    assert_eq!(note(None), SECOND, "a warm socket has none");
    let last = [0; 20].map(|_| note(Some(SECOND / 1_000)))[19];
    assert!(last < SECOND / 500, "{last:?}");
}
