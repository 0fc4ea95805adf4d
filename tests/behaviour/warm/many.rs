//! Many tunnels to front ends that end idle connections when they like: no client notices.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use support::client::connect;
use support::daemon::Daemon;
use support::mutant::Dice;
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::front_end::{Conduct, FrontEnd, greet};
use super::{assert_sums_agree, authority, closed, config, dials};

/// Bursts after pauses in which warm sockets end at random, 0 to 8 s after they were opened. Every fourth of the others ends as its
/// hello comes. `SEALWAY_TUNNELS` is the number of tunnels, 200 without it.
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_macros, reason = "prints the figures of a long run")]
async fn random_ends_of_warm_sockets_fail_no_tunnel() {
    let wanted =
        std::env::var("SEALWAY_TUNNELS").map_or(200, |text| text.parse().expect("a number"));
    let mut front_ends = Vec::new();
    for _ in 0..FRONT_ENDS {
        front_ends.push(FrontEnd::start("127.0.0.1:0", |_| fickle()).await);
    }
    let mut settings = config(front_ends[0].address, 4);
    for front_end in &front_ends[1..] {
        settings = settings.allow(&authority(front_end.address));
    }
    let mut daemon = Daemon::start(&settings).await;
    let mut dice = Dice::new(1);
    let (mut opened, mut redialled, mut hits) = (0, 0, 0);
    while opened < wanted {
        front_ends.iter().for_each(FrontEnd::free);
        tokio::time::sleep(Duration::from_millis(500 + dice.below(1_000) as u64)).await;
        front_ends.iter().for_each(FrontEnd::hold);
        let mut burst = JoinSet::new();
        for number in 0..(2 * FRONT_ENDS).min(wanted - opened) {
            let (proxy, upstream) = (daemon.proxy_addr(), front_ends[number % FRONT_ENDS].address);
            burst.spawn(async move {
                let reply = connect(proxy, &authority(upstream), &[]).await;
                let mut client = reply.established();
                let answer = greet(&mut client).await;
                let sent = client.write_all(b"ping").await;
                let mut echo = [0; 4];
                let read = soon("the echo", client.read_exact(&mut echo)).await;
                answer.is_some() && sent.is_ok() && read.is_ok() && &echo == b"ping"
            });
        }
        let tunnels = burst.len();
        let served = burst.join_all().await;
        for _ in 0..tunnels {
            let record = daemon.tunnel_record().await;
            assert_eq!(record["outcome"], "allowed", "{record}");
            hits += usize::from(record["warm"] == json!(true));
            redialled += usize::from(record["redialled"] == json!(true));
        }
        assert_eq!(served, vec![true; tunnels]);
        opened += tunnels;
    }
    let counted = [dials(&daemon, "hit").await, dials(&daemon, "redial").await];
    assert_eq!(counted, [hits, redialled]);
    let crossed = front_ends
        .iter()
        .flat_map(FrontEnd::connections)
        .filter(|one| one.was_crossed)
        .count();
    let noticed = closed(&daemon, "upstream").await;
    println!(
        "{wanted} tunnels: {hits} over warm sockets, {redialled} of these dialled again ({crossed} ended as their hello came); \
         {noticed} idle ones found ended"
    );
    assert!(crossed > 0 && redialled >= crossed && hits > redialled && noticed > 0);
    assert_sums_agree(&daemon).await;
}

/// The conduct of the next connection of all front ends.
fn fickle() -> Conduct {
    static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
    let nth = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let mut dice = Dice::new(nth as u64 + 1);
    Conduct::Fickle {
        silence: Duration::from_millis(dice.below(8_000) as u64),
        crossing: nth.is_multiple_of(4),
        by_reset: dice.below(2) == 0,
    }
}

/// As many as have two warm sockets each within the daemon's limit of all, 32.
const FRONT_ENDS: usize = 16;
