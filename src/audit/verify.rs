//! Proves or refutes the chain of an audit file, line by line, in memory for two of them. Never trusts a line and never
//! prints one.

use std::io::{self, BufRead, Read};

use super::chain::{Hash, Link, NoRecord};

/// Follows a chain from its first line to its last.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    proved: Option<Proved>,
    last: Hash,
}

/// What was proved so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// How many records.
    pub records: u64,
    /// The number of the first one.
    pub first_seq: u64,
    /// The number of the last one.
    pub last_seq: u64,
    /// When the first one was made, as it says.
    pub first_ts: String,
    /// When the last one was made, as it says.
    pub last_ts: String,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It is something else.
    #[error("it is no audit record: {0}")]
    NoRecord(#[from] NoRecord),
    /// It has more than [`LINE_BYTES_MAX`].
    #[error("it is longer than any audit record: {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// Its line end is missing, and it is not the last one.
    #[error("it is cut off")]
    CutOff,
    /// Records before it are missing.
    #[error("seq {found} follows on seq {before}: records are missing in between")]
    Gap {
        /// The number that it has.
        found: u64,
        /// That of the line before.
        before: u64,
    },
    /// It is out of order, is there twice or belongs to another chain.
    #[error("seq {found} follows on seq {before}: it is out of order, there twice, or of another chain")]
    Order {
        /// The number that it has.
        found: u64,
        /// That of the line before.
        before: u64,
    },
    /// It is the first one, and says that others were before it in this file.
    #[error("seq {found} comes first, but no file begins with it: the records before it are missing")]
    Headless {
        /// The number that it has.
        found: u64,
    },
    /// It was not written behind the line before it.
    #[error("seq {found}: prev is not the hash of the line before: that line or this one was changed")]
    Broken {
        /// The number that it has.
        found: u64,
    },
}

/// How a line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnd {
    /// With a line end.
    Whole,
    /// With the end of the file.
    CutOff,
    /// Not within [`LINE_BYTES_MAX`].
    TooLong,
    /// There was none.
    Nothing,
}

impl Verifier {
    /// Takes the next line, without its end.
    ///
    /// # Errors
    /// What is wrong with it; nothing behind it can be proved then.
    pub fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let Link { seq, prev, event, ts } = Link::parse(line)?;
        match &mut self.proved {
            Some(proved) => {
                let (found, before) = (seq, proved.last_seq);
                if Some(found) != before.checked_add(1) {
                    return Err(if found > before {
                        Fault::Gap { found, before }
                    } else {
                        Fault::Order { found, before }
                    });
                }
                if prev != self.last {
                    return Err(Fault::Broken { found });
                }
                proved.records += 1;
                proved.last_seq = seq;
                proved.last_ts.clear();
                proved.last_ts.push_str(&ts);
            }
            None => {
                if seq == 1 && prev != Hash::default() {
                    return Err(Fault::Broken { found: seq });
                }
                if seq != 1 && event != BEGIN {
                    return Err(Fault::Headless { found: seq });
                }
                let ts = ts.into_owned();
                self.proved =
                    Some(Proved { records: 1, first_seq: seq, last_seq: seq, last_ts: ts.clone(), first_ts: ts });
            }
        }
        self.last = Hash::of(line);
        Ok(())
    }

    /// What was proved so far; None when there was no line.
    #[must_use]
    pub fn proved(&self) -> Option<&Proved> {
        self.proved.as_ref()
    }
}

/// Reads the next line in place of what `line` holds, without its end.
///
/// # Errors
/// What the reader says.
pub fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<LineEnd> {
    line.clear();
    let read = reader.take(LINE_BYTES_MAX + 1).read_until(b'\n', line)?;
    Ok(match line.last() {
        None => LineEnd::Nothing,
        Some(b'\n') => {
            line.pop();
            LineEnd::Whole
        }
        Some(_) if read as u64 > LINE_BYTES_MAX => LineEnd::TooLong,
        Some(_) => LineEnd::CutOff,
    })
}

/// The longest line that is read, its end not counted: many times what any record takes.
pub const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// The event of the first record in each file that carries on a chain.
const BEGIN: &str = "audit_file";

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
#[path = "verify/tests.rs"]
mod tests;
