//! Attack on the descriptors of a daemon with more workers than its limit on open files is intended
//! for: each worker has some of its own, and strangers and tunnels use the rest.

use support::client::dial;
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel};
use tokio::io::AsyncWriteExt;

/// Every tunnel that the daemon promises, and a pool full of strangers: accept(2) never fails, and
/// the last tunnel opens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_workers_leave_descriptors_for_all_tunnels_and_strangers() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr())
        .section("[relay]\nworkers = 60\n[limits]\ntunnels_per_client = 0");
    let daemon = Daemon::start_with_descriptors(&config, 1_024).await;
    let max = daemon.metric("sealway_tunnels_max").await.unwrap() as usize;
    let mut open = Vec::new();
    for number in 0..max {
        if number == max - 1 {
            assert_eq!(
                daemon.metric("sealway_accept_errors_total").await,
                Some(0.0),
                "{number} tunnels"
            );
        }
        open.push(Tunnel::open(&daemon, &upstream).await);
    }
    let mut strangers = Vec::new();
    for _ in 0..128 {
        let mut stranger = dial(daemon.proxy_addr()).await;
        stranger.write_all(b"CONNECT ").await.unwrap();
        strangers.push(stranger);
    }
    assert_eq!(
        daemon.admin_get("/readyz").await,
        (200, "ready\n".to_owned()),
        "with {max} tunnels"
    );
    assert_eq!(
        daemon.metric("sealway_accept_errors_total").await,
        Some(0.0),
        "accept(2) never failed, with {max} tunnels"
    );
    assert!(max > 100, "{max}");
    for (seed, tunnel) in open.iter_mut().enumerate() {
        tunnel.exchange(seed as u64).await;
    }
}
