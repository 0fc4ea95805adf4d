//! `policy.allow_files` and a user's own `allow_files`: rules in files apply, are reloaded, and
//! every problem names its file and line.

use std::fs;
use std::os::unix::fs::symlink;

use support::client::connect;
use support::command::{Ended, sealway};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::RawUpstream;
use support::users::{basic, user, write};
use tempfile::TempDir;

const DENIED: &str = "HTTP/1.1 403 Forbidden (host_denied)";

#[tokio::test]
async fn rules_of_files_apply_and_a_reload_reads_new_files() {
    let upstream = RawUpstream::start().await;
    let port = upstream.addr().port();
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("hosts.d");
    fs::create_dir(&folder).unwrap();
    let first =
        format!("\u{feff}# ours\r\n\r\na.example:{port} # the first\r\n*.b.example:{port}\r\n");
    fs::write(folder.join("10.txt"), first).unwrap();
    fs::write(folder.join("notes.md"), "nothing of this is a rule\n").unwrap();
    fs::write(
        folder.join(".hidden.txt"),
        format!("hidden.example:{port}\n"),
    )
    .unwrap();
    fs::write(
        directory.path().join("extra"),
        format!("extra.example:{port}"),
    )
    .unwrap();
    let mut config = Config::closed().policy("allow_files = [\" hosts.d/*.txt\", \"extra\"]");
    for name in ["a", "x.b", "hidden", "extra", "late", "linked"] {
        config = config.resolve(&format!("{name}.example"), &["127.0.0.1"]);
    }
    let mut daemon = Daemon::start_in(directory, &config).await;
    let asked = async |daemon: &Daemon, name: &str| {
        let reply = connect(daemon.proxy_addr(), &format!("{name}.example:{port}"), &[]).await;
        reply.status_line
    };
    for name in ["a", "x.b", "extra"] {
        assert!(asked(&daemon, name).await.contains(" 200 "), "{name}");
    }
    for name in ["hidden", "late", "linked"] {
        assert_eq!(asked(&daemon, name).await, DENIED, "{name}");
    }
    // New files in the folder, one of them a link out of it; the configuration is unchanged.
    fs::write(
        folder_of(&daemon, "20.txt"),
        format!("late.example:{port}\n"),
    )
    .unwrap();
    fs::write(daemon.path("elsewhere"), format!("linked.example:{port}\n")).unwrap();
    symlink("../elsewhere", folder_of(&daemon, "30.txt")).unwrap();
    fs::remove_file(folder_of(&daemon, "10.txt")).unwrap();
    let reload = daemon.reload(&config.to_toml()).await;
    assert_eq!(reload["result"], "ok", "{reload}");
    assert_ne!(reload["policy"], reload["policy_before"], "{reload}");
    for name in ["late", "linked", "extra"] {
        assert!(asked(&daemon, name).await.contains(" 200 "), "{name}");
    }
    assert_eq!(asked(&daemon, "a").await, DENIED, "its file is gone");
    // A wrong line anywhere changes nothing.
    fs::write(
        folder_of(&daemon, "40.txt"),
        "good.example\nhttps://bad.example/v1\n",
    )
    .unwrap();
    fs::remove_file(folder_of(&daemon, "20.txt")).unwrap();
    let reload = daemon.reload(&config.to_toml()).await;
    assert_eq!(reload["result"], "failed", "{reload}");
    let error = reload["error"].as_str().unwrap();
    assert!(
        error.contains("hosts.d/40.txt:2: policy.allow_files: ")
            && error.contains("write bad.example"),
        "{error}"
    );
    assert!(asked(&daemon, "late").await.contains(" 200 "));
}

fn folder_of(daemon: &Daemon, name: &str) -> std::path::PathBuf {
    daemon.path("hosts.d").join(name)
}

#[tokio::test]
async fn every_problem_names_file_and_line() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    fs::create_dir_all(at("hosts.d/sub")).unwrap();
    fs::write(
        at("hosts.d/a.txt"),
        "a.example\n\n# b\nb.example, c.example\n",
    )
    .unwrap();
    fs::write(at("long.txt"), "*.com\n".repeat(1_000)).unwrap();
    fs::write(at("utf16.txt"), b"\xff\xfea\0").unwrap();
    fs::write(at("large.txt"), "a.example\n".repeat(1_700_000)).unwrap();
    fs::create_dir(at("many")).unwrap();
    for number in 0..=1_024 {
        fs::write(at("many").join(format!("{number}.txt")), "").unwrap();
    }
    for (entry, wanted) in [
        (
            "hosts.d/*.txt",
            "hosts.d/a.txt:4: policy.allow_files: a text of 20 characters: these are several rules",
        ),
        (
            "none.txt",
            "sealway.toml:2: policy.allow_files: none.txt: cannot be read: No such file",
        ),
        (
            "hosts.d",
            "hosts.d: is a folder: write FOLDER/*.txt for the files in it",
        ),
        ("hosts.d/", "this is a folder"),
        (
            "*/a.txt",
            "a * or ? is allowed only in the last part of a path, as in hosts.d/*.txt",
        ),
        ("hosts.d/[ab].*", "only * and ? are wildcards"),
        ("", "has only empty entries"),
        ("..", "not a file such as hosts.txt"),
        ("utf16.txt", "utf16.txt: is text in UTF-16"),
        ("l*.txt", "large.txt: is larger than 16777216 bytes"),
        ("many/*.txt", "many/*.txt: matches more than 1024 files"),
    ] {
        let text = format!("[policy]\nallow_files = [{entry:?}]\n");
        let ended = loaded(&place, &text).await;
        let said = ended
            .stderr
            .replace(&format!("{}/", place.path().display()), "");
        assert_eq!(ended.status, 78, "{entry}: {said}");
        assert!(said.contains(wanted), "{entry}: {said}");
    }
    let ended = loaded(&place, "[policy]\nallow_files = [\"long.txt\"]\n").await;
    let lines = ended.stderr.lines().count();
    assert_eq!(
        lines, 21,
        "twenty lines, and that there are more: {}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_pattern_that_matches_nothing_is_a_warning() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("hosts.d")).unwrap();
    for entry in ["hosts.d/*.txt", "none.d/*.txt", "hosts.d/?"] {
        let ended = check(&place, &format!("[policy]\nallow_files = [{entry:?}]\n")).await;
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        let warning = ":2: policy.allow_files: ";
        assert!(
            ended.stderr.starts_with("sealway: warning: ")
                && ended.stderr.contains(warning)
                && ended.stderr.trim_end().ends_with(" matches no file"),
            "{}",
            ended.stderr
        );
    }
    // The file changes with each reload: it may be invalid.
    let text = "[policy]\nallow_files = [\"*\"]\n[audit]\nfile = \"audit.jsonl\"\n";
    let ended = check(&place, text).await;
    assert!(
        ended.stderr.contains("audit.file: ") && ended.stderr.contains("is also a file of rules"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_flag_replaces_the_files_and_explain_names_the_line() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("sealway.toml");
    fs::write(
        place.path().join("team.txt"),
        "# ours\na.example\n*.b.example\n",
    )
    .unwrap();
    fs::write(
        &file,
        "[egress]\naddresses = [\"127.0.0.2\"]\n[policy]\nallow_files = [\"team.txt\"]\n\
         [dns.hosts]\n\"a.example\" = [\"142.250.1.95\"]\n\"x.b.example\" = [\"142.250.1.95\"]\n",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    for (host, line) in [("a.example", 2), ("x.b.example", 3)] {
        let ended = sealway(&["explain", host, "--config", path]).await;
        let wanted = format!(
            "named by policy.allow_files, {}:{line}",
            place.path().join("team.txt").display()
        );
        assert!(ended.stdout.contains(&wanted), "{}", ended.stdout);
    }
    let flag = [
        "explain",
        "a.example",
        "--config",
        path,
        "--allow",
        "c.example",
    ];
    let ended = sealway(&flag).await;
    assert!(ended.stdout.contains("(host_denied)"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_user_is_narrowed_by_files_of_its_own() {
    let upstream = RawUpstream::start().await;
    let port = upstream.addr().port();
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("alice.txt"),
        format!("a.example:{port}\n"),
    )
    .unwrap();
    let text = [
        user("alice", "s", "allow_files = [\"alice.txt\"]"),
        user("bob", "s", "allow_files = [\"none/*.txt\"]"),
        user("carol", "s", ""),
    ];
    write(&directory.path().join("users.toml"), &text.concat());
    let mut config = Config::closed().section("[auth]\nusers_file = \"users.toml\"");
    for name in ["a.example", "b.example"] {
        config = config.host(name, upstream.addr());
    }
    let mut daemon = Daemon::start_in(directory, &config).await;
    let asked = async |daemon: &Daemon, name: &str, host: &str| {
        let credentials = basic(name, "s");
        let header = ("Proxy-Authorization", credentials.as_str());
        connect(daemon.proxy_addr(), &format!("{host}:{port}"), &[header])
            .await
            .status()
    };
    for (name, host, status) in [
        ("alice", "a.example", 200),
        ("alice", "b.example", 403),
        ("bob", "a.example", 403),
        ("carol", "b.example", 200),
    ] {
        assert_eq!(asked(&daemon, name, host).await, status, "{name} {host}");
    }
    fs::write(
        daemon.path("alice.txt"),
        format!("a.example:{port}\nb.example:{port}\n"),
    )
    .unwrap();
    assert_eq!(daemon.reload(&config.to_toml()).await["result"], "ok");
    assert_eq!(asked(&daemon, "alice", "b.example").await, 200);
    fs::write(daemon.path("alice.txt"), "a.example\n.b.example\n").unwrap();
    let reload = daemon.reload(&config.to_toml()).await;
    let error = reload["error"].as_str().unwrap();
    assert!(
        error.contains("alice.txt:2: users.alice.allow_files: ")
            && error.contains("write *.b.example"),
        "{error}"
    );
}

/// The output of `sealway check --offline` for this configuration.
async fn check(place: &TempDir, text: &str) -> Ended {
    let file = place.path().join("sealway.toml");
    fs::write(&file, text).unwrap();
    sealway(&["check", "--offline", "--config", file.to_str().unwrap()]).await
}

/// The output of a command that fails on a wrong configuration.
async fn loaded(place: &TempDir, text: &str) -> Ended {
    let file = place.path().join("sealway.toml");
    fs::write(&file, text).unwrap();
    sealway(&["explain", "a.example", "--config", file.to_str().unwrap()]).await
}
