//! A secret that is pasted into the wrong place of a configuration, a users file, the environment or an argument: the
//! messages name the place and never show the secret.

use std::path::Path;

use support::command::{sealway, sealway_with};
use support::config::Config;
use support::raw::RawUpstream;
use support::users;
use support::users::{start_with_users, stored, user};
use tokio::task::JoinSet;

/// A secret that was pasted into the wrong place of a configuration: the message names the place and not the secret.
/// Several hundred commands, so the secrets go side by side.
#[tokio::test]
async fn check_never_prints_a_misplaced_secret() {
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

/// Puts the secret into each wrong place, and into the environment and the arguments; returns the
/// number of messages.
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
    for (command, value) in [
        ("explain", format!("https://alice:{secret}@host.example")),
        ("presets", secret.to_owned()),
        ("presets", format!("gemini:{secret}")),
        ("presets", format!("bedrock:{secret}")),
        ("presets", format!("azure-openai:{secret}_")),
    ] {
        let ended = sealway(&[command, &value]).await;
        assert_ne!(ended.status, 0, "{command}: {ended:?}");
        is_silent_of(
            secret,
            &format!("{}{}", ended.stdout, ended.stderr),
            command,
        );
        messages += 1;
    }
    messages
}

/// The messages of the commands that read this configuration, and their number.
async fn wrong_configuration(folder: &Path, secret: &str, text: &str, users: &str) -> usize {
    let path = folder.join("sealway.toml");
    std::fs::write(&path, with_impatient_dns(text)).unwrap();
    users::write(&folder.join("users.toml"), users);
    // `check` and `run` read a configuration with the same code.
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

/// The text with a short time-out of DNS: `check` asks for a name, and gets no answer on a machine
/// without a network.
fn with_impatient_dns(text: &str) -> String {
    let timeout = "timeout = \"100ms\"";
    match text {
        text if text.starts_with("[dns]\ntimeout") => text.to_owned(),
        text if text.starts_with("[dns]\n") => format!("{text}\n{timeout}\n"),
        _ => format!("{text}\n[dns]\n{timeout}\n"),
    }
}

/// The same in a reload: the log, the record and the status repeat what is wrong.
#[tokio::test]
async fn a_reload_never_prints_a_misplaced_secret() {
    let upstream = RawUpstream::start().await;
    let mut daemon = start_with_users(
        Config::to(upstream.addr()),
        &user("alice", "R1ght-s3cret-of-alice", ""),
        "",
    )
    .await;
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

/// Configurations and users files with this secret in a wrong place; each is invalid.
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
