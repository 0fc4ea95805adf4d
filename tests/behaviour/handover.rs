//! A restart hands the tunnels to the next daemon: the test plays the service manager that keeps
//! their sockets. `tests/handover` shows the same under a real systemd.

use std::net::SocketAddr;

use serde_json::Value;
use support::config::Config;
use support::daemon::Daemon;
use support::manager::Manager;
use support::raw::{RawUpstream, Tunnel};
use tempfile::TempDir;

/// A daemon on a fixed port, and what outlives it.
struct World {
    manager: Manager,
    upstream: RawUpstream,
    config: Config,
}

impl World {
    async fn new() -> World {
        let upstream = RawUpstream::start().await;
        let config = Config::to(upstream.addr()).listener(&format!("address = \"{}\"", free()));
        World {
            manager: Manager::start(),
            upstream,
            config,
        }
    }

    async fn start(&self, directory: TempDir) -> Daemon {
        Daemon::start_managed(directory, &self.config, &self.manager).await
    }

    /// Makes the daemon hand over, and returns its files.
    async fn hand_over(&self, mut daemon: Daemon) -> TempDir {
        daemon.signal("USR2");
        assert!(daemon.exit_status().await.success());
        let record = daemon.event("handover").await;
        assert_eq!(record["ids"].as_str().unwrap().len(), 64, "{record}");
        daemon.into_directory()
    }
}

/// An address that nobody listens at.
fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn a_tunnel_goes_on_in_the_next_daemon_and_has_one_record() {
    let world = World::new().await;
    let first = world.start(folder()).await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    tunnel.exchange(1).await;
    let before = first.admin_get("/tunnels").await.1;
    let before: Value = serde_json::from_str(&before).unwrap();
    let directory = world.hand_over(first).await;
    // The kernel takes bytes while no daemon runs.
    let mut second = world.start(directory).await;
    tunnel.exchange(2).await;
    let takeover = second.event("takeover").await;
    assert_eq!(
        (
            &takeover["adopted"],
            &takeover["refused"],
            &takeover["lost"]
        ),
        (&1.into(), &0.into(), &0.into())
    );
    let after: Value = serde_json::from_str(&second.admin_get("/tunnels").await.1).unwrap();
    for field in [
        "id", "client", "host", "port", "egress", "upstream", "phase",
    ] {
        assert_eq!(
            after["tunnels"][0][field], before["tunnels"][0][field],
            "{field}"
        );
    }
    let directory = world.hand_over(second).await;
    let mut third = world.start(directory).await;
    tunnel.exchange(3).await;
    let greetings = [tunnel.hello.len(), tunnel.server_hello.len()].map(|len| len as u64);
    tunnel.close().await;
    let record = third.tunnel_record().await;
    assert_eq!(record["id"], before["tunnels"][0]["id"]);
    assert_eq!(record["code"], "closed_by_client", "{record}");
    assert_eq!(record["bytes_up"], greetings[0] + 3_000, "{record}");
    assert_eq!(record["bytes_down"], greetings[1] + 3_000, "{record}");
    assert!(
        record["ja4"].is_string() && record["tls_version"].is_string(),
        "{record}"
    );
}
