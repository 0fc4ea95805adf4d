use super::*;
use std::net::Ipv6Addr;

fn client(address: &str) -> ClientNetwork {
    ClientNetwork::of(address.parse().unwrap())
}

fn v6(site: u16, network: u16) -> ClientNetwork {
    ClientNetwork::of(Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 1).into())
}

fn basic(name: &str, secret: &str) -> Credentials {
    Credentials::Basic {
        name: name.to_owned().into(),
        secret: secret.to_owned().into(),
    }
}

/// The result of `tries` new secrets.
fn guesses(
    lockout: &Lockout,
    client: ClientNetwork,
    name: &str,
    tries: usize,
    now: Instant,
) -> Vec<Verdict> {
    let guess = |number| {
        lockout.failed(
            client,
            &basic(name, &format!("{now:?} {number}")),
            BOUNDS,
            now,
        )
    };
    (0..tries).map(guess).collect()
}

const BOUNDS: Bounds = Bounds {
    failures: 3,
    window: Duration::from_secs(60),
};

#[test]
fn a_name_is_locked_by_different_secrets_and_for_the_window() {
    let (lockout, now) = (Lockout::default(), Instant::now());
    let home = client("192.0.2.7");
    let verdicts = guesses(&lockout, home, "alice", 5, now);
    let begun: Vec<_> = verdicts.iter().map(|verdict| verdict.begun).collect();
    assert_eq!(begun, [None, None, Some(Scope::Name), None, None], "once");
    assert_eq!(
        verdicts
            .iter()
            .map(|verdict| verdict.is_locked)
            .collect::<Vec<_>>(),
        [false, false, false, true, true]
    );
    assert!(
        !guesses(&lockout, home, "bob", 1, now)[0].is_locked,
        "another name is not"
    );
    assert!(
        !guesses(&lockout, client("192.0.2.8"), "alice", 1, now)[0].is_locked,
        "nor is another address"
    );
    let (nearly, over) = (now + Duration::from_secs(59), now + Duration::from_secs(60));
    assert!(guesses(&lockout, home, "alice", 1, nearly)[0].is_locked);
    assert!(
        !guesses(&lockout, home, "alice", 1, over)[0].is_locked,
        "the window has passed"
    );
    let first = client("2001:db8::1");
    guesses(&lockout, first, "alice", 3, now);
    assert!(
        guesses(&lockout, client("2001:db8::2"), "alice", 1, now)[0].is_locked,
        "one host has the whole /64"
    );
}

#[test]
fn a_lock_lasts_a_whole_window_from_the_failure_that_locks() {
    let (lockout, start) = (Lockout::default(), Instant::now());
    let home = client("192.0.2.7");
    let after = |seconds| start + Duration::from_secs(seconds);
    guesses(&lockout, home, "alice", 2, start);
    let locks = guesses(&lockout, home, "alice", 1, after(50))[0];
    assert_eq!(locks.begun, Some(Scope::Name));
    assert!(
        guesses(&lockout, home, "alice", 1, after(109))[0].is_locked,
        "59 seconds later"
    );
    assert!(!guesses(&lockout, home, "alice", 1, after(110))[0].is_locked);
}

#[test]
fn the_same_secret_counts_once_and_is_slowed() {
    let (lockout, now) = (Lockout::default(), Instant::now());
    let home = client("192.0.2.7");
    let old = ["one", "two"].map(|secret| basic("alice", secret));
    let tries = || {
        (0..50)
            .flat_map(|_| &old)
            .map(|old| lockout.failed(home, old, BOUNDS, now))
    };
    let verdicts: Vec<_> = tries().collect();
    assert!(
        verdicts
            .iter()
            .all(|verdict| !verdict.is_locked && verdict.begun.is_none())
    );
    assert_eq!(
        verdicts.iter().position(|verdict| verdict.is_slowed),
        Some(3),
        "the fourth try, and all behind it"
    );
    assert!(
        lockout
            .failed(home, &basic("alice", "three"), BOUNDS, now)
            .begun
            .is_some(),
        "the third secret locks"
    );
    let unusable = (0..50).map(|_| lockout.failed(home, &Credentials::Unusable, BOUNDS, now));
    assert!(unusable.into_iter().all(|verdict| !verdict.is_locked));
}

#[test]
fn many_names_lock_the_client_and_many_clients_the_site() {
    let (lockout, now) = (Lockout::default(), Instant::now());
    let begun =
        |client: ClientNetwork, name: &str| guesses(&lockout, client, name, 1, now)[0].begun;
    let names: Vec<_> = (0..30)
        .map(|number| begun(v6(1, 0), &format!("user{number}")))
        .collect();
    assert_eq!(
        names.iter().position(|begun| *begun == Some(Scope::Client)),
        Some(29),
        "ten times as many"
    );
    let more = guesses(&lockout, v6(1, 0), "nobody yet", 5, now);
    assert!(
        more.iter()
            .all(|verdict| verdict.is_locked && verdict.begun.is_none()),
        "no record for each name then"
    );
    let networks: Vec<_> = (1..300)
        .map(|network| begun(v6(1, network), "alice"))
        .collect();
    assert!(
        networks.contains(&Some(Scope::Site)),
        "a hundred times as many"
    );
    assert!(guesses(&lockout, v6(1, 999), "alice", 1, now)[0].is_locked);
    assert!(
        !guesses(&lockout, v6(2, 0), "alice", 1, now)[0].is_locked,
        "another site is not"
    );
}

#[test]
fn a_full_table_is_bounded_counts_newcomers_and_keeps_locks() {
    let (lockout, now) = (Lockout::default(), Instant::now());
    let locked = v6(9, 0);
    guesses(&lockout, locked, "alice", 3, now);
    // More networks of one site than the table holds, each with one failure.
    for network in 0..=u16::MAX {
        lockout.failed(v6(1, network), &basic("alice", "x"), BOUNDS, now);
    }
    assert!(lockout.table.lock().unwrap().len() <= ENTRIES_MAX);
    assert!(
        guesses(&lockout, locked, "alice", 1, now)[0].is_locked,
        "a lock is not pushed out by single failures"
    );
    let newcomer = guesses(&lockout, v6(2, 0), "alice", 3, now);
    assert_eq!(
        newcomer[2].begun,
        Some(Scope::Name),
        "a newcomer is counted"
    );
    assert!(
        guesses(&lockout, v6(1, 7), "alice", 1, now)[0].is_locked,
        "and the site has long been locked"
    );
}

#[test]
fn a_table_full_of_locks_still_counts() {
    let (lockout, now) = (Lockout::default(), Instant::now());
    let bounds = Bounds {
        failures: 1,
        ..BOUNDS
    };
    for network in 0..=u16::MAX {
        lockout.failed(v6(network, network), &basic("alice", "x"), bounds, now);
    }
    assert!(lockout.table.lock().unwrap().len() <= ENTRIES_MAX);
    let later = now + Duration::from_secs(1);
    assert!(!guesses(&lockout, client("192.0.2.7"), "alice", 3, later)[1].is_locked);
    assert!(guesses(&lockout, client("192.0.2.7"), "alice", 1, later)[0].is_locked);
}

#[test]
fn a_reload_that_changes_the_failure_limit_keeps_each_lock() {
    let (lockout, now) = (Lockout::default(), Instant::now());
    let home = client("192.0.2.7");
    let failed = |secret: usize, failures: u32| {
        lockout.failed(
            home,
            &basic("alice", &secret.to_string()),
            Bounds { failures, ..BOUNDS },
            now,
        )
    };
    assert!(failed(0, 1).begun.is_some());
    assert!(failed(1, 5).is_locked, "raised");
    let later = now + BOUNDS.window;
    let failed = |secret: usize, failures: u32| {
        lockout.failed(
            home,
            &basic("alice", &secret.to_string()),
            Bounds { failures, ..BOUNDS },
            later,
        )
    };
    assert!((0..4).all(|secret| failed(secret, 5).begun.is_none()));
    let lowered = failed(4, 2);
    assert!(
        !lowered.is_locked && lowered.begun.is_some(),
        "lowered: the next one locks, and is recorded"
    );
}
