use super::*;
use std::net::Ipv6Addr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Wake;

fn client(address: &str) -> ClientNetwork {
    ClientNetwork::of(address.parse().unwrap())
}

fn v6(site: u16, network: u16) -> ClientNetwork {
    ClientNetwork::of(Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 1).into())
}

fn is_given_up(permit: &PendingPermit) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    pin!(permit.given_up()).poll(&mut context).is_ready()
}

fn remaining(permits: &[PendingPermit]) -> Vec<usize> {
    (0..)
        .zip(permits)
        .filter(|(_, permit)| !is_given_up(permit))
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn a_flood_displaces_its_own_oldest_first() {
    let pool = PendingPool::default();
    let good = pool.enter(client("192.0.2.7"), 4);
    let flood: Vec<_> = (0..10)
        .map(|_| pool.enter(client("198.51.100.66"), 4))
        .collect();
    assert!(!is_given_up(&good));
    assert_eq!(remaining(&flood), [7, 8, 9]);
    let late = pool.enter(client("203.0.113.5"), 4);
    assert_eq!(
        (is_given_up(&late), is_given_up(&good), remaining(&flood)),
        (false, false, vec![8, 9])
    );
}

#[test]
fn networks_of_one_site_displace_only_each_other() {
    let pool = PendingPool::default();
    let good = [client("192.0.2.7"), v6(2, 0), v6(3, 0)].map(|client| pool.enter(client, 8));
    let flood: Vec<_> = (0..1_000)
        .map(|network| pool.enter(v6(1, network), 8))
        .collect();
    assert_eq!(remaining(&good), [0, 1, 2]);
    assert_eq!(remaining(&flood), [995, 996, 997, 998, 999]);
    let v4: Vec<_> = (0..=255)
        .map(|host| pool.enter(client(&format!("198.51.100.{host}")), 8))
        .collect();
    assert_eq!(remaining(&good), [0, 1, 2]);
    assert_eq!(remaining(&flood).len() + remaining(&v4).len(), 5);
}

#[test]
fn a_client_of_a_heavy_site_keeps_its_place_while_a_neighbour_has_more() {
    let pool = PendingPool::default();
    let good = pool.enter(v6(1, 7), 4);
    let _flood: Vec<_> = (0..10).map(|_| pool.enter(v6(1, 8), 4)).collect();
    assert!(!is_given_up(&good));
}

#[test]
fn among_equal_clients_the_oldest_is_displaced() {
    let addresses = ["192.0.2.7", "2001:db8:1::", "198.51.100.7", "2001:db8::"];
    for start in 0..addresses.len() {
        let pool = PendingPool::default();
        let order = addresses.iter().cycle().skip(start).take(addresses.len());
        let permits: Vec<_> = order
            .map(|address| pool.enter(client(address), 3))
            .collect();
        assert_eq!(remaining(&permits), [1, 2, 3]);
    }
}

#[test]
fn a_pool_keeps_nothing_of_connections_that_left() {
    let pool = PendingPool::default();
    let mut permits: Vec<_> = (0..9)
        .map(|network| pool.enter(v6(network % 3, network), 8))
        .collect();
    assert!(pool.0.borrow().ranking.is_some());
    permits.truncate(3);
    assert!(
        pool.0.borrow().ranking.is_none(),
        "a pool that is nearly empty keeps no ranking"
    );
    permits.clear();
    assert!(pool.0.borrow().connections.is_empty());
    let first = pool.enter(v6(1, 1), 1);
    let second = pool.enter(v6(1, 1), 0);
    assert!(
        is_given_up(&first) && !is_given_up(&second),
        "there is room for one at least"
    );
    drop((first, second));
    let _third = pool.enter(v6(1, 1), 1);
    let _fourth = pool.enter(v6(1, 2), 1);
    let state = pool.0.borrow();
    let ranking = state.ranking.as_ref().unwrap();
    assert_eq!(
        (ranking.numbers.len(), ranking.ranks.len()),
        (2, 2),
        "one client and its site"
    );
}

#[test]
fn a_place_that_is_passed_on_counts_for_its_new_client_with_its_age() {
    let (balancer, declared) = (client("192.0.2.7"), client("198.51.100.66"));
    let other = client("203.0.113.5");
    let pool = PendingPool::default();
    let first = pool.enter(balancer, 3);
    let second = pool.enter(balancer, 3).pass_to(declared).unwrap();
    let third = pool.enter(declared, 3);
    let fourth = pool.enter(other, 3);
    assert!(is_given_up(&second), "the declared client held two places");
    assert!(second.pass_to(balancer).is_none());
    // The pool keeps a ranking now.
    let third = third.pass_to(other).unwrap();
    let holders = pool.0.borrow().ranking.as_ref().unwrap().numbers.len();
    assert_eq!(holders, 4, "two clients and their sites");
    let fifth = pool.enter(v6(1, 1), 3);
    let permits = [first, third, fourth, fifth];
    assert_eq!(remaining(&permits), [0, 2, 3]);
    drop(permits);
    assert!(pool.0.borrow().connections.is_empty());
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn a_waiting_connection_learns_that_it_was_displaced() {
    let pool = PendingPool::default();
    let first = pool.enter(v6(1, 1), 1);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut given_up = pin!(first.given_up());
    assert!(
        given_up
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    let _second = pool.enter(v6(2, 1), 1);
    assert_eq!(woken.0.load(Relaxed), 1);
    assert!(
        given_up
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
    );
}
