//! Nothing that is secret comes out: no credential, right or wrong, in any form, no header value, no payload; not in the log at its most talkative,
//! not in audit records, metrics, the status or replies.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use support::client::{Reply, connect, dial};
use support::command::{sealway, sealway_with};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, pass};
use support::soon;
use support::users;
use support::users::{basic, start_with_users, stored, user};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

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
async fn nothing_secret_comes_out() {
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

/// Tries everything that could leak; gives all that came out, with its place.
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

/// Stops the daemon, so that its log is whole, and adds it.
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

/// A secret that was pasted into the wrong place of a configuration: the message names the place and not the secret. Each
/// of several hundred commands takes milliseconds, but waits for a core on a loaded machine: the secrets go side by side.
#[tokio::test]
async fn a_secret_in_the_wrong_place_is_not_shown() {
    let mut secrets = JoinSet::new();
    for secret in PASTED {
        secrets.spawn(misplaced_everywhere(secret));
    }
    let mut places = 0;
    while let Some(of_one) = secrets.join_next().await {
        places += of_one.expect("no secret in a message");
    }
    assert!(places > 60 * PASTED.len(), "only {places} places");
}

/// Puts the secret into each wrong place, and into the environment and the arguments; returns the number of messages.
async fn misplaced_everywhere(secret: &'static str) -> usize {
    let directory = users::tempdir();
    let mut messages = 0;
    let (configurations, users_files) = misplaced(secret);
    let files = configurations.into_iter().map(|text| (text, String::new()));
    let users = users_files
        .into_iter()
        .map(|text| ("[auth]\nusers_file = \"users.toml\"".to_owned(), text));
    for (text, users) in files.chain(users) {
        messages += wrong_configuration(directory.path(), secret, &text, &users).await;
    }
    for variable in [
        "SEALWAY_LISTEN",
        "SEALWAY_EGRESS",
        "SEALWAY_ALLOW",
        "SEALWAY_ADMIN",
    ] {
        let value = format!("alice:{secret}@");
        let ended = sealway_with(&[(variable, value.as_str())], &["check"]).await;
        assert_ne!(ended.status, 0, "{variable}: {ended:?}");
        is_silent_of(
            secret,
            &format!("{}{}", ended.stdout, ended.stderr),
            variable,
        );
        messages += 1;
    }
    let ended = sealway(&["explain", &format!("https://alice:{secret}@host.example")]).await;
    is_silent_of(
        secret,
        &format!("{}{}", ended.stdout, ended.stderr),
        "explain",
    );
    messages + 1
}

/// The messages of the commands that read this configuration, and their number.
async fn wrong_configuration(folder: &Path, secret: &str, text: &str, users: &str) -> usize {
    let path = folder.join("sealway.toml");
    std::fs::write(&path, text).unwrap();
    users::write(&folder.join("users.toml"), users);
    // `check` and `run` read a configuration by the same code.
    let commands = if secret == PASTED[0] {
        ["check", "run"].as_slice()
    } else {
        &["check"]
    };
    for command in commands {
        let ended = sealway(&[command, "--config", path.to_str().unwrap()]).await;
        assert_eq!(ended.status, 78, "{command}: {text}\n{users}\n{ended:?}");
        is_silent_of(secret, &format!("{}{}", ended.stdout, ended.stderr), text);
    }
    commands.len()
}

/// The same in a reload: the log, the record and the status repeat what is wrong.
#[tokio::test]
async fn a_reload_shows_no_secret_in_the_wrong_place() {
    let upstream = RawUpstream::start().await;
    let mut daemon =
        start_with_users(Config::to(upstream.addr()), &user("alice", RIGHT, ""), "").await;
    for secret in PASTED {
        for text in misplaced(secret).0 {
            let record = daemon.reload(&text).await;
            assert_eq!(record["result"], "failed", "{text}");
            is_silent_of(secret, &record.to_string(), &text);
        }
        is_silent_of(secret, &daemon.admin_get("/status").await.1, "/status");
        is_silent_of(secret, &daemon.log_text(), "the log");
    }
}

/// Configurations and users files that hold this secret where it has no place; each is wrong.
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn misplaced(secret: &str) -> (Vec<String>, Vec<String>) {
    let keys = [
        ("egress", "addresses", true),
        ("egress", "public", true),
        ("policy", "presets", true),
        ("policy", "allow_destinations", true),
        ("policy", "destination_ranges", false),
        ("policy", "min_tls", false),
        ("policy", "mode", false),
        ("dns", "servers", true),
        ("dns", "timeout", false),
        ("auth", "clients", true),
        ("auth", "users_file", false),
        ("auth", "lockout_failures", false),
        ("admin", "address", false),
        ("admin", "clients", true),
        ("admin", "token_file", false),
        ("timeouts", "idle", false),
        ("limits", "tunnels", false),
        ("log", "level", false),
        ("audit", "on_failure", false),
    ];
    let with_key = |(section, key, is_list): (&str, &str, bool)| {
        let value = format!("alice:{secret}@host");
        let values = [secret, value.as_str()].map(|value| {
            if is_list {
                format!("[\"127.0.0.1\", {value:?}]")
            } else {
                format!("{value:?}")
            }
        });
        values.map(|value| format!("[{section}]\n{key} = {value}"))
    };
    let mut configurations: Vec<String> = keys.into_iter().flat_map(with_key).collect();
    configurations.extend([
        format!("[admin]\n{secret:?} = 1"),
        format!("[policy]\nallow = [\"https://alice:{secret}@host.example/\"]"),
        format!("[policy]\nallow = [\"{secret}:x\", \"{secret}:1:2\"]"),
        format!("[dns.hosts]\n\"alice:{secret}@host\" = [\"127.0.0.1\"]"),
        format!("[dns.hosts]\n\"a.example\" = [{secret:?}]"),
        format!("[admin]\ntoken_file = {secret}!"),
        format!("[[listener]]\naddress = {secret:?}"),
        format!("[[listener]]\naddress = \"{secret}"),
        format!("listener = {secret:?}"),
        format!("auth = {secret:?}"),
        format!("{secret}!\n"),
    ]);
    let users = vec![
        format!("[users.alice]\nsecrets = [{secret:?}]\n{secret:?} = 1"),
        format!("[users.alice]\nsecrets = {secret:?}"),
        format!(
            "[users.alice]\nsecrets = [\"{}\"]\nexpires = {secret:?}",
            stored("x")
        ),
        format!(
            "[users.alice]\nsecrets = [\"{}\"]\nallow = [\"{secret}:x\"]\nsources = [{secret:?}]\negress = [{secret:?}]",
            stored("x")
        ),
        format!("[users.alice]\ntunnels = {secret:?}\ndisabled = {secret:?}"),
        format!("[users.\"alice:{secret}\"]\nsecrets = []"),
        format!("[users]\n\"alice:{secret}\" = 1"),
        format!("[users]\nalice = {secret:?}"),
        format!("users = {secret:?}"),
        format!("{secret:?} = 1"),
        format!("alice {secret}!"),
    ];
    (configurations, users)
}

fn is_silent_of(secret: &str, said: &str, of: &str) {
    // Half of it would be too much as well.
    let half = &secret[..secret.len().div_ceil(2)];
    assert!(
        !said.contains(half),
        "{half} of {secret} came out of {of}:\n{said}"
    );
}

/// A token, a stored hash, a password, a token in base64 and one in three parts.
const PASTED: [&str; 5] = [
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "hunter2Hunter2",
    "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=",
    "eyJhbGciOi.eyJzdWIiOi.SflKxwRJSM",
];
