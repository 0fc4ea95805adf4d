//! A folder of configured files that is created or replaced after the start stays readable, so that
//! no reload needs a restart; and with `reload.watch` a folder that cannot be listed does not count
//! as empty.

use std::fs;

use serde_json::Value;
use support::config::Config;
use support::daemon::Daemon;
use support::users::{self, user};

/// Landlock holds inodes: it denies a folder that replaces the folder of the start.
#[tokio::test]
async fn a_folder_that_is_created_or_replaced_after_the_start_is_read() {
    let elsewhere = users::tempdir();
    let at = |name: &str| elsewhere.path().join(name);
    let make = |folder: &str, file: &str, text: &str| {
        let _absent = fs::remove_dir_all(at(folder));
        fs::create_dir_all(at(folder)).unwrap();
        users::write(&at(folder).join(file), text);
    };
    make("hd", "a.txt", "a.example\n");
    make("u", "users.toml", &user("alice", "s", ""));
    make("r", "goog.txt", "142.250.0.0/15\n");
    make("t", "token", &"a".repeat(32));
    let path = |name: &str| at(name).to_str().unwrap().to_owned();
    let config = Config::closed()
        .admin(&format!("token_file = {:?}", path("t/token")))
        .policy(&format!(
            "allow_files = [{:?}, {:?}]",
            path("hd/*.txt"),
            path("late/*.txt")
        ))
        .policy(&format!("destination_ranges = {:?}", path("r/goog.txt")))
        .section(&format!("[auth]\nusers_file = {:?}", path("u/users.toml")));
    let mut daemon = Daemon::start(&config).await;
    let shut = |line: &Value| line["message"] == "Landlock restricts the file system";
    let shut = daemon.line("Landlock", shut).await;
    let readable: Vec<_> = shut["readable"].as_str().unwrap().split(' ').collect();
    assert!(readable.contains(&path("hd").as_str()), "{readable:?}");
    assert!(!readable.contains(&path("late").as_str()), "{readable:?}");
    let first = daemon.reload(&config.to_toml()).await;
    assert_eq!(first["result"], "ok", "{first}");
    let mut policy = first["policy"].clone();
    for (folder, file, text) in [
        ("late", "b.txt", "b.example\n"),
        ("hd", "c.txt", "c.example\n"),
        ("r", "goog.txt", "142.250.0.0/16\n"),
    ] {
        make(folder, file, text);
        let reload = daemon.reload(&config.to_toml()).await;
        assert_eq!(reload["result"], "ok", "{folder}: {reload}");
        assert_ne!(reload["policy"], policy, "{folder}");
        policy = reload["policy"].clone();
    }
    make("t", "token", &"b".repeat(32));
    make("u", "users.toml", &user("bob", "s", ""));
    let reload = daemon.reload(&config.to_toml()).await;
    assert_eq!(reload["result"], "ok", "{reload}");
    let removed = |line: &Value| line["removed"][0] == "alice";
    daemon.line("the removal of alice", removed).await;
}

#[tokio::test]
async fn a_folder_that_can_be_listed_again_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("hosts.d")).unwrap();
    let config = Config::closed()
        .policy("allow_files = [\"hosts.d/*.txt\"]")
        .section("[reload]\nwatch = true\n");
    let mut daemon = Daemon::start_in(directory, &config).await;
    fs::remove_dir(daemon.path("hosts.d")).unwrap();
    fs::write(daemon.path("hosts.d"), "").unwrap();
    let kept = daemon.event("reload").await;
    let listed = daemon.path("hosts.d/*.txt");
    assert_eq!(kept["kept"], serde_json::json!([listed]), "{kept}");
    fs::remove_file(daemon.path("hosts.d")).unwrap();
    fs::create_dir(daemon.path("hosts.d")).unwrap();
    let taken = daemon.event("reload").await;
    assert_eq!(taken["result"], "ok", "{taken}");
    assert_eq!(taken["kept"], Value::Null, "{taken}");
}
