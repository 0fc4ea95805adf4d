//! Shares, and the order of the queue.

use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

fn asker(last: u8) -> Asker {
    asker_at(IpAddr::from([192, 0, 2, last]))
}

fn asker_at(address: IpAddr) -> Asker {
    Asker {
        holder: Holder::of(None, address),
        is_named: false,
    }
}

/// This user, at the address of one of many networks.
fn user_at(user: &str, network: u16) -> Asker {
    let address = if network.is_multiple_of(2) {
        IpAddr::from([0x2001, 0xdb8, network, network, 0, 0, 0, 1])
    } else {
        IpAddr::from([198, 51, 100, u8::try_from(network).unwrap()])
    };
    Asker {
        holder: Holder::of(
            Some(&crate::authority::UserId::parse(user).unwrap()),
            address,
        ),
        is_named: false,
    }
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn one_client_has_half_of_the_turns_and_the_operators_names_their_own() {
    let permits = LookupPermits::new(16);
    let held: Vec<_> = (0..20)
        .filter_map(|_| permits.try_acquire(&asker(1)))
        .collect();
    assert_eq!(held.len(), 4);
    let more: Vec<_> = (2..20)
        .filter_map(|last| permits.try_acquire(&asker(last)))
        .collect();
    assert_eq!(more.len(), 4);
    let named: Vec<_> = (1..20)
        .filter_map(|last| {
            permits.try_acquire(&Asker {
                is_named: true,
                ..asker(last)
            })
        })
        .collect();
    assert_eq!(named.len(), 8);
    drop((held, more));
    assert!(permits.try_acquire(&asker(1)).is_some());
}

#[test]
fn networks_of_one_ipv6_site_are_one_client() {
    let permits = LookupPermits::new(16);
    let held: Vec<_> = (0..40)
        .filter_map(|last| {
            permits.try_acquire(&asker_at(IpAddr::from([
                0x2001, 0xdb8, 1, last, 0, 0, 0, last,
            ])))
        })
        .collect();
    assert_eq!(held.len(), 4);
    assert!(
        permits
            .try_acquire(&asker_at(IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, 1])))
            .is_some()
    );
    assert!(permits.try_acquire(&asker(1)).is_some() && permits.try_acquire(&asker(2)).is_some());
}

#[test]
fn forty_networks_of_one_user_do_not_delay_another_user() {
    let permits = LookupPermits::new(8);
    let askers: Vec<_> = (0..40).map(|network| user_at("greedy", network)).collect();
    let held: Vec<_> = askers
        .iter()
        .filter_map(|asker| permits.try_acquire(asker))
        .collect();
    assert_eq!(held.len(), 2, "half of the permits");
    let mut greedy: Vec<_> = askers
        .iter()
        .map(|asker| Box::pin(permits.acquire(asker)))
        .collect();
    assert!(
        greedy
            .iter_mut()
            .all(|waiting| poll(waiting.as_mut()).is_pending())
    );
    let (at_home, away) = (user_at("modest", 1), user_at("modest", 2));
    let (first, second) = (
        permits.try_acquire(&at_home).unwrap(),
        permits.try_acquire(&away).unwrap(),
    );
    // All permits are taken: the next that is free is the third user's, though forty have waited for longer.
    let third_asker = user_at("third", 1);
    let mut third = pin!(permits.acquire(&third_asker));
    assert!(poll(third.as_mut()).is_pending());
    drop(first);
    assert!(poll(third.as_mut()).is_ready());
    drop((held, second));
    assert!(
        greedy
            .iter_mut()
            .all(|waiting| poll(waiting.as_mut()).is_ready())
    );
}

#[test]
fn waiting_clients_take_turns() {
    let permits = LookupPermits::new(4);
    let (first, second) = (
        permits.try_acquire(&asker(1)).unwrap(),
        permits.try_acquire(&asker(2)).unwrap(),
    );
    let (greedy, modest) = (asker(1), asker(3));
    let mut greedy: Vec<_> = (0..10)
        .map(|_| Box::pin(permits.acquire(&greedy)))
        .collect();
    let mut modest = pin!(permits.acquire(&modest));
    assert!(
        greedy
            .iter_mut()
            .all(|waiting| poll(waiting.as_mut()).is_pending())
    );
    assert!(poll(modest.as_mut()).is_pending());
    drop(second);
    assert!(
        poll(modest.as_mut()).is_ready(),
        "the greedy client has its share"
    );
    drop(first);
    let served: Vec<_> = greedy
        .iter_mut()
        .map(|waiting| poll(waiting.as_mut()).is_ready())
        .collect();
    assert_eq!(
        served, [true; 10],
        "each gives its permit to the next as it is dropped"
    );
}

#[test]
fn a_client_that_leaves_the_queue_is_removed() {
    let permits = LookupPermits::new(2);
    let held = permits.try_acquire(&asker(1)).unwrap();
    for last in 0..200 {
        let asker = asker(last);
        let mut waiting = pin!(permits.acquire(&asker));
        assert!(poll(waiting.as_mut()).is_pending());
    }
    let seventh = asker(7);
    let mut gone = Box::pin(permits.acquire(&seventh));
    assert!(poll(gone.as_mut()).is_pending());
    assert_eq!(lock(&permits.others).ring.len(), 1);
    drop(held);
    // The permit is on its way to one that leaves before it has looked.
    drop(gone);
    let pool = lock(&permits.others);
    assert!(
        pool.waiting.is_empty() && pool.ring.is_empty() && pool.taken.is_empty() && pool.free == 1
    );
}
