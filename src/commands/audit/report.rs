//! `sealway audit report FILE…`: what each user did on each day, as text, CSV or JSON. Does not
//! verify the records.

use std::path::PathBuf;

use serde::Serialize;

use super::{open, print, table, unreadable};
use crate::audit::report::{Report, Sums};
use crate::audit::verify::{LineEnd, next_line};
use crate::commands::Trouble;

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns.
    Text,
    /// CSV (RFC 4180).
    Csv,
    /// One JSON array.
    Json,
}

#[derive(Serialize)]
struct Row<'r> {
    day: &'r str,
    user: &'r str,
    #[serde(flatten)]
    sums: &'r Sums,
}

/// Reports.
///
/// # Errors
/// A file cannot be read.
pub fn report(files: &[PathBuf], format: Format) -> Result<(), Trouble> {
    let (mut report, mut line) = (Report::default(), Vec::new());
    for file in files {
        let mut reader = open(file)?;
        loop {
            match next_line(&mut reader, &mut line).map_err(|error| unreadable(file, &error))? {
                LineEnd::Nothing => break,
                LineEnd::Whole | LineEnd::CutOff => report.line(&line),
                // The parts of an overlong line are not records either.
                LineEnd::TooLong => report.skipped += 1,
            }
        }
    }
    let text = match format {
        Format::Text => table::text(&report),
        Format::Csv => table::csv(&report).map_err(|error| Trouble::Other(error.to_string()))?,
        Format::Json => json(&report),
    };
    print(&text)?;
    if report.skipped > 0 {
        eprintln!(
            "sealway: warning: {} lines are not audit records and are left out",
            report.skipped
        );
    }
    if report.left_out > 0 {
        eprintln!(
            "sealway: warning: {} records of further users and days are left out",
            report.left_out
        );
    }
    Ok(())
}

fn json(report: &Report) -> Vec<u8> {
    let rows: Vec<_> = report
        .rows()
        .map(|(day, user, sums)| Row { day, user, sums })
        .collect();
    // Fails only for maps whose keys are not strings.
    let mut text = serde_json::to_vec_pretty(&rows).unwrap_or_default();
    text.push(b'\n');
    text
}

impl std::str::FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            _ => Err("the formats are text, csv and json"),
        }
    }
}
