//! Many tunnels through an upstream that ends idle connections when it likes: the application notices none of it.

use std::sync::Arc;
use std::time::Duration;

use support::mutant::Dice;
use tokio::task::JoinSet;

use crate::node::{Manner, Node};
use crate::program::{Agent, echoes};
use crate::zoo::Authority;

/// Bursts after pauses in which some of the warm connections end, and others will as soon as their request comes.
/// SEALWAY_TUNNELS is the number of tunnels, 200 without it.
#[tokio::test(flavor = "multi_thread")]
async fn random_ends_of_idle_connections_fail_no_tunnel() {
    let wanted = std::env::var("SEALWAY_TUNNELS").map_or(200, |text| text.parse().unwrap());
    let authority = Authority::new("CA");
    // An upstream whose connections end within a second gets fewer of them.
    let fickle = Manner::Fickle {
        youngest: Duration::from_millis(1_100),
        oldest: Duration::from_millis(2_500),
    };
    let mut node = Node::start(&authority, fickle).await;
    let keys = [("SEALWAY_AGENT_WARM", "12")];
    let agent = Agent::start(&authority, &[&node], &keys).await;
    agent.has("upstream_warm", &node, 12.0).await;
    let agent = Arc::new(agent);
    let mut dice = Dice::new(1);
    let (mut opened, mut asked) = (0, 0);
    while opened < wanted {
        tokio::time::sleep(Duration::from_millis(1_000 + dice.below(1_000) as u64)).await;
        let mut burst = JoinSet::new();
        for number in 0..BURST.min(wanted - opened) {
            let agent = Arc::clone(&agent);
            // Half of them are known, so that the agent answers these itself.
            let name = format!(
                "{}.example:443",
                if number % 2 == 0 { 0 } else { opened + number }
            );
            // A failure is a panic in here.
            burst.spawn(async move { echoes(agent.open(&name).await).await });
        }
        opened += burst.len();
        burst.join_all().await;
        asked += node.so_far();
    }
    assert_eq!(asked, wanted, "requests that the node has answered");
    let metrics = agent.metrics().await;
    let sample = |name: &str| metrics[&format!("sealway_agent_{name}")];
    let upstream = format!("upstream=\"{}\"", node.address);
    let [in_order, reset, crossed] = node.ended();
    println!(
        "{wanted} tunnels; connections ended in order: {in_order}, reset: {reset}, as their request came: {crossed}; \
         answered early: {}",
        sample("optimistic_total{result=\"right\"}")
    );
    assert!(in_order > 0 && reset > 0 && crossed > 0);
    assert!(sample("optimistic_total{result=\"right\"}") > 0.0);
    assert_eq!(sample("optimistic_total{result=\"wrong\"}"), 0.0);
    assert_eq!(
        sample(&format!("upstream_failures_total{{{upstream}}}")),
        0.0
    );
}

const BURST: usize = 40;
