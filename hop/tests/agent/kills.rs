//! An upstream that is killed while many tunnels are being set up: how many fail, and how long each takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::soon;
use tokio::task::JoinSet;

use crate::node::{Manner, Node};
use crate::program::{Agent, echoes};
use crate::zoo::Authority;

/// Thirty a second, each of which takes a tenth of a second. The three that have no reply at the kill go on too.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_under_overlapping_set_ups_fails_none_of_them() {
    let authority = Authority::new("CA");
    let slow = Manner::Slow(Duration::from_millis(100));
    let (mut a, mut b) = (
        Node::start(&authority, slow.clone()).await,
        Node::start(&authority, slow.clone()).await,
    );
    for early in ["false", "true"] {
        let keys = [("SEALWAY_AGENT_OPTIMISTIC", early)];
        let agent = Arc::new(Agent::start_warm(&authority, &[&a, &b], &keys).await);
        let mut opening = JoinSet::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(33));
        let open = |opening: &mut JoinSet<()>| {
            let agent = Arc::clone(&agent);
            // A failure is a panic in here.
            opening.spawn(async move { echoes(agent.open("a.example:443").await).await });
        };
        for _ in 0..27 {
            ticks.tick().await;
            open(&mut opening);
            a.request().await;
        }
        assert_eq!(b.so_far(), 0, "standby");
        opening.join_all().await;
        // These have no reply yet at the kill.
        a.behave(Manner::Silent);
        let mut opening = JoinSet::new();
        for _ in 0..3 {
            open(&mut opening);
            a.request().await;
        }
        let address = a.kill().await.to_string();
        for _ in 0..30 {
            ticks.tick().await;
            open(&mut opening);
        }
        opening.join_all().await;
        assert_eq!(b.so_far(), 33);
        a = Node::start_at(&address, &authority, slow.clone()).await;
    }
}

/// Thirty tunnels wait for the first node's reply when it is killed, four times.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_fast() {
    let authority = Authority::new("CA");
    let mut a = Node::start(&authority, Manner::Silent).await;
    let b = Node::start(&authority, Manner::Echo).await;
    let agent = Arc::new(Agent::start_warm(&authority, &[&a, &b], &[]).await);
    let mut times = Vec::new();
    for round in 0..4 {
        agent.has("upstream_warm", &a, 2.0).await;
        let mut waiting = JoinSet::new();
        for number in 0..30 {
            let agent = Arc::clone(&agent);
            // The agent knows none of them.
            let name = format!("{round}.{number}.example:443");
            waiting.spawn(async move {
                echoes(agent.open(&name).await).await;
                Instant::now()
            });
            a.request().await;
        }
        let killed = Instant::now();
        let address = a.kill().await;
        let ends = soon("the failovers", waiting.join_all()).await;
        times.extend(ends.into_iter().map(|end| end - killed));
        a = Node::start_at(&address.to_string(), &authority, Manner::Silent).await;
    }
    times.sort();
    let [median, p99, most] = [60, 118, 119].map(|place: usize| times[place]);
    println!("120 failovers: median {median:?}, p99 {p99:?}, most {most:?}");
    // Idle, a twentieth of it: the rest is for a loaded machine.
    assert!(most < Duration::from_secs(3));
}
