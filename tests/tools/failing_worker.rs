//! Workers that fail, cannot start, or start late. A failure ends the daemon with status 1; a daemon
//! that has logged `listening` has all descriptors of its workers open.

use std::process::Stdio;

use support::client::{connect, dial};
use support::config::Config;
use support::daemon::Daemon;
use support::soon;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn a_worker_that_cannot_wait_stops_the_daemon() {
    // strace(1) counts the calls of each thread. Only the worker makes this many: each connection
    // is a wait.
    let config = Config::closed().section("[relay]\nworkers = 1");
    let mut daemon = Daemon::start_with_failing(&config, "epoll_wait:error=EBADF:when=60").await;
    let proxy = daemon.proxy_addr();
    let traffic = tokio::spawn(async move {
        loop {
            let mut client = dial(proxy).await;
            tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HTTP/1.1\r\n\r\n")
                .await
                .unwrap();
            client.read_to_end(&mut Vec::new()).await.unwrap();
        }
    });
    let said = |line: &serde_json::Value| line["message"] == "a worker failed";
    soon("the worker's last words", daemon.line("the cause", said)).await;
    assert_eq!(daemon.event("stop").await["drained"], 0);
    assert_eq!(daemon.exit_status().await.code(), Some(1));
    assert!(traffic.await.is_err(), "nobody accepts any more");
}

/// The workers' threads opened these after the daemon had said that it listens, so a busy machine could see the number grow.
#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn a_daemon_that_listens_has_all_descriptors_of_its_workers() {
    // strace(1) counts the calls of each thread, so the first one of every thread is late: in a worker, the call for its socket of route changes.
    let late = "bind:delay_enter=300000:when=1";
    let config = Config::closed().section("[relay]\nworkers = 2");
    let mut daemon = Daemon::start_with_failing(&config, late).await;
    let mut at_start = usize::MAX;
    for _ in 0..3 {
        at_start = at_start.min(daemon.open_descriptors().await);
    }
    // A worker runs when a client has its reply.
    let refused = connect(daemon.proxy_addr(), "elsewhere.test:443", &[]).await;
    drop(refused);
    daemon.tunnel_record().await;
    daemon
        .metric_until("process_open_fds", |open| open <= at_start as f64)
        .await;
    assert!(daemon.injected() > 0, "no call was late");
}

/// With ever more descriptors: a start fails with its error, until one succeeds, and that daemon works and stops.
#[tokio::test]
async fn a_start_without_enough_descriptors_fails_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sealway.toml");
    let config = Config::closed().section("[relay]\nworkers = 2");
    std::fs::write(&file, config.to_toml()).unwrap();
    let mut failures = 0;
    for descriptors in (16..=64).step_by(2) {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={descriptors}:{descriptors}"));
        command
            .args([&support::sealway(), "run", "--config"])
            .arg(&file);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut log = child.stderr.take().unwrap();
        let (mut text, mut chunk) = (String::new(), [0; 4_096]);
        loop {
            let read = soon("a word of the daemon", log.read(&mut chunk))
                .await
                .unwrap();
            text.push_str(&String::from_utf8_lossy(&chunk[..read]));
            if read == 0 {
                break;
            }
            // Written last, when the daemon has started.
            if text.contains("\"event\":\"start\"") {
                support::signal(child.id().unwrap(), "TERM");
            }
        }
        let status = soon("the daemon's exit", child.wait()).await.unwrap();
        if status.success() {
            assert!(failures > 0, "no start failed");
            return;
        }
        failures += 1;
        assert_eq!(status.code(), Some(1), "with {descriptors}: {text}");
        assert!(
            text.contains("Too many open files"),
            "with {descriptors}: {text}"
        );
        assert!(!text.contains("listening"), "with {descriptors}: {text}");
        assert!(
            !text.contains("a worker failed"),
            "with {descriptors}: {text}"
        );
    }
    panic!("{failures} starts failed, and none succeeded");
}
