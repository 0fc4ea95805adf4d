//! `sealway top` prints the contents of `/status`; live it refreshes and restores the terminal;
//! input of strangers never reaches the terminal as a control sequence. Needs script(1) for a
//! terminal.

use std::net::SocketAddr;

use serde_json::Value;
use support::client::connect;
use support::command::{in_terminal, sealway};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, pass};
use support::soon;
use support::users;
use support::users::{basic, start_with_users, user};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::ChildStdout;

#[tokio::test]
async fn once_prints_the_status() {
    let upstream = RawUpstream::start().await;
    let mut daemon = start_with_users(
        Config::to(upstream.addr()),
        &user("alice", "secret", "tunnels = 7"),
        "",
    )
    .await;
    let alice = basic("alice", "secret");
    let as_alice = [("Proxy-Authorization", alice.as_str())];
    let mut tunnel = Tunnel::open_with(&daemon, &upstream, &as_alice).await;
    pass(&mut tunnel.client, &mut tunnel.upstream, &[1; 1_000_000]).await;
    connect(daemon.proxy_addr(), "evil.example:443", &as_alice).await;
    daemon
        .metric_until(
            "sealway_tunnels_denied_total{code=\"host_denied\"}",
            |denied| denied == 1.0,
        )
        .await;
    daemon
        .metric_until("sealway_tunnel_bytes_total{direction=\"up\"}", |bytes| {
            bytes > 1e6
        })
        .await;
    let failed = daemon
        .reload(&(Config::closed().to_toml() + "[limits]\ntunels = 5\n"))
        .await;
    let text = once(daemon.admin_addr()).await;
    let status: Value = serde_json::from_str(&daemon.admin_get("/status").await.1).unwrap();
    for wanted in [
        &format!("sealway {}   ready   up for ", sealway::VERSION),
        "egress      127.0.0.2\n",
        &format!(
            "tunnels     1 open of {}   opened 1  closed 0  refused or failed 1\n",
            status["tunnels"]["max"]
        ),
        "in all 1.0 MB up",
        &format!(
            "policy      enforce {}\n",
            status["policy"]["hash"].as_str().unwrap()
        ),
        &format!(" failed: {}\n", failed["error"].as_str().unwrap()),
        "         1  host_denied              ask the operator to add it to policy.allow\n",
        "users: 1 of 1 have a tunnel\n         1  of 7              1.0 MB alice\n",
        "  host_denied              evil.example:443  from 127.0.0.1:",
        "  user alice\n",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
    assert!(
        text.lines().all(|line| line
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic())),
        "{text:?}"
    );
}

#[tokio::test]
async fn an_unreachable_daemon_is_explained_in_a_sentence() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let directory = users::tempdir();
    users::write(&directory.path().join("token"), TOKEN);
    let file = directory
        .path()
        .join("sealway.toml")
        .to_str()
        .unwrap()
        .to_owned();
    let daemon =
        Daemon::start_in(directory, &Config::closed().admin("token_file = \"token\"")).await;
    let watched = daemon.admin_addr().to_string();
    let proxy = daemon.proxy_addr().to_string();
    for (arguments, status, reason) in [
        (vec!["--admin", &nobody], 1, "start it, or name"),
        (vec!["--admin", &watched], 1, "requires a token"),
        (vec!["--admin", &proxy], 1, "it is not sealway"),
        (vec!["--admin", ""], 78, "turns the admin listener off"),
        (
            vec!["--admin", "192.0.2.1:9294"],
            78,
            "set admin.token_file",
        ),
        (vec!["--config", &file], 78, "port 0"),
        (vec!["--config", "/none/sealway.toml"], 78, "cannot be read"),
    ] {
        let ended = sealway(&[&["top", "--once"], arguments.as_slice()].concat()).await;
        assert_eq!(
            (ended.status, ended.stdout.as_str()),
            (status, ""),
            "{arguments:?}: {ended:?}"
        );
        assert!(
            ended.stderr.contains(reason) && ended.stderr.lines().count() == 1,
            "{arguments:?}: {ended:?}"
        );
    }
    let ended = sealway(&["top", "--once", "--config", &file, "--admin", &watched]).await;
    assert!(
        ended.status == 0 && ended.stdout.contains("ready"),
        "{ended:?}"
    );
    assert!(!ended.stdout.contains(TOKEN), "{ended:?}");
}

#[tokio::test]
async fn top_refreshes_and_restores_the_terminal() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let mut top = in_terminal(&["top", "--admin", &daemon.admin_addr().to_string()]);
    let (mut keys, mut screen) = (top.stdin.take().unwrap(), top.stdout.take().unwrap());
    let mut seen = until(&mut screen, "tunnels     0 open").await;
    assert!(
        seen.starts_with("\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l"),
        "the other screen: {seen:?}"
    );
    let tunnel = Tunnel::open(&daemon, &upstream).await;
    seen = until(&mut screen, "tunnels     1 open").await;
    assert!(!seen.contains("\u{1b}[?1049l"), "{seen:?}");
    tunnel.close().await;
    until(&mut screen, "tunnels     0 open").await;
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    until(&mut screen, "refreshed every second").await;
    keys.write_all(b"\x03").await.unwrap();
    let mut last = String::new();
    soon("the end", screen.read_to_string(&mut last))
        .await
        .unwrap();
    assert!(
        last.contains("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l"),
        "the terminal as it was: {last:?}"
    );
    assert!(soon("the exit", top.wait()).await.unwrap().success());
}

/// A listener that is not a daemon, or one that strangers control.
#[tokio::test]
async fn no_control_sequence_passes() {
    let daemon = Daemon::start(&Config::closed()).await;
    connect(daemon.proxy_addr(), "evil.example:443", &[]).await;
    daemon
        .metric_until(
            "sealway_tunnels_denied_total{code=\"host_denied\"}",
            |denied| denied == 1.0,
        )
        .await;
    let status = daemon.admin_get("/status").await.1;
    let evil = "\\u001b]0;owned\\u0007\\u009b31m\\r\\n\\u202e";
    let poisoned = [
        "evil.example",
        "host_denied",
        "enforce",
        "127.0.0.1:",
        sealway::VERSION,
        "ask the operator",
    ]
    .iter()
    .fold(status, |status, text| {
        status.replace(text, &format!("{text}{evil}"))
    });
    for body in [
        poisoned,
        format!("{{\"version\":7,\"{evil}\":\"{evil}\"}}"),
        evil.replace("\\u001b", "\u{1b}"),
    ] {
        let impostor = impostor(body).await;
        let ended = sealway(&["top", "--once", "--admin", &impostor.to_string()]).await;
        let text = ended.stdout + &ended.stderr;
        assert!(!text.is_empty());
        let obeyed: Vec<_> = text
            .chars()
            .filter(|c| *c != '\n' && (c.is_control() || !c.is_ascii()))
            .collect();
        assert!(obeyed.is_empty(), "{text:?}");
    }
}

/// Gives this answer to every request.
async fn impostor(body: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = [0; 1_024];
            let _read = stream.read(&mut question).await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _gone = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

async fn once(admin: SocketAddr) -> String {
    let ended = sealway(&["top", "--once", "--admin", &admin.to_string()]).await;
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{ended:?}");
    ended.stdout
}

/// The output up to this text, inclusive.
async fn until(screen: &mut ChildStdout, wanted: &str) -> String {
    let mut seen = Vec::new();
    let found = async {
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            assert_ne!(
                screen.read_buf(&mut seen).await.unwrap(),
                0,
                "{}",
                String::from_utf8_lossy(&seen)
            );
        }
    };
    soon(wanted, found).await;
    String::from_utf8_lossy(&seen).into_owned()
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";
