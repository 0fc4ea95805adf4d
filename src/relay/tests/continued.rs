//! Tunnels of another daemon.

use super::*;
use crate::handover::state::{FlowState, RelayState, SideState, Stage};
use crate::sys::poller::Events;

/// A tunnel that another daemon has described, an hour old and half-closed.
fn described() -> RelayState {
    let flow = |spliced, state| FlowState {
        spliced,
        copied: spliced + 1,
        state,
        in_bulk: true,
        ..FlowState::default()
    };
    RelayState {
        up: flow(1_000, Stage::Ended),
        down: flow(2_000, Stage::Open),
        age_ms: 3_600_000,
        quiet_ms: 17_000,
        half_closed_ms: Some(16_000),
        revoked_in_ms: Some(15_000),
        has_keepalive: true,
        resumed_ms: 14_000,
        spoke_ms: Some(13),
        first_byte_ms: Some(12),
        max_gap_ms: 11_000,
        first_fin: Some(SideState::Client),
        ..RelayState::default()
    }
}

/// Continues a tunnel of another daemon, and returns the client's and the upstream's peers.
fn continued(
    relay: &mut Relay<Noted>,
    owner: Noted,
    state: RelayState,
    up: Held,
    pause: u64,
) -> [std::net::TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = || {
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        // As the other daemon leaves them.
        crate::sys::reset_on_close(&near).unwrap();
        (near, listener.accept().unwrap().0)
    };
    let ((client, client_peer), (upstream, upstream_peer)) = (socket(), socket());
    relay.continue_tunnel(Adopted {
        owner,
        client,
        upstream,
        mode: Mode::Splice,
        state,
        held: [up, Held::Nothing],
        pause: Duration::from_millis(pause),
        grace: Some(Duration::from_secs(60)),
    });
    [client_peer, upstream_peer]
}

#[test]
fn a_continued_tunnel_has_the_times_and_bytes_of_its_description() {
    for pause in [0, 5_000] {
        let (mut relay, notes, _) = relay(0, None);
        relay.begin_before(Duration::from_secs(7_200));
        let _peers = continued(&mut relay, Noted(notes), described(), Held::Nothing, pause);
        let mut states = Vec::new();
        assert_eq!(relay.park(|_, state, _| states.push(state)).len(), 2);
        // The tunnel ages while no daemon has it, and is not silent for that.
        let expected = RelayState {
            age_ms: 3_600_000 + pause,
            ..described()
        };
        assert_eq!(states, [expected], "after {pause} ms");
    }
}

/// The other daemon has made its loss a reset. Here a clean end is a FIN again, and a loss is still a reset.
#[test]
fn a_continued_tunnel_ends_in_order_and_is_lost_with_a_reset() {
    use std::io::{ErrorKind, Read};
    let (mut relay, notes, _) = relay(0, None);
    let mut continue_one = || {
        continued(
            &mut relay,
            Noted(Rc::clone(&notes)),
            described(),
            Held::Nothing,
            0,
        )
    };
    let [mut client, upstream] = continue_one();
    let [mut lost, _upstream] = continue_one();
    drop(upstream);
    let (poller, mut events) = (Rc::clone(&relay.poller), Events::with_capacity(4));
    while relay.tunnel_count() == 2 {
        poller
            .wait(&mut events, Some(Duration::from_secs(10)))
            .unwrap();
        assert!(events.iter().next().is_some(), "the FIN is seen");
        events.iter().for_each(|event| relay.on_event(event));
    }
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(relay);
    let error = lost.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// Also after a hand-over that fails.
#[test]
fn bytes_that_wait_in_a_buffer_are_described_and_delivered() {
    let (mut relay, notes, _) = relay(0, None);
    let up = FlowState {
        state: Stage::Blocked,
        held: 5,
        ..FlowState::default()
    };
    let state = RelayState {
        up,
        ..RelayState::default()
    };
    let held = Held::Bytes(b"bytes".to_vec().into());
    let [_client, mut upstream] = continued(&mut relay, Noted(notes), state, held, 0);
    let mut described = Vec::new();
    relay.park(|_, state, [up, down]| {
        described.push((state.up.held, up.map(<[u8]>::to_vec), down.is_none()))
    });
    assert_eq!(described, [(5, Some(b"bytes".to_vec()), true)]);
    let (poller, mut events) = (Rc::clone(&relay.poller), Events::with_capacity(4));
    let mut ready = |patience| {
        poller.wait(&mut events, Some(patience)).unwrap();
        events.iter().collect::<Vec<_>>()
    };
    for event in ready(Duration::from_secs(10)) {
        relay.on_event(event);
    }
    let mut received = [0; 5];
    std::io::Read::read_exact(&mut upstream, &mut received).unwrap();
    assert_eq!(&received, b"bytes");
}

/// The former daemon has them open for a moment.
#[test]
fn the_peers_learn_of_an_end_while_another_process_has_the_sockets() {
    use std::io::{ErrorKind, Read};
    let (mut relay, notes, _) = relay(0, None);
    let [mut client, upstream] = continued(
        &mut relay,
        Noted(Rc::clone(&notes)),
        described(),
        Held::Nothing,
        0,
    );
    let former = |relay: &Relay<Noted>| -> Vec<_> {
        let descriptors = relay.park(|_, _, _| {}).into_iter();
        descriptors
            .map(|socket| socket.try_clone_to_owned().unwrap())
            .collect()
    };
    let _open_elsewhere = former(&relay);
    drop(upstream);
    let (poller, mut events) = (Rc::clone(&relay.poller), Events::with_capacity(4));
    while !relay.is_empty() {
        poller
            .wait(&mut events, Some(Duration::from_secs(10)))
            .unwrap();
        assert!(events.iter().next().is_some(), "the FIN is seen");
        events.iter().for_each(|event| relay.on_event(event));
    }
    let patience = Some(Duration::from_secs(10));
    client.set_read_timeout(patience).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let peers = continued(&mut relay, Noted(notes), described(), Held::Nothing, 0);
    let _open_elsewhere = former(&relay);
    relay.end_all(Ending::Drained);
    for mut peer in peers {
        peer.set_read_timeout(patience).unwrap();
        let error = peer.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}
