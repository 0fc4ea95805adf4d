//! The daemon as a service: sockets that are open before the daemon and remain after it, the
//! notifications to systemd, the watchdog that each worker feeds, and the rest of the file system
//! that the daemon may use. `tests/systemd` shows the same under a real systemd.

use std::cell::Cell;
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::client::{Reply, connect, connect_head, dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, run};
use support::raw::{RawUpstream, Tunnel, pass};
use support::service::Service;
use support::users;
use support::wait_until;
use support::workers::worker_sleeps;
use support::{HOST, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

#[tokio::test]
async fn a_socket_of_systemd_refuses_nobody_between_two_daemons() {
    let upstream = RawUpstream::start().await;
    let socket = listening("127.0.0.1:0");
    let address = socket.local_addr().unwrap();
    let service = Service::new(vec![("sealway", socket)]);
    let config = Config::to(upstream.addr()).listener(&format!("address = \"{address}\""));
    let mut first = Daemon::start_as_service(tempfile::tempdir().unwrap(), &config, &service).await;
    assert_eq!(first.proxy_addr(), address);
    // Accepted, without a request yet: it continues while the daemon drains.
    let mut hesitant = dial(address).await;
    hesitant.write_all(b"CONNECT ").await.unwrap();
    // It follows in the same queue: once this one is open, the other was accepted.
    let mut open = Tunnel::open(&first, &upstream).await;
    first.signal("TERM");
    first
        .line("draining", |line| line["message"] == "draining")
        .await;
    // It connects to a daemon that accepts no more, so it waits in the queue.
    let queued = loop {
        let authority = upstream.authority();
        let mut client = tokio::spawn(async move { connect(address, &authority, &[]).await });
        // Answered, because the listeners were open for another moment.
        if tokio::time::timeout(Duration::from_millis(300), &mut client)
            .await
            .is_err()
        {
            break client;
        }
    };
    // Nobody accepts it, and nobody spins meanwhile.
    let before = first.cpu_ms();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let spent = first.cpu_ms().saturating_sub(before);
    assert!(spent < 150, "{spent} ms of CPU in half a second of waiting");
    let rest = connect_head(&upstream.authority(), &[]);
    hesitant
        .write_all(rest.strip_prefix("CONNECT ").unwrap().as_bytes())
        .await
        .unwrap();
    assert_eq!(
        read_reply(hesitant).await.status(),
        200,
        "who was let in is not refused"
    );
    pass(&mut open.client, &mut open.upstream, &[7; 100_000]).await;
    open.close().await;
    assert!(first.exit_status().await.success());
    assert!(!queued.is_finished(), "nobody was there to answer");
    let second = Daemon::start_as_service(first.into_directory(), &config, &service).await;
    assert_eq!(second.proxy_addr(), address);
    assert_eq!(
        soon("the queued client's answer", queued)
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test]
async fn a_restart_under_load_refuses_nobody() {
    let upstream = RawUpstream::start().await;
    let socket = listening("127.0.0.1:0");
    let address = socket.local_addr().unwrap();
    let service = Service::new(vec![("sealway", socket)]);
    let config = Config::to(upstream.addr())
        .listener(&format!("address = \"{address}\""))
        .section("[timeouts]\ndrain = \"10s\"\n[limits]\naccept_rate = 0\nconnect_rate = 0");
    let authority = upstream.authority();
    // A client that closes has its attempt reset, often before this accepts it (ENOTCONN). The
    // upstream must go on nevertheless.
    tokio::spawn(async move {
        loop {
            drop(upstream.accept_whenever().await);
        }
    });
    let (stop, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (authority, stop, answered) =
                (authority.clone(), Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let reply: Reply = connect(address, &authority, &[]).await;
                    assert_eq!(reply.status(), 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut directory = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let before = answered.load(Ordering::Relaxed);
        let mut daemon = Daemon::start_as_service(directory, &config, &service).await;
        wait_until("a hundred answers", async || {
            answered.load(Ordering::Relaxed) >= before + 100
        })
        .await;
        daemon.signal("TERM");
        assert!(daemon.exit_status().await.success());
        directory = daemon.into_directory();
    }
    stop.store(true, Ordering::Relaxed);
    let _last = Daemon::start_as_service(directory, &config, &service).await;
    for client in clients {
        soon("a client's end", client)
            .await
            .expect("every answer was a 200");
    }
    assert!(answered.load(Ordering::Relaxed) >= 300);
}

#[tokio::test]
async fn workers_share_a_socket_in_turn() {
    let upstream = RawUpstream::start().await;
    let socket = listening("127.0.0.1:0");
    let listener = format!("address = \"{}\"", socket.local_addr().unwrap());
    let service = Service::new(vec![("sealway", socket)]);
    let config = Config::to(upstream.addr())
        .listener(&listener)
        .section("[relay]\nworkers = 2");
    let daemon = Daemon::start_as_service(tempfile::tempdir().unwrap(), &config, &service).await;
    let mut tunnels = Vec::new();
    for _ in 0..100 {
        tunnels.push(Tunnel::open(&daemon, &upstream).await);
    }
    let woken = worker_sleeps(&daemon);
    assert_eq!(woken.len(), 2);
    let (least, most) = (woken.iter().min().unwrap(), woken.iter().max().unwrap());
    assert!(
        *least * 3 > *most,
        "one worker had nearly all of it: {woken:?}"
    );
    assert!(
        !daemon.log_text().contains("ReusePort"),
        "a socket that nobody else can share needs no warning"
    );
}

#[tokio::test]
async fn each_of_several_sockets_of_one_address_has_a_worker() {
    let upstream = RawUpstream::start().await;
    let of_many = |at: SocketAddr| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&at.into()).unwrap();
        socket.listen(128).unwrap();
        TcpListener::from(socket)
    };
    let first = of_many("127.0.0.1:0".parse().unwrap());
    let at = first.local_addr().unwrap();
    let service = Service::new(vec![("sealway", first), ("sealway", of_many(at))]);
    for workers in [1, 2, 3] {
        // The kernel spreads clients over the sockets: one without a worker would leave half of
        // them waiting.
        let config = Config::to(upstream.addr())
            .listener("socket = \"sealway\"")
            .section(&format!("[relay]\nworkers = {workers}"));
        let mut daemon =
            Daemon::start_as_service(tempfile::tempdir().unwrap(), &config, &service).await;
        let warns = |line: &serde_json::Value| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.contains("ReusePort=yes"))
        };
        assert_eq!(
            daemon.line("the warning", warns).await["address"],
            at.to_string()
        );
        for _ in 0..20 {
            Tunnel::open(&daemon, &upstream).await.close().await;
        }
        daemon.signal("TERM");
        assert!(daemon.exit_status().await.success());
    }
}

#[tokio::test]
async fn a_socket_is_found_by_its_name() {
    let upstream = RawUpstream::start().await;
    let (clients, watchers) = (listening("127.0.0.1:0"), listening("127.0.0.1:0"));
    let (at, watched_at) = (
        clients.local_addr().unwrap(),
        watchers.local_addr().unwrap(),
    );
    let service = Service::new(vec![("doors", clients), ("sealway-admin", watchers)]);
    let config = Config::to(upstream.addr())
        .listener("socket = \"doors\"")
        .admin_at(&watched_at.to_string());
    let mut daemon =
        Daemon::start_as_service(tempfile::tempdir().unwrap(), &config, &service).await;
    assert_eq!((daemon.proxy_addr(), daemon.admin_addr()), (at, watched_at));
    Tunnel::open(&daemon, &upstream).await.close().await;
    assert_eq!(daemon.admin_get("/healthz").await.0, 200);
    // The name means the same in a reload.
    let reloaded = daemon.reload(&config.to_toml()).await;
    assert_eq!(reloaded["result"], "ok", "{reloaded}");
}

#[tokio::test]
async fn an_unmatched_socket_is_a_wrong_configuration() {
    let v4 = || listening("127.0.0.1:0");
    let dual = {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        socket.set_only_v6(false).unwrap();
        socket.bind(&SocketAddr::from(([0; 8], 0)).into()).unwrap();
        socket.listen(1).unwrap();
        TcpListener::from(socket)
    };
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let open = listening("0.0.0.0:0");
    let own = "address = \"127.0.0.1:0\"";
    for (name, socket, listener, reason) in [
        (
            "sealway",
            v4(),
            own,
            "no [[listener]] (nor admin.address) has that address",
        ),
        (
            "sealway",
            v4(),
            "socket = \"doors\"",
            "sealway.toml:2: listener.socket: systemd has passed no socket \"doors\"",
        ),
        (
            "doors",
            v4(),
            "socket = \"doors\"\naddress = \"127.0.0.1:0\"",
            "remove this or address",
        ),
        (
            "doors",
            open,
            "socket = \"doors\"",
            "would be an open relay",
        ),
        (
            "doors",
            dual,
            "socket = \"doors\"",
            "BindIPv6Only=ipv6-only",
        ),
        (
            "doors",
            TcpListener::from(silent),
            "socket = \"doors\"",
            "it does not listen",
        ),
    ] {
        let service = Service::new(vec![(name, socket)]);
        let (status, said) = fails_to_start(&Config::closed().listener(listener), &service).await;
        assert_eq!(status, Some(78), "{said}");
        assert!(said.contains(reason), "{reason:?} is not in {said}");
    }
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn systemd_is_notified_of_ready_reload_and_stop() {
    let upstream = RawUpstream::start().await;
    let service = Service::new(vec![]);
    let config = Config::to(upstream.addr())
        .section("[timeouts]\ndrain = \"150ms\"\ndrain_delay = \"100ms\"");
    let mut daemon =
        Daemon::start_as_service(tempfile::tempdir().unwrap(), &config, &service).await;
    service.until("ready", |line| line == "READY=1").await;
    assert_eq!(daemon.admin_get("/readyz").await.0, 200);
    service
        .until("status", |line| {
            line == "STATUS=ready; 0 tunnels; egress 127.0.0.2"
        })
        .await;
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    service
        .until("a tunnel in the status", |line| {
            line == "STATUS=ready; 1 tunnel; egress 127.0.0.2"
        })
        .await;

    daemon.reload(&config.to_toml()).await;
    let told = service
        .until("the reload's end", |line| line == "READY=1")
        .await;
    assert_eq!(told[0], "RELOADING=1", "{told:?}");
    assert!(
        told[1]
            .strip_prefix("MONOTONIC_USEC=")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0,
        "{told:?}"
    );
    // A line feed in a path would begin another assignment.
    daemon
        .reload("[limits]\ntunels = 5\nMAINPID = 1\n[auth]\nusers_file = \"x\\nMAINPID=1.toml\"\n")
        .await;
    let refused = behind("READY=1", |line| {
        line.contains("the last reload was refused: ")
    });
    let told = service
        .until("the refused reload's end, and its status", refused)
        .await;
    assert!(told.contains(&"RELOADING=1".to_string()), "{told:?}");
    assert!(
        told.last().unwrap().contains("tunels")
            && told.last().unwrap().contains("MAINPID=1.toml")
            && !told.iter().any(|line| line.starts_with("MAINPID")),
        "{told:?}"
    );

    daemon.signal("TERM");
    let draining = behind("STOPPING=1", |line| {
        line.contains("not ready: draining; 1 tunnel;")
    });
    let told = service.until("the stop, and its status", draining).await;
    let patience = told
        .iter()
        .find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="))
        .unwrap();
    assert!(patience.parse::<u64>().unwrap() > 250_000, "{told:?}");
    let name = format!(
        "from {} to {HOST}:{}",
        tunnel.client.local_addr().unwrap(),
        upstream.addr().port()
    );
    let is_named = |line: &serde_json::Value| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains(&name) && message.ends_with("outlived timeouts.drain and is reset")
    };
    daemon.line("who has outlived the drain", is_named).await;
    assert_eq!(daemon.event("stop").await["drained"], 1);
    assert!(daemon.exit_status().await.success());
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_daemon_that_cannot_carry_a_tunnel_is_not_ready() {
    in_own_network("a_daemon_that_cannot_carry_a_tunnel_is_not_ready", async {
        let disk = tempfile::tempdir().unwrap();
        run(&format!(
            "mount -t tmpfs -o size=64k tmpfs {}",
            disk.path().display()
        ));
        let config =
            Config::closed().audit_file(disk.path().join("audit.jsonl").to_str().unwrap(), "");
        let mut before = Daemon::start(&config).await;
        before.signal("TERM");
        assert!(before.exit_status().await.success());
        // No record can be written, so each tunnel would be refused.
        let full = std::fs::write(disk.path().join("other"), vec![0; 64 * 1024]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        let mut filler = std::fs::OpenOptions::new()
            .append(true)
            .open(disk.path().join("audit.jsonl"))
            .unwrap();
        while std::io::Write::write(&mut filler, b"\n").is_ok() {}
        let service = Service::new(vec![]);
        let daemon =
            Daemon::start_as_service(tempfile::tempdir().unwrap(), &config, &service).await;
        let told = service
            .until("why not", |line| {
                line.starts_with("STATUS=not ready: audit unavailable")
            })
            .await;
        assert_eq!(daemon.admin_get("/readyz").await.0, 503);
        assert!(!told.contains(&"READY=1".to_string()), "{told:?}");
        std::fs::remove_file(disk.path().join("other")).unwrap();
        let told = service.until("ready", |line| line == "READY=1").await;
        assert!(
            !told.iter().any(|line| line.starts_with("STATUS=ready")),
            "{told:?}"
        );
        assert_eq!(daemon.admin_get("/readyz").await.0, 200);
        drop(daemon);
        run(&format!("umount -l {}", disk.path().display()));
    });
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn a_stuck_worker_stops_the_watchdog_notifications() {
    let service = Service::new(vec![])
        .watchdog(400_000)
        .injecting("accept4:delay_enter=3000000:when=1");
    let daemon = Daemon::start_as_service(
        tempfile::tempdir().unwrap(),
        &Config::closed().section("[relay]\nworkers = 2"),
        &service,
    )
    .await;
    for _ in 0..3 {
        let hungry_since = Instant::now();
        service
            .until("a sign of life", |line| line == "WATCHDOG=1")
            .await;
        assert!(hungry_since.elapsed() < Duration::from_secs(2));
    }
    // The worker that accepts it stands still for three seconds; the other worker and the service
    // thread continue.
    let mut client = dial(daemon.proxy_addr()).await;
    let (mut longest, all) = (Duration::ZERO, Instant::now());
    while longest < Duration::from_secs(2) {
        assert!(
            all.elapsed() < support::DEADLINE,
            "it was fed all the time: the longest pause was {longest:?}"
        );
        let hungry_since = Instant::now();
        service
            .until("a sign of life, when the worker goes on", |line| {
                line == "WATCHDOG=1"
            })
            .await;
        longest = longest.max(hungry_since.elapsed());
    }
    client.write_all(b"x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon("an answer", client.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.contains("bad_request"), "{answer}");
}

#[tokio::test]
async fn a_systemd_that_does_not_read_delays_nobody() {
    let upstream = RawUpstream::start().await;
    // Ten notifications fill its socket's queue, sixteen more the daemon's own queue.
    let service = Service::new(vec![]).watchdog(40_000);
    let mut daemon = Daemon::start_as_service(
        tempfile::tempdir().unwrap(),
        &Config::to(upstream.addr()),
        &service,
    )
    .await;
    let full = async {
        while service.has_room() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("a full queue", full).await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    daemon.reload(&Config::to(upstream.addr()).to_toml()).await;
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
}

/// Landlock is in the kernel of every supported distribution; without it this test fails and says
/// so.
#[tokio::test]
async fn files_that_are_not_configured_cannot_be_read() {
    let elsewhere = users::tempdir();
    users::write(
        &elsewhere.path().join("users.toml"),
        &users::user("alice", "secret", ""),
    );
    let mut daemon = Daemon::start(&Config::closed()).await;
    let shut = daemon
        .line("Landlock", |line| {
            line["message"].to_string().contains("Landlock")
        })
        .await;
    assert_eq!(
        shut["message"], "Landlock restricts the file system",
        "this kernel cannot show it"
    );
    assert_eq!(shut["writable"], "");
    users::write(
        &daemon.path("users.toml"),
        &users::user("alice", "secret", ""),
    );
    let with =
        |file: &str| Config::closed().to_toml() + &format!("[auth]\nusers_file = {file:?}\n");
    let beside = daemon.reload(&with("users.toml")).await;
    assert_eq!(beside["result"], "ok", "{beside}");
    let refused = daemon
        .reload(&with(elsewhere.path().join("users.toml").to_str().unwrap()))
        .await;
    assert_eq!(refused["result"], "failed", "{refused}");
    let reason = refused["error"].as_str().unwrap();
    assert!(
        reason.contains("Permission denied") && reason.contains("restart"),
        "{reason}"
    );
}

/// A line that satisfies `wanted` and follows `first`: regular checks also notify of a status,
/// perhaps sooner.
fn behind(first: &str, wanted: impl Fn(&str) -> bool) -> impl Fn(&str) -> bool {
    let is_told = Cell::new(false);
    move |line| {
        is_told.set(is_told.get() || line == first);
        is_told.get() && wanted(line)
    }
}

fn listening(address: &str) -> TcpListener {
    TcpListener::bind(address).unwrap()
}

async fn fails_to_start(config: &Config, service: &Service) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sealway.toml");
    std::fs::write(&file, config.to_toml()).unwrap();
    let prefix = service.prefix();
    let mut command = Command::new(&prefix[0]);
    command
        .args(&prefix[1..])
        .arg(support::sealway())
        .args(["run", "--config"])
        .arg(file);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    service.prepare(&mut command);
    let ended = soon(
        &format!("the end of {}", config.to_toml()),
        command.output(),
    )
    .await
    .unwrap();
    (
        ended.status.code(),
        String::from_utf8_lossy(&ended.stderr).into_owned(),
    )
}
