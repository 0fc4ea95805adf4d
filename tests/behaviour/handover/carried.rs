//! A restart in which the former daemon outlives the main process and carries its tunnels until the next one claims them:
//! the test plays a service manager that ends the main process only.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

/// The process of a daemon that has outlived its main process.
pub(super) struct Former(u32);

impl Former {
    /// Whether it runs; the machine may not have buried it.
    pub(super) fn runs(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        let state = stat.rsplit(") ").next().unwrap_or_default();
        !state.is_empty() && !state.starts_with('Z')
    }

    pub(super) async fn ends(&self) {
        wait_until("the end of the former daemon", async || !self.runs()).await;
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.try_into().unwrap()), signal).unwrap();
    }
}

impl World {
    pub(super) async fn start_outliving(&self) -> Daemon {
        Daemon::start_outliving(folder(), &self.config, &self.manager).await
    }

    /// Restarts as the unit does, up to the start of the next daemon.
    pub(super) async fn end_main_process(&self, daemon: &mut Daemon) -> Former {
        let former = Former(daemon.child());
        daemon.signal("WINCH");
        daemon.signal("INT");
        assert_eq!(daemon.exit_status().await.code(), Some(75));
        assert!(former.runs());
        daemon
            .line("a daemon beside the service", |line| {
                line["message"] == "the tunnels flow until the next daemon claims them"
            })
            .await;
        former
    }
}

#[tokio::test]
async fn tunnels_flow_until_the_next_daemon_claims_them() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    let mut ended = Tunnel::open(&first, &world.upstream).await;
    let mut lasting = Tunnel::open(&first, &world.upstream).await;
    let former = world.end_main_process(&mut first).await;
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", former.0)).unwrap();
    assert_eq!(comm, "(sealway)\n", "systemd warns of other names");
    tunnel.exchange(1).await;
    ended.exchange(2).await;
    ended.close().await;
    assert_eq!(first.tunnel_record().await["code"], "closed_by_client");
    // Until the next daemon accepts it.
    let (address, authority) = (first.proxy_addr(), world.upstream.authority());
    let queued = tokio::spawn(async move { connect(address, &authority, &[]).await });
    let mut second = world.start_outliving().await;
    assert_eq!(first.event("handover").await["tunnels"], 2);
    former.ends().await;
    let takeover = second.event("takeover").await;
    assert_eq!(
        (&takeover["adopted"], &takeover["lost"]),
        (&2.into(), &0.into()),
        "{takeover}"
    );
    tunnel.exchange(3).await;
    let queued = soon("the answer of the queued one", queued).await.unwrap();
    assert_eq!(queued.status(), 200);
    tunnel.close().await;
    let record = second.tunnel_record().await;
    assert_eq!(record["code"], "closed_by_client", "{record}");
    // And so on.
    let former = world.end_main_process(&mut second).await;
    lasting.exchange(4).await;
    let _third = world.start_outliving().await;
    former.ends().await;
    lasting.exchange(5).await;
}

/// Both have the file for a moment, and the chain has no gap.
#[tokio::test]
async fn the_audit_file_changes_its_writer_between_two_records() {
    let mut world = World::new().await;
    let shared = folder();
    let file = shared.path().join("audit.jsonl");
    world.config = world.config.audit_file(file.to_str().unwrap(), "");
    let mut daemon = world.start_outliving().await;
    let mut tunnel = Tunnel::open(&daemon, &world.upstream).await;
    for seed in 0..3 {
        world.end_main_process(&mut daemon).await;
        daemon = world.start_outliving().await;
        tunnel.exchange(seed).await;
    }
    // The tunnel flows before that is written.
    wait_until("the record of the last takeover", async || {
        let records = std::fs::read_to_string(&file).unwrap();
        records.matches("\"event\":\"takeover\"").count() == 3
    })
    .await;
    tunnel.close().await;
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    let records = std::fs::read_to_string(&file).unwrap();
    let records: Vec<Value> = records
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let events = records.iter().filter_map(|record| record["event"].as_str());
    let expected = [
        "start", "handover", "start", "takeover", "handover", "start", "takeover", "handover",
        "start", "takeover", "tunnel", "stop",
    ];
    assert_eq!(events.collect::<Vec<_>>(), expected);
    let verified = support::command::sealway(&["audit", "verify", file.to_str().unwrap()]).await;
    assert_eq!(verified.status, 0, "{verified:?}");
}

/// Tunnels flow while the starts of the next daemon fail.
#[tokio::test]
async fn a_wrong_configuration_stops_no_tunnel() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    let former = world.end_main_process(&mut first).await;
    let next = folder();
    let right = world.config.to_toml();
    let wrong = format!("{right}\n[nonsense]\nkey = 1\n");
    let unusable = format!("{right}\n[audit]\nfile = \"/\"\n");
    for (config, word) in [(&wrong, "nonsense"), (&unusable, "audit.file")] {
        for seed in 0..2 {
            let (code, said) = Daemon::fail_managed(&next, config, &world.manager, None).await;
            assert_eq!(code, Some(75), "{said}");
            assert!(
                said.contains(word) && said.contains("still carries its tunnels"),
                "{said}"
            );
            tunnel.exchange(seed).await;
        }
    }
    let mut second = Daemon::start_outliving(next, &world.config, &world.manager).await;
    assert_eq!(second.event("takeover").await["adopted"], 1);
    former.ends().await;
    tunnel.exchange(3).await;
}

/// It ends at once and not after a drain: the next daemon waits for the audit file.
#[tokio::test]
async fn a_signal_to_a_daemon_beside_the_service_ends_it_at_once() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    let former = world.end_main_process(&mut first).await;
    former.signal(Signal::SIGTERM);
    read_to_reset(&mut tunnel.client).await;
    assert_eq!(first.tunnel_record().await["code"], "drained");
    former.ends().await;
}

/// `systemctl stop` before the next daemon has claimed them.
#[tokio::test]
async fn a_stop_ends_the_tunnels_that_nobody_can_claim_any_more() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    let former = world.end_main_process(&mut first).await;
    tunnel.exchange(1).await;
    world.manager.forget_all();
    read_to_reset(&mut tunnel.client).await;
    read_to_reset(&mut tunnel.upstream).await;
    assert_eq!(first.tunnel_record().await["code"], "drained");
    first.event("stop").await;
    former.ends().await;
}

/// The next daemon may have another listener at the same port.
#[tokio::test]
async fn a_daemon_beside_the_service_holds_no_port() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let _tunnel = Tunnel::open(&first, &world.upstream).await;
    let ports = [first.proxy_addr(), first.admin_addr()];
    let former = world.end_main_process(&mut first).await;
    world.manager.forget("sealway-listener");
    for port in ports {
        wait_until("the port to be free", async || {
            std::net::TcpListener::bind(port).is_ok()
        })
        .await;
    }
    assert!(former.runs(), "its end frees every port");
}

/// Without a place for the claim nobody could make it.
#[tokio::test]
async fn a_store_without_room_for_the_claim_parks_the_tunnels() {
    let world = World {
        manager: Manager::with_room(1),
        ..World::new().await
    };
    let mut first = world.start_outliving().await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    let former = Former(first.child());
    first.signal("WINCH");
    first.signal("INT");
    assert_eq!(first.exit_status().await.code(), Some(75));
    assert!(!former.runs());
    first
        .line("the reason", |line| {
            let message = line["message"].as_str().unwrap_or_default();
            message.contains("FileDescriptorStoreMax=")
        })
        .await;
    let mut second = world.start_outliving().await;
    assert_eq!(second.event("takeover").await["adopted"], 1);
    tunnel.exchange(1).await;
}

/// A crash of the former daemon: the next one does not wait for it.
#[tokio::test]
async fn a_former_daemon_that_is_killed_is_not_waited_for() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    let former = world.end_main_process(&mut first).await;
    former.signal(Signal::SIGKILL);
    read_to_reset(&mut tunnel.client).await;
    let began = Instant::now();
    let second = world.start_outliving().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    let _works = Tunnel::open(&second, &world.upstream).await;
}

/// A former daemon that answers no claim is killed: the machine would have no daemon otherwise.
#[tokio::test]
async fn a_former_daemon_that_stands_still_is_killed() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    let former = world.end_main_process(&mut first).await;
    former.signal(Signal::SIGSTOP);
    let second = world.start_outliving().await;
    former.ends().await;
    read_to_reset(&mut tunnel.client).await;
    let _works = Tunnel::open(&second, &world.upstream).await;
}

/// Without the announcement the unit may kill every process of the service with the main one.
#[tokio::test]
async fn nothing_outlives_a_main_process_without_the_announcement() {
    let world = World::new().await;
    let mut first = world.start_outliving().await;
    let mut tunnel = Tunnel::open(&first, &world.upstream).await;
    let former = Former(first.child());
    first.signal("INT");
    assert_eq!(first.exit_status().await.code(), Some(75));
    assert!(!former.runs());
    // A version without claims takes the queue.
    assert_eq!(world.manager.stored("sealway-claim"), 0);
    assert_eq!(world.manager.stored("sealway-handover"), 1);
    let mut second = world.start_outliving().await;
    assert_eq!(second.event("takeover").await["adopted"], 1);
    tunnel.exchange(1).await;
}

/// What the service manager learns of the main process is what became of the daemon, and signals arrive there.
#[tokio::test]
async fn the_main_process_ends_as_the_daemon_does() {
    let world = World::new().await;
    let mut daemon = world.start_outliving().await;
    let config = world.config.to_toml();
    assert_eq!(daemon.reload(&config).await["result"], "ok");
    Former(daemon.child()).signal(Signal::SIGKILL);
    assert_eq!(daemon.exit_status().await.signal(), Some(9));

    let mut daemon = world.start_outliving().await;
    let former = Former(daemon.child());
    daemon.signal("KILL");
    daemon.exit_status().await;
    former.ends().await;

    // The watchdog's.
    let mut daemon = world.start_outliving().await;
    daemon.signal("ABRT");
    assert_eq!(daemon.exit_status().await.signal(), Some(6));

    let mut daemon = world.start_outliving().await;
    daemon.signal("TERM");
    daemon.event("stop").await;
    assert!(daemon.exit_status().await.success());

    let wrong = format!("{config}\n[nonsense]\nkey = 1\n");
    let (code, said) = Daemon::fail_outliving(&folder(), &wrong, &world.manager).await;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("nonsense"), "{said}");
}
