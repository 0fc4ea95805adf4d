//! A worker that cannot go on ends the daemon with status 1, after the audit file has its last record.

use support::client::dial;
use support::config::Config;
use support::daemon::Daemon;
use support::soon;
use tokio::io::AsyncReadExt;

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn a_worker_that_cannot_wait_any_more_ends_the_daemon() {
    // strace(1) counts the calls of each thread. Only the worker's comes so far: each connection is a wait.
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
    let said = |line: &serde_json::Value| line["message"] == "a worker cannot go on";
    soon("the worker's last words", daemon.line("the cause", said)).await;
    assert_eq!(daemon.event("stop").await["drained"], 0);
    assert_eq!(daemon.exit_status().await.code(), Some(1));
    assert!(traffic.await.is_err(), "nobody accepts any more");
}
