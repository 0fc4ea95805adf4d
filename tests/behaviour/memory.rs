//! The daemon's memory: no core file, and no credential after its head was read. The test reads the
//! memory through proc_pid_mem(5) as root of a user namespace of its own.

use std::os::unix::process::ExitStatusExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use support::client::{connect, dial};
use support::config::Config;
use support::daemon::Daemon;
use support::memory::{holds, memory_of};
use support::namespace::in_own_network;
use support::raw::RawUpstream;
use support::soon;
use support::users::{basic, start_with_users, user};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_crash_leaves_no_core_file() {
    let mut daemon = Daemon::start(&Config::closed()).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core: Vec<_> = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap()
        .split("  ")
        .collect();
    assert_eq!(
        core.iter().filter(|word| word.trim() == "0").count(),
        2,
        "soft and hard: {core:?}"
    );
    daemon.signal("ABRT");
    let status = daemon.exit_status().await;
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped());
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn credentials_do_not_stay_in_memory() {
    in_own_network("credentials_do_not_stay_in_memory", async {
        let upstream = RawUpstream::start().await;
        let users = user("alice-who-is-known", RIGHT, "");
        let daemon = start_with_users(
            Config::to(upstream.addr()),
            &users,
            "lockout_failures = 1000",
        )
        .await;
        let right = basic("alice-who-is-known", RIGHT);
        let wrong = basic("alice-who-is-known", WRONG);
        assert_eq!(
            connect(
                daemon.proxy_addr(),
                &upstream.authority(),
                &[("Proxy-Authorization", &wrong)]
            )
            .await
            .status(),
            407
        );
        let long = basic(&"x".repeat(3000), LONG);
        assert_eq!(
            connect(
                daemon.proxy_addr(),
                &upstream.authority(),
                &[("Proxy-Authorization", &long)]
            )
            .await
            .status(),
            407
        );
        let malformed = format!(
            "CONNECT x:0 HTTP/1.1\r\nProxy-Authorization: {}\r\n\r\n",
            basic("a", MALFORMED)
        );
        refused(&daemon, malformed.as_bytes()).await;
        // Nothing after the head could have overwritten it yet.
        let reply = connect(
            daemon.proxy_addr(),
            &upstream.authority(),
            &[("Proxy-Authorization", &right)],
        )
        .await;
        let _waits_for_a_hello = reply.established();
        let memory = memory_of(daemon.pid());
        assert!(
            holds(&memory, b"alice-who-is-known"),
            "the name of a user is there, so this search can find things"
        );
        for secret in [RIGHT, WRONG, LONG, MALFORMED] {
            assert!(
                !holds(&memory, secret.as_bytes()),
                "{secret} is still in memory"
            );
        }
        for header in [&right, &wrong] {
            let encoded = &header["Basic ".len()..];
            assert!(
                !holds(&memory, encoded.as_bytes()),
                "{encoded} is still in memory"
            );
        }
        let tail = &STANDARD.encode(format!("xx:{LONG}"))[4..];
        assert!(
            !holds(&memory, tail.as_bytes()),
            "{tail} is still in memory"
        );
    });
}

/// Sends a head that is refused and waits for the refusal.
async fn refused(daemon: &Daemon, head: &[u8]) {
    let mut stream = dial(daemon.proxy_addr()).await;
    stream.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    soon(
        "the refusal",
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer),
    )
    .await
    .unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 400 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

const RIGHT: &str = "R1ght-s3cret-that-is-long-enough-for-two-blocks-of-the-hash-function";
const WRONG: &str = "Wr0ng-s3cret";
const LONG: &str = "L0ng-s3cret-behind-a-name-that-needs-a-second-read";
const MALFORMED: &str = "M4lformed-s3cret-in-a-head-that-is-refused";
