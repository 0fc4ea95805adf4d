//! No output contains a secret: no credential, right or wrong, in any form, no header value, no
//! payload; not in the log at its most verbose level, nor in audit records, metrics, the status or
//! replies.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use support::client::{Reply, connect, dial};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, pass};
use support::soon;
use support::users::{basic, start_with_users, stored, user};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const RIGHT: &str = "R1ght-s3cret-of-alice";
const WRONG: &str = "Wr0ng-s3cret-of-mallory";
const MISPLACED: &str = "M1splaced-s3cret-as-name";
const BEARER: &str = "B3arer-s3cret-token";
const MARKERS: [&str; 3] = [
    "M4rker-in-user-agent",
    "M4rker-in-cookie",
    "M4rker-in-payload",
];
const TOKEN_IN_TARGET: &str = "T4rget-s3cret-userinfo";

#[tokio::test]
async fn no_output_contains_a_secret() {
    for (format, audit_file) in [("json", false), ("text", false), ("json", true)] {
        let mut outputs = session(format, audit_file).await;
        outputs.push(("empty".into(), String::new()));
        let mut forbidden: Vec<String> = MARKERS.iter().map(ToString::to_string).collect();
        for secret in [RIGHT, WRONG, MISPLACED, BEARER, TOKEN_IN_TARGET] {
            forbidden.extend([
                secret.to_string(),
                STANDARD.encode(secret),
                URL_SAFE_NO_PAD.encode(secret),
            ]);
            forbidden.push(stored(secret)["sha256:".len()..].to_string());
        }
        for (name, secret) in [
            ("alice", RIGHT),
            ("alice", WRONG),
            ("mallory", WRONG),
            (MISPLACED, "x"),
        ] {
            forbidden.push(basic(name, secret)["Basic ".len()..].to_string());
        }
        for (place, text) in &outputs {
            for secret in &forbidden {
                assert!(
                    !text.contains(secret.as_str()),
                    "{secret} came out in {place}:\n{text}"
                );
            }
        }
        let place = if audit_file {
            "the audit file"
        } else {
            "the log"
        };
        let log = &outputs.iter().find(|(known, _)| known == place).unwrap().1;
        assert!(
            log.contains("auth_failed") && log.contains("alice"),
            "the session was not logged:\n{log}"
        );
    }
}

/// Provokes everything that could leak; returns all output with its origin.
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn session(format: &str, audit_file: bool) -> Vec<(String, String)> {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr())
        .section(&format!("[log]\nlevel = \"trace\"\nformat = \"{format}\""));
    let config = if audit_file {
        config.audit_file("audit.jsonl", "")
    } else {
        config
    };
    let daemon = start_with_users(config, &user("alice", RIGHT, ""), "lockout_failures = 9").await;
    let odd = [
        ("User-Agent", MARKERS[0]),
        ("Cookie", MARKERS[1]),
        ("X-Odd", "\u{fc}ml\u{e4}ut"),
    ];

    let right = basic("alice", RIGHT);
    let headers = [odd.as_slice(), &[("Proxy-Authorization", right.as_str())]].concat();
    let mut tunnel = Tunnel::open_with(&daemon, &upstream, &headers).await;
    pass(
        &mut tunnel.client,
        &mut tunnel.upstream,
        MARKERS[2].as_bytes(),
    )
    .await;
    pass(
        &mut tunnel.upstream,
        &mut tunnel.client,
        MARKERS[2].as_bytes(),
    )
    .await;
    tunnel.close().await;

    let mut outputs = Vec::new();
    let wrong = [
        basic("alice", WRONG),
        basic("mallory", WRONG),
        basic(MISPLACED, "x"),
        format!("Bearer {BEARER}"),
        format!("Basic {RIGHT}"),
        format!("Basic {}!", STANDARD.encode(format!("alice:{RIGHT}"))),
        format!("Basic {}", STANDARD.encode(RIGHT)),
    ];
    for credentials in &wrong {
        let headers = [
            odd.as_slice(),
            &[("Proxy-Authorization", credentials.as_str())],
        ]
        .concat();
        outputs.push(told(
            connect(daemon.proxy_addr(), &upstream.authority(), &headers).await,
        ));
    }
    let twice = [
        ("Proxy-Authorization", right.as_str()),
        ("Proxy-Authorization", right.as_str()),
    ];
    outputs.push(told(
        connect(daemon.proxy_addr(), &upstream.authority(), &twice).await,
    ));
    let evil = connect(daemon.proxy_addr(), "evil.example:443", &headers).await;
    outputs.push(told(evil));
    let target = format!("alice:{TOKEN_IN_TARGET}@{}", upstream.authority());
    outputs.push(told(connect(daemon.proxy_addr(), &target, &headers).await));
    let get = format!(
        "GET http://{RIGHT}/?{WRONG} HTTP/1.1\r\nHost: {RIGHT}\r\nCookie: {}\r\n\r\n",
        MARKERS[1]
    );
    let head = format!(
        "CONNECT evil.example:443 HTTP/1.1\r\nProxy-Authorization: {right}\r\nbad field {}\r\n\r\n",
        MARKERS[0]
    );
    let glued = format!(
        "CONNECT {} HTTP/1.1\r\nProxy-Authorization: {right}\r\n\r\n{}",
        upstream.authority(),
        MARKERS[2]
    );
    for bytes in [get, head, glued] {
        let mut stream = dial(daemon.proxy_addr()).await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon("the end", stream.read_to_end(&mut answer))
            .await
            .unwrap();
        outputs.push((
            "an answer".into(),
            String::from_utf8_lossy(&answer).into_owned(),
        ));
    }
    for page in ["/metrics", "/status", "/"] {
        outputs.push((page.into(), daemon.admin_get(page).await.1));
    }
    let status = &outputs
        .iter()
        .find(|(place, _)| place == "/status")
        .unwrap()
        .1;
    assert!(
        status.contains("auth_failed") && status.contains("evil.example"),
        "the session is not on it: {status}"
    );
    ends(daemon, audit_file, outputs).await
}

/// Stops the daemon, so that its log is complete, and adds the log.
async fn ends(
    mut daemon: Daemon,
    audit_file: bool,
    mut outputs: Vec<(String, String)>,
) -> Vec<(String, String)> {
    daemon.signal("HUP");
    daemon
        .metric_until("sealway_config_reloads_total{result=\"ok\"}", |reloads| {
            reloads == 1.0
        })
        .await;
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    if audit_file {
        for (name, place) in [
            ("audit.jsonl", "the audit file"),
            ("audit.jsonl.chain", "the memory of the chain"),
        ] {
            outputs.push((
                place.into(),
                std::fs::read_to_string(daemon.path(name)).unwrap(),
            ));
        }
        let report = std::process::Command::new(support::sealway())
            .args([
                "audit",
                "report",
                daemon.path("audit.jsonl").to_str().unwrap(),
            ])
            .output()
            .unwrap();
        outputs.push((
            "the report".into(),
            String::from_utf8(report.stdout).unwrap(),
        ));
    } else {
        daemon.event("stop").await;
    }
    outputs.push(("the log".into(), daemon.log_text()));
    outputs
}

fn told(reply: Reply) -> (String, String) {
    assert_ne!(reply.status(), 200);
    (
        "a reply".into(),
        format!("{}\n{:?}\n{}", reply.status_line, reply.headers, reply.body),
    )
}
