//! Tunnels that are sent ahead while they flow: the test is the next daemon, or the former one.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use sealway::handover::ahead::Sender;
use sealway::handover::claim::{Former as NextDaemon, NotTaken};
use sealway::sys::parcel;

use super::*;

/// The test is the next daemon.
fn next(world: &World) -> NextDaemon {
    NextDaemon::at(world.manager.stream("sealway-claim")).unwrap()
}

const DESCRIPTORS: u64 = 20_000;

/// What a next daemon learns is what is so when the tunnels stand still.
#[tokio::test]
async fn what_happens_after_the_description_is_told_with_the_claim() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let mut idle = Tunnel::open(&first, &world.upstream).await;
    let mut busy = Tunnel::open(&first, &world.upstream).await;
    let mut half = Tunnel::open(&first, &world.upstream).await;
    let ended = Tunnel::open(&first, &world.upstream).await;
    let mut lost = Tunnel::open(&first, &world.upstream).await;
    world.end_main_process(&mut first).await;
    let mut next = next(&world);
    let ahead = next.ask_ahead(DESCRIPTORS).unwrap().unwrap();
    assert_eq!(ahead.head.tunnels, 5);
    // They flow, and an end is told at once although this process has the sockets too.
    busy.exchange(1).await;
    ended.close().await;
    assert_eq!(first.tunnel_record().await["code"], "closed_by_client");
    reset(lost.upstream);
    read_to_reset(&mut lost.client).await;
    assert_eq!(first.tunnel_record().await["code"], "reset_by_upstream");
    half.client.shutdown().await.unwrap();
    read_to_end(&mut half.upstream).await;
    let changes = next.claim_rest(DESCRIPTORS).unwrap();
    let place = |tunnel: &Tunnel| {
        let client = tunnel.client.local_addr().unwrap();
        let mut tunnels = ahead.tunnels.iter();
        tunnels
            .position(|(one, _)| one.state.as_ref().unwrap().client == client)
            .unwrap()
    };
    let since = changes.head.since.unwrap();
    assert_eq!((changes.head.tunnels, since.ended.len()), (3, 2));
    let change = |tunnel: &Tunnel| {
        let of = place(tunnel);
        let mut changes = changes.changes.iter();
        changes.find_map(|(one, _)| {
            let change = one.state.as_ref().unwrap();
            (change.of == of).then(|| change.clone())
        })
    };
    let hello = busy.hello.len() as u64;
    let of_busy = change(&busy).unwrap().relay.up;
    assert_eq!(of_busy.spliced + of_busy.copied, hello + 1_000);
    assert!(change(&half).unwrap().relay.half_closed_ms.is_some());
    assert!(!since.ended.contains(&place(&idle)));
    // This one ends before it has taken them.
    drop((next, ahead, changes.changes));
    let mut second = world.start_outliving().await;
    assert_eq!(second.event("takeover").await["adopted"], 3);
    first.event("handover").await;
    idle.exchange(2).await;
    busy.exchange(3).await;
    busy.close().await;
    let record = second.tunnel_record().await;
    assert_eq!(record["bytes_up"], hello + 2_000, "{record}");
}

/// Tunnels that stand still flow again when another next daemon starts.
#[tokio::test]
async fn a_next_daemon_that_dies_between_claim_and_takeover_loses_nothing() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    let former = world.end_main_process(&mut first).await;
    for seed in 0..3 {
        let mut next = next(&world);
        next.ask_ahead(DESCRIPTORS).unwrap().unwrap();
        next.claim_rest(DESCRIPTORS).unwrap();
        // It says that it starts.
        let _another = self::next(&world);
        tunnel.exchange(seed).await;
        first
            .line("that they flow again", |line| {
                line["message"] == "the next daemon has not taken the tunnels: they flow again"
            })
            .await;
        // The first one was not dead, only slow.
        assert!(matches!(next.take(), Err(NotTaken::Flow)));
        tunnel.exchange(seed).await;
    }
    let mut second = world.start_outliving().await;
    assert_eq!(second.event("takeover").await["adopted"], 1);
    former.ends().await;
    tunnel.exchange(4).await;
    tunnel.close().await;
    assert_eq!(second.tunnel_record().await["code"], "closed_by_client");
}

/// It may die when the next daemon has everything, and before it has said so.
#[tokio::test]
async fn a_former_daemon_that_dies_after_its_last_word_has_left_the_tunnels() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let _tunnel = Tunnel::open(&first, &world.upstream).await;
    let former = world.end_main_process(&mut first).await;
    let mut next = next(&world);
    next.ask_ahead(DESCRIPTORS).unwrap().unwrap();
    next.claim_rest(DESCRIPTORS).unwrap();
    former.signal(Signal::SIGKILL);
    next.take().unwrap();
    former.ends().await;
}

/// And a next daemon must not touch tunnels that the former one has ended.
#[tokio::test]
async fn a_former_daemon_that_is_stopped_after_the_claim_ends_its_tunnels_itself() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    let former = world.end_main_process(&mut first).await;
    let mut next = next(&world);
    let _sockets = next.ask_ahead(DESCRIPTORS).unwrap().unwrap();
    next.claim_rest(DESCRIPTORS).unwrap();
    former.signal(Signal::SIGTERM);
    read_to_reset(&mut tunnel.client).await;
    assert_eq!(first.tunnel_record().await["code"], "drained");
    assert!(next.take().is_err());
    former.ends().await;
}

/// Two sockets of a tunnel, and what is said of them.
struct Described {
    sockets: [OwnedFd; 2],
    line: String,
}

/// A tunnel of a former daemon, and its client.
async fn described(id: &str, upstream: &RawUpstream) -> (Described, tokio::net::TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = dial(listener.local_addr().unwrap()).await;
    let (near, from) = listener.accept().await.unwrap();
    let egress = tokio::net::TcpSocket::new_v4().unwrap();
    egress.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let far = egress.connect(upstream.addr()).await.unwrap();
    let line = serde_json::json!({
        "id": id,
        "client": from,
        "listener": near.local_addr().unwrap(),
        "authority": upstream.authority(),
        "upstream": far.peer_addr().unwrap(),
        "egress": far.local_addr().unwrap(),
        "age_us": 1,
        "quiet_ms": 0,
        "descriptors": 2,
        "relay": {
            "up": { "spliced": 1, "copied": 2 },
            "down": { "spliced": 3, "copied": 4 },
            "age_ms": 1,
            "quiet_ms": 0,
        },
    });
    let sockets = [near, far].map(|socket| socket.into_std().unwrap().into());
    let line = format!("{line}\n");
    (Described { sockets, line }, client)
}

/// A former daemon that sends these two ahead, of which the first one ends before the claim.
fn play_former(mut stream: UnixStream, tunnels: [Described; 2]) {
    let sender = Sender::on(stream.try_clone().unwrap());
    let mut hear = |wanted: u8| {
        let mut byte = [0];
        while byte != [wanted] {
            stream.read_exact(&mut byte).unwrap();
        }
        let mut request = [0; 4];
        if wanted == b'a' {
            stream.read_exact(&mut request).unwrap();
        }
        u32::from_be_bytes(request)
    };
    let request = hear(b'a');
    let head = |tunnels: usize, since: Option<Value>| {
        let head = serde_json::json!({
            "format": "sealway-handover",
            "version": 1,
            "frozen_ns": u64::try_from(parcel::monotonic().as_nanos()).unwrap(),
            "tunnels": tunnels,
            "descriptors": 2 * tunnels,
            "egress": ["127.0.0.2"],
            "request": request,
            "since": since,
        });
        format!("{head}\n")
    };
    let sealed = |text: String| parcel::seal([text.as_bytes()].into_iter()).unwrap();
    let sockets = tunnels.iter().flat_map(|tunnel| &tunnel.sockets);
    let sockets: Vec<_> = sockets.map(AsFd::as_fd).collect();
    parcel::send(&sender, b'D', &sockets).unwrap();
    let lines = tunnels.iter().map(|tunnel| tunnel.line.as_str());
    let lines: String = lines.collect();
    sender.described(sealed(head(2, None) + &lines)).unwrap();
    hear(b'c');
    let since = serde_json::json!({ "changed": 0, "ended": [0] });
    sender.changed(sealed(head(1, Some(since)))).unwrap();
    hear(b't');
    sender.left().unwrap();
    // It lives on for a moment.
    let _end = stream.read(&mut [0]);
}

/// It has its record already.
#[tokio::test]
async fn a_tunnel_that_ended_before_the_claim_is_not_continued() {
    let world = World::new().await;
    let (ended, _client) = described("1-1", &world.upstream).await;
    let (live, mut client) = described("1-2", &world.upstream).await;
    let _first = world.upstream.accept().await;
    let mut upstream = world.upstream.accept().await;
    let (own, next) = UnixStream::pair().unwrap();
    world.manager.keep("sealway-claim", next.into());
    let former = std::thread::spawn(move || play_former(own, [ended, live]));
    let mut daemon = world.start_outliving().await;
    let takeover = daemon.event("takeover").await;
    let counts = ["adopted", "refused", "lost"].map(|count| takeover[count].as_u64().unwrap());
    assert_eq!(counts, [1, 0, 0], "{takeover}");
    client.write_all(b"bytes").await.unwrap();
    let mut received = [0; 5];
    soon("the bytes", upstream.read_exact(&mut received))
        .await
        .unwrap();
    assert_eq!(&received, b"bytes");
    let listed: Value = serde_json::from_str(&daemon.admin_get("/tunnels").await.1).unwrap();
    assert_eq!(listed["tunnels"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["tunnels"][0]["id"], "1-2");
    world.manager.forget_all();
    former.join().unwrap();
}
