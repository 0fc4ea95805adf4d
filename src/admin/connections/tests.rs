use super::*;

const A: &str = "192.0.2.1";
const B: &str = "192.0.2.2";

fn enter(connections: &Arc<Connections>, peer: &str) -> ConnectionPermit {
    connections.enter(peer.parse().unwrap())
}

fn has(permit: &ConnectionPermit) -> bool {
    permit
        .connections
        .table
        .lock()
        .unwrap()
        .entry(permit.number)
        .is_some()
}

fn which(permits: &[ConnectionPermit]) -> Vec<bool> {
    permits.iter().map(has).collect()
}

#[test]
fn the_newest_connection_displaces_the_oldest_of_the_peer_with_the_most() {
    let connections = Connections::new(4);
    let permits: Vec<_> = [B, A, A, A]
        .iter()
        .map(|peer| enter(&connections, peer))
        .collect();
    let newest = enter(&connections, A);
    assert_eq!(
        which(&permits),
        [true, false, true, true],
        "B was first, but A has more"
    );
    assert!(
        has(&newest) && connections.is_over_full(),
        "the closed one still holds its socket"
    );
    drop(permits);
    assert!(!connections.is_over_full());
    assert_eq!(connections.table.lock().unwrap().entries.len(), 1);
    drop(newest);
    assert!(connections.table.lock().unwrap().counts.is_empty());
}

#[test]
fn ipv6_peers_count_by_64_and_mapped_addresses_as_ipv4() {
    let connections = Connections::new(3);
    let permits: Vec<_> = [A, "2001:db8::1", "2001:db8::2"]
        .iter()
        .map(|peer| enter(&connections, peer))
        .collect();
    let _newest = enter(&connections, "2001:db8::3");
    assert_eq!(which(&permits), [true, false, true]);
    let connections = Connections::new(3);
    let permits: Vec<_> = [B, "::ffff:192.0.2.1", A]
        .iter()
        .map(|peer| enter(&connections, peer))
        .collect();
    let _newest = enter(&connections, "192.0.2.9");
    assert_eq!(which(&permits), [true, false, true]);
}

#[test]
fn networks_of_one_site_displace_only_each_other() {
    for (prober, answers) in [
        ("2001:db8:2::1", false),
        ("198.51.100.7", false),
        ("2001:db8:2::1", true),
    ] {
        let connections = Connections::new(32);
        let good = enter(&connections, prober);
        good.answering(answers);
        let flood = (0..2_000).map(|number| {
            let permit = enter(&connections, &format!("2001:db8:1:{:x}::1", number % 256));
            permit.answering(!answers);
            permit
        });
        let flood: Vec<_> = flood.collect();
        assert!(has(&good), "{prober}");
        assert_eq!(flood.iter().filter(|permit| has(permit)).count(), 31);
        assert!(flood.iter().rev().take(31).all(has), "the newest are left");
    }
    let connections = Connections::new(32);
    let good = enter(&connections, "203.0.113.7");
    let v4: Vec<_> = (0..=255)
        .map(|host| enter(&connections, &format!("192.0.2.{host}")))
        .collect();
    assert!(has(&good), "an IPv4 /24 is a site too");
    drop((good, v4));
    assert!(connections.table.lock().unwrap().counts.is_empty());
}

#[test]
fn a_client_of_a_heavy_site_keeps_its_place_while_a_neighbour_has_more() {
    let connections = Connections::new(4);
    let good = enter(&connections, "2001:db8:1:7::1");
    let _flood: Vec<_> = (0..10)
        .map(|_| enter(&connections, "2001:db8:1:8::1"))
        .collect();
    assert!(has(&good));
}

#[test]
fn a_request_that_waits_for_its_page_goes_after_idle_ones() {
    let connections = Connections::new(3);
    let permits: Vec<_> = [A, A, A]
        .iter()
        .map(|peer| enter(&connections, peer))
        .collect();
    permits[0].answering(true);
    let second = enter(&connections, A);
    assert_eq!(which(&permits), [true, false, true]);
    permits[0].answering(false);
    let _third = enter(&connections, A);
    assert_eq!(which(&permits), [false, false, true]);
    assert!(has(&second));
}

#[test]
fn strangers_never_displace_a_connection_with_the_token() {
    let connections = Connections::new(8);
    let known: Vec<_> = (0..4).map(|_| enter(&connections, A)).collect();
    known.iter().for_each(ConnectionPermit::trust);
    let crowd: Vec<_> = (0..1_000).map(|_| enter(&connections, B)).collect();
    assert!(known.iter().all(has));
    assert_eq!(crowd.iter().filter(|permit| has(permit)).count(), 4);
    assert!(crowd.iter().rev().take(4).all(has), "the newest are left");
    let fifth = enter(&connections, A);
    fifth.trust();
    assert_eq!(
        which(&known),
        [false, true, true, true],
        "half of the table, the oldest goes"
    );
    assert!(has(&fifth));
    fifth.trust();
    assert_eq!(
        which(&known),
        [false, true, true, true],
        "to show it again takes no place"
    );
}

#[test]
fn a_stranger_gives_up_its_descriptor_first() {
    let connections = Connections::new(4);
    let (known, stranger) = (enter(&connections, A), enter(&connections, A));
    known.trust();
    assert!(connections.close_one() && has(&known) && !has(&stranger));
    assert!(connections.close_one() && !has(&known));
    assert!(!connections.close_one());
}
