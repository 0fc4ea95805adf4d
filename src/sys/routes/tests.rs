use super::*;

impl Routes {
    /// A socket on which every request fails.
    pub(crate) fn of_a_closed_peer() -> Self {
        let (socket, _peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
        Self {
            socket: socket.into(),
            sequence: 0,
        }
    }
}

fn kind(source: &str, destination: &str) -> io::Result<RouteKind> {
    let destination = SocketAddr::new(destination.parse().unwrap(), 443);
    Routes::open()
        .unwrap()
        .ask(source.parse().unwrap(), destination)
}

#[test]
fn addresses_routed_to_this_host_are_local() {
    assert_eq!(kind("127.0.0.2", "127.0.0.1").unwrap(), RouteKind::Local);
    assert_eq!(kind("127.0.0.1", "127.77.77.77").unwrap(), RouteKind::Local);
    assert_eq!(
        kind("127.0.0.1", "255.255.255.255").unwrap(),
        RouteKind::Other
    );
    assert_eq!(
        kind("127.0.0.1", "127.255.255.255").unwrap(),
        RouteKind::Other
    );
}

#[test]
fn the_unspecified_address_is_local() {
    for (source, destination) in [
        ("127.0.0.1", "0.0.0.0"),
        ("::1", "::"),
        ("::1", "::ffff:0.0.0.0"),
        ("2001:db8::1", "::"),
    ] {
        assert_eq!(kind(source, destination).unwrap(), RouteKind::Local);
    }
}

#[test]
fn a_foreign_source_has_no_route() {
    assert!(matches!(
        kind("192.0.2.77", "203.0.113.9").unwrap(),
        RouteKind::None(_)
    ));
}

#[test]
fn one_socket_serves_many_queries() {
    let mut routes = Routes::open().unwrap();
    for _ in 0..100 {
        let (source, destination) = (
            "127.0.0.1".parse().unwrap(),
            "127.0.0.1:443".parse().unwrap(),
        );
        assert_eq!(routes.ask(source, destination).unwrap(), RouteKind::Local);
    }
}

#[test]
fn a_route_query_has_the_protocol_and_the_port() {
    let bytes = question(
        "2001:db8::1".parse().unwrap(),
        "[2001:db8::9]:443".parse().unwrap(),
        7,
    );
    let length = u32::from_ne_bytes(piece(&bytes, 0).unwrap());
    assert_eq!((length as usize, length % 4), (bytes.len(), 0));
    // Both addresses come first.
    let attributes = bytes.get(HEADER + ROUTE_HEADER + 40..).unwrap();
    let attribute = |kind: u16, value: [u8; 4], length: u16| {
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat()
    };
    let expected = [
        attribute(RTA_IP_PROTO, [TCP, 0, 0, 0], 5),
        attribute(RTA_DPORT, [1, 187, 0, 0], 6),
    ]
    .concat();
    assert_eq!(attributes, expected);
}

#[test]
fn a_foreign_route_answer_is_refused() {
    let header = |kind: u16, sequence: u32| {
        let mut bytes = vec![0; HEADER + ROUTE_HEADER];
        bytes.splice(4..6, kind.to_ne_bytes());
        bytes.splice(8..12, sequence.to_ne_bytes());
        bytes
    };
    let mut unicast = header(nix::libc::RTM_NEWROUTE, 7);
    unicast.splice(
        HEADER + ROUTE_TYPE..=HEADER + ROUTE_TYPE,
        [nix::libc::RTN_UNICAST],
    );
    assert_eq!(understood(&unicast, 7).unwrap(), RouteKind::Unicast);
    let over = |interface: u32| {
        let attributes = [[8_u16, 1], [0, 0], [8, 4]]
            .concat()
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        understood(
            &[
                unicast.clone(),
                attributes,
                interface.to_ne_bytes().to_vec(),
            ]
            .concat(),
            7,
        )
        .unwrap()
    };
    assert_eq!((over(1), over(2)), (RouteKind::Local, RouteKind::Unicast));
    assert!(understood(&unicast, 8).is_err(), "of another question");
    for end in 0..HEADER + ROUTE_TYPE {
        assert!(
            understood(unicast.get(..end).unwrap(), 7).is_err(),
            "cut off at {end}"
        );
    }
    assert_eq!(
        understood(&header(nix::libc::RTM_NEWROUTE, 7), 7).unwrap(),
        RouteKind::Other
    );
    assert!(understood(&header(nix::libc::RTM_GETROUTE, 7), 7).is_err());
    let mut refused = header(2, 7);
    refused.splice(HEADER..HEADER + 4, (-nix::libc::ENETUNREACH).to_ne_bytes());
    assert_eq!(
        understood(&refused, 7).unwrap(),
        RouteKind::None(nix::libc::ENETUNREACH)
    );
    assert!(
        understood(&header(2, 7), 7).is_err(),
        "an acknowledgement is no route"
    );
}
