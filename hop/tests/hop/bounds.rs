//! What strangers can take: time, places, and the rate of their connections.

use std::time::{Duration, Instant};

use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::carrying::assert_reset;
use crate::core::Core;
use crate::program::Hop;

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_has_a_deadline_however_it_dawdles() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    let started = Instant::now();
    let mut silent = TcpStream::connect(hop.address).await.unwrap();
    let mut half = TcpStream::connect(hop.address).await.unwrap();
    half.write_all(&[0x16, 3, 1, 1]).await.unwrap();
    // A whole ClientHello, and then nothing.
    let mut mute = TcpStream::connect(hop.address).await.unwrap();
    mute.write_all(&hello(&hop)).await.unwrap();
    for slow in [&mut silent, &mut half, &mut mute] {
        assert_reset(slow).await;
    }
    let took = started.elapsed();
    assert!(
        took >= Duration::from_secs(5) && took < Duration::from_secs(15),
        "{took:?}"
    );
    assert_eq!(core.event("handshake_refused").await["reason"], "timeout");
    assert_eq!(hop.handshakes("timeout").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_of_too_many_half_handshakes_goes_and_an_honest_client_stays() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "[limits]\npending = 20\n").await;
    let mut slow = Vec::new();
    for _ in 0..60 {
        slow.push(TcpStream::connect(hop.address).await.unwrap());
    }
    support::wait_until("40 are shed", async || {
        hop.handshakes("overloaded").await == 40.0
    })
    .await;
    assert_reset(&mut slow[0]).await;
    let _session = hop.connect().await;
    core.client().await;
    assert_eq!(hop.metrics().await["sealway_hop_waiting"], 19.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_handshakes_of_one_client_displace_each_other_and_nobody_else() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "[limits]\npending = 40\naccept_rate = 0\n").await;
    let honest = TcpSocket::new_v4().unwrap();
    honest.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let honest = honest.connect(hop.address).await.unwrap();
    // Whole hellos: the hop signs for each, and none is ever finished.
    let hello = hello(&hop);
    let mut held = Vec::new();
    for _ in 0..400 {
        let mut stranger = TcpStream::connect(hop.address).await.unwrap();
        // Fails for one that is displaced already.
        let _sent = stranger.write_all(&hello).await;
        held.push(stranger);
    }
    support::wait_until("361 are shed", async || {
        hop.handshakes("overloaded").await == 361.0
    })
    .await;
    // The oldest connection of all has its place yet, and so has a new one.
    let _session = hop.client().over(honest).await.unwrap();
    core.client().await;
    let _session = hop.connect().await;
    core.client().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_too_fast_is_reset_before_any_cryptography() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "[limits]\naccept_rate = 2\n").await;
    let mut refused = 0;
    for _ in 0..30 {
        let Ok(mut client) = TcpStream::connect(hop.address).await else {
            refused += 1;
            continue;
        };
        // Fails for a connection that is reset already.
        let _sent = client.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        let mut reply = Vec::new();
        let read = soon("an end", client.read_to_end(&mut reply)).await;
        refused += usize::from(read.is_err());
    }
    assert!(
        (18..30).contains(&refused),
        "{refused} of 30, with a burst of ten"
    );
    assert_eq!(hop.handshakes("too_fast").await, refused as f64);
    let mut told = 0;
    while told < refused as u64 {
        let event = core.event("handshake_refused").await;
        assert_eq!(event["reason"], "too_fast");
        told += event["count"].as_u64().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_not_listed_is_reset() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "[auth]\nclients = [\"192.0.2.0/24\"]\n").await;
    // The reset may come before connect(2) returns.
    if let Ok(mut client) = TcpStream::connect(hop.address).await {
        assert_reset(&mut client).await;
    }
    assert_eq!(
        core.event("handshake_refused").await["reason"],
        "not_listed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn half_handshakes_do_not_delay_a_session() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "[limits]\naccept_rate = 0\n").await;
    let (mut client, mut daemon) = (hop.connect().await, core.client().await.stream);
    let hello = hello(&hop);
    let mut held = Vec::new();
    for _ in 0..500 {
        let mut stranger = TcpStream::connect(hop.address).await.unwrap();
        stranger.write_all(&hello).await.unwrap();
        held.push(stranger);
        if held.len() % 50 == 0 {
            client.write_all(b"ping").await.unwrap();
            soon("a session's bytes", daemon.read_exact(&mut [0; 4]))
                .await
                .unwrap();
        }
    }
}

/// Sessions have threads of their own, and a stranger's connection belongs to the others until it is a session.
#[tokio::test(flavor = "multi_thread")]
async fn half_handshakes_wake_no_thread_of_sessions() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "[limits]\naccept_rate = 0\n").await;
    let hello = hello(&hop);
    // What the program's own ticks do.
    let (began, wakes) = (Instant::now(), wakes_of_others(&hop));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let own = (wakes_of_others(&hop) - wakes) as f64 / began.elapsed().as_secs_f64();
    let (began, wakes) = (Instant::now(), wakes_of_others(&hop));
    for _ in 0..STRANGERS {
        let mut stranger = TcpStream::connect(hop.address).await.unwrap();
        stranger.write_all(&hello).await.unwrap();
        let mut answer = [0; 5];
        soon("an answer", stranger.read_exact(&mut answer))
            .await
            .unwrap();
    }
    let woken = wakes_of_others(&hop) - wakes;
    let expected = own * began.elapsed().as_secs_f64();
    // A thread that accepted them would wake once for each at least.
    assert!(
        woken as f64 <= 2.0 * expected + STRANGERS as f64 / 4.0,
        "{woken}; {expected:.0} without the {STRANGERS} strangers"
    );
    let wakes = wakes_of_others(&hop);
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push((hop.connect().await, core.client().await));
    }
    for (client, daemon) in &mut sessions {
        client.write_all(b"ping").await.unwrap();
        let got = soon("a session's bytes", daemon.stream.read_exact(&mut [0; 4])).await;
        got.unwrap();
    }
    // They are the threads of sessions indeed.
    assert!(wakes_of_others(&hop) >= wakes + 4);
}

const STRANGERS: u64 = 200;

/// How often the threads that perform no handshakes have waited.
fn wakes_of_others(hop: &Hop) -> u64 {
    let tasks = format!("/proc/{}/task", hop.child.id().unwrap());
    let mut sum = 0;
    for task in std::fs::read_dir(tasks).unwrap() {
        // A thread may end meanwhile.
        let status = std::fs::read_to_string(task.unwrap().path().join("status"));
        let status = status.unwrap_or_default();
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
        if value("Name:").map(str::trim) != Some("handshake") {
            let wakes = value("voluntary_ctxt_switches:").unwrap_or("0");
            sum += wakes.trim().parse::<u64>().unwrap();
        }
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_holds_little_memory() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "[limits]\naccept_rate = 0\n").await;
    let mut held = Vec::new();
    let mut sizes = Vec::new();
    // The first sessions fill caches and buffers that all of them share.
    for number in [50, 200] {
        for _ in 0..number {
            let mut session = hop.connect().await;
            let mut daemon = core.client().await;
            session.write_all(&[1; 4_096]).await.unwrap();
            let got = daemon.stream.read_exact(&mut [0; 4_096]).await;
            got.unwrap();
            daemon.stream.write_all(&[2; 20_000]).await.unwrap();
            soon("bytes", session.read_exact(&mut [0; 20_000]))
                .await
                .unwrap();
            held.push((session, daemon));
        }
        sizes.push(resident(&hop));
    }
    let each = (sizes[1] - sizes[0]) / 200;
    println!("an idle session holds {each} bytes");
    assert!(each <= 16 * 1024, "{each} bytes");
}

/// The memory of the program, in bytes.
fn resident(hop: &Hop) -> u64 {
    let file = format!("/proc/{}/status", hop.child.id().unwrap());
    let status = std::fs::read_to_string(file).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<u64>().unwrap() * 1024
}

/// A ClientHello, in records.
pub(crate) fn hello(hop: &Hop) -> Vec<u8> {
    let config = std::sync::Arc::new(hop.client().config());
    let name = crate::program::NAME.try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}
