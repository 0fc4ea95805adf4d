//! `reload.watch`: a file of the configuration that changes, appears or disappears is read once it
//! has settled; a wrong one is refused once. Off by default.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use serde_json::Value;
use support::client::{connect, http_get};
use support::config::Config;
use support::daemon::Daemon;
use support::soon;
use support::users::{user, write};

const WATCH: &str = "[reload]\nwatch = true\n";

#[tokio::test]
async fn a_file_of_a_pattern_that_appears_changes_or_disappears_is_reloaded() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("hosts.d")).unwrap();
    let config = Config::closed()
        .policy("allow_files = [\"hosts.d/*.txt\"]")
        .section(WATCH);
    let mut daemon = Daemon::start_in(directory, &config).await;
    fs::write(daemon.path("hosts.d/a.txt"), "a.example\n").unwrap();
    let first = is_taken(&mut daemon, "a new file").await;
    assert_ne!(first["policy"], first["policy_before"]);
    let append = fs::File::options()
        .append(true)
        .open(daemon.path("hosts.d/a.txt"));
    append.unwrap().write_all(b"b.example\n").unwrap();
    let second = is_taken(&mut daemon, "a longer file").await;
    assert_eq!(second["policy_before"], first["policy"]);
    fs::remove_file(daemon.path("hosts.d/a.txt")).unwrap();
    let third = is_taken(&mut daemon, "a file that is gone").await;
    assert_eq!(third["policy"], first["policy_before"]);
}

#[tokio::test]
async fn each_other_changed_file_is_reloaded() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("goog.txt"), "142.250.0.0/15\n").unwrap();
    write(&at("users.toml"), &user("alice", "s", ""));
    write(&at("token"), &"a".repeat(32));
    let config = Config::closed()
        .admin("token_file = \"token\"")
        .policy("destination_ranges = \"goog.txt\"")
        .section("[auth]\nusers_file = \"users.toml\"")
        .section(WATCH);
    let mut daemon = Daemon::start_in(directory, &config).await;
    // Replaced by a rename, the way `sealway user` does it.
    write(&daemon.path("new"), &user("bob", "s", ""));
    fs::rename(daemon.path("new"), daemon.path("users.toml")).unwrap();
    is_taken(&mut daemon, "the users file").await;
    let removed = |line: &Value| line["removed"][0] == "alice";
    daemon.line("the removal of alice", removed).await;
    write(&daemon.path("token"), &"b".repeat(32));
    is_taken(&mut daemon, "the token").await;
    fs::write(daemon.path("goog.txt"), "142.250.0.0/16\n").unwrap();
    is_taken(&mut daemon, "the ranges").await;
}

#[tokio::test]
async fn the_watch_turns_itself_off_and_a_signal_turns_it_on() {
    let config = Config::closed().section(WATCH);
    let mut daemon = Daemon::start(&config).await;
    let off = config.to_toml().replace("watch = true", "watch = false");
    fs::write(daemon.path("sealway.toml"), off).unwrap();
    is_taken(&mut daemon, "the configuration").await;
    assert_eq!(daemon.reload(&config.to_toml()).await["result"], "ok");
    let wider = config.allow("a.example").to_toml();
    fs::write(daemon.path("sealway.toml"), wider).unwrap();
    is_taken(&mut daemon, "the configuration again").await;
}

/// Kubernetes mounts a ConfigMap as links through `..data`, and swaps that link.
#[tokio::test]
async fn the_swap_of_a_config_map_is_one_reload() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, rule) in [("..v1", "a.example\n"), ("..v2", "b.example\n")] {
        fs::create_dir_all(at("hosts.d").join(version)).unwrap();
        fs::write(at("hosts.d").join(version).join("a.txt"), rule).unwrap();
    }
    symlink("..v1", at("hosts.d/..data")).unwrap();
    symlink("..data/a.txt", at("hosts.d/a.txt")).unwrap();
    let config = Config::closed()
        .resolve("b.example", &["142.250.1.95"])
        .policy("allow_files = [\"hosts.d/*\"]")
        .section(WATCH);
    let mut daemon = Daemon::start_in(directory, &config).await;
    symlink("..v2", daemon.path("hosts.d/..tmp")).unwrap();
    fs::rename(daemon.path("hosts.d/..tmp"), daemon.path("hosts.d/..data")).unwrap();
    is_taken(&mut daemon, "the swap").await;
    let reply = connect(daemon.proxy_addr(), "a.example:443", &[]).await;
    assert_eq!(reply.status_line, "HTTP/1.1 403 Forbidden (host_denied)");
    // The removal of the old version afterwards changes no file that the daemon reads.
    fs::remove_dir_all(daemon.path("hosts.d/..v1")).unwrap();
    fs::write(daemon.path("hosts.d/c"), "c.example\n").unwrap();
    is_taken(&mut daemon, "a new file").await;
    assert_eq!(reloads(&daemon, "ok").await, 2.0, "one for each change");
}

#[tokio::test]
async fn a_wrong_file_is_refused_once_and_tried_after_any_change() {
    let config = Config::closed().section(WATCH);
    let mut daemon = Daemon::start(&config).await;
    let wrong = config.clone().policy("allow_files = [\"late.txt\"]");
    fs::write(daemon.path("sealway.toml"), wrong.to_toml()).unwrap();
    let refused = daemon.event("reload").await;
    assert_eq!(refused["result"], "failed", "{refused}");
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("late.txt: cannot be read"),
        "{refused}"
    );
    assert_eq!(
        daemon.metric("sealway_config_last_reload_successful").await,
        Some(0.0)
    );
    // Several checks of files that stay wrong.
    let mut clock = Daemon::start(&Config::closed().section(WATCH)).await;
    for name in ["a.example", "b.example"] {
        let changed = Config::closed().allow(name).section(WATCH).to_toml();
        fs::write(clock.path("sealway.toml"), changed).unwrap();
        is_taken(&mut clock, name).await;
    }
    assert_eq!(reloads(&daemon, "failed").await, 1.0, "refused once");
    // Only the refused configuration names it.
    fs::write(daemon.path("late.txt"), "a.example\nb. example\n").unwrap();
    let refused = daemon.event("reload").await;
    assert!(
        refused["error"].as_str().unwrap().contains("late.txt:2: "),
        "{refused}"
    );
    fs::write(daemon.path("late.txt"), "a.example\n").unwrap();
    is_taken(&mut daemon, "the mended file").await;
    assert_eq!(reloads(&daemon, "failed").await, 2.0);
    assert_eq!(reloads(&daemon, "ok").await, 1.0);
    let said = daemon
        .log_text()
        .matches("the new configuration is refused")
        .count();
    assert_eq!(said, 2, "in the log as often");
}

/// A second daemon shows that there was enough time.
#[tokio::test]
async fn the_watch_is_off_by_default() {
    let quiet = Daemon::start(&Config::closed()).await;
    let mut clock = Daemon::start(&Config::closed().section(WATCH)).await;
    let changed = Config::closed().allow("a.example").to_toml();
    fs::write(quiet.path("sealway.toml"), &changed).unwrap();
    for name in ["a.example", "b.example"] {
        let changed = Config::closed().allow(name).section(WATCH).to_toml();
        fs::write(clock.path("sealway.toml"), changed).unwrap();
        is_taken(&mut clock, name).await;
    }
    assert_eq!(
        reloads(&quiet, "ok").await + reloads(&quiet, "failed").await,
        0.0
    );
    assert_eq!(reloads(&clock, "ok").await, 2.0, "none at its start");
}

/// The next reload that no operator asked for.
async fn is_taken(daemon: &mut Daemon, what: &str) -> Value {
    let reload = daemon.event("reload").await;
    assert_eq!(reload["result"], "ok", "{what}: {reload}");
    reload
}

async fn reloads(daemon: &Daemon, result: &str) -> f64 {
    let (status, page) = soon("/metrics", http_get(daemon.admin_addr(), "/metrics")).await;
    assert_eq!(status, 200);
    let series = format!("sealway_config_reloads_total{{result=\"{result}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&series));
    value.map_or(0.0, |value| value.parse().unwrap())
}
