//! Sums audit records by user and UTC day: tunnels, bytes, refusals, TLS versions, the longest
//! silence. Believes the records; `audit/verify.rs` checks them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Totals by day and user.
#[derive(Debug, Default)]
pub struct Report {
    days: BTreeMap<(String, String), Sums>,
    /// Lines that are not audit records.
    pub skipped: u64,
    /// Records left out because the report already has the most users it can hold.
    pub left_out: u64,
}

/// The totals of one user on one day.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sums {
    /// Tunnels that opened.
    pub tunnels: u64,
    /// Bytes from clients to upstreams.
    pub bytes_up: u64,
    /// Bytes from upstreams to clients.
    pub bytes_down: u64,
    /// Refused attempts, by code.
    pub denied: Counts,
    /// Failed attempts, by code.
    pub failed: Counts,
    /// Tunnels by TLS version.
    pub tls_versions: Counts,
    /// Tunnels by key-share group.
    pub groups: Counts,
    /// The longest silence of any tunnel in milliseconds; None if no record has one.
    pub max_gap_ms: Option<f64>,
}

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<String, u64>);

#[derive(Deserialize)]
struct Attempt<'l> {
    #[serde(borrow)]
    event: Cow<'l, str>,
    #[serde(borrow, default)]
    ts: Cow<'l, str>,
    #[serde(borrow)]
    user: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    outcome: Cow<'l, str>,
    #[serde(borrow, default)]
    code: Cow<'l, str>,
    #[serde(borrow)]
    tls_version: Option<Cow<'l, str>>,
    #[serde(borrow)]
    group: Option<Cow<'l, str>>,
    #[serde(default)]
    bytes_up: u64,
    #[serde(default)]
    bytes_down: u64,
    max_gap_ms: Option<f64>,
    /// The number of attempts that a record counts.
    count: Option<u64>,
}

impl Report {
    /// Adds a line without its line end. Counts a line that is not a record and leaves it out.
    pub fn line(&mut self, line: &[u8]) {
        let attempt = match serde_json::from_slice::<Attempt<'_>>(line) {
            Ok(attempt) if line.first() == Some(&b'{') && day_of(&attempt.ts).is_some() => attempt,
            _ => {
                self.skipped += 1;
                return;
            }
        };
        if attempt.event != "tunnel" {
            return;
        }
        let day = day_of(&attempt.ts).unwrap_or_default();
        let key = (
            day.to_owned(),
            attempt.user.as_deref().map_or("-".to_owned(), shown),
        );
        if self.days.len() >= ROWS_MAX && !self.days.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        self.days.entry(key).or_default().add(&attempt);
    }

    /// Totals by day and user, in order.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &str, &Sums)> {
        self.days
            .iter()
            .map(|((day, user), sums)| (day.as_str(), user.as_str(), sums))
    }
}

impl Sums {
    fn add(&mut self, attempt: &Attempt<'_>) {
        self.bytes_up = self.bytes_up.saturating_add(attempt.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(attempt.bytes_down);
        match attempt.outcome.as_ref() {
            "allowed" => {
                self.tunnels += 1;
                attempt
                    .tls_version
                    .iter()
                    .for_each(|version| self.tls_versions.add(version, 1));
                attempt
                    .group
                    .iter()
                    .for_each(|group| self.groups.add(group, 1));
            }
            "denied" => self.denied.add(&attempt.code, attempt.count.unwrap_or(1)),
            _ => self.failed.add(&attempt.code, attempt.count.unwrap_or(1)),
        }
        if let Some(gap) = attempt
            .max_gap_ms
            .filter(|gap| self.max_gap_ms.is_none_or(|longest| *gap > longest))
        {
            self.max_gap_ms = Some(gap);
        }
    }
}

impl Counts {
    fn add(&mut self, name: &str, count: u64) {
        let name = shown(name);
        // Bounded, because a file can hold anything; a daemon has some dozens.
        let name = if self.0.len() < NAMES_MAX || self.0.contains_key(&name) {
            name
        } else {
            "other".to_owned()
        };
        let sum = self.0.entry(name).or_default();
        *sum = sum.saturating_add(count);
    }

    /// Each name and its count, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (name.as_str(), *count))
    }

    /// The sum of all counts.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0
            .values()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// The day of a time such as 2026-11-22T08:00:00Z.
fn day_of(ts: &str) -> Option<&str> {
    let day = ts.get(..10)?;
    let fits = |(place, byte): (usize, u8)| {
        if place == 4 || place == 7 {
            byte == b'-'
        } else {
            byte.is_ascii_digit()
        }
    };
    day.bytes().enumerate().all(fits).then_some(day)
}

/// A name that is safe for a terminal: escapes and truncates what no daemon writes.
fn shown(name: &str) -> String {
    name.chars()
        .take(NAME_CHARS_MAX)
        .flat_map(char::escape_default)
        .collect()
}

/// A row has some hundred bytes.
const ROWS_MAX: usize = 1_000_000;
/// Codes, versions, groups.
const NAMES_MAX: usize = 128;
/// The longest user name.
const NAME_CHARS_MAX: usize = 128;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> Report {
        let mut report = Report::default();
        lines.iter().for_each(|line| report.line(line.as_bytes()));
        report
    }

    #[test]
    fn attempts_add_up_by_day_and_user() {
        let report = report(&[
            r#"{"ts":"2026-11-21T23:59:59.9Z","event":"tunnel","user":"a","outcome":"allowed","code":"closed_by_client","bytes_up":1,"bytes_down":2,"tls_version":"1.3","group":"x25519","max_gap_ms":7.5}"#,
            r#"{"ts":"2026-11-21T10:00:00.0Z","event":"tunnel","user":"a","outcome":"allowed","code":"idle_timeout","bytes_up":10,"bytes_down":20,"tls_version":"1.2","max_gap_ms":3}"#,
            r#"{"ts":"2026-11-21T10:00:00.0Z","event":"tunnel","user":"a","outcome":"denied","code":"host_denied"}"#,
            r#"{"ts":"2026-11-21T10:00:01.0Z","event":"tunnel","user":"a","outcome":"denied","code":"host_denied","count":41}"#,
            r#"{"ts":"2026-11-21T10:00:00.0Z","event":"tunnel","outcome":"failed","code":"dns_failed"}"#,
            r#"{"ts":"2026-11-22T00:00:00.0Z","event":"tunnel","user":"a","outcome":"allowed","code":"closed_by_client"}"#,
            r#"{"ts":"2026-11-22T00:00:00.0Z","event":"stop","drained":0}"#,
        ]);
        let rows: Vec<_> = report.rows().collect();
        let keys: Vec<_> = rows.iter().map(|(day, user, _)| (*day, *user)).collect();
        assert_eq!(
            keys,
            [
                ("2026-11-21", "-"),
                ("2026-11-21", "a"),
                ("2026-11-22", "a")
            ]
        );
        let (_, _, sums) = rows.get(1).unwrap();
        assert_eq!(
            (
                sums.tunnels,
                sums.bytes_up,
                sums.bytes_down,
                sums.max_gap_ms
            ),
            (2, 11, 22, Some(7.5))
        );
        assert_eq!(
            sums.denied.iter().collect::<Vec<_>>(),
            [("host_denied", 42)]
        );
        assert_eq!(
            sums.tls_versions.iter().collect::<Vec<_>>(),
            [("1.2", 1), ("1.3", 1)]
        );
        assert_eq!(
            (sums.groups.total(), rows.first().unwrap().2.failed.total()),
            (1, 1)
        );
        assert_eq!(
            (rows.last().unwrap().2.max_gap_ms, report.skipped),
            (None, 0)
        );
    }

    #[test]
    fn other_lines_are_counted_and_foreign_text_is_escaped() {
        let hostile = r#"{"ts":"2026-11-22","event":"tunnel","user":"\u001b[2J","outcome":"denied","code":"\n"}"#;
        let report = report(&[
            "",
            "x",
            "[]",
            r#"{"event":"tunnel","ts":"yesterday"}"#,
            hostile,
        ]);
        assert_eq!(report.skipped, 4);
        let (_, user, sums) = report.rows().next().unwrap();
        assert_eq!(
            (user, sums.denied.iter().next()),
            ("\\u{1b}[2J", Some(("\\n", 1)))
        );
    }
}
