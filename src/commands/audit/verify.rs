//! `sealway audit verify FILE…`: proves the chain of audit files, given in the order they were written, or names the
//! first bad record.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::{open, print, unreadable};
use crate::audit::chain::{Hash, Link};
use crate::audit::verify::{Fault, LineEnd, Verifier, next_line};
use crate::commands::Trouble;

/// A line of a file.
#[derive(Clone)]
struct Place<'f> {
    file: &'f Path,
    /// From 1.
    line: u64,
}

/// Verifies.
///
/// # Errors
/// The first bad record, with file, line, seq and what is wrong; a file that cannot be read.
pub fn verify(files: &[PathBuf]) -> Result<(), Trouble> {
    let (mut verifier, mut line, mut before) = (Verifier::default(), Vec::new(), None);
    let mut notes = String::new();
    for (number, file) in files.iter().enumerate() {
        let mut reader = open(file)?;
        let mut place = Place { file, line: 0 };
        loop {
            place.line += 1;
            let judged = match next_line(&mut reader, &mut line).map_err(|error| unreadable(file, &error))? {
                LineEnd::Nothing => break,
                LineEnd::TooLong => Err(Fault::TooLong),
                LineEnd::CutOff if number + 1 == files.len() => {
                    let bytes = line.len();
                    notes += &format!(
                        "note: {place} is cut off after {bytes} bytes: a crash, or the daemon is writing it\n"
                    );
                    break;
                }
                LineEnd::CutOff => Err(Fault::CutOff),
                LineEnd::Whole => verifier.line(&line),
            };
            if let Err(fault) = judged {
                return Err(Trouble::Other(refuted(&fault, &place, before.as_ref(), &line, reader)));
            }
            before = Some(place.clone());
        }
    }
    let Some(proved) = verifier.proved() else {
        return Err(Trouble::Other("there is no record in these files, so nothing is proved".to_owned()));
    };
    if proved.first_seq > 1 {
        notes += &format!("note: records before seq {} are in files that were not given\n", proved.first_seq);
    }
    let (first, last) = (shown(&proved.first_ts), shown(&proved.last_ts));
    let (records, from, to, count) = (proved.records, proved.first_seq, proved.last_seq, files.len());
    print(
        format!("ok: {records} records, seq {from} to {to}, from {first} to {last}, in {count} file(s)\n{notes}")
            .as_bytes(),
    )
}

/// Names the bad record. Where a hash does not fit, it is the line before if the line behind vouches for this one.
fn refuted(
    fault: &Fault,
    place: &Place<'_>,
    before: Option<&Place<'_>>,
    line: &[u8],
    mut reader: impl BufRead,
) -> String {
    let mut next = Vec::new();
    match (fault, before) {
        (Fault::Broken { found }, Some(before))
            if next_line(&mut reader, &mut next).is_ok_and(|end| end == LineEnd::Whole)
                && Link::parse(&next).is_ok_and(|behind| behind.prev == Hash::of(line)) =>
        {
            format!("{before}: seq {}: it was changed: the record behind it has the hash of another line", found - 1)
        }
        (Fault::NoRecord(_) | Fault::CutOff | Fault::TooLong, Some(before)) => {
            format!("{place}: {fault}; the record before it, {before}, is the last one that is proved")
        }
        _ => format!("{place}: {fault}"),
    }
}

/// A time as a terminal may see it.
fn shown(ts: &str) -> String {
    ts.chars().take(TIME_CHARS).flat_map(char::escape_default).collect()
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// 2026-11-22T08:00:00.000000Z
const TIME_CHARS: usize = 27;
