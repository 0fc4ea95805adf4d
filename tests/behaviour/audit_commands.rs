//! `sealway audit verify` and `sealway audit report`: valid files are proved, faults name their
//! record, reports have the sums, and each command has its exit status.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use sealway::audit::chain::Chain;
use serde_json::{Value, json};
use support::command::{Ended, sealway};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_complete_log_is_proved_in_one_file_or_several() {
    let log = Log::new();
    let ended = verify(&[&log.write("a", &log.lines)]).await;
    let said = concat!(
        "ok: 20 records, seq 1 to 20, from 2026-11-22T00:00:00.000000Z to 2026-11-22T00:00:19.000000Z, in 1 file(s)\n",
        "note: without FILE.chain the newest records may be gone unnoticed\n",
    );
    assert_eq!(
        (ended.status, ended.stdout.as_str(), ended.stderr.as_str()),
        (0, said, "")
    );
    let (first, second) = (
        log.write("b", &log.lines[..10]),
        log.write("c", &log.lines[10..]),
    );
    assert_eq!(verify(&[&first, &second]).await.status, 0);
    let empty = log.write("d", &[]);
    assert_eq!(verify(&[&first, &second, &empty]).await.status, 0);
    assert_eq!(
        verify(&[&empty]).await.status,
        1,
        "nothing is proved by nothing"
    );
    let piped = piped(
        &[
            "audit",
            "verify",
            "--no-chain-file",
            "-",
            second.to_str().unwrap(),
        ],
        &std::fs::read(&first).unwrap(),
    )
    .await;
    assert_eq!(piped, 0);
}

/// Changes each byte of a record in the middle, and tampers in every way, and expects the name of
/// the record.
#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn the_first_bad_record_is_named() {
    let log = Log::new();
    let named = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut lines = log.lines.clone();
        change(&mut lines);
        log.write("tampered", &lines)
    };
    let edit = |line: &mut Vec<u8>, from: &str, to: &str| {
        let text = String::from_utf8(line.clone()).unwrap();
        assert!(text.contains(from));
        *line = text.replacen(from, to, 1).into_bytes();
    };
    type Change<'c> = &'c dyn Fn(&mut Vec<Vec<u8>>);
    let changes: [(&str, Change<'_>, &str, &str); 11] = [
        (
            "edited",
            &|lines| edit(&mut lines[8], "\"number\":8", "\"number\":9"),
            ":9: seq 9:",
            "was changed",
        ),
        (
            "the first edited",
            &|lines| edit(&mut lines[0], "\"number\":0", "\"number\":9"),
            ":1: seq 1:",
            "was changed",
        ),
        (
            "prev edited",
            &|lines| edit(&mut lines[8], "\"prev\":\"", "\"prev\":\"0"),
            ":9: ",
            "prev is not 64",
        ),
        (
            "put in",
            &|lines| lines.insert(8, log.lines[3].clone()),
            ":9: seq 4",
            "out of order",
        ),
        (
            "deleted",
            &|lines| drop(lines.remove(8)),
            ":9: seq 10",
            "are missing",
        ),
        (
            "the first deleted",
            &|lines| drop(lines.remove(0)),
            ":1: seq 2",
            "records before it are missing",
        ),
        (
            "many deleted",
            &|lines| drop(lines.drain(3..15)),
            ":4: seq 16",
            "are missing",
        ),
        (
            "swapped",
            &|lines| lines.swap(8, 9),
            ":9: seq 10",
            "are missing",
        ),
        (
            "repeated",
            &|lines| lines.insert(8, log.lines[7].clone()),
            ":9: seq 8",
            "a duplicate",
        ),
        (
            "an empty line",
            &|lines| lines.insert(8, b"\n".to_vec()),
            ":9: ",
            "not an audit record",
        ),
        (
            "a line cut",
            &|lines| lines[8].truncate(40),
            ":9: ",
            "not an audit record",
        ),
    ];
    for (what, change, place, reason) in changes {
        let file = named(change);
        let ended = verify(&[&file]).await;
        assert_eq!(
            (ended.status, ended.stdout.as_str()),
            (1, ""),
            "{what}: {ended:?}"
        );
        let place = format!("sealway: {}{place}", file.display());
        assert!(
            ended.stderr.starts_with(&place) && ended.stderr.contains(reason),
            "{what}: {ended:?}"
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{what}: {ended:?}");
    }
    let long = log.write("long", &[vec![b'x'; 2_000_000], b"\n".to_vec()]);
    assert!(
        verify(&[&long])
            .await
            .stderr
            .contains("longer than any audit record")
    );
}

/// Calls the library, without a process for each case: every byte of a file except those of its
/// last line.
#[test]
fn verify_notices_a_change_of_any_byte() {
    let log = Log::new();
    let (whole, last) = (log.lines.concat(), log.lines.last().unwrap().len());
    for at in 0..whole.len() - last {
        for bit in [1, 32, 128] {
            let mut changed = whole.clone();
            changed[at] ^= bit;
            assert!(!is_proved(&changed), "byte {at}");
        }
    }
    assert!(is_proved(&whole));
}

#[tokio::test]
async fn verify_accepts_a_missing_tail_and_notes_half_a_line() {
    let log = Log::new();
    let shorter = log.write("shorter", &log.lines[..15]);
    assert!(
        verify(&[&shorter])
            .await
            .stdout
            .starts_with("ok: 15 records")
    );
    let mut torn = log.lines.clone();
    torn[19].truncate(30);
    let torn = log.write("torn", &torn);
    let ended = verify(&[&torn]).await;
    assert!(
        ended.status == 0 && ended.stdout.contains("torn:20 is truncated after 30 bytes"),
        "{ended:?}"
    );
    let ended = verify(&[&torn, &shorter]).await;
    assert!(
        ended.status == 1 && ended.stderr.contains("torn:20: it is truncated"),
        "not in the middle: {ended:?}"
    );
}

#[tokio::test]
async fn an_unreadable_file_gives_no_verdict() {
    let log = Log::new();
    for verb in ["verify", "report"] {
        for file in [
            log.folder.path().to_path_buf(),
            log.folder.path().join("missing"),
        ] {
            let ended = sealway(&["audit", verb, file.to_str().unwrap()]).await;
            assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{ended:?}");
            assert!(ended.stderr.contains("cannot be read"), "{ended:?}");
        }
    }
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn a_report_has_a_row_for_each_user_and_day_in_three_forms() {
    let log = Log::of(&[
        json!({"ts": "2026-11-21T23:59:59.0Z", "event": "tunnel", "user": "ann", "outcome": "allowed", "code": "closed_by_client", "bytes_up": 5, "bytes_down": 7, "tls_version": "1.3", "group": "X25519MLKEM768", "max_gap_ms": 60000.5}),
        json!({"ts": "2026-11-22T00:00:00.0Z", "event": "tunnel", "user": "ann", "outcome": "denied", "code": "host_denied"}),
        json!({"ts": "2026-11-22T00:00:00.0Z", "event": "tunnel", "user": "ann", "outcome": "denied", "code": "port_denied"}),
        json!({"ts": "2026-11-22T00:00:00.0Z", "event": "tunnel", "outcome": "failed", "code": "dns_failed"}),
        json!({"ts": "2026-11-22T00:00:00.0Z", "event": "stop", "drained": 0}),
    ]);
    let mut lines = log.lines.clone();
    lines.push(b"a log line\n".to_vec());
    let file = log.write("log", &lines);
    let report = |format: &'static str| {
        let file = file.clone();
        async move {
            sealway(&[
                "audit",
                "report",
                "--format",
                format,
                file.to_str().unwrap(),
            ])
            .await
        }
    };
    let text = report("text").await;
    let words: Vec<Vec<&str>> = text
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        words[1],
        [
            "2026-11-21",
            "ann",
            "1",
            "5",
            "7",
            "-",
            "-",
            "1.3=1",
            "X25519MLKEM768=1",
            "60000.5"
        ]
    );
    assert_eq!(
        words[2],
        [
            "2026-11-22",
            "-",
            "0",
            "0",
            "0",
            "-",
            "dns_failed=1",
            "-",
            "-",
            "-"
        ]
    );
    assert_eq!(
        words[3],
        [
            "2026-11-22",
            "ann",
            "0",
            "0",
            "0",
            "host_denied=1,port_denied=1",
            "-",
            "-",
            "-",
            "-"
        ]
    );
    assert_eq!((text.status, words.len()), (0, 4));
    assert_eq!(
        text.stderr,
        "sealway: warning: 1 lines are not audit records and are left out\n"
    );
    let csv = report("csv").await.stdout;
    let wanted = "day,user,tunnels,bytes_up,bytes_down,denied,failed,tls_versions,groups,max_gap_ms\n\
                  2026-11-21,ann,1,5,7,,,1.3=1,X25519MLKEM768=1,60000.5\n\
                  2026-11-22,-,0,0,0,,dns_failed=1,,,\n\
                  2026-11-22,ann,0,0,0,\"host_denied=1,port_denied=1\",,,,\n";
    assert_eq!(csv, wanted);
    let rows: Value = serde_json::from_str(&report("json").await.stdout).unwrap();
    assert_eq!(
        rows[2]["denied"],
        json!({"host_denied": 1, "port_denied": 1}),
        "{rows}"
    );
    assert_eq!(
        (&rows[0]["max_gap_ms"], &rows[1]["max_gap_ms"]),
        (&json!(60000.5), &Value::Null)
    );
}

/// The log of the test has the figure; the bound is far from it, because a debug build may run on a
/// busy machine.
#[tokio::test]
async fn verify_reads_many_records_as_a_stream() {
    let record = json!({"ts": "2026-11-22T00:00:00.000000Z", "event": "tunnel", "id": "19a-1", "client": "192.0.2.1:40000", "outcome": "allowed", "code": "closed_by_client", "pad": "x".repeat(400)}).to_string();
    let (mut chain, mut lines) = (Chain::default(), Vec::new());
    for _ in 0..MANY {
        chain.seal(record.as_bytes(), &mut lines);
    }
    let log = Log::of(&[]);
    let file = log.write("many", &[lines]);
    let started = Instant::now();
    let ended = verify(&[&file]).await;
    assert!(
        ended.stdout.starts_with(&format!("ok: {MANY} records")),
        "{ended:?}"
    );
    eprintln!(
        "{:.0} records a second",
        f64::from(MANY) / started.elapsed().as_secs_f64()
    );
}

/// A chain of records and a folder for files.
struct Log {
    folder: TempDir,
    lines: Vec<Vec<u8>>,
}

impl Log {
    /// Twenty records.
    fn new() -> Log {
        let records = (0..20).map(|number| {
            json!({"ts": format!("2026-11-22T00:00:{number:02}.000000Z"), "event": if number == 10 { "audit_file" } else { "tunnel" }, "number": number})
        });
        Log::of(&records.collect::<Vec<_>>())
    }

    fn of(records: &[Value]) -> Log {
        let mut chain = Chain::default();
        let seal = |record: &Value| {
            let mut line = Vec::new();
            chain.seal(record.to_string().as_bytes(), &mut line);
            line
        };
        Log {
            folder: tempfile::tempdir().unwrap(),
            lines: records.iter().map(seal).collect(),
        }
    }

    fn write(&self, name: &str, lines: &[Vec<u8>]) -> PathBuf {
        let file = self.folder.path().join(name);
        std::fs::write(&file, lines.concat()).unwrap();
        file
    }
}

fn is_proved(mut bytes: &[u8]) -> bool {
    let (mut verifier, mut line) = (sealway::audit::verify::Verifier::default(), Vec::new());
    loop {
        match sealway::audit::verify::next_line(&mut bytes, &mut line).unwrap() {
            sealway::audit::verify::LineEnd::Nothing => return true,
            sealway::audit::verify::LineEnd::Whole if verifier.line(&line).is_ok() => {}
            _ => return false,
        }
    }
}

async fn verify(files: &[&Path]) -> Ended {
    let names = files.iter().map(|file| file.to_str().unwrap());
    // No daemon wrote these files.
    sealway(
        &["audit", "verify", "--no-chain-file"]
            .into_iter()
            .chain(names)
            .collect::<Vec<_>>(),
    )
    .await
}

/// The exit status of a call that reads this text.
async fn piped(arguments: &[&str], input: &[u8]) -> i32 {
    let mut command = tokio::process::Command::new(support::sealway());
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).await.unwrap();
    child.wait().await.unwrap().code().unwrap()
}

const MANY: u32 = 20_000;
