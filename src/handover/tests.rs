//! The format: every field there and back, the first version for ever, and hostile bytes.

mod ahead;

use std::time::{Duration, Instant};

use std::net::UdpSocket;
use std::os::fd::AsFd;

use proptest::prelude::*;

use super::format::{
    Debt, Described, FORMAT, FailuresState, FormatError, Head, LockoutState, VERSION, append,
    append_held, read, read_head,
};
use super::parcel::{LookError, is_kept, look, waiting};
use super::parking::{Packer, Parking};
use super::state::{
    CertificateState, DeclaredState, FlowState, HelloState, JudgedState, LocksState, RelayState,
    ServerState, SideState, Stage, TunnelState,
};
use crate::sys::parcel;

/// What version 0.1.0 wrote. Never change it: a daemon of today must read it.
const FIRST: &[u8] = include_bytes!("../../tests/fixtures/handover/version-1");

fn flow(number: u64) -> FlowState {
    FlowState {
        spliced: number,
        copied: number + 1,
        state: Stage::Blocked,
        in_bulk: true,
        piped: number + 2,
        held: 0,
        stalled: Some((number + 3, number + 4)),
        checked_at: number + 5,
        source_is_far: true,
        sink_is_far: true,
    }
}

/// A state in which every field has a value of its own.
fn full() -> TunnelState {
    let text = |text: &str| Some(text.to_owned());
    let relay = full_relay();
    TunnelState {
        id: "1a202f82158-2b".to_owned(),
        client: "192.0.2.7:50000".parse().unwrap(),
        listener: "192.0.2.1:9293".parse().unwrap(),
        authority: "api.example.com:443".to_owned(),
        upstream: "[2001:db8::7]:443".parse().unwrap(),
        egress: "[2001:db8::1]:40000".parse().unwrap(),
        age_us: 1_234_567,
        quiet_ms: 89,
        descriptors: relay.descriptors(),
        relay,
        user: text("alice@example.com"),
        auth: text("both"),
        declared: Some(DeclaredState {
            via: Some("192.0.2.9:1".parse().unwrap()),
            version: text("TLSv1.3"),
            cipher: text("TLS_AES_128_GCM_SHA256"),
            group: text("x25519"),
            certificate: Some(CertificateState {
                names: vec!["CN=alice".to_owned()],
                fingerprint: text(&"ab".repeat(32)),
                serial: text("1f"),
            }),
        }),
        hello: Some(HelloState {
            sni: text("api.example.com"),
            alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
            bytes: 517,
            records: 2,
            ech: true,
            ja4: "t13d1516h2_8daaf6152771_e5627efa2ab1".to_owned(),
            versions: vec![0x0304, 0x0303],
            took_us: 18,
        }),
        judged: Some(JudgedState {
            mismatch: text("sni_mismatch"),
            newest: Some(0x0304),
            ech: true,
        }),
        server: Some(ServerState {
            version: 0x0304,
            cipher: 0x1301,
            group: Some(29),
        }),
        hello_retry: Some(true),
        would_deny: text("host_denied"),
        dns_us: Some(19),
        connect_us: Some(20),
        warm: Some(true),
        redialled: Some(true),
        error: text("a cause"),
    }
}

fn full_relay() -> RelayState {
    RelayState {
        up: flow(100),
        down: FlowState {
            piped: 0,
            held: 3,
            ..flow(200)
        },
        age_ms: 10,
        quiet_ms: 11,
        half_closed_ms: Some(12),
        revoked_in_ms: Some(13),
        waits: true,
        has_keepalive: true,
        resumed_ms: 14,
        spoke_ms: Some(15),
        first_byte_ms: Some(16),
        max_gap_ms: 17,
        first_fin: Some(SideState::Client),
        unwritable: Some((SideState::Upstream, 104)),
        client_locks: LocksState {
            receive: true,
            send: false,
        },
        upstream_locks: LocksState {
            receive: false,
            send: true,
        },
        is_stall_noted: true,
    }
}

fn head(tunnels: usize) -> Head {
    Head {
        format: FORMAT.to_owned(),
        version: VERSION,
        daemon: "0.1.0".to_owned(),
        frozen_ns: 1_000,
        tunnels,
        descriptors: 4 * tunnels,
        egress: vec!["2001:db8::1".parse().unwrap()],
        debts: vec![Debt {
            user: "alice@example.com".to_owned(),
            due_us: 5,
        }],
        lockout: LockoutState {
            key: "cd".repeat(32),
            entries: vec![FailuresState {
                of: u64::MAX,
                secrets: 1,
                tries: 2,
                locked: true,
                since_ms: 3,
                last: vec![4, 5, 6, 7],
            }],
        },
        since: None,
        request: None,
    }
}

/// A description of one tunnel with three bytes in a buffer.
fn description() -> Vec<u8> {
    let mut lines = Vec::new();
    append(&head(1), &mut lines);
    append(&full(), &mut lines);
    append_held(0, SideState::Upstream, b"abc", &mut lines);
    lines
}

#[test]
fn every_field_is_read_back() {
    let read = read(&description()).unwrap();
    assert_eq!(read.head, head(1));
    let [
        Described {
            state,
            descriptors,
            up,
            down,
        },
    ] = &read.tunnels[..]
    else {
        panic!("{read:?}")
    };
    assert_eq!(**state.as_ref().unwrap(), full());
    assert_eq!((*descriptors, up.len(), &down[..]), (4, 0, &b"abc"[..]));
}

#[test]
fn the_first_version_is_read_for_ever() {
    let first = read(FIRST).unwrap();
    assert_eq!(first.head, head(1));
    let mut expected = full();
    // Added later.
    expected.relay.has_keepalive = false;
    (expected.warm, expected.redialled) = (None, None);
    assert_eq!(**first.tunnels[0].state.as_ref().unwrap(), expected);
    assert_eq!(&first.tunnels[0].down[..], b"abc");
}

/// A newer daemon adds fields and kinds of lines.
#[test]
fn what_is_unknown_is_ignored_and_what_is_missing_has_its_default() {
    let text = String::from_utf8(description()).unwrap();
    let newer = text
        .replace("{\"id\":", "{\"new\":{\"a\":[1]},\"id\":")
        .replace("\"format\":", "\"later\":true,\"format\":")
        + "{\"of_a_newer_daemon\":1}\n";
    let read_back = read(newer.as_bytes()).unwrap();
    assert_eq!(**read_back.tunnels[0].state.as_ref().unwrap(), full());
    let least = "{\"format\":\"sealway-handover\",\"version\":1,\"frozen_ns\":1,\"tunnels\":1,\"descriptors\":2}\n\
        {\"id\":\"1-1\",\"client\":\"192.0.2.7:5\",\"listener\":\"192.0.2.1:9\",\"authority\":\"a.example:443\",\"upstream\":\"192.0.2.8:443\",\"egress\":\"192.0.2.1:7\",\"age_us\":1,\"quiet_ms\":1,\"descriptors\":2,\"relay\":{\"up\":{\"spliced\":1,\"copied\":2},\"down\":{\"spliced\":3,\"copied\":4},\"age_ms\":1,\"quiet_ms\":1}}\n";
    assert!(read(least.as_bytes()).unwrap().tunnels[0].state.is_ok());
}

#[test]
fn another_format_is_refused_whole_and_another_tunnel_alone() {
    let text = String::from_utf8(description()).unwrap();
    let other = text.replacen("\"version\":1", "\"version\":2", 1);
    let refused = Err(FormatError::Version(FORMAT.to_owned(), 2));
    assert_eq!(read_head(other.as_bytes()), refused);
    let named = text.replacen(FORMAT, "something", 1);
    assert!(matches!(
        read(named.as_bytes()),
        Err(FormatError::Version(..))
    ));
    let strange = text.replacen("\"state\":\"blocked\"", "\"state\":\"resting\"", 1);
    let read_back = read(strange.as_bytes()).unwrap();
    assert!(read_back.tunnels[0].state.is_err());
    assert_eq!(read_back.tunnels[0].descriptors, 4, "its sockets are known");
}

#[test]
fn a_description_that_is_cut_is_refused() {
    let whole = description();
    let lines = whole.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, 3);
    let end_of_tunnel = whole.len()
        - whole
            .iter()
            .rev()
            .skip(1)
            .position(|byte| *byte == b'\n')
            .unwrap()
        - 1;
    for end in 0..end_of_tunnel - 1 {
        assert!(
            read(&whole[..end]).is_err() || read(&whole[..end]).unwrap().tunnels[0].state.is_err(),
            "{end}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let _any = read(&bytes);
    }

    #[test]
    fn no_changed_byte_causes_a_panic(at in 0_usize..1_500, byte in any::<u8>()) {
        let mut bytes = description();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        let _any = read(&bytes);
    }
}

/// A tunnel with two sockets and no pipe.
fn idle() -> TunnelState {
    let mut state = full();
    (state.relay.up, state.relay.down) = Default::default();
    state.descriptors = 2;
    state
}

/// Puts one tunnel into the queue, as the daemon and one worker do.
fn fill(parking: &Parking, sockets: &[UdpSocket; 2]) {
    parking.freeze();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let fill = |packer: &mut Packer<'_>| {
                packer.contents.describe(&idle(), [None, None]);
                packer.send(
                    &[sockets[0].as_fd(), sockets[1].as_fd()],
                    sockets[0].as_fd(),
                );
            };
            parking.park(fill)
        });
        let packed = parking.packed(1, Duration::from_secs(10), Head::default());
        let sealed = packed.unwrap().seal().unwrap();
        parking.send(&sealed).unwrap();
        assert!(worker.join().unwrap(), "the worker leaves its tunnels");
    });
}

#[test]
fn a_parcel_is_seen_as_often_as_wanted_and_taken_once() {
    let (reader, writer) = parcel::queue().unwrap();
    let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let parking = Parking::new(writer);
    fill(&parking, &sockets);
    assert_eq!(waiting(&reader).unwrap().tunnels, 1);
    for _ in 0..2 {
        let arrived = look(reader.try_clone().unwrap(), 20_000).unwrap().unwrap();
        assert_eq!(arrived.pollers.len(), 1, "the worker's");
        let tunnels = arrived.contents.unwrap();
        let [(described, descriptors)] = &tunnels.tunnels[..] else {
            panic!("{tunnels:?}")
        };
        assert_eq!(**described.state.as_ref().unwrap(), idle());
        assert_eq!(descriptors.len(), 2);
    }
    let too_many = look(reader.try_clone().unwrap(), 129).unwrap_err();
    assert!(matches!(too_many, LookError::TooMany(2, 129)), "{too_many}");
    let arrived = look(reader.try_clone().unwrap(), 20_000).unwrap().unwrap();
    arrived.take_out();
    assert!(look(reader, 20_000).unwrap().is_none());
}

#[test]
fn a_parcel_without_its_description_is_dropped() {
    let (reader, writer) = parcel::queue().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    parcel::send(&writer, b'D', &[socket.as_fd()]).unwrap();
    drop(writer);
    assert!(waiting(&reader).is_none());
    let arrived = look(reader.try_clone().unwrap(), 20_000).unwrap().unwrap();
    assert!(arrived.contents.is_err());
    arrived.take_out();
    assert!(look(reader, 20_000).unwrap().is_none());
}

#[test]
fn only_sealed_memory_is_read() {
    let open = tempfile::tempfile().unwrap();
    assert!(parcel::unseal(open.into(), 1_000).is_err());
    let sealed = parcel::seal([&b"text"[..]].into_iter()).unwrap();
    assert_eq!(parcel::unseal(sealed, 1_000).unwrap(), b"text");
    assert!(parcel::unseal(parcel::seal([&b"text"[..]].into_iter()).unwrap(), 3).is_err());
}

#[test]
fn a_queue_that_nobody_keeps_is_noticed() {
    let (reader, writer) = parcel::queue().unwrap();
    assert!(is_kept(&writer));
    assert!(waiting(&reader).is_none());
    drop(reader);
    // A process that another test forks has the end until it calls exec.
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_kept(&writer) {
        assert!(Instant::now() < deadline, "it still has a reader");
        std::thread::sleep(Duration::from_millis(5));
    }
}
