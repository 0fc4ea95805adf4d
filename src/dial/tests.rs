use super::*;
use crate::policy::guard::{AddressGuard, OwnAddresses};

fn judged(addresses: &[&str]) -> Vec<UpstreamAddress> {
    let addresses: Vec<IpAddr> = addresses
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    // Each is named, because those on loopback are this host's own.
    let all = AddressGuard::new(addresses.iter().map(|address| (*address).into()).collect());
    all.judge(&addresses, &OwnAddresses::default()).unwrap()
}

#[test]
fn families_alternate_and_keep_their_order() {
    let order = in_racing_order(&judged(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
    let order: Vec<_> = order
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    assert_eq!(order, ["2001:db8::1", "192.0.2.1", "192.0.2.2"]);
}

fn dial(to: &[&str], port: Port, from: &str) -> Result<Upstream, DialError> {
    let egress = Egress::new(&[from.parse().unwrap()], None, 28_000);
    let routing = Routing::open().unwrap();
    crate::reactor::tests::run(|reactor| async move {
        let attempts = Count::default();
        let (user, attempts_max) = (None, 2);
        let dialler = Dialler {
            egress: &egress,
            user,
            routing: &routing,
            reactor: &reactor,
            attempts: &attempts,
            attempts_max,
        };
        dialler.connect(&judged(to), port).await
    })
}

#[test]
fn a_refusing_address_does_not_hide_a_reachable_one() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = Port::parse(&listener.local_addr().unwrap().port().to_string()).unwrap();
    let upstream = dial(&["127.0.0.3", "127.0.0.1"], port, "127.0.0.2").unwrap();
    assert_eq!(upstream.address, listener.local_addr().unwrap());
    assert_eq!(upstream.egress.ip(), "127.0.0.2".parse::<IpAddr>().unwrap());
}

#[test]
fn failures_are_distinguished() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let port = Port::parse(&free.to_string()).unwrap();
    let dial = |to: &[&str], from: &str| dial(to, port, from).unwrap_err();
    assert!(matches!(
        dial(&["127.0.0.1"], "127.0.0.2"),
        DialError::Refused(_)
    ));
    assert!(matches!(
        dial(&["127.0.0.1"], "192.0.2.77"),
        DialError::Egress(_)
    ));
    assert!(matches!(dial(&["::1"], "127.0.0.2"), DialError::NoFamily));
    assert!(matches!(
        dial(&["::1", "127.0.0.1"], "127.0.0.2"),
        DialError::Refused(_)
    ));
}
