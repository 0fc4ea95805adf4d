//! Reads audit files in tests, and makes the attempts that fill them.

use std::path::Path;

use serde_json::Value;

use crate::client::connect;
use crate::daemon::Daemon;
use crate::soon;

/// The complete records of a file so far; none if it does not exist.
pub fn records(file: &Path) -> Vec<Value> {
    let text = std::fs::read(file).unwrap_or_default();
    let whole = text
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n"));
    whole
        .map(|line| {
            serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
        })
        .collect()
}

/// Waits for the `nth` record, from 1, that satisfies `wanted`, and returns it.
pub async fn nth_record(
    file: &Path,
    what: &str,
    nth: usize,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let found = async {
        loop {
            match records(file).into_iter().filter(&wanted).nth(nth - 1) {
                Some(record) => return record,
                None => crate::tick().await,
            }
        }
    };
    soon(what, found).await
}

/// The first record of this event.
pub async fn record(file: &Path, event: &str) -> Value {
    nth_record(file, event, 1, |record| record["event"] == event).await
}

/// Attempts that the policy refuses, one after another.
pub async fn attempts(daemon: &Daemon, count: usize) {
    for _ in 0..count {
        assert_eq!(
            connect(daemon.proxy_addr(), "evil.example:443", &[])
                .await
                .status(),
            403
        );
    }
}

/// How many refused attempts the records in the files count.
pub fn refused(files: &[&Path]) -> usize {
    let records = files.iter().flat_map(|file| records(file));
    records
        .filter(|record| record["code"] == "host_denied")
        .map(|record| count_of(&record))
        .sum()
}

/// The number of attempts in a record.
pub fn count_of(record: &Value) -> usize {
    record["count"].as_u64().unwrap_or(1) as usize
}

/// The lines of a file, each with its end.
pub fn lines(file: &Path) -> Vec<Vec<u8>> {
    std::fs::read(file)
        .expect("read the file")
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

/// Replaces the lines of a file.
pub fn write_lines(file: &Path, lines: &[Vec<u8>]) {
    std::fs::write(file, lines.concat()).expect("write the file");
}
