//! An operator asks a running daemon to drain, undrain and reload: the effect, who may ask, and the
//! audit records. Needs unshare(1) and setpriv(1) of util-linux, and bash.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;
use support::client::{connect, dial};
use support::command::{Ended, sealway};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel};
use support::service::Service;
use support::soon;
use support::users;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_drained_daemon_refuses_new_tunnels_and_keeps_the_others_across_a_reload() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr());
    let mut daemon = Daemon::start(&config).await;
    let mut open = Tunnel::open(&daemon, &upstream).await;
    // A client that has sent half a head is not refused before its request.
    let mut half = dial(daemon.proxy_addr()).await;
    half.write_all(b"CONNECT ").await.unwrap();
    let done = operate(&daemon, &["drain", "--reason", "kernel update"]).await;
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    assert!(done.stdout.contains("1 open"), "{}", done.stdout);
    let record = daemon.event("operator_act").await;
    let by = format!("uid {}", nix::unistd::geteuid());
    for (field, wanted) in [
        ("act", "drain"),
        ("by", &by),
        ("client", "127.0.0.1"),
        ("reason", "kernel update"),
    ] {
        assert_eq!(record[field], wanted, "{record}");
    }
    half.write_all(format!("{} HTTP/1.1\r\n\r\n", upstream.authority()).as_bytes())
        .await
        .unwrap();
    let late = support::client::read_reply(half).await;
    assert_eq!(
        late.status_line,
        "HTTP/1.1 503 Service Unavailable (draining)"
    );
    for reload in [false, true] {
        if reload {
            daemon.reload(&config.to_toml()).await;
        }
        let refused = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
        assert_eq!(
            refused.status_line,
            "HTTP/1.1 503 Service Unavailable (draining)"
        );
        let (status, reasons) = daemon.admin_get("/readyz").await;
        assert_eq!(status, 503);
        assert!(reasons.contains("sealway undrain"), "{reasons}");
        let report: Value = serde_json::from_str(&daemon.admin_get("/status").await.1).unwrap();
        assert_eq!(report["drain"]["by"], by.as_str());
        assert_eq!(report["drain"]["reason"], "kernel update");
        assert_eq!(daemon.admin_get("/healthz").await.0, 200);
        assert_eq!(daemon.metric("sealway_drained").await, Some(1.0));
        open.exchange(7).await;
    }
    assert_eq!(operate(&daemon, &["undrain"]).await.status, 0);
    assert_eq!(daemon.event("operator_act").await["act"], "undrain");
    assert_eq!(daemon.admin_get("/readyz").await.0, 200);
    assert_eq!(daemon.metric("sealway_drained").await, Some(0.0));
    Tunnel::open(&daemon, &upstream).await.exchange(8).await;
    open.exchange(9).await;
    for act in ["drain", "undrain"] {
        let series = format!("sealway_operator_acts_total{{act=\"{act}\"}}");
        assert_eq!(daemon.metric(&series).await, Some(1.0), "{act}");
    }
}

#[tokio::test]
async fn systemd_is_notified_of_a_drain() {
    let service = Service::new(vec![]);
    let daemon = Daemon::start_as_service(users::tempdir(), &Config::closed(), &service).await;
    service.until("ready", |line| line == "READY=1").await;
    assert_eq!(operate(&daemon, &["drain"]).await.status, 0);
    let drained =
        "STATUS=not ready: drained by an operator: sealway undrain accepts new tunnels again;";
    service
        .until("the drain", |line| line.starts_with(drained))
        .await;
    assert_eq!(operate(&daemon, &["undrain"]).await.status, 0);
    service
        .until("the end of it", |line| line.starts_with("STATUS=ready;"))
        .await;
}

#[tokio::test]
async fn a_requested_reload_returns_its_result() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::closed()).await;
    let file = daemon.path("sealway.toml");
    std::fs::write(&file, Config::to(upstream.addr()).to_toml()).unwrap();
    let done = operate(&daemon, &["reload", "--reason", "a host more"]).await;
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{done:?}");
    assert_eq!(daemon.event("operator_act").await["reason"], "a host more");
    assert_eq!(daemon.event("reload").await["result"], "ok");
    // It is in force when the command has ended.
    Tunnel::open(&daemon, &upstream).await.close().await;
    let wrong = Config::closed().to_toml() + "[limits]\ntunels = 5\npendings = 7\n";
    std::fs::write(&file, wrong).unwrap();
    let done = operate(&daemon, &["reload"]).await;
    assert_eq!((done.status, done.stdout.as_str()), (78, ""), "{done:?}");
    let problems: Vec<&str> = done.stderr.lines().collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].contains("tunels") && problems[1].contains("pendings"));
    assert!(problems[2].contains("the old one stays in force"));
    assert_eq!(daemon.event("reload").await["result"], "failed");
    Tunnel::open(&daemon, &upstream).await.close().await;
}

#[tokio::test]
async fn each_of_several_reloads_at_once_has_its_own_answer() {
    let daemon = Daemon::start(&Config::closed()).await;
    let posts = (0..20).map(|_| post(&daemon, "/reload", &[JSON], "{}"));
    let answers = futures_util::future::join_all(posts).await;
    let ok = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(ok >= 4, "{answers:?}");
    let refused = answers.iter().filter(|answer| answer.status == 503);
    assert_eq!(ok + refused.count(), 20, "{answers:?}");
    let series = "sealway_config_reloads_total{result=\"ok\"}";
    assert_eq!(daemon.metric(series).await, Some(ok as f64));
}

#[tokio::test]
async fn browsers_and_wrong_requests_change_nothing() {
    let daemon = Daemon::start(&Config::closed()).await;
    let host = daemon.admin_addr().to_string();
    let origin = format!("Origin: http://{host}");
    let long = format!("{{\"reason\":\"{}\"}}", "x".repeat(257));
    let huge = format!("{{\"reason\":\"{}\"}}", "x".repeat(70_000));
    let cases: [(&[&str], &str, u16); 13] = [
        (&[], "{}", 415),
        (&["Content-Type: text/plain"], "{}", 415),
        (
            &["Content-Type: application/x-www-form-urlencoded"],
            "a=b",
            415,
        ),
        (&[JSON, &origin], "{}", 403),
        (&[JSON, "Origin: null"], "{}", 403),
        (&[JSON, "Sec-Fetch-Site: same-origin"], "{}", 403),
        (&[JSON, "Sec-Fetch-Site: none"], "{}", 403),
        (&[JSON], "{\"reason\":\"\"}", 400),
        (&[JSON], "{\"reason\":\"a\\nb\"}", 400),
        (&[JSON], &long, 400),
        (&[JSON], "{\"why\":\"x\"}", 400),
        (&[JSON], "[", 400),
        (&[JSON], &huge, 413),
    ];
    for (headers, body, status) in cases {
        for path in ["/drain", "/reload"] {
            let answer = post(&daemon, path, headers, body).await;
            assert_eq!(answer.status, status, "{path} {headers:?} {answer:?}");
        }
    }
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let request = format!("{method} /drain HTTP/1.1\r\nHost: {host}\r\n{JSON}\r\n\r\n");
        let answer = raw(daemon.admin_addr(), &request).await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("allow: POST\r\n"), "{answer:?}");
    }
    let by_name = format!(
        "POST /drain HTTP/1.1\r\nHost: evil.example\r\n{JSON}\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    assert_eq!(raw(daemon.admin_addr(), &by_name).await.status, 421);
    // A body that never ends holds resources for a short time only.
    let slow =
        format!("POST /drain HTTP/1.1\r\nHost: {host}\r\n{JSON}\r\nContent-Length: 9\r\n\r\n{{");
    assert_eq!(raw(daemon.admin_addr(), &slow).await.status, 408);
    assert_eq!(daemon.metric("sealway_drained").await, Some(0.0));
    let series = "sealway_operator_acts_total{act=\"reload\"}";
    assert_eq!(daemon.metric(series).await, Some(0.0));
    assert!(!daemon.log_text().contains("operator_act"));
    // The same request without a fault succeeds.
    assert_eq!(post(&daemon, "/drain", &[JSON], "").await.status, 200);
    assert_eq!(daemon.metric("sealway_drained").await, Some(1.0));
}

#[tokio::test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces and unshare(1)"
)]
async fn a_client_without_a_uid_may_not_operate() {
    // The kernel reports the overflow uid, so the client is unknown.
    let daemon = Daemon::start_among_strangers(&Config::closed()).await;
    let refused = post(&daemon, "/drain", &[JSON], "{}").await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.body.contains("admin.token_file"), "{refused:?}");
    assert_eq!(daemon.metric("sealway_drained").await, Some(0.0));
}

#[tokio::test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs root of a user namespace with other users, and setpriv(1)"
)]
async fn a_process_of_another_user_may_not_operate() {
    assert!(
        has_other_users(),
        "run this test as root: it starts a process as uid 4321"
    );
    let daemon = Daemon::start(&Config::closed()).await;
    let answer = as_another_user(daemon.admin_addr(), "POST", "/drain");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("uid 4321"), "{answer}");
    assert!(as_another_user(daemon.admin_addr(), "GET", "/readyz").starts_with("HTTP/1.1 200"));
    assert_eq!(daemon.metric("sealway_drained").await, Some(0.0));
    assert_eq!(operate(&daemon, &["drain"]).await.status, 0);
}

#[tokio::test]
async fn every_operator_must_show_the_token() {
    let directory = users::tempdir();
    users::write(&directory.path().join("token"), TOKEN);
    let config = Config::closed().admin("token_file = \"token\"");
    let mut daemon = Daemon::start_in(directory, &config).await;
    for headers in [&[JSON][..], &[JSON, "Authorization: Bearer wrong"]] {
        assert_eq!(post(&daemon, "/drain", headers, "{}").await.status, 401);
    }
    let shown = format!("Authorization: Bearer {TOKEN}");
    let origin = [JSON, &shown, "Origin: https://evil.example"];
    assert_eq!(post(&daemon, "/drain", &origin, "{}").await.status, 403);
    let admin = daemon.admin_addr().to_string();
    let without = sealway(&["drain", "--admin", &admin]).await;
    assert_eq!(without.status, 1);
    assert!(
        without.stderr.contains("requires a token"),
        "{}",
        without.stderr
    );
    let file = daemon.path("sealway.toml");
    let with = [
        "drain",
        "--admin",
        &admin,
        "--config",
        file.to_str().unwrap(),
    ];
    assert_eq!(sealway(&with).await.status, 0);
    assert_eq!(daemon.event("operator_act").await["by"], "token");
}

#[tokio::test]
async fn the_operators_token_is_not_the_watchers_token() {
    let directory = users::tempdir();
    users::write(&directory.path().join("token"), TOKEN);
    let own = TOKEN.replace('0', "f");
    users::write(&directory.path().join("operators"), &own);
    let config = Config::closed()
        .admin("token_file = \"token\"")
        .admin("operator_token_file = \"operators\"");
    let daemon = Daemon::start_in(directory, &config).await;
    let shown = |token: &str| format!("Authorization: Bearer {token}");
    for (token, path, status) in [
        (TOKEN, "/drain", 403),
        (TOKEN, "/tunnels/end", 403),
        ("wrong", "/drain", 401),
        (&own, "/drain", 200),
    ] {
        let answer = post(&daemon, path, &[JSON, &shown(token)], "{}").await;
        assert_eq!(answer.status, status, "{token} {path} {answer:?}");
    }
    for (token, path, status) in [
        (TOKEN, "/status", 200),
        (TOKEN, "/tunnels", 403),
        (&own, "/status", 200),
        (&own, "/tunnels", 200),
    ] {
        let (host, token) = (daemon.admin_addr(), shown(token));
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{token}\r\n\r\n");
        assert_eq!(raw(host, &request).await.status, status, "{path}");
    }
    // The commands find the right one of the two, and watchers need no access to the other.
    let (admin, file) = (daemon.admin_addr().to_string(), daemon.path("sealway.toml"));
    let place = ["--admin", &admin, "--config", file.to_str().unwrap()];
    assert_eq!(
        sealway(&[&["undrain"], &place[..]].concat()).await.status,
        0
    );
    std::fs::remove_file(daemon.path("operators")).unwrap();
    assert_eq!(
        sealway(&[&["top", "--once"], &place[..]].concat())
            .await
            .status,
        0
    );
    let without = sealway(&[&["drain"], &place[..]].concat()).await;
    assert_eq!(without.status, 78, "{without:?}");
    assert!(
        without.stderr.contains("admin.operator_token_file"),
        "{without:?}"
    );
}

#[tokio::test]
async fn a_command_that_finds_no_daemon_says_so() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    for command in ["drain", "undrain", "reload"] {
        let ended = sealway(&[command, "--admin", &address]).await;
        assert_eq!(ended.status, 1, "{ended:?}");
        assert!(ended.stderr.contains("start it, or name"), "{ended:?}");
        let ended = sealway(&[command, "--admin", &address, "--reason", "a\nb"]).await;
        assert_eq!(ended.status, 2, "{ended:?}");
    }
}

/// An answer of the admin listener.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// Runs a command against this daemon.
async fn operate(daemon: &Daemon, words: &[&str]) -> Ended {
    let admin = daemon.admin_addr().to_string();
    sealway(&[words, &["--admin", &admin]].concat()).await
}

/// Posts this body unchanged.
async fn post(daemon: &Daemon, path: &str, headers: &[&str], body: &str) -> Answer {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let (host, length) = (daemon.admin_addr(), body.len());
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    raw(host, &request).await
}

/// Sends a request and reads its answer.
async fn raw(address: SocketAddr, request: &str) -> Answer {
    let mut stream = dial(address).await;
    // The answer can arrive before the whole request is sent.
    let _early = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let mut piece = [0; 4_096];
    let head = loop {
        let read = soon("an answer", stream.read(&mut piece))
            .await
            .expect("read");
        assert!(
            read > 0,
            "no whole answer: {:?}",
            String::from_utf8_lossy(&answer)
        );
        answer.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .split_once("content-length: ")
                .map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
            if body.len() >= length || request.starts_with("HEAD") {
                break (head.to_owned() + "\r\n", body.to_owned());
            }
        }
    };
    let status = head.0.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.0,
        body: head.1,
    }
}

/// Whether this process may become another user: root may, if the user namespace has more than one.
fn has_other_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let users = map
        .split_whitespace()
        .nth(2)
        .and_then(|count| count.parse::<u64>().ok());
    nix::unistd::geteuid().is_root() && users.is_some_and(|count| count > 4_321)
}

/// The answer of the admin listener to a process of another user.
fn as_another_user(address: SocketAddr, method: &str, path: &str) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/{}/{}; printf '{method} {path} HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nConnection: close\\r\\n{JSON}\\r\\nContent-Length: 0\\r\\n\\r\\n' >&3; cat <&3",
        address.ip(),
        address.port()
    );
    let output = Command::new("setpriv")
        .args([
            "--reuid=4321",
            "--regid=4321",
            "--clear-groups",
            "bash",
            "-c",
            &script,
        ])
        .current_dir("/")
        .output()
        .expect("run setpriv(1) of util-linux");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const JSON: &str = "Content-Type: application/json";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
