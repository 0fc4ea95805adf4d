//! `sealway audit verify FILE…`: verifies the chain of audit files, given in the order in which
//! they were written, or names the first bad record or the missing records.

use std::fs::File;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{open, print, unreadable};
use crate::audit::chain::Link;
use crate::audit::memory::{Memory, Remembered, beside};
use crate::audit::verify::{Fault, LineEnd, Verifier, next_line};
use crate::commands::Trouble;
use crate::digest::Digest;

/// Faults to accept.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Removed, truncated and lost records that the daemon has recorded.
    pub removed: bool,
    /// A missing `FILE.chain` beside the last file.
    pub no_chain_file: bool,
}

/// A line of a file.
#[derive(Clone)]
struct Position<'f> {
    file: &'f Path,
    /// From 1.
    line: u64,
}

/// The result of reading all files.
struct Reading {
    verifier: Verifier,
    /// The hash of the record that `FILE.chain` names.
    at_written: Option<Digest>,
    notes: String,
}

/// Verifies.
///
/// # Errors
/// The first bad record with file, line, seq and fault; missing records; a file that cannot be
/// read.
pub fn verify(files: &[PathBuf], allowed: Allowed) -> Result<(), Trouble> {
    // Read before the file: if the daemon is writing, the file then has more than this says.
    let chain_file = files
        .last()
        .filter(|file| !allowed.no_chain_file && file.is_file())
        .map(|file| beside(file));
    let before = chain_file.as_deref().map(remembered).transpose()?;
    let verifier = if allowed.removed {
        Verifier::allowing_removed()
    } else {
        Verifier::default()
    };
    let mut reading = Reading {
        verifier,
        at_written: None,
        notes: String::new(),
    };
    reading.take(files, before.as_ref())?;
    let Reading {
        verifier,
        at_written,
        mut notes,
    } = reading;
    let (Some(proved), Some(end)) = (verifier.proved(), verifier.end()) else {
        return Err(Trouble::Other(nothing_in_them(
            chain_file.as_deref().zip(before),
        )));
    };
    if let Some((place, before)) = chain_file.as_deref().zip(before) {
        let judged = Memory::judge(&before, &remembered(place)?, at_written, end);
        judged.map_err(|fault| Trouble::Other(format!("{}: {fault}", place.display())))?;
    }
    if proved.first_seq > 1 {
        notes += &format!(
            "note: records before seq {} are in files that were not given\n",
            proved.first_seq
        );
    }
    verifier
        .notes()
        .iter()
        .for_each(|note| notes += &format!("note: {note}\n"));
    if chain_file.is_none() {
        notes += "note: without FILE.chain the newest records may be gone unnoticed\n";
    }
    let (first, last) = (shown(&proved.first_ts), shown(&proved.last_ts));
    let (records, from, to, count) = (
        proved.records,
        proved.first_seq,
        proved.last_seq,
        files.len(),
    );
    print(
        format!("ok: {records} records, seq {from} to {to}, from {first} to {last}, in {count} file(s)\n{notes}")
            .as_bytes(),
    )
}

impl Reading {
    /// Reads every line of every file.
    fn take(&mut self, files: &[PathBuf], memory: Option<&Memory>) -> Result<(), Trouble> {
        let (mut line, mut before) = (Vec::new(), None);
        for (number, file) in files.iter().enumerate() {
            let mut reader = open(file)?;
            let mut position = Position { file, line: 0 };
            loop {
                position.line += 1;
                let judged = match next_line(&mut reader, &mut line)
                    .map_err(|error| unreadable(file, &error))?
                {
                    LineEnd::Nothing => break,
                    LineEnd::TooLong => Err(Fault::TooLong),
                    LineEnd::CutOff if number + 1 == files.len() => {
                        self.notes += &format!(
                            "note: {position} is truncated after {} bytes: the daemon crashed, or is writing it now\n",
                            line.len()
                        );
                        break;
                    }
                    LineEnd::CutOff => Err(Fault::CutOff),
                    LineEnd::Whole => self.verifier.line(&line),
                };
                if let Err(fault) = judged {
                    return Err(Trouble::Other(refuted(
                        &fault,
                        &position,
                        before.as_ref(),
                        &line,
                        reader,
                    )));
                }
                let end = self.verifier.end();
                if let Some(end) =
                    end.filter(|end| memory.is_some_and(|memory| memory.written.seq == end.seq))
                {
                    self.at_written = Some(end.hash);
                }
                before = Some(position.clone());
            }
        }
        Ok(())
    }
}

/// The content of `FILE.chain`.
fn remembered(place: &Path) -> Result<Memory, Trouble> {
    let named = |what: &str| Trouble::Other(format!("{}: it {what}", place.display()));
    for _ in 0..TRIES {
        let found = match File::open(place) {
            Ok(file) => Memory::read(&file).map_err(|error| unreadable(place, &error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Remembered::Nothing,
            Err(error) => return Err(unreadable(place, &error)),
        };
        match found {
            Remembered::Memory(memory) => return Ok(memory),
            Remembered::Nothing if !place.exists() => return Err(named(MISSING)),
            // The daemon may be writing it.
            Remembered::Nothing | Remembered::Unreadable => std::thread::sleep(PAUSE),
        }
    }
    Err(named(
        "does not say where the chain ends: it was truncated or edited",
    ))
}

fn nothing_in_them(memory: Option<(&Path, Memory)>) -> String {
    let nothing = "these files contain no record, so nothing is proved";
    match memory.filter(|(_, memory)| memory.written.seq > 0) {
        Some((place, memory)) => {
            format!(
                "{nothing}; {} says that {} records were written",
                place.display(),
                memory.written.seq
            )
        }
        None => nothing.to_owned(),
    }
}

/// Names the bad record. If a hash does not match, it is the line before, provided that the line
/// after confirms this one.
fn refuted(
    fault: &Fault,
    position: &Position<'_>,
    before: Option<&Position<'_>>,
    line: &[u8],
    mut reader: impl BufRead,
) -> String {
    let mut next = Vec::new();
    match (fault, before) {
        (Fault::Broken { found }, Some(before))
            if next_line(&mut reader, &mut next).is_ok_and(|end| end == LineEnd::Whole)
                && Link::parse(&next).is_ok_and(|behind| behind.prev == Digest::of(line)) =>
        {
            format!(
                "{before}: seq {}: it was changed: the record after it has the hash of another line",
                found - 1
            )
        }
        (Fault::Removed { .. } | Fault::Lost { .. } | Fault::Unvouched { .. }, _) => {
            format!("{position}: {fault}; add the files that contain them, or use --allow-removed")
        }
        (Fault::NoRecord(_) | Fault::CutOff | Fault::TooLong, Some(before)) => {
            format!("{position}: {fault}; the record before it, {before}, is the last proved one")
        }
        _ => format!("{position}: {fault}"),
    }
}

/// A time that is safe for a terminal.
fn shown(ts: &str) -> String {
    ts.chars()
        .take(TIME_CHARS)
        .flat_map(char::escape_default)
        .collect()
}

impl std::fmt::Display for Position<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

const MISSING: &str = "is missing, so the newest records may be gone too; for a rotated file or a copy without it use --no-chain-file";
/// Between attempts to read a memory that is being written.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_millis(10);
/// 2026-11-22T08:00:00.000000Z
const TIME_CHARS: usize = 27;
