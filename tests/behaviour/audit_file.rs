//! The audit file: which records it has, which files are accepted, and its chain across restarts,
//! rotation and crashes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use support::command::{Ended, sealway};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel};
use support::records::{attempts, lines, nth_record, record, records, refused, write_lines};
use support::{soon, users};
use tempfile::TempDir;

#[tokio::test]
async fn records_go_to_the_file_and_each_has_the_hash_of_the_line_before() {
    let upstream = RawUpstream::start().await;
    let mut daemon =
        Daemon::start(&Config::to(upstream.addr()).audit_file("audit.jsonl", "")).await;
    let file = daemon.path("audit.jsonl");
    // The daemon listens before it writes that record.
    record(&file, "start").await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    attempts(&daemon, 3).await;
    stop(&mut daemon).await;
    let found = records(&file);
    let events: Vec<_> = found
        .iter()
        .map(|record| record["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        ["start", "tunnel", "tunnel", "tunnel", "tunnel", "stop"]
    );
    let mut prev = "0".repeat(64);
    for (number, (line, record)) in lines(&file).iter().zip(&found).enumerate() {
        assert_eq!(
            (&record["seq"], &record["prev"]),
            (&(number + 1).into(), &prev.as_str().into()),
            "{record}"
        );
        prev = hex::encode(Sha256::digest(line.trim_ascii_end()));
    }
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    assert!(
        !daemon.log_text().contains("\"event\""),
        "not to the log as well: {}",
        daemon.log_text()
    );
    proves(&[&file]).await;
}

#[tokio::test]
async fn the_status_names_the_last_record() {
    let mut daemon = Daemon::start(&config()).await;
    let file = daemon.path("audit.jsonl");
    attempts(&daemon, 3).await;
    let is_named = async {
        loop {
            let (_, status) = daemon.admin_get("/status").await;
            let head = serde_json::from_str::<Value>(&status).unwrap()["audit"].take();
            let written = lines(&file);
            let last = written.last().unwrap().trim_ascii_end();
            // The daemon may write between the two reads.
            if head["seq"] == written.len() && head["hash"] == hex::encode(Sha256::digest(last)) {
                break head;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let head = soon("the last record", is_named).await;
    assert!(
        head["written_at"].as_str().unwrap().ends_with('Z'),
        "{head}"
    );
    stop(&mut daemon).await;
}

#[tokio::test]
async fn the_chain_continues_across_restarts() {
    let mut directory = support_directory();
    for start in 1..=3 {
        let mut daemon = Daemon::start_in(directory, &config()).await;
        attempts(&daemon, start).await;
        stop(&mut daemon).await;
        directory = daemon.into_directory();
    }
    let file = directory.path().join("audit.jsonl");
    assert_eq!((refused(&[&file]), records(&file).len()), (6, 12));
    proves(&[&file]).await;
}

#[tokio::test]
async fn the_chain_continues_in_a_new_file_after_a_rename_or_removal() {
    let mut daemon = Daemon::start(&config()).await;
    let (file, first, second) = (
        daemon.path("audit.jsonl"),
        daemon.path("first"),
        daemon.path("second"),
    );
    attempts(&daemon, 2).await;
    record(&file, "tunnel").await;
    fs::rename(&file, &first).unwrap();
    // The daemon notices by itself within a second.
    while !file.exists() {
        attempts(&daemon, 1).await;
    }
    let begin = nth_record(&file, "its first record", 1, |_| true).await;
    assert_eq!(
        (&begin["event"], &begin["cause"]),
        (&"audit_file".into(), &"renamed".into()),
        "{begin}"
    );
    // SIGHUP makes it notice at once.
    fs::rename(&file, &second).unwrap();
    daemon.signal("HUP");
    record(&file, "reload").await;
    assert_eq!(
        records(&file)[0]["seq"],
        records(&second).last().unwrap()["seq"].as_u64().unwrap() + 1
    );
    proves(&[&first, &second, &file]).await;
    assert!(
        verify(&[&second, &first, &file])
            .await
            .stderr
            .contains("out of order")
    );
    assert_eq!(
        verify(&[&second, &file]).await.status,
        0,
        "the first ones may be gone"
    );
    assert!(
        verify(&[&first, &file])
            .await
            .stderr
            .contains("are missing")
    );
    fs::remove_file(&file).unwrap();
    daemon.signal("HUP");
    assert_eq!(record(&file, "audit_file").await["cause"], "removed");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    stop(&mut daemon).await;
}

#[tokio::test]
async fn a_truncation_in_place_is_recorded() {
    let mut daemon = Daemon::start(&config()).await;
    let file = daemon.path("audit.jsonl");
    attempts(&daemon, 2).await;
    nth_record(&file, "the last record", 2, |record| {
        record["event"] == "tunnel"
    })
    .await;
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(0)
        .unwrap();
    daemon.signal("HUP");
    assert_eq!(record(&file, "audit_file").await["cause"], "truncated");
    stop(&mut daemon).await;
    let refuted = verify(&[&file]).await;
    assert!(
        refuted.status == 1 && refuted.stderr.contains("was truncated"),
        "{refuted:?}"
    );
}

#[tokio::test]
async fn the_chain_continues_after_a_rotation_without_a_daemon() {
    let directory = ran_and_stopped().await;
    let (file, rotated) = (
        directory.path().join("audit.jsonl"),
        directory.path().join("audit.jsonl-1"),
    );
    fs::rename(&file, &rotated).unwrap();
    let mut daemon = Daemon::start_in(directory, &config()).await;
    stop(&mut daemon).await;
    let found = records(&file);
    assert_eq!(
        (&found[0]["event"], &found[0]["cause"]),
        (&"audit_file".into(), &"restart".into())
    );
    assert_eq!(found[1]["event"], "start");
    proves(&[&rotated, &file]).await;
}

#[tokio::test]
async fn a_torn_last_line_is_kept_beside_the_file_and_recorded() {
    for torn in [
        b"{\"seq\":99,\"prev\":\"00".as_slice(),
        &[0; 3_000],
        b"a line\nof somebody else\n",
    ] {
        let directory = ran_and_stopped().await;
        let file = directory.path().join("audit.jsonl");
        let whole = fs::read(&file).unwrap();
        fs::write(&file, [&whole, torn].concat()).unwrap();
        let mut daemon = Daemon::start_in(directory, &config()).await;
        stop(&mut daemon).await;
        let found = record(&file, "audit_torn").await;
        assert_eq!(found["bytes"], torn.len(), "{found}");
        assert_eq!(fs::read(found["kept_in"].as_str().unwrap()).unwrap(), torn);
        assert!(fs::read(&file).unwrap().starts_with(&whole));
        proves(&[&file]).await;
    }
}

/// The most that a crash can show: half of the very first line.
#[tokio::test]
async fn a_file_of_one_torn_line_starts_a_new_chain() {
    let directory = support_directory();
    let file = directory.path().join("audit.jsonl");
    fs::write(&file, "{\"seq\":1,").unwrap();
    let mut daemon = Daemon::start_in(directory, &config()).await;
    assert_eq!(record(&file, "audit_torn").await["seq"], 1);
    stop(&mut daemon).await;
    proves(&[&file]).await;
}

#[tokio::test]
async fn a_removed_or_changed_end_is_recorded_at_the_start() {
    let directory = ran_and_stopped().await;
    let file = directory.path().join("audit.jsonl");
    let mut left = lines(&file);
    left.truncate(left.len() - 2);
    write_lines(&file, &left);
    let mut daemon = Daemon::start_in(directory, &config()).await;
    let loss = record(&file, "audit_loss").await;
    assert_eq!(
        (&loss["lost"], &loss["altered"]),
        (&2.into(), &false.into()),
        "{loss}"
    );
    stop(&mut daemon).await;
    let directory = daemon.into_directory();
    let text = fs::read_to_string(&file).unwrap();
    let at = text.rfind("\"drained\":0").unwrap();
    fs::write(
        &file,
        format!("{}\"drained\":7{}", &text[..at], &text[at + 11..]),
    )
    .unwrap();
    let mut daemon = Daemon::start_in(directory, &config()).await;
    let altered = nth_record(&file, "the second loss", 2, |record| {
        record["event"] == "audit_loss"
    })
    .await;
    assert_eq!(
        (&altered["lost"], &altered["altered"]),
        (&0.into(), &true.into()),
        "{altered}"
    );
    stop(&mut daemon).await;
}

#[tokio::test]
async fn one_file_has_one_daemon() {
    let daemon = Daemon::start(&config()).await;
    let path = daemon.path("audit.jsonl");
    record(&path, "start").await;
    let other = support_directory();
    let ended = run_with(&other, path.to_str().unwrap()).await;
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(
        ended.stderr.contains("audit.file")
            && ended.stderr.contains("another process writes to it"),
        "{ended:?}"
    );
    // Also under another name.
    let link = other.path().join("hard");
    fs::hard_link(&path, &link).unwrap();
    let ended = run_with(&other, "hard").await;
    assert!(
        ended.status == 1 && ended.stderr.contains("another process writes to it"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn an_unusable_audit_file_exits_with_78_and_is_not_changed() {
    let directory = support_directory();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("notes"), "dear diary\nnothing happened\n").unwrap();
    symlink("elsewhere", at("link")).unwrap();
    fs::write(at("target"), "").unwrap();
    symlink("target", at("led")).unwrap();
    symlink("target", at("beside.chain")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(at("folder")).unwrap();
    for (name, reason) in [
        ("missing/audit.jsonl", "its folder does not exist"),
        ("link", "symbolic link"),
        ("led", "symbolic link"),
        ("pipe", "not a regular file"),
        ("folder", "not a regular file"),
        ("notes", "not an audit record"),
    ] {
        let ran = run_with(&directory, name).await;
        assert_eq!(ran.status, 78, "{name}: {ran:?}");
        assert!(
            ran.stderr.contains("audit.file: ") && ran.stderr.contains(reason),
            "{name}: {ran:?}"
        );
        let checked = sealway(&["check", "--config", at("sealway.toml").to_str().unwrap()]).await;
        assert_eq!(checked.status, 78, "{name}: {checked:?}");
        assert!(checked.stderr.contains(reason), "{name}: {checked:?}");
    }
    let ran = run_with(&directory, "beside").await;
    assert!(
        ran.status == 78 && ran.stderr.contains("symbolic link"),
        "FILE.chain: {ran:?}"
    );
    assert_eq!(fs::read_to_string(at("target")).unwrap(), "");
    assert_eq!(
        fs::read_to_string(at("notes")).unwrap(),
        "dear diary\nnothing happened\n"
    );
    assert!(!at("elsewhere").exists());
}

#[tokio::test]
async fn changes_of_users_are_recorded_by_name() {
    let directory = support_directory();
    let user = |name: &str, secret: &str, keys: &str| users::user(name, secret, keys);
    let place = directory.path().join("users.toml");
    users::write(
        &place,
        &[
            user("ann", "1", ""),
            user("bob", "1", ""),
            user("cid", "1", ""),
        ]
        .concat(),
    );
    let config = users::with_users(config(), "");
    let mut daemon = Daemon::start_in(directory, &config).await;
    let file = daemon.path("audit.jsonl");
    assert_eq!(
        record(&file, "user_change").await["added"],
        serde_json::json!(["ann", "bob", "cid"])
    );
    users::write(
        &place,
        &[
            user("ann", "2", ""),
            user("bob", "1", "tunnels = 1"),
            user("dan", "1", ""),
        ]
        .concat(),
    );
    daemon.signal("HUP");
    for (nth, kind, name) in [
        (2, "added", "dan"),
        (3, "removed", "cid"),
        (4, "rotated", "ann"),
        (5, "changed", "bob"),
    ] {
        let change = nth_record(&file, kind, nth, |record| record["event"] == "user_change").await;
        assert_eq!(change[kind], serde_json::json!([name]), "{change}");
    }
    daemon.signal("HUP");
    nth_record(&file, "the second reload", 2, |record| {
        record["event"] == "reload"
    })
    .await;
    stop(&mut daemon).await;
    let found = records(&file);
    assert_eq!(
        found
            .iter()
            .filter(|record| record["event"] == "user_change")
            .count(),
        5
    );
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        !text.contains(&users::stored("2")["sha256:".len()..]),
        "{text}"
    );
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn records_say_when_the_clock_is_unknown() {
    let daemon =
        Daemon::start_with_failing(&Config::closed(), "adjtimex,clock_adjtime:error=EPERM").await;
    let warned = daemon
        .line("a warning", |line| {
            line["message"]
                .to_string()
                .contains("the kernel does not report")
        })
        .await;
    assert_eq!(warned["level"], "WARN");
    assert!(
        daemon
            .metric("sealway_clock_synchronised")
            .await
            .unwrap()
            .is_nan(),
        "neither 0, which is an alarm, nor 1"
    );
    let start = daemon.line("start", |line| line["event"] == "start").await;
    assert_eq!(
        start.get("clock_synchronised"),
        Some(&serde_json::Value::Null),
        "{start}"
    );
}

#[tokio::test]
async fn records_say_when_the_clock_is_not_synchronised() {
    let mut daemon = Daemon::start(&config()).await;
    let file = daemon.path("audit.jsonl");
    let synchronised = daemon.metric("sealway_clock_synchronised").await.unwrap();
    attempts(&daemon, 1).await;
    stop(&mut daemon).await;
    for record in records(&file) {
        match synchronised {
            1.0 => assert!(record.get("clock_synchronised").is_none(), "{record}"),
            0.0 => assert_eq!(record["clock_synchronised"], false, "{record}"),
            // This machine does not permit the question.
            _ => assert_eq!(
                record.get("clock_synchronised"),
                Some(&serde_json::Value::Null),
                "{record}"
            ),
        }
    }
}

fn config() -> Config {
    Config::closed().audit_file("audit.jsonl", "")
}

fn support_directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

async fn stop(daemon: &mut Daemon) {
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
}

/// The files of a daemon that refused three attempts and stopped.
async fn ran_and_stopped() -> TempDir {
    let mut daemon = Daemon::start(&config()).await;
    attempts(&daemon, 3).await;
    stop(&mut daemon).await;
    daemon.into_directory()
}

/// `sealway run` with this audit file; it exits early.
async fn run_with(directory: &TempDir, name: &str) -> Ended {
    let config = directory.path().join("sealway.toml");
    let dns = "[dns]\nservers = [\"127.0.0.1:9\"]\ntimeout = \"100ms\"\n";
    fs::write(
        &config,
        Config::closed()
            .audit_file(name, "")
            .section(dns)
            .to_toml()
            .replace("[dns.hosts]\n", ""),
    )
    .unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    sealway(&["run", "--config", config.to_str().unwrap()]).await
}

async fn verify(files: &[&Path]) -> Ended {
    let files: Vec<PathBuf> = files.iter().map(|file| file.to_path_buf()).collect();
    let arguments: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    sealway(&[&["audit", "verify"], arguments.as_slice()].concat()).await
}

async fn proves(files: &[&Path]) -> String {
    let ended = verify(files).await;
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{ended:?}");
    ended.stdout
}
