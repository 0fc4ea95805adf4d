//! A daemon without the capabilities that lift the kernel's quota of pipes (pipe(7),
//! `pipe-user-pages-soft`), as the unit runs it: beside thousands of idle tunnels bytes still pass
//! through pipes, because only a tunnel that moves bytes holds one.

use std::time::Duration;

use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel};
use support::{payload, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_transfer_beside_idle_tunnels_is_spliced() {
    let _alone = support::alone().await;
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start_unprivileged(&Config::to(upstream.addr())).await;
    assert_eq!(
        capabilities(&daemon) & LIFTING,
        0,
        "the quota of pipes is in force"
    );
    let mut idle = Vec::new();
    let mut descriptors_alone = None;
    for beside in [0, 400, 2_000] {
        while idle.len() < beside {
            idle.push(Tunnel::open(&daemon, &upstream).await);
        }
        let Tunnel {
            mut client,
            mut upstream,
            server_hello,
            ..
        } = Tunnel::open(&daemon, &upstream).await;
        let moved = async {
            tokio::join!(
                payload::send_and_finish(&mut upstream, beside as u64, BULK),
                payload::receive(&mut client)
            )
        };
        let (sent, received) = within(LONG, "the transfer", moved).await;
        assert_eq!(sent, received, "beside {beside}");
        let descriptors = daemon.open_descriptors().await;
        drop((client, upstream));
        let record = daemon.tunnel_record().await;
        assert_eq!(
            record["bytes_down"],
            server_hello.len() as u64 + BULK,
            "{record}"
        );
        assert_eq!(record["spliced_down"], BULK, "beside {beside}: {record}");
        let alone = *descriptors_alone.get_or_insert(descriptors);
        let more = descriptors.saturating_sub(alone);
        assert!(
            more <= 2 * beside + SPARE,
            "{more} descriptors more for {beside} idle tunnels"
        );
    }
}

/// Its effective set (proc_pid_status(5), `CapEff`).
fn capabilities(daemon: &Daemon) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("its status");
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .expect("a set");
    u64::from_str_radix(set.trim(), 16).expect("hexadecimal")
}

/// `CAP_SYS_ADMIN` and `CAP_SYS_RESOURCE`: a process with either has no quota.
const LIFTING: u64 = 1 << 21 | 1 << 24;
const BULK: u64 = 64 << 20;
/// A few pipes, and sockets that are not closed yet.
const SPARE: usize = 32;
const LONG: Duration = Duration::from_secs(120);
