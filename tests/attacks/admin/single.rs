//! The resources of the admin listener that one connection, or a few, can take: time, requests,
//! bytes, and the last descriptor.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::crowd::{get, open, request};
use super::{BOUND, TOKEN, address, addresses};
use support::client::{dial, http_get};
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::in_own_network;
use support::users::{start_with_users, tempdir, user, write};
use support::{soon, wait_until, within};

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn only_the_listed_addresses_reach_the_admin_listener() {
    in_own_network(
        "only_the_listed_addresses_reach_the_admin_listener",
        async {
            addresses();
            for (admin, listed, other) in [
                ("192.0.2.1", "192.0.2.1", "198.51.100.7"),
                ("2001:db8::1", "2001:db8::1", "2001:db8:1::7"),
            ] {
                let listed_only = format!("clients = [\"{listed}\"]");
                let config = |lines: &str| {
                    let at = std::net::SocketAddr::new(address(admin), 0).to_string();
                    Config::closed()
                        .admin_at(&at)
                        .admin("token_file = \"token\"")
                        .admin(lines)
                };
                let directory = tempdir();
                write(&directory.path().join("token"), TOKEN);
                let mut daemon = Daemon::start_in(directory, &config(&listed_only)).await;
                let at = daemon.admin_addr();
                let ask = async |from: &str| get(at, address(from), "/healthz", Some(TOKEN)).await;
                assert!(
                    ask(listed)
                        .await
                        .expect("an answer")
                        .starts_with("HTTP/1.1 200 ")
                );
                assert_eq!(
                    ask(other).await,
                    None,
                    "{other} is not in the list, and knows the token"
                );
                daemon.reload(&config("").to_toml()).await;
                assert!(
                    ask(other)
                        .await
                        .expect("an answer")
                        .starts_with("HTTP/1.1 200 ")
                );
                // A reload ends a connection that was accepted before.
                let mut live = open(at, address(other)).await.expect("a connection");
                assert!(
                    answer_on(&mut live, at, "/healthz", Some(TOKEN))
                        .await
                        .starts_with("HTTP/1.1 200 ")
                );
                daemon.reload(&config(&listed_only).to_toml()).await;
                assert!(
                    answer_on(&mut live, at, "/healthz", Some(TOKEN))
                        .await
                        .starts_with("HTTP/1.1 403 ")
                );
                assert_eq!(
                    soon("the end", live.read(&mut [0; 16]))
                        .await
                        .expect("a clean end"),
                    0
                );
            }
        },
    );
}

#[tokio::test]
async fn a_connection_that_has_shown_the_token_outlasts_strangers() {
    let directory = tempdir();
    write(&directory.path().join("token"), TOKEN);
    let daemon =
        Daemon::start_in(directory, &Config::closed().admin("token_file = \"token\"")).await;
    let (at, here) = (daemon.admin_addr(), IpAddr::from(Ipv4Addr::LOCALHOST));
    let mut known = dial(at).await;
    let mut crowd = Vec::new();
    for _ in 0..3 {
        assert!(
            answer_on(&mut known, at, "/metrics", Some(TOKEN))
                .await
                .starts_with("HTTP/1.1 200 ")
        );
        for _ in 0..300 {
            crowd.push(open(at, here).await.expect("a connection"));
        }
    }
    assert!(
        answer_on(&mut known, at, "/readyz", Some(TOKEN))
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    let mut first = crowd.swap_remove(0);
    let end = soon("the end of the oldest stranger", first.read(&mut [0; 16])).await;
    assert!(!end.is_ok_and(|bytes| bytes > 0), "it asked nothing");
}

#[tokio::test]
async fn silent_slow_and_unread_admin_connections_end_soon() {
    let users: String = (0..500)
        .map(|number| user(&format!("user-{number}"), "secret", ""))
        .collect();
    let daemon = start_with_users(Config::closed(), &users, "").await;
    let (at, before) = (daemon.admin_addr(), daemon.open_descriptors().await);
    let started = Instant::now();
    let mut held = Vec::new();
    for number in 0..60 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a small buffer");
        let mut stream = soon("a connection", socket.connect(at))
            .await
            .expect("connect");
        match number % 3 {
            0 => {}
            1 => stream
                .write_all(b"GET /healthz HTTP/1.1\r\n")
                .await
                .expect("half a head"),
            // The pages are larger than the kernel's buffers for a client that reads nothing.
            _ => stream
                .write_all(request(at, "/metrics", None, true).repeat(20).as_bytes())
                .await
                .expect("send"),
        }
        held.push(stream);
    }
    let dripping = tokio::spawn(drip(dial(at).await));
    wait_until("the connections", async || {
        daemon.open_descriptors().await > before + 30
    })
    .await;
    // Apart from the descriptors that the daemon opens for a moment by itself.
    daemon
        .metric_until("process_open_fds", |descriptors| {
            descriptors <= before as f64 + 4.0
        })
        .await;
    let took = started.elapsed();
    soon("the end of the slow head", dripping)
        .await
        .expect("the task");
    assert!(
        took < Duration::from_secs(10),
        "they held descriptors for {took:?}"
    );
    drop(held);
}

/// Sends a head byte by byte until the daemon ends the connection.
async fn drip(mut stream: TcpStream) {
    let mut head = b"GET /healthz HTTP/1.1\r\nX: "
        .iter()
        .chain(std::iter::repeat(&b'x'));
    while stream
        .write_all(&[*head.next().expect("endless")])
        .await
        .is_ok()
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_connection_has_a_hundred_requests_and_a_head_eight_kilobytes() {
    let daemon = Daemon::start(&Config::closed()).await;
    let at = daemon.admin_addr();
    let mut stream = dial(at).await;
    stream
        .write_all(request(at, "/healthz", None, true).repeat(1_000).as_bytes())
        .await
        .expect("send");
    let mut answers = Vec::new();
    // After the last answer the connection is reset, because requests are left unread.
    let _reset = soon("the end", stream.read_to_end(&mut answers)).await;
    let answers = String::from_utf8_lossy(&answers);
    assert!(
        (1..=100).contains(&answers.matches("HTTP/1.1 200 ").count()),
        "{answers}"
    );
    assert!(!answers.contains("HTTP/1.1 4"));
    let mut stream = dial(at).await;
    let head = format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(16_384)
    );
    // It may be refused before the request is sent.
    let _refused = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _reset = soon("the end", stream.read_to_end(&mut answer)).await;
    assert!(
        !answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn healthz_answers_without_a_free_descriptor() {
    let daemon = Daemon::start(&Config::closed()).await;
    // The requesting connection is one of them, and so is the folder in which they are counted: one
    // is left.
    let held = daemon.open_descriptors().await - 2;
    let limit = format!("--nofile={held}:{held}");
    let mut prlimit = std::process::Command::new("prlimit");
    assert!(
        prlimit
            .args(["--pid", &daemon.pid().to_string(), &limit])
            .status()
            .expect("prlimit")
            .success()
    );
    let mut silent = Vec::new();
    for _ in 0..20 {
        // A silent client holds the last descriptor.
        silent.push(dial(daemon.admin_addr()).await);
        let (status, _) = within(
            BOUND * 2,
            "/healthz",
            http_get(daemon.admin_addr(), "/healthz"),
        )
        .await;
        assert_eq!(status, 200);
    }
    silent.clear();
    let (status, reasons) = daemon.admin_get("/readyz").await;
    assert!(
        status == 503 && reasons.contains("no descriptors left"),
        "{reasons}"
    );
}

/// Sends a request on a connection that stays open.
async fn answer_on(
    stream: &mut TcpStream,
    at: std::net::SocketAddr,
    path: &str,
    token: Option<&str>,
) -> String {
    stream
        .write_all(request(at, path, token, true).as_bytes())
        .await
        .expect("send");
    let (mut answer, mut bytes) = (Vec::new(), [0; 4_096]);
    loop {
        let count = soon(path, stream.read(&mut bytes)).await.expect("read");
        assert!(
            count > 0,
            "{path} ended early: {}",
            String::from_utf8_lossy(&answer)
        );
        answer.extend_from_slice(&bytes[..count]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .expect("a length");
        if body.len() >= length.parse::<usize>().expect("a number") {
            return text.into_owned();
        }
    }
}
