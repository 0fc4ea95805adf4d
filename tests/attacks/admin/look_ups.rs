//! Look-ups while a client requests `/metrics` of 500 users without a pause.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use support::client::{connect, http_get};
use support::config::Config;
use support::dns::{Dns, Say};
use support::raw::RawUpstream;
use support::users::{basic, start_with_users, user};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_metrics_does_not_delay_look_ups() {
    let upstream = RawUpstream::start().await;
    let dns = Dns::start(Say::addresses(&["127.0.0.1"], 0)).await;
    let users: String = (0..500)
        .map(|number| user(&format!("user-{number}"), "secret", ""))
        .collect();
    let port = upstream.addr().port();
    let config = Config::closed()
        .allow(&format!("*.example.com:{port}"))
        .section(&dns.section("5s"));
    let daemon = start_with_users(config, &users, "").await;
    let mut flood = JoinSet::new();
    for _ in 0..32 {
        let admin = daemon.admin_addr();
        flood.spawn(async move {
            loop {
                assert_eq!(http_get(admin, "/metrics").await.0, 200);
            }
        });
    }
    let credentials = basic("user-7", "secret");
    let mut took = Vec::new();
    for number in 0..20 {
        let (name, started) = (format!("name-{number}.example.com:{port}"), Instant::now());
        let reply = connect(
            daemon.proxy_addr(),
            &name,
            &[("Proxy-Authorization", &credentials)],
        )
        .await;
        took.push(started.elapsed());
        assert_eq!(reply.status(), 200, "{}", reply.status_line);
    }
    assert!(flood.try_join_next().is_none(), "the flood goes on");
    assert!(dns.asked().len() >= 20, "each name was looked up");
    took.sort_unstable();
    println!(
        "half of the tunnels within {:?}, all within {:?}",
        took[10], took[19]
    );
    assert!(
        took[10] < Duration::from_millis(500) && took[19] < Duration::from_secs(2),
        "{took:?}"
    );
}
