//! Tunnels on the stream of the claim.

use std::io::Read;
use std::os::unix::net::UnixStream;

use super::*;
use crate::handover::ahead::Sender;
use crate::handover::claim::{Former, NotTaken};
use crate::handover::format::{Since, read_changes};
use crate::handover::packing::Contents;
use crate::handover::parking::Asked;
use crate::handover::state::Change;

const LIMIT: u64 = 20_000;

fn change(of: usize) -> Change {
    let relay = full_relay();
    Change {
        of,
        quiet_ms: 7,
        descriptors: relay.pipe_ends(),
        relay,
    }
}

#[test]
fn changes_are_read_back_and_are_no_whole_description() {
    let since = Since {
        changed: 2,
        ended: vec![0, 5],
    };
    let head = Head {
        since: Some(since),
        request: Some(9),
        ..head(4)
    };
    let mut lines = Vec::new();
    append(&head, &mut lines);
    append(&change(3), &mut lines);
    append(&change(1), &mut lines);
    append_held(1, SideState::Upstream, b"abc", &mut lines);
    let changes = read_changes(&lines).unwrap();
    assert_eq!(changes.head, head);
    let states: Vec<_> = changes
        .tunnels
        .iter()
        .map(|one| one.state.clone())
        .collect();
    assert_eq!(states, [3, 1].map(|of| Ok(Box::new(change(of)))));
    assert_eq!(changes.tunnels[1].down.as_slice(), b"abc");
    assert_eq!(read(&lines).unwrap_err(), FormatError::Part);
    assert_eq!(read_changes(&description()).unwrap_err(), FormatError::Part);
    // Without its change a tunnel would go on with the bytes of before.
    let text = String::from_utf8(lines).unwrap();
    let strange = text.replacen("\"state\":\"blocked\"", "\"state\":\"resting\"", 1);
    assert!(matches!(
        read_changes(strange.as_bytes()),
        Err(FormatError::Change(_))
    ));
}

#[test]
fn a_state_ages_and_changes() {
    let mut aged = full();
    aged.age(Duration::from_millis(5));
    let mut expected = full();
    expected.age_us += 5_000;
    expected.quiet_ms += 5;
    let relay = &mut expected.relay;
    for since in [
        &mut relay.age_ms,
        &mut relay.quiet_ms,
        &mut relay.resumed_ms,
    ] {
        *since += 5;
    }
    (relay.half_closed_ms, relay.revoked_in_ms) = (Some(17), Some(8));
    (relay.up.stalled, relay.down.stalled) = (Some((108, 104)), Some((208, 204)));
    assert_eq!(aged, expected);
    let mut changed = idle();
    changed.change(change(0));
    assert_eq!((changed.quiet_ms, changed.descriptors), (7, 4));
    assert_eq!(changed.relay, full_relay());
}

/// A former daemon with two workers, of which the first has two tunnels and the second has one.
struct FormerDaemon {
    parking: Parking,
    asked: Asked,
    socket: UdpSocket,
}

impl FormerDaemon {
    /// It has been asked on this stream.
    fn on(mut stream: UnixStream) -> Self {
        let mut said = [0; 6];
        stream.read_exact(&mut said).unwrap();
        let [b's', b'a', request @ ..] = said else {
            panic!("{said:?}")
        };
        stream.set_nonblocking(true).unwrap();
        let (_reader, writer) = parcel::queue().unwrap();
        let parking = Parking::new(writer);
        parking.live_beside(Sender::on(stream));
        let asked = Asked {
            request: u32::from_be_bytes(request),
            at: Instant::now(),
        };
        parking.ask_ahead(asked);
        Self {
            parking,
            asked,
            socket: UdpSocket::bind("127.0.0.1:0").unwrap(),
        }
    }

    fn describe(&self, ids: &[&str]) -> usize {
        let mut contents = Contents::default();
        for id in ids {
            let id = (*id).to_owned();
            contents.describe(&TunnelState { id, ..idle() }, [None, None]);
        }
        let sockets = vec![self.socket.as_fd(); 2 * ids.len()];
        let place = self.parking.put_ahead(self.asked, contents, &sockets);
        self.parking.is_described(self.asked);
        place.unwrap()
    }

    fn send_ahead(&self) -> usize {
        assert_eq!(
            (self.describe(&["1-a", "1-b"]), self.describe(&["1-c"])),
            (0, 2)
        );
        let head = Head {
            request: Some(self.asked.request),
            ..Head::default()
        };
        self.parking.send_ahead(2, SOON, head).unwrap()
    }
}

const SOON: Duration = Duration::from_secs(10);

/// A former daemon and the next one, in a thread of its own, on two ends of one stream.
fn with_next<R: Send>(former: impl FnOnce(UnixStream), next: impl FnOnce(Former) -> R + Send) -> R {
    let (own, other) = UnixStream::pair().unwrap();
    let other = Former::at(other).unwrap();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| next(other));
        former(own);
        next.join().unwrap()
    })
}

#[test]
fn tunnels_come_ahead_and_what_has_changed_comes_with_the_claim() {
    let former = |mut stream: UnixStream| {
        let daemon = FormerDaemon::on(stream.try_clone().unwrap());
        assert_eq!(daemon.send_ahead(), 3);
        stream.set_nonblocking(false).unwrap();
        let mut said = [0];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(said, *b"c");
        stream.set_nonblocking(true).unwrap();
        let parking = &daemon.parking;
        parking.freeze();
        std::thread::scope(|scope| {
            let ends = |packer: &mut Packer<'_>| {
                assert_eq!(packer.completes(), Some(daemon.asked));
                packer.contents.end(0);
                packer.send(&[], daemon.socket.as_fd());
            };
            let changes = |packer: &mut Packer<'_>| {
                packer.contents.change(&change(2), [None, Some(b"abc")]);
                packer.send(&[daemon.socket.as_fd(); 2], daemon.socket.as_fd());
            };
            let workers = [
                scope.spawn(move || parking.park(ends)),
                scope.spawn(move || parking.park(changes)),
            ];
            let packed = parking.packed(2, SOON, Head::default()).unwrap();
            assert_eq!(packed.tunnels, 2);
            let ids = crate::digest::Digest::of("1-b\n1-c\n");
            assert_eq!(packed.ids.to_string(), ids.to_string());
            let sealed = packed.seal().unwrap();
            parking.next().unwrap().changed(&sealed).unwrap();
            parking.leave().unwrap();
            assert!(
                workers
                    .map(|worker| worker.join().unwrap())
                    .iter()
                    .all(|left| *left)
            );
        });
    };
    let (ahead, changes) = with_next(former, |mut next| {
        let ahead = next.ask_ahead(LIMIT).unwrap().unwrap();
        let changes = next.claim_rest(LIMIT).unwrap();
        next.take().unwrap();
        (ahead, changes)
    });
    let came = ahead.tunnels.iter().map(|(one, descriptors)| {
        let id = one.state.as_ref().unwrap().id.clone();
        (id, descriptors.len())
    });
    let expected = ["1-a", "1-b", "1-c"].map(|id| (id.to_owned(), 2));
    assert_eq!(came.collect::<Vec<_>>(), expected);
    assert_eq!((changes.head.tunnels, changes.head.descriptors), (2, 6));
    assert_eq!(changes.head.since.unwrap().ended, [0]);
    assert_eq!(changes.pollers.len(), 2);
    let [(changed, pipes)] = &changes.changes[..] else {
        panic!("{:?}", changes.changes)
    };
    assert_eq!(**changed.state.as_ref().unwrap(), change(2));
    assert_eq!((changed.down.as_slice(), pipes.len()), (&b"abc"[..], 2));
}

/// For a daemon that has ended before it has read it.
#[test]
fn an_answer_to_another_request_is_passed_over() {
    let former = |stream: UnixStream| {
        let stale = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = Sender::on(stream.try_clone().unwrap());
        parcel::send(&sender, b'D', &[stale.as_fd(); 2]).unwrap();
        let mut lines = Vec::new();
        let other = Head {
            request: Some(std::process::id() + 1),
            descriptors: 2,
            ..head(1)
        };
        append(&other, &mut lines);
        append(&idle(), &mut lines);
        let sealed = parcel::seal([&lines[..]].into_iter()).unwrap();
        sender.described(&sealed).unwrap();
        FormerDaemon::on(stream).send_ahead();
    };
    let ahead = with_next(former, |mut next| next.ask_ahead(LIMIT).unwrap().unwrap());
    assert_eq!(ahead.tunnels.len(), 3);
}

#[test]
fn more_tunnels_than_the_limit_allows_are_counted() {
    let former = |stream| assert_eq!(FormerDaemon::on(stream).send_ahead(), 3);
    let error = with_next(former, |mut next| next.ask_ahead(131).unwrap_err());
    assert!(matches!(error, LookError::TooMany(6, 131)), "{error}");
}

#[test]
fn a_former_daemon_that_refuses_or_ends_sends_nothing_ahead() {
    let refuses = |stream: UnixStream| Sender::on(stream).refused();
    assert!(with_next(refuses, |mut next| next
        .ask_ahead(LIMIT)
        .unwrap()
        .is_none()));
    assert!(with_next(drop, |mut next| next
        .ask_ahead(LIMIT)
        .unwrap()
        .is_none()));
}

/// The tunnels are the next daemon's when the former one says so or dies, and not when it has ended them.
#[test]
fn the_last_word_of_a_former_daemon_decides_who_has_the_tunnels() {
    let leaves = |stream: UnixStream| Sender::on(stream).left().unwrap();
    assert!(with_next(leaves, |mut next| next.take().is_ok()));
    assert!(with_next(drop, |mut next| next.take().is_ok()));
    let ended = with_next(drop, |mut next| next.claim_rest(LIMIT).unwrap_err());
    assert!(matches!(ended, NotTaken::Ended));
    let refuses = |stream: UnixStream| Sender::on(stream).refused();
    let refused = with_next(refuses, |mut next| next.take().unwrap_err());
    assert!(matches!(refused, NotTaken::Refused));
    let goes_on = |stream: UnixStream| Sender::on(stream).flow().unwrap();
    let flow = with_next(goes_on, |mut next| next.take().unwrap_err());
    assert!(matches!(flow, NotTaken::Flow));
}

/// The next daemon has died; the workers have their tunnels again, and a late one adds nothing to the next parcel.
#[test]
fn tunnels_that_are_not_taken_flow_again() {
    let (_reader, writer) = parcel::queue().unwrap();
    let (socket, parking) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        Parking::new(writer),
    );
    let (own, next) = UnixStream::pair().unwrap();
    let mut next = Former::at(next).unwrap();
    assert!(parking.thaw().is_err(), "nobody can be told");
    parking.live_beside(Sender::on(own));
    parking.freeze();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            parking.park(|packer| {
                parking.thaw().unwrap();
                packer.contents.describe(&idle(), [None, None]);
                packer.send(&[socket.as_fd(); 2], socket.as_fd());
            })
        });
        assert!(!worker.join().unwrap());
    });
    assert!(!parking.is_frozen());
    // A worker that has looked before.
    assert!(!parking.park(|_| panic!("nobody asks for them")));
    let packed = parking.packed(0, SOON, Head::default()).unwrap();
    assert_eq!(packed.tunnels, 0);
    // A late word of the next daemon changes nothing, also if this one dies now.
    drop(parking);
    assert!(matches!(next.take(), Err(NotTaken::Flow)));
}
