//! Attacks by way of DNS: large answers, and look-ups that nobody waits for any more.

use std::time::Duration;

use crate::dns_server::{Dns, Say};
use crate::support::client::{connect, http_get};
use crate::support::config::Config;
use crate::support::raw::RawUpstream;
use crate::support::within;
use crate::users::{basic, start_with_users, user};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pages_delays_no_look_up() {
    let (upstream, dns) = (RawUpstream::start().await, Dns::start(Say::addresses(&["127.0.0.1"], 0)).await);
    let config = by_name(&upstream, &dns, "5s");
    let users: String = (0..500).map(|number| user(&format!("user-{number}"), "secret", "")).collect();
    let header = basic("user-1", "secret");
    let daemon = start_with_users(config, &users, "").await;
    let admin = daemon.admin_addr();
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..40 {
        flood.spawn(async move {
            loop {
                http_get(admin, "/metrics").await;
            }
        });
    }
    let look_ups = async {
        for _ in 0..20 {
            let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[("Proxy-Authorization", &header)]).await;
            assert_eq!(reply.status(), 200, "{}", reply.status_line);
        }
    };
    // Each takes some milliseconds; in a queue with forty pages it takes half a second.
    within(Duration::from_secs(4), "twenty look-ups", look_ups).await;
    assert_eq!(dns.asked().len(), 20);
}

/// A policy with the upstream's name and a wildcard, both left to DNS.
fn by_name(upstream: &RawUpstream, dns: &Dns, timeout: &str) -> Config {
    let config = Config::closed().allow(&upstream.authority()).allow("*.peer.example").section(&dns.section(timeout));
    config.section("[limits]\naccept_rate = 0\nconnect_rate = 0")
}
