use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn egress(addresses: &[&str], before: Option<&Egress>) -> Egress {
    Egress::new(
        &addresses
            .iter()
            .map(|address| ip(address))
            .collect::<Vec<_>>(),
        before,
        4,
    )
}

fn first(egress: &Egress, user: Option<&str>) -> Arc<Source> {
    let user = user.map(|name| UserId::parse(name).unwrap());
    Arc::clone(
        egress
            .in_order(UPSTREAM.parse().unwrap(), user.as_ref())
            .first()
            .unwrap(),
    )
}

const UPSTREAM: &str = "203.0.113.1:443";

#[test]
fn connections_spread_to_the_source_with_the_fewest_ports_in_use() {
    let egress = egress(
        &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"],
        None,
    );
    let mut held = Vec::new();
    for _ in 0..9 {
        let source = first(&egress, None);
        held.push((
            source.address(),
            egress.port(&source, UPSTREAM.parse().unwrap()).unwrap(),
        ));
    }
    assert!(
        egress
            .sources()
            .filter(|source| source.address().is_ipv4())
            .all(|source| source.ports_in_use() == 3)
    );
    held.retain(|(address, _)| *address != ip("192.0.2.2"));
    assert_eq!(first(&egress, None).address(), ip("192.0.2.2"));
}

#[test]
fn a_user_keeps_to_one_source_while_it_is_there() {
    let egress = egress(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], None);
    let own = first(&egress, Some("alice"));
    let _in_use = egress.port(&own, UPSTREAM.parse().unwrap());
    assert!((0..5).all(|_| first(&egress, Some("alice")).address() == own.address()));
    own.set_up(false);
    let other = first(&egress, Some("alice"));
    assert_ne!(other.address(), own.address());
    own.set_up(true);
    assert_eq!(first(&egress, Some("alice")).address(), own.address());
    let places: std::collections::HashSet<_> = (0..50)
        .map(|number| first(&egress, Some(&format!("user{number}"))).address())
        .collect();
    assert_eq!(places.len(), 3, "users spread over all of them");
}

#[test]
fn ports_are_bounded_for_each_upstream_and_counted_over_reloads() {
    let before = egress(&["192.0.2.1"], None);
    let source = first(&before, None);
    let held: Vec<_> = (0..4)
        .map(|_| before.port(&source, UPSTREAM.parse().unwrap()).unwrap())
        .collect();
    assert!(before.port(&source, UPSTREAM.parse().unwrap()).is_none());
    assert!(
        before
            .port(&source, "203.0.113.2:443".parse().unwrap())
            .is_some()
    );
    assert_eq!(before.nearly_exhausted(), [ip("192.0.2.1")]);
    let after = egress(&["192.0.2.9"], Some(&before));
    assert_eq!(after.addresses().collect::<Vec<_>>(), [ip("192.0.2.9")]);
    assert!(after.nearly_exhausted().is_empty());
    assert_eq!(
        after
            .all()
            .map(|source| source.ports_in_use())
            .sum::<usize>(),
        4,
        "of the retired one"
    );
    let again = egress(&["192.0.2.1", "192.0.2.9"], Some(&after));
    assert_eq!(
        again
            .sources()
            .map(|source| source.ports_in_use())
            .sum::<usize>(),
        4
    );
    assert!(
        again.nearly_exhausted().is_empty(),
        "one of two has ports left"
    );
    drop(held);
    assert_eq!(
        again
            .all()
            .map(|source| source.ports_in_use())
            .sum::<usize>(),
        0
    );
}

#[test]
fn ports_that_the_kernel_holds_count() {
    let egress = egress(&["192.0.2.1", "192.0.2.2"], None);
    let (upstream, other) = (
        UPSTREAM.parse().unwrap(),
        "203.0.113.2:443".parse().unwrap(),
    );
    let [one, two] = [0, 1].map(|number| Arc::clone(egress.sources().nth(number).unwrap()));
    one.set_closing([(upstream, 3), (other, 1)].into());
    assert_eq!((one.ports_in_use(), one.busiest()), (4, 3));
    let held = egress.port(&one, upstream).unwrap();
    assert!(
        egress.port(&one, upstream).is_none(),
        "three of four are the kernel's"
    );
    assert!(egress.port(&one, other).is_some());
    assert_eq!((one.ports_in_use(), one.busiest()), (5, 4));
    assert_eq!(
        first(&egress, None).address(),
        two.address(),
        "the one with the fewest"
    );
    two.set_closing([(upstream, 4)].into());
    assert_eq!(egress.nearly_exhausted().len(), 2);
    one.set_closing(HashMap::new());
    assert!(egress.nearly_exhausted().is_empty());
    drop(held);
    assert_eq!(one.ports_in_use(), 0);
}

#[test]
fn a_user_may_be_limited_to_some_sources() {
    let egress = egress(&["192.0.2.1", "192.0.2.2"], None);
    assert_eq!(
        first(&egress.only(&[ip("192.0.2.2")]), Some("alice")).address(),
        ip("192.0.2.2")
    );
    assert!(
        egress
            .only(&[])
            .in_order(UPSTREAM.parse().unwrap(), None)
            .is_empty()
    );
}

#[test]
fn ports_are_scarce_before_half_of_them_are_in_use_and_no_longer_when_they_are_free() {
    let upstream: SocketAddr = UPSTREAM.parse().unwrap();
    for address in ["192.0.2.1", "2001:db8::1"] {
        let egress = Egress::new(&[ip(address)], None, 100);
        let source = Arc::clone(egress.sources().next().unwrap());
        let take = |upstream| egress.port(&source, upstream).unwrap();
        let mut held: Vec<_> = (0..36).map(|_| take(upstream)).collect();
        assert!(held.iter().all(|(_, is_scarce)| !is_scarce));
        held.push(take(upstream));
        assert!(held.last().unwrap().1);
        let elsewhere: SocketAddr = "203.0.113.1:8443".parse().unwrap();
        assert!(!take(elsewhere).1, "of another upstream");
        // The kernel's own count, and a range that has become wider.
        source.set_closing(HashMap::from([(elsewhere, 36)]));
        assert!(take(elsewhere).1);
        egress.set_ports_max(200);
        assert!(!take(elsewhere).1);
        egress.set_ports_max(100);
        source.set_closing(HashMap::new());
        held.truncate(35);
        assert!(!take(upstream).1);
    }
}
