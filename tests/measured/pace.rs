//! A user's `bytes_per_second` bounds all its tunnels together in both directions, and nobody else;
//! the bytes of each user are counted live; and a waiting tunnel costs nothing.

use std::time::{Duration, Instant};

use support::HOST;
use support::config::Config;
use support::daemon::Daemon;
use support::payload;
use support::raw::{RawUpstream, Tunnel, read_to_end, read_to_reset, reset};
use support::users::{basic, start_with_users, user, write};
use support::{soon, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_user_keeps_its_pace_and_delays_no_other() {
    let _alone = support::alone().await;
    let (upstream, daemon) =
        start(&[user("alice", "one", ALICE), user("bob", "two", "")].concat()).await;
    let alice = open(&daemon, &upstream, "alice", "one").await;
    let bob = open(&daemon, &upstream, "bob", "two").await;
    let began = Instant::now();
    let slow = async {
        transfer(alice.upstream, alice.client, 3 * PACE).await;
        began.elapsed()
    };
    let fast = async {
        transfer(bob.client, bob.upstream, 40 * PACE).await;
        began.elapsed()
    };
    let (slow, fast) = within(PATIENCE, "both streams", async { tokio::join!(slow, fast) }).await;
    // A second's worth may pass at once.
    assert!(
        slow >= Duration::from_millis(1_900),
        "three seconds' worth came in {slow:?}"
    );
    assert!(
        slow < Duration::from_secs(6),
        "three seconds' worth took {slow:?}"
    );
    assert!(
        fast < slow,
        "who has no pace moved twelve times as much in {fast:?}"
    );
}

#[tokio::test]
async fn the_tunnels_of_a_user_share_its_pace_both_ways_and_fairly() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    // Each worker has a queue of its own: only within one do all ten take turns.
    let config = Config::to(upstream.addr()).section("[relay]\nworkers = 1");
    let daemon = start_with_users(config, &user("alice", "one", ALICE), "").await;
    let mut tunnels = Vec::new();
    for number in 0..10 {
        let Tunnel {
            client, upstream, ..
        } = open(&daemon, &upstream, "alice", "one").await;
        // Half of them up, half of them down.
        tunnels.push(if number % 2 == 0 {
            (client, upstream)
        } else {
            (upstream, client)
        });
    }
    let until = Instant::now() + Duration::from_secs(4);
    let moved = tunnels
        .into_iter()
        .map(|(from, to)| tokio::spawn(flood(from, to, until)));
    let moved: Vec<u64> = futures_util::future::join_all(moved)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let total: u64 = moved.iter().sum();
    assert!(
        (4 * PACE..6 * PACE).contains(&total),
        "{moved:?}: {total} in all is not four seconds' worth and a burst"
    );
    let (least, most) = (*moved.iter().min().unwrap(), *moved.iter().max().unwrap());
    // The first tunnel gets the burst.
    assert!(least > total / 10 / 4 && most < total / 3, "{moved:?}");
}

#[tokio::test]
async fn a_pace_holds_in_adaptive_mode_too() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).section("[relay]\nmode = \"adaptive\"");
    let daemon = start_with_users(config, &user("alice", "one", ALICE), "").await;
    let tunnel = open(&daemon, &upstream, "alice", "one").await;
    let began = Instant::now();
    within(
        PATIENCE,
        "the stream",
        transfer(tunnel.client, tunnel.upstream, 3 * PACE),
    )
    .await;
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(1_900) && took < Duration::from_secs(6),
        "three seconds' worth took {took:?}"
    );
}

#[tokio::test]
async fn a_tunnel_that_waits_for_its_pace_costs_nothing() {
    let _alone = support::alone().await;
    let (upstream, daemon) = start(&user("alice", "one", "bytes_per_second = 2000")).await;
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut tunnel = open(&daemon, &upstream, "alice", "one").await;
        tunnel.client.write_all(&[7; 10_000]).await.unwrap();
        held.push(tunnel);
    }
    let (cpu, began) = (daemon.cpu_ms(), Instant::now());
    let mut first = held.swap_remove(0);
    let mut got = 0;
    while began.elapsed() < Duration::from_secs(3) {
        if let Ok(read) = tokio::time::timeout(
            Duration::from_millis(100),
            first.upstream.read(&mut [0; 4096]),
        )
        .await
        {
            got += read.unwrap();
        }
    }
    let spent = daemon.cpu_ms().saturating_sub(cpu);
    assert!(
        spent < 150,
        "{spent} ms of CPU time in three seconds, for fifty tunnels that wait"
    );
    assert!(got < 10_000, "{got} bytes: it did not wait");
}

#[tokio::test]
async fn a_fin_and_a_reset_pass_while_a_tunnel_waits() {
    let _alone = support::alone().await;
    let (upstream, mut daemon) = start(&user("alice", "one", "bytes_per_second = 20000")).await;
    // A FIN follows every byte before it, however long those wait.
    let mut tunnel = open(&daemon, &upstream, "alice", "one").await;
    tunnel
        .upstream
        .write_all(&payload::bytes(5, 60_000))
        .await
        .unwrap();
    tunnel.upstream.shutdown().await.unwrap();
    let got = within(PATIENCE, "the slow stream", read_to_end(&mut tunnel.client)).await;
    assert!(got == payload::bytes(5, 60_000), "{} bytes came", got.len());
    tunnel.client.shutdown().await.unwrap();
    assert_eq!(daemon.tunnel_record().await["code"], "closed_by_upstream");
    // A reset passes at once.
    let mut tunnel = open(&daemon, &upstream, "alice", "one").await;
    tunnel.upstream.write_all(&[7; 200_000]).await.unwrap();
    let began = Instant::now();
    reset(tunnel.upstream);
    soon("the reset", read_to_reset(&mut tunnel.client)).await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "ten seconds' worth lay before it"
    );
    assert_eq!(daemon.tunnel_record().await["code"], "reset_by_upstream");
}

/// The client has sent its request and ended its side; the answers are longer than a burst, and
/// each waits for the others.
#[tokio::test]
async fn waiting_for_the_pace_is_not_silence() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).section("[timeouts]\nhalf_close = \"400ms\"");
    let daemon = start_with_users(config, &user("alice", "one", ALICE), "").await;
    let mut answers = Vec::new();
    for _ in 0..10 {
        let mut tunnel = open(&daemon, &upstream, "alice", "one").await;
        tunnel.client.shutdown().await.unwrap();
        assert!(read_to_end(&mut tunnel.upstream).await.is_empty());
        answers.push(tokio::spawn(transfer(
            tunnel.upstream,
            tunnel.client,
            PACE / 2,
        )));
    }
    within(PATIENCE, "whole answers", async {
        for answer in answers {
            answer.await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_reload_lifts_and_sets_the_pace_of_live_tunnels() {
    let _alone = support::alone().await;
    let (upstream, mut daemon) = start(&user("alice", "one", "bytes_per_second = 1024")).await;
    // Handshakes are never delayed: their bytes are repaid first, in half a minute and more.
    let mut open_before = Vec::new();
    for _ in 0..60 {
        open_before.push(open(&daemon, &upstream, "alice", "one").await);
    }
    let owed = open_before
        .iter()
        .map(|tunnel| tunnel.hello.len() + tunnel.server_hello.len())
        .sum::<usize>();
    assert!(owed > 30 * 1024, "{owed}");
    let mut tunnel = open(&daemon, &upstream, "alice", "one").await;
    tunnel.client.write_all(&[7; 1_000_000]).await.unwrap();
    let began = Instant::now();
    rewrite(&mut daemon, &user("alice", "one", "")).await;
    within(
        PATIENCE,
        "what waited",
        tunnel.upstream.read_exact(&mut vec![0; 1_000_000]),
    )
    .await
    .unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "a quarter of an hour's worth took {:?}",
        began.elapsed()
    );
    rewrite(&mut daemon, &user("alice", "one", ALICE)).await;
    let began = Instant::now();
    transfer(tunnel.client, tunnel.upstream, 3 * PACE).await;
    assert!(
        began.elapsed() >= Duration::from_millis(1_900),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn the_bytes_and_tunnels_of_each_user_are_counted_live() {
    let _alone = support::alone().await;
    let (upstream, mut daemon) =
        start(&[user("alice", "one", ""), user("bob", "two", "")].concat()).await;
    for name in ["alice", "bob"] {
        assert_eq!(
            of(&daemon, "tunnels_active", name).await,
            0.0,
            "{name}'s series are there before the first tunnel"
        );
        assert_eq!(of(&daemon, "bytes_total", name).await, 0.0);
    }
    let mut alice = open(&daemon, &upstream, "alice", "one").await;
    let mut bob = open(&daemon, &upstream, "bob", "two").await;
    let shaken_hands = (alice.hello.len() + alice.server_hello.len()) as f64;
    for _ in 0..10 {
        alice.exchange(1).await;
    }
    bob.exchange(1).await;
    // An exchange is a thousand bytes in each direction; they are counted once they have moved.
    let bytes = shaken_hands + 20_000.0;
    daemon
        .metric_until(&series("bytes_total", "alice"), |counted| counted == bytes)
        .await;
    daemon
        .metric_until(&series("bytes_total", "bob"), |counted| {
            counted == shaken_hands + 2_000.0
        })
        .await;
    assert_eq!(of(&daemon, "tunnels_active", "alice").await, 1.0);
    rewrite(&mut daemon, &user("bob", "two", "")).await;
    assert_eq!(
        of(&daemon, "bytes_total", "alice").await,
        bytes,
        "a reload takes nothing back"
    );
    alice.close().await;
    bob.close().await;
    let mut recorded = 0.0;
    for _ in 0..2 {
        let record = daemon.tunnel_record().await;
        recorded += record["bytes_up"].as_f64().unwrap() + record["bytes_down"].as_f64().unwrap();
    }
    let counted =
        of(&daemon, "bytes_total", "alice").await + of(&daemon, "bytes_total", "bob").await;
    assert_eq!(
        counted, recorded,
        "every byte of theirs, those of the handshakes too"
    );
    for name in ["alice", "bob"] {
        assert_eq!(of(&daemon, "tunnels_active", name).await, 0.0, "{name}");
    }
}

async fn start(users: &str) -> (RawUpstream, Daemon) {
    let upstream = RawUpstream::start().await;
    let daemon = start_with_users(Config::to(upstream.addr()), users, "").await;
    (upstream, daemon)
}

async fn open(daemon: &Daemon, upstream: &RawUpstream, name: &str, secret: &str) -> Tunnel {
    Tunnel::open_with(
        daemon,
        upstream,
        &[("Proxy-Authorization", &basic(name, secret))],
    )
    .await
}

async fn rewrite(daemon: &mut Daemon, users: &str) {
    write(&daemon.path("users.toml"), users);
    daemon.signal("HUP");
    assert_eq!(daemon.event("reload").await["result"], "ok");
}

fn series(metric: &str, user: &str) -> String {
    format!("sealway_user_{metric}{{user=\"{user}\"}}")
}

async fn of(daemon: &Daemon, metric: &str, user: &str) -> f64 {
    daemon
        .metric(&series(metric, user))
        .await
        .unwrap_or_else(|| panic!("no {metric} of {user} on {HOST}"))
}

/// Sends this many bytes and expects each of them.
async fn transfer(mut from: TcpStream, mut to: TcpStream, length: u64) {
    let sent = payload::send_and_finish(&mut from, 9, length);
    let (sent, received) = tokio::join!(sent, payload::receive(&mut to));
    assert!(sent == received);
}

/// Sends as fast as possible until then, and returns how many bytes arrived.
async fn flood(mut from: TcpStream, mut to: TcpStream, until: Instant) -> u64 {
    let sending = tokio::spawn(async move { while from.write_all(&[7; 16_384]).await.is_ok() {} });
    let (mut came, mut buffer) = (0, vec![0; 65_536]);
    while let Ok(read) = tokio::time::timeout_at(until.into(), to.read(&mut buffer)).await {
        came += read.unwrap() as u64;
    }
    sending.abort();
    came
}

const ALICE: &str = "bytes_per_second = 1000000";
const PACE: u64 = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(60);
