//! A file that cannot be read at a reload: its former content stays in force, everything else takes effect, and the daemon
//! shows it until the file can be read again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::HOST;
use support::client::connect;
use support::command::{Ended, sealway};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, read_to_reset};
use support::users::{basic, user, with_users, write};

#[tokio::test]
async fn everything_else_takes_effect_and_the_file_is_named() {
    let upstream = RawUpstream::start().await;
    let (mut daemon, config) = start(&upstream, "").await;
    for (name, key) in FILES {
        for loops in [false, true] {
            let file = daemon.path(name);
            let mend = gone(&file);
            if loops {
                // Nobody can open a link to itself (ELOOP).
                symlink(&file, &file).unwrap();
            }
            let reloaded = daemon.reload(&config.to_toml()).await;
            assert_eq!(reloaded["result"], "ok", "{name}: {reloaded}");
            assert_eq!(reloaded["kept"], serde_json::json!([file]), "{reloaded}");
            assert_eq!(ask(&daemon, &upstream, OTHER).await, 403, "{name}");
            assert_eq!(ask(&daemon, &upstream, HOST).await, 200, "{name}");
            shows(&daemon, &file, key).await;
            mend();
            let wider = config.clone().host(OTHER, upstream.addr());
            let reloaded = daemon.reload(&wider.to_toml()).await;
            assert_eq!(reloaded["kept"], Value::Null, "{reloaded}");
            assert_eq!(ask(&daemon, &upstream, OTHER).await, 200, "{name}");
            assert_eq!(daemon.admin_get("/readyz").await, (200, "ready\n".into()));
            assert_eq!(daemon.metric(UNREADABLE).await, Some(0.0), "{name}");
        }
    }
}

#[tokio::test]
async fn a_revocation_ends_a_live_tunnel_while_another_file_is_away() {
    let upstream = RawUpstream::start().await;
    for name in [
        "operator.token",
        "goog.txt",
        "minus.txt",
        "hosts.txt",
        "sealway.toml",
    ] {
        let (mut daemon, _) = start(&upstream, "").await;
        let credentials = basic("alice", "one");
        let headers = [("Proxy-Authorization", credentials.as_str())];
        let mut alice = Tunnel::open_with(&daemon, &upstream, &headers).await;
        let _mend = gone(&daemon.path(name));
        let disabled = user("alice", "one", "disabled = true");
        write(&daemon.path("users.toml"), &disabled);
        daemon.signal("HUP");
        let reloaded = daemon.event("reload").await;
        assert_eq!(reloaded["result"], "ok", "{name}: {reloaded}");
        read_to_reset(&mut alice.client).await;
        assert_eq!(ask(&daemon, &upstream, HOST).await, 407, "{name}");
    }
}

#[tokio::test]
async fn a_source_address_is_withdrawn_from_kept_users() {
    let upstream = RawUpstream::start().await;
    let (mut daemon, config) = start(&upstream, "").await;
    let bound = user("alice", "one", "egress = [\"127.0.0.2\"]");
    write(&daemon.path("users.toml"), &bound);
    let both = config.clone().egress(&["127.0.0.1", "127.0.0.2"]);
    assert_eq!(daemon.reload(&both.to_toml()).await["result"], "ok");
    let credentials = basic("alice", "one");
    let headers = [("Proxy-Authorization", credentials.as_str())];
    let mut alice = Tunnel::open_with(&daemon, &upstream, &headers).await;
    let mend = gone(&daemon.path("users.toml"));
    let one = config.egress(&["127.0.0.1"]);
    let reloaded = daemon.reload(&one.to_toml()).await;
    assert_eq!(reloaded["result"], "ok", "{reloaded}");
    read_to_reset(&mut alice.client).await;
    assert_eq!(ask(&daemon, &upstream, HOST).await, 503);
    // The file itself names an address that is not configured.
    mend();
    let reloaded = daemon.reload(&one.to_toml()).await;
    assert_eq!(reloaded["result"], "failed", "{reloaded}");
}

/// An operator who deletes the file to lock its users out must learn that they stay in force.
#[tokio::test]
async fn a_deleted_users_file_is_no_success() {
    let upstream = RawUpstream::start().await;
    let (mut daemon, _) = start(&upstream, "").await;
    let mend = gone(&daemon.path("users.toml"));
    let ended = reload(&daemon).await;
    assert_eq!(ended.status, 1, "{ended:?}");
    for part in ["users.toml", "No such file", "former content", "empty file"] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
    assert_eq!(ask(&daemon, &upstream, HOST).await, 200);
    write(&daemon.path("users.toml"), "");
    let ended = reload(&daemon).await;
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(ask(&daemon, &upstream, HOST).await, 407);
    mend();
    assert_eq!(reload(&daemon).await.status, 0);
    assert_eq!(ask(&daemon, &upstream, HOST).await, 200);
    let _last = daemon.event("reload").await;
}

/// What a file says is another matter: it is refused as a whole, and so is a file that was never read.
#[tokio::test]
async fn wrong_content_and_a_new_file_are_refused_as_ever() {
    let upstream = RawUpstream::start().await;
    let (mut daemon, config) = start(&upstream, "").await;
    for (name, wrong) in [
        ("goog.txt", "no network\n"),
        ("hosts.txt", "https://a.example/\n"),
        ("operator.token", "short\n"),
        ("users.toml", "[users.alice]\nsecrets = []\n"),
    ] {
        let mend = gone(&daemon.path(name));
        write(&daemon.path(name), wrong);
        let reloaded = daemon.reload(&config.to_toml()).await;
        assert_eq!(reloaded["result"], "failed", "{name}: {reloaded}");
        mend();
    }
    let other = config.to_toml().replace("hosts.txt", "late.txt");
    let reloaded = daemon.reload(&other).await;
    assert_eq!(reloaded["result"], "failed", "{reloaded}");
}

#[tokio::test]
async fn the_watch_takes_the_file_when_it_is_back() {
    let upstream = RawUpstream::start().await;
    let (mut daemon, _) = start(&upstream, "[reload]\nwatch = true").await;
    let mend = gone(&daemon.path("users.toml"));
    let reloaded = daemon.event("reload").await;
    assert_eq!(
        reloaded["kept"],
        serde_json::json!([daemon.path("users.toml")])
    );
    mend();
    let reloaded = daemon.event("reload").await;
    assert_eq!(reloaded["kept"], Value::Null, "{reloaded}");
    assert_eq!(daemon.metric(UNREADABLE).await, Some(0.0));
}

/// The file can be read and is refused, so only its next change is worth another reload.
#[tokio::test]
async fn the_watch_refuses_wrong_content_once() {
    let upstream = RawUpstream::start().await;
    let (mut daemon, _) = start(&upstream, "[reload]\nwatch = true").await;
    let mend = gone(&daemon.path("users.toml"));
    assert_eq!(daemon.event("reload").await["result"], "ok");
    write(&daemon.path("users.toml"), "[users.alice]\nsecrets = []\n");
    assert_eq!(daemon.event("reload").await["result"], "failed");
    // Two checks of the watch, in which another refusal would come before the next change.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    mend();
    let reloaded = daemon.event("reload").await;
    assert_eq!(reloaded["result"], "ok", "{reloaded}");
    assert_eq!(reloaded["kept"], Value::Null, "{reloaded}");
}

/// Without a former content there is nothing to go on with.
#[tokio::test]
async fn a_start_without_a_file_is_refused() {
    for (name, _) in FILES {
        let directory = tempfile::tempdir().unwrap();
        let upstream = RawUpstream::start().await;
        let config = prepare(directory.path(), &upstream, "");
        let file = directory.path().join("sealway.toml");
        fs::write(&file, config.to_toml()).unwrap();
        let _mend = gone(&directory.path().join(name));
        for act in ["run", "check"] {
            let ended = sealway(&[act, "--config", file.to_str().unwrap()]).await;
            assert_eq!(ended.status, 78, "{act} without {name}: {ended:?}");
        }
    }
}

/// A daemon all of whose files exist. Every user may use every host of the policy.
async fn start(upstream: &RawUpstream, sections: &str) -> (Daemon, Config) {
    let directory = tempfile::tempdir().unwrap();
    let config = prepare(directory.path(), upstream, sections);
    let daemon = Daemon::start_in(directory, &config).await;
    (daemon, config)
}

fn prepare(folder: &Path, upstream: &RawUpstream, sections: &str) -> Config {
    let port = upstream.addr().port();
    let at = |name: &str| folder.join(name);
    write(
        &at("users.toml"),
        &user("alice", "one", "allow_files = [\"team.txt\"]"),
    );
    write(&at("operator.token"), TOKEN);
    fs::write(at("goog.txt"), "142.250.0.0/15\n").unwrap();
    fs::write(at("minus.txt"), "142.251.0.0/16\n").unwrap();
    fs::write(at("hosts.txt"), format!("{HOST}:{port}\n")).unwrap();
    fs::write(at("team.txt"), format!("{HOST}:{port}\n{OTHER}:{port}\n")).unwrap();
    let config = Config::closed()
        .resolve(HOST, &[&upstream.addr().ip().to_string()])
        .admin("operator_token_file = \"operator.token\"")
        .policy("destination_ranges = \"goog.txt\"\ndestination_ranges_minus = \"minus.txt\"")
        .policy("allow_files = [\"hosts.txt\"]")
        .section("[timeouts]\ndrain = \"0s\"")
        .section(sections);
    with_users(config, "")
}

/// The file does not exist. Returns what brings it back.
fn gone(file: &Path) -> impl FnOnce() + use<> {
    let (file, aside) = (file.to_owned(), file.with_extension("aside"));
    fs::rename(&file, &aside).unwrap();
    move || fs::rename(aside, file).unwrap()
}

async fn ask(daemon: &Daemon, upstream: &RawUpstream, host: &str) -> u16 {
    let authority = format!("{host}:{}", upstream.addr().port());
    let credentials = basic("alice", "one");
    let headers = [("Proxy-Authorization", credentials.as_str())];
    connect(daemon.proxy_addr(), &authority, &headers)
        .await
        .status()
}

/// `/readyz`, `/status`, the metrics and the log name the file; the daemon is ready.
async fn shows(daemon: &Daemon, file: &Path, key: &str) {
    let shown = file.to_str().unwrap();
    let (status, text) = daemon.admin_get("/readyz").await;
    assert_eq!(status, 200, "{text}");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("ready"), "{text}");
    let degraded = lines.next().unwrap_or_default();
    assert!(
        degraded.starts_with("degraded: file not read") && degraded.contains(shown),
        "{text}"
    );
    let (_, status) = daemon.admin_get("/status").await;
    let report: Value = serde_json::from_str(&status).unwrap();
    let reasons = report["degraded"].to_string();
    assert!(reasons.contains(shown), "{reasons}");
    assert_eq!(daemon.metric(UNREADABLE).await, Some(1.0));
    assert_eq!(daemon.metric("sealway_degraded").await, Some(1.0));
    let is_warning =
        |line: &Value| line["level"] == "WARN" && line["file"] == shown && line["key"] == key;
    daemon.line("the warning", is_warning).await;
}

async fn reload(daemon: &Daemon) -> Ended {
    let token = daemon.path("operator.token");
    assert!(token.exists());
    let (config, admin) = (daemon.path("sealway.toml"), daemon.admin_addr().to_string());
    let (config, admin) = (config.to_str().unwrap(), admin.as_str());
    sealway(&["reload", "--config", config, "--admin", admin]).await
}

/// Each file of the configuration, with the key that names it.
const FILES: [(&str, &str); 6] = [
    ("users.toml", "auth.users_file"),
    ("operator.token", "admin.operator_token_file"),
    ("goog.txt", "policy.destination_ranges"),
    ("minus.txt", "policy.destination_ranges_minus"),
    ("hosts.txt", "policy.allow_files"),
    ("team.txt", "users.alice.allow_files"),
];
const TOKEN: &str = "0123456789abcdef0123456789abcdef\n";
const OTHER: &str = "other.example";
const UNREADABLE: &str = "sealway_config_files_unreadable";
