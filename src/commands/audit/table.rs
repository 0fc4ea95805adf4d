//! A report as a table: columns for people, or CSV (RFC 4180).

use crate::audit::report::{Counts, Report, Sums};

/// Columns below their heads, each as wide as its content.
pub(super) fn text(report: &Report) -> Vec<u8> {
    let rows: Vec<_> = std::iter::once(HEADS.map(str::to_owned))
        .chain(rows(report, "-"))
        .collect();
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text.into_bytes()
}

/// The same columns with the names of the JSON output.
pub(super) fn csv(report: &Report) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(HEADS)?;
    for row in rows(report, "") {
        writer.write_record(row)?;
    }
    writer
        .into_inner()
        .map_err(|error| error.into_error().into())
}

fn rows(report: &Report, nothing: &str) -> impl Iterator<Item = [String; COLUMNS]> {
    report.rows().map(move |(day, user, sums)| {
        let Sums {
            tunnels,
            bytes_up,
            bytes_down,
            denied,
            failed,
            tls_versions,
            groups,
            max_gap_ms,
        } = sums;
        [
            day.to_owned(),
            user.to_owned(),
            tunnels.to_string(),
            bytes_up.to_string(),
            bytes_down.to_string(),
            counts(denied, nothing),
            counts(failed, nothing),
            counts(tls_versions, nothing),
            counts(groups, nothing),
            max_gap_ms.map_or(nothing.to_owned(), |gap| gap.to_string()),
        ]
    })
}

/// For example `host_denied=3,auth_failed=1`.
fn counts(counts: &Counts, nothing: &str) -> String {
    let text = counts
        .iter()
        .map(|(name, count)| format!("{name}={count}"))
        .collect::<Vec<_>>()
        .join(",");
    if text.is_empty() {
        nothing.to_owned()
    } else {
        text
    }
}

const COLUMNS: usize = 10;
const HEADS: [&str; COLUMNS] = [
    "day",
    "user",
    "tunnels",
    "bytes_up",
    "bytes_down",
    "denied",
    "failed",
    "tls_versions",
    "groups",
    "max_gap_ms",
];
