//! A restart hands the tunnels to the next daemon: the test plays the service manager that keeps
//! their sockets. `tests/handover` shows the same under a real systemd.

mod ahead;
mod carried;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustls::version::TLS13;
use serde_json::Value;
use support::client::{connect, dial};
use support::config::Config;
use support::daemon::Daemon;
use support::manager::Manager;
use support::payload;
use support::raw::{RawUpstream, Tunnel, pass, read_to_end, read_to_reset, reset};
use support::tls::TlsUpstream;
use support::users;
use support::{soon, wait_until};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
        assert_eq!(daemon.exit_status().await.code(), Some(75));
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

#[tokio::test]
async fn a_tls_session_and_its_hashed_bytes_survive_two_restarts() {
    let upstream = TlsUpstream::start(&TLS13, &[]).await;
    let config = Config::to(upstream.addr()).listener(&format!("address = \"{}\"", free()));
    let manager = Manager::start();
    let mut daemon = Daemon::start_managed(folder(), &config, &manager).await;
    let (client, server) = upstream.tunnel(daemon.proxy_addr()).await;
    let (mut client_in, mut client_out) = tokio::io::split(client);
    let (mut server_in, mut server_out) = tokio::io::split(server);
    const BYTES: u64 = 40 << 20;
    let sent_up =
        tokio::spawn(async move { payload::send_and_finish(&mut client_out, 1, BYTES).await });
    let sent_down =
        tokio::spawn(async move { payload::send_and_finish(&mut server_out, 2, BYTES).await });
    let got_up = tokio::spawn(async move { payload::receive(&mut server_in).await });
    let got_down = tokio::spawn(async move { payload::receive(&mut client_in).await });
    for _ in 0..2 {
        daemon.signal("USR2");
        assert_eq!(daemon.exit_status().await.code(), Some(75));
        let directory = daemon.into_directory();
        daemon = Daemon::start_managed(directory, &config, &manager).await;
    }
    let all = async { (sent_up.await, sent_down.await, got_up.await, got_down.await) };
    let (sent_up, sent_down, got_up, got_down) = soon("all bytes", all).await;
    assert_eq!(sent_up.unwrap(), got_up.unwrap());
    assert_eq!(sent_down.unwrap(), got_down.unwrap());
    let record = daemon.tunnel_record().await;
    assert!(
        record["code"].as_str().unwrap().starts_with("closed_by"),
        "{record}"
    );
    assert!(record["bytes_up"].as_u64().unwrap() > BYTES, "{record}");
}

/// The client's FIN is passed on before the hand-over, the upstream's answer comes after it.
#[tokio::test]
async fn a_half_closed_tunnel_stays_half_closed() {
    let world = World::new().await;
    let first = world.start(folder()).await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    tunnel.client.shutdown().await.unwrap();
    assert!(read_to_end(&mut tunnel.upstream).await.is_empty());
    let directory = world.hand_over(first).await;
    let mut second = world.start(directory).await;
    pass(
        &mut tunnel.upstream,
        &mut tunnel.client,
        &payload::bytes(7, 50_000),
    )
    .await;
    drop(tunnel.upstream);
    assert!(read_to_end(&mut tunnel.client).await.is_empty());
    let record = second.tunnel_record().await;
    assert_eq!(record["code"], "closed_by_client", "{record}");
}

/// The client does not read: bytes wait in a pipe and in the buffers of both sockets.
#[tokio::test]
async fn a_full_pipe_moves_with_its_bytes() {
    let world = World::new().await;
    let first = world.start(folder()).await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    let bytes = payload::bytes(3, 24 << 20);
    let mut sent = 0;
    // As much as goes in without a reader.
    while let Ok(written) = tokio::time::timeout(
        Duration::from_millis(300),
        tunnel.upstream.write(&bytes[sent..]),
    )
    .await
    {
        sent += written.unwrap();
        assert!(sent < bytes.len(), "the kernel takes all");
    }
    let directory = world.hand_over(first).await;
    let listed = std::fs::read_to_string(world.manager.list()).unwrap();
    assert!(
        listed.contains("\"piped\":") && listed.contains("\"blocked\""),
        "{listed}"
    );
    let mut second = world.start(directory).await;
    assert_eq!(second.event("takeover").await["adopted"], 1);
    let (mut upstream, rest) = (tunnel.upstream, bytes[sent..].to_vec());
    let sending = tokio::spawn(async move {
        upstream.write_all(&rest).await.unwrap();
        upstream
    });
    let mut received = vec![0; bytes.len()];
    soon("all bytes", tunnel.client.read_exact(&mut received))
        .await
        .unwrap();
    assert!(received == bytes, "bytes were changed or lost");
    let _upstream = sending.await.unwrap();
}

#[tokio::test]
async fn ends_that_come_while_no_daemon_runs_are_found() {
    let world = World::new().await;
    let first = world.start(folder()).await;
    let mut ended = Tunnel::open(&first, &world.upstream).await;
    let broken = Tunnel::open(&first, &world.upstream).await;
    let directory = world.hand_over(first).await;
    ended.client.write_all(b"last words").await.unwrap();
    ended.client.shutdown().await.unwrap();
    reset(broken.client);
    let mut second = world.start(directory).await;
    assert_eq!(read_to_end(&mut ended.upstream).await, b"last words");
    let mut upstream = broken.upstream;
    read_to_reset(&mut upstream).await;
    assert_eq!(second.event("takeover").await["adopted"], 2);
    assert_eq!(second.tunnel_record().await["code"], "reset_by_client");
}

#[tokio::test]
async fn nobody_is_refused_between_two_daemons() {
    let world = World::new().await;
    let first = world.start(folder()).await;
    let address = first.proxy_addr();
    // Accepted, without a request yet: it has two seconds.
    let mut hesitant = dial(address).await;
    hesitant.write_all(b"CONNECT ").await.unwrap();
    let _open = Tunnel::open(&first, &world.upstream).await;
    first.signal("USR2");
    first
        .line("the begin", |line| line["message"] == "handing over")
        .await;
    let (status, page) = first.admin_get("/readyz").await;
    assert_eq!((status, page.lines().next()), (503, Some("handing over")));
    // A floating address must not move away from the tunnels.
    let standby = (200, "standby\nhanding over\n".to_owned());
    assert_eq!(first.admin_get("/standbyz").await, standby);
    let authority = world.upstream.authority();
    let queued = tokio::spawn(async move { connect(address, &authority, &[]).await });
    let rest = support::client::connect_head(&world.upstream.authority(), &[]);
    hesitant
        .write_all(rest.strip_prefix("CONNECT ").unwrap().as_bytes())
        .await
        .unwrap();
    assert_eq!(support::client::read_reply(hesitant).await.status(), 200);
    let mut first = first;
    assert_eq!(first.exit_status().await.code(), Some(75));
    let _second = world.start(first.into_directory()).await;
    assert_eq!(
        soon("the answer of the queued one", queued)
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test]
async fn the_new_configuration_judges_and_its_limits_end_nothing() {
    let world = World::new().await;
    let secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let both = ["alice", "bob"]
        .map(|name| users::user(name, secret, "bytes_per_second = 1000000"))
        .concat();
    let with_users = |more: &str| users::with_users(world.config.clone(), "").section(more);
    let timeouts = "[timeouts]\ndrain = \"300ms\"";
    let directory = folder();
    users::write(&directory.path().join("users.toml"), &both);
    let first = Daemon::start_managed(directory, &with_users(timeouts), &world.manager).await;
    let open = async |name: &str| {
        let basic = users::basic(name, secret);
        Tunnel::open_with(&first, &world.upstream, &[("Proxy-Authorization", &basic)]).await
    };
    let (mut alice, mut again, mut bob) =
        (open("alice").await, open("alice").await, open("bob").await);
    let directory = world.hand_over(first).await;
    users::write(
        &directory.path().join("users.toml"),
        &users::user("alice", secret, ""),
    );
    let limits = "[timeouts]\ndrain = \"300ms\"\n[limits]\ntunnels = 1\ntunnels_per_user = 1";
    let mut second = Daemon::start_managed(directory, &with_users(limits), &world.manager).await;
    assert_eq!(second.event("takeover").await["adopted"], 3);
    let record = second.tunnel_record().await;
    assert_eq!(
        (&record["code"], &record["user"]),
        (&"revoked".into(), &"bob".into()),
        "{record}"
    );
    read_to_reset(&mut bob.client).await;
    alice.exchange(1).await;
    again.exchange(2).await;
    let basic = users::basic("alice", secret);
    let refused = connect(
        second.proxy_addr(),
        &world.upstream.authority(),
        &[("Proxy-Authorization", &basic)],
    )
    .await;
    assert!(
        [429, 503].contains(&refused.status()),
        "the limit holds for new ones"
    );
}

/// When the user of these tunnels has paid for all moved bytes, in nanoseconds of the machine's clock; None without a debt.
fn paid_at(manager: &Manager) -> Option<u64> {
    let listed = std::fs::read_to_string(manager.list()).unwrap();
    let head: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    let due = head["debts"][0]["due_us"].as_u64()?;
    Some(head["frozen_ns"].as_u64().unwrap() + due * 1_000)
}

/// The greetings of many tunnels make a debt that outlives two daemons, and no byte moves after them.
#[tokio::test]
async fn a_debt_is_as_large_in_the_next_daemon() {
    let world = World::new().await;
    let secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let directory = folder();
    users::write(
        &directory.path().join("users.toml"),
        &users::user("alice", secret, "bytes_per_second = 1024"),
    );
    let config = users::with_users(world.config.clone(), "");
    let first = Daemon::start_managed(directory, &config, &world.manager).await;
    let basic = users::basic("alice", secret);
    let headers = [("Proxy-Authorization", basic.as_str())];
    let mut tunnels = Vec::new();
    for _ in 0..30 {
        tunnels.push(Tunnel::open_with(&first, &world.upstream, &headers).await);
    }
    let directory = world.hand_over(first).await;
    let before = paid_at(&world.manager).unwrap();
    let second = Daemon::start_managed(directory, &config, &world.manager).await;
    let _directory = world.hand_over(second).await;
    let after = paid_at(&world.manager).expect("the debt is forgotten");
    assert!(before.abs_diff(after) < 300_000_000, "{before} {after}");
}

#[tokio::test]
async fn a_debt_of_bytes_is_not_forgiven() {
    let world = World::new().await;
    let secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let directory = folder();
    users::write(
        &directory.path().join("users.toml"),
        &users::user("alice", secret, "bytes_per_second = 20000"),
    );
    let config = users::with_users(world.config.clone(), "");
    let first = Daemon::start_managed(directory, &config, &world.manager).await;
    let basic = users::basic("alice", secret);
    let mut tunnel =
        Tunnel::open_with(&first, &world.upstream, &[("Proxy-Authorization", &basic)]).await;
    // More than a second's worth, so that the tunnel waits.
    let began = Instant::now();
    tunnel
        .client
        .write_all(&payload::bytes(5, 60_000))
        .await
        .unwrap();
    let mut received = vec![0; 60_000];
    soon(
        "the first bytes",
        tunnel.upstream.read_exact(&mut received[..15_000]),
    )
    .await
    .unwrap();
    let directory = world.hand_over(first).await;
    let listed = std::fs::read_to_string(world.manager.list()).unwrap();
    assert!(
        listed.contains("\"due_us\":") && listed.contains("\"waits\":true"),
        "{listed}"
    );
    let second = Daemon::start_managed(directory, &config, &world.manager).await;
    soon(
        "the rest",
        tunnel.upstream.read_exact(&mut received[15_000..]),
    )
    .await
    .unwrap();
    assert!(received == payload::bytes(5, 60_000));
    // One second's worth is free, once and not for each daemon. A slow machine only takes longer.
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1_700), "{took:?}");
    drop(second);
}

/// Neither a lock nor the failures on the way to one end with the daemon that has counted them.
#[tokio::test]
async fn locks_and_failed_log_ins_go_on() {
    let world = World::new().await;
    let secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let both = ["alice", "bob"].map(|name| users::user(name, secret, ""));
    let directory = folder();
    users::write(&directory.path().join("users.toml"), &both.concat());
    let config = users::with_users(world.config.clone(), "lockout_failures = 2");
    let first = Daemon::start_managed(directory, &config, &world.manager).await;
    let ask = async |daemon: &Daemon, name: &str, secret: &str| {
        let basic = users::basic(name, secret);
        let headers = [("Proxy-Authorization", basic.as_str())];
        let reply = connect(daemon.proxy_addr(), &world.upstream.authority(), &headers).await;
        reply.status_line
    };
    let failed = tokio::join!(
        ask(&first, "alice", "a"),
        ask(&first, "alice", "b"),
        ask(&first, "bob", "c")
    );
    let second = world.hand_over(first).await;
    let second = Daemon::start_managed(second, &config, &world.manager).await;
    // The second failure of bob, which locks; the first daemon has counted the first one.
    let (locked, last) = tokio::join!(ask(&second, "alice", "e"), ask(&second, "bob", "f"));
    assert!(locked.contains("auth_locked"), "{failed:?}: {locked}");
    assert!(!last.contains("auth_locked"), "{last}");
    let locked = ask(&second, "bob", "g").await;
    assert!(locked.contains("auth_locked"), "{locked}");
}

/// A wrong configuration, too few descriptors, a kill before the queue is empty: the tunnels wait.
#[tokio::test]
async fn a_start_that_fails_loses_nothing() {
    let world = World::new().await;
    let first = world.start(folder()).await;
    let mut tunnels = Vec::new();
    for _ in 0..20 {
        tunnels.push(Tunnel::open(&first, &world.upstream).await);
    }
    let directory = world.hand_over(first).await;
    let right = world.config.to_toml();
    let wrong = format!("{right}\n[nonsense]\nkey = 1\n");
    for (config, descriptors, word) in [
        (&wrong, None, "nonsense"),
        (&right, Some(150), "LimitNOFILE"),
    ] {
        let (code, said) =
            Daemon::fail_managed(&directory, config, &world.manager, descriptors).await;
        assert_eq!(code, Some(75), "{said}");
        assert!(said.contains(word) && said.contains("20 tunnels"), "{said}");
    }
    let mut second = world.start(directory).await;
    assert_eq!(second.event("takeover").await["adopted"], 20);
    for (seed, tunnel) in tunnels.iter_mut().enumerate() {
        tunnel.exchange(seed as u64).await;
    }
    wait_until("the end of the list", async || {
        !world.manager.list().exists()
    })
    .await;
    assert_eq!(world.manager.stored("sealway-handover"), 1);
}

/// Tunnels that nobody takes are resets for their peers, and have a record.
#[tokio::test]
async fn tunnels_that_nobody_takes_are_reset_and_recorded() {
    let world = World::new().await;
    let first = world.start(folder()).await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    tunnel.exchange(1).await;
    let up = tunnel.hello.len() as u64 + 1_000;
    let directory = world.hand_over(first).await;
    world.manager.forget_all();
    read_to_reset(&mut tunnel.client).await;
    read_to_reset(&mut tunnel.upstream).await;
    let mut second = world.start(directory).await;
    let takeover = second.event("takeover").await;
    assert_eq!(
        (&takeover["adopted"], &takeover["lost"]),
        (&0.into(), &1.into()),
        "{takeover}"
    );
    let record = second.tunnel_record().await;
    assert_eq!(
        (&record["code"], &record["bytes_up"]),
        (&"handover_lost".into(), &up.into()),
        "{record}"
    );
    let lost = "sealway_handover_tunnels_total{result=\"lost\"}";
    assert_eq!(second.metric(lost).await, Some(1.0));
    // One record, whatever starts come after.
    wait_until("the end of the list", async || {
        !world.manager.list().exists()
    })
    .await;
}

#[tokio::test]
async fn without_a_store_the_daemon_drains() {
    let upstream = RawUpstream::start().await;
    let manager = Manager::without_store();
    let mut daemon = Daemon::start_managed(folder(), &Config::to(upstream.addr()), &manager).await;
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    daemon.signal("INT");
    daemon
        .line("the reason", |line| {
            line["message"] == "cannot hand over; draining"
        })
        .await;
    tunnel.close().await;
    assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
    daemon.event("stop").await;
    assert!(daemon.exit_status().await.success());
}

/// systemctl stop: nothing waits in the store for a daemon that does not come.
#[tokio::test]
async fn a_stop_drains_and_empties_the_store() {
    let world = World::new().await;
    let mut daemon = world.start(folder()).await;
    wait_until("the store", async || {
        world.manager.stored("sealway-listener") == 2
    })
    .await;
    let tunnel = Tunnel::open(&daemon, &world.upstream).await;
    daemon.signal("TERM");
    wait_until("an empty store", async || {
        world.manager.stored("sealway-listener") == 0
    })
    .await;
    assert_eq!(world.manager.stored("sealway-handover"), 0);
    tunnel.close().await;
    assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
    assert!(daemon.exit_status().await.success());
}
