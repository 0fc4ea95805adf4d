//! Attacks on the audit file by a person who can change it: `audit verify` reports each removal and
//! exits with 1.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use support::command::{Ended, sealway};
use support::config::Config;
use support::daemon::Daemon;
use support::records::{attempts, lines, nth_record, record, records, write_lines};

#[tokio::test]
async fn verify_finds_a_removal_under_the_running_daemon() {
    let mut daemon = recorded().await;
    let file = daemon.path("audit.jsonl");
    fs::remove_file(&file).unwrap();
    daemon.signal("HUP");
    assert_eq!(record(&file, "audit_file").await["cause"], "removed");
    refuted(&[&file], &["audit.jsonl:1:", "was removed", "seq 1 to "]).await;
    stop(&mut daemon).await;
    refuted(&[&file], &["was removed"]).await;
    allowed(&[&file], "--allow-removed", "was removed").await;
}

#[tokio::test]
async fn verify_finds_a_truncation_under_the_running_daemon() {
    for keep in [0, 1] {
        let mut daemon = recorded().await;
        let file = daemon.path("audit.jsonl");
        let kept = if keep == 0 {
            0
        } else {
            lines(&file)[0].len() as u64 + 40
        };
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(kept)
            .unwrap();
        daemon.signal("HUP");
        assert_eq!(record(&file, "audit_file").await["cause"], "truncated");
        stop(&mut daemon).await;
        refuted(&[&file], &["was truncated"]).await;
        allowed(&[&file], "--allow-removed", "was truncated").await;
    }
}

/// The method of `copytruncate` of logrotate(8): together with the copy nothing is missing.
#[tokio::test]
async fn a_copy_that_was_taken_before_the_truncation_completes_the_chain() {
    let mut daemon = recorded().await;
    let (file, copy) = (daemon.path("audit.jsonl"), daemon.path("copy"));
    fs::copy(&file, &copy).unwrap();
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(0)
        .unwrap();
    daemon.signal("HUP");
    record(&file, "audit_file").await;
    stop(&mut daemon).await;
    refuted(&[&file], &["was truncated"]).await;
    proved(&[&copy, &file]).await;
}

#[tokio::test]
async fn verify_finds_a_forged_file_in_place_of_the_original() {
    let mut daemon = recorded().await;
    let (file, away) = (daemon.path("audit.jsonl"), daemon.path("away"));
    let forged = lines(&file)[0].clone();
    fs::rename(&file, &away).unwrap();
    fs::write(&file, &forged).unwrap();
    daemon.signal("HUP");
    record(&file, "audit_file").await;
    stop(&mut daemon).await;
    refuted(&[&file], &["audit.jsonl:2: seq ", "are missing"]).await;
    // A rotation is not a fault, whatever the new file begins with.
    let mut daemon = recorded().await;
    let (file, away) = (daemon.path("audit.jsonl"), daemon.path("away"));
    fs::rename(&file, &away).unwrap();
    fs::write(&file, "").unwrap();
    daemon.signal("HUP");
    record(&file, "audit_file").await;
    stop(&mut daemon).await;
    proved(&[&file]).await;
    proved(&[&away, &file]).await;
}

#[tokio::test]
async fn verify_finds_a_deleted_or_edited_chain_file() {
    let (_folder, file) = stopped().await;
    let chain = beside(&file);
    let text = fs::read_to_string(&chain).unwrap();
    proved(&[&file]).await;
    let last = records(&file).last().unwrap()["seq"].as_u64().unwrap();
    let sha = |line: &[u8]| sealway::digest::Digest::of(line.trim_ascii_end()).to_string();
    let hash = sha(lines(&file).last().unwrap());
    let at = |seq: u64, hash: &str| format!("{seq:020} {hash}\n").repeat(2);
    assert_eq!(text, at(last, &hash), "what the daemon leaves");
    let before = sha(&lines(&file)[0]);
    for (edited, reasons) in [
        (
            at(last + 5, &hash),
            ["ahead", &format!("seq {} to {}", last + 1, last + 5)],
        ),
        (at(1, &before), ["behind", &format!("seq 2 to {last}")]),
        (at(last, &before), ["its hash differs", ""]),
        (at(2, &hash), ["its hash differs", ""]),
        (String::new(), ["does not say", ""]),
        (text[..100].to_owned(), ["does not say", ""]),
        (text.replace(' ', "x"), ["does not say", ""]),
        (at(0, &"0".repeat(64)), ["behind", "seq 1 to "]),
    ] {
        fs::write(&chain, edited).unwrap();
        refuted(&[&file], &reasons).await;
        allowed(&[&file], "--no-chain-file", "").await;
    }
    fs::remove_file(&chain).unwrap();
    refuted(
        &[&file],
        &["audit.jsonl.chain", "is missing", "--no-chain-file"],
    )
    .await;
    allowed(&[&file], "--no-chain-file", "").await;
}

#[tokio::test]
async fn verify_finds_records_truncated_without_a_daemon() {
    let (folder, file) = stopped().await;
    let all = lines(&file);
    write_lines(&file, &all[..all.len() - 2]);
    let gone = format!("seq {} to {}", all.len() - 1, all.len());
    refuted(&[&file], &["ahead", &gone]).await;
    // Nor after the next start, which continues with the rest.
    let mut daemon = Daemon::start_in(folder, &config()).await;
    stop(&mut daemon).await;
    refuted(&[&file], &["2 records", "were gone"]).await;
    allowed(&[&file], "--allow-removed", "2 records").await;
}

#[tokio::test]
async fn verify_finds_a_removal_of_everything_without_a_daemon() {
    let (folder, file) = stopped().await;
    fs::write(&file, "").unwrap();
    refuted(&[&file], &["audit.jsonl.chain", "no record"]).await;
    fs::remove_file(&file).unwrap();
    let mut daemon = Daemon::start_in(folder, &config()).await;
    stop(&mut daemon).await;
    refuted(&[&file], &["gone when the daemon started", "seq 1 to "]).await;
    allowed(&[&file], "--allow-removed", "gone when the daemon started").await;
}

/// Without `FILE.chain` any file could be a valid start.
#[tokio::test]
async fn verify_finds_a_chain_file_deleted_before_a_start() {
    let (folder, file) = stopped().await;
    let all = lines(&file);
    write_lines(&file, &all[..all.len() - 2]);
    fs::remove_file(beside(&file)).unwrap();
    let mut daemon = Daemon::start_in(folder, &config()).await;
    stop(&mut daemon).await;
    assert_eq!(record(&file, "audit_chain").await["cause"], "missing");
    refuted(&[&file], &["FILE.chain", "missing"]).await;
    allowed(&[&file], "--allow-removed", "missing").await;
}

#[tokio::test]
async fn verify_finds_records_appended_without_a_daemon() {
    let (folder, file) = stopped().await;
    let all = lines(&file);
    let last = all.last().unwrap().trim_ascii_end();
    let link = sealway::audit::chain::Link::parse(last).unwrap();
    let mut chain = sealway::audit::chain::Chain {
        seq: link.seq,
        hash: sealway::digest::Digest::of(last),
    };
    let mut forged = Vec::new();
    chain.seal(
        br#"{"ts":"2026-11-22T00:00:00.000000Z","event":"tunnel","outcome":"allowed"}"#,
        &mut forged,
    );
    fs::write(&file, [all.concat(), forged].concat()).unwrap();
    refuted(&[&file], &["behind"]).await;
    let mut daemon = Daemon::start_in(folder, &config()).await;
    stop(&mut daemon).await;
    assert_eq!(record(&file, "audit_chain").await["cause"], "behind");
    refuted(&[&file], &["FILE.chain", "behind"]).await;
}

/// The operator decides how long the oldest records are kept; a gap between two others is a fault.
#[tokio::test]
async fn verify_finds_deleted_rotated_files() {
    let mut daemon = recorded().await;
    let file = daemon.path("audit.jsonl");
    let rotated: Vec<PathBuf> = (1..=3)
        .map(|number| daemon.path(&format!("audit.jsonl-{number}")))
        .collect();
    for (number, to) in rotated.iter().enumerate() {
        fs::rename(&file, to).unwrap();
        daemon.signal("HUP");
        record(&file, "audit_file").await;
        nth_record(&file, "the reload", 1, |record| record["event"] == "reload").await;
        assert_eq!(
            number + 1,
            rotated.iter().filter(|file| file.exists()).count()
        );
    }
    stop(&mut daemon).await;
    let all: Vec<&Path> = rotated
        .iter()
        .map(PathBuf::as_path)
        .chain([file.as_path()])
        .collect();
    proved(&all).await;
    let note = proved(&all[1..]).await;
    assert!(note.contains("note: records before seq "), "{note}");
    refuted(&[all[0], all[2], all[3]], &["are missing"]).await;
    refuted(&all[..3], &["audit.jsonl-3.chain", "is missing"]).await;
    allowed(&all[..3], "--no-chain-file", "").await;
}

/// A running daemon has always written at most as much as `FILE.chain` says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_under_writing_is_proved() {
    let daemon = std::sync::Arc::new(recorded().await);
    let file = daemon.path("audit.jsonl");
    let busy = {
        let daemon = std::sync::Arc::clone(&daemon);
        tokio::spawn(async move {
            for _ in 0..50 {
                attempts(&daemon, 1).await;
                daemon.signal("HUP");
            }
        })
    };
    for _ in 0..10 {
        proved(&[&file]).await;
    }
    busy.await.unwrap();
}

fn config() -> Config {
    Config::closed().audit_file("audit.jsonl", "")
}

/// A daemon with a few records in its file.
async fn recorded() -> Daemon {
    let daemon = Daemon::start(&config()).await;
    attempts(&daemon, 3).await;
    let refused = |record: &Value| record["code"] == "host_denied";
    nth_record(&daemon.path("audit.jsonl"), "the last record", 3, refused).await;
    daemon
}

/// The files that such a daemon leaves.
async fn stopped() -> (TempDir, PathBuf) {
    let mut daemon = recorded().await;
    let file = daemon.path("audit.jsonl");
    stop(&mut daemon).await;
    (daemon.into_directory(), file)
}

async fn stop(daemon: &mut Daemon) {
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
}

fn beside(file: &Path) -> PathBuf {
    format!("{}.chain", file.display()).into()
}

async fn verify(files: &[&Path], flags: &[&str]) -> Ended {
    let files = files.iter().map(|file| file.to_str().unwrap());
    let arguments: Vec<&str> = ["audit", "verify"]
        .into_iter()
        .chain(flags.iter().copied())
        .chain(files)
        .collect();
    sealway(&arguments).await
}

async fn proved(files: &[&Path]) -> String {
    let ended = verify(files, &[]).await;
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{ended:?}");
    ended.stdout
}

async fn refuted(files: &[&Path], reasons: &[&str]) {
    let ended = verify(files, &[]).await;
    assert_eq!(
        (ended.status, ended.stdout.as_str()),
        (1, ""),
        "{reasons:?}: {ended:?}"
    );
    assert!(
        reasons.iter().all(|reason| ended.stderr.contains(reason)),
        "{reasons:?}: {ended:?}"
    );
}

async fn allowed(files: &[&Path], flag: &str, note: &str) {
    let ended = verify(files, &[flag]).await;
    assert_eq!(
        (ended.status, ended.stderr.as_str()),
        (0, ""),
        "{flag}: {ended:?}"
    );
    assert!(
        ended.stdout.starts_with("ok: ") && ended.stdout.contains(note),
        "{flag}: {ended:?}"
    );
}
