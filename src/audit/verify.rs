//! Verifies the chain of an audit file line by line, with two lines in memory. Never trusts a line
//! and never prints one.

use std::io::{self, BufRead, Read};

use super::chain::{Chain, Link, NoRecord};
use crate::digest::Digest;

/// Follows a chain from its first line to its last.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    proved: Option<Proved>,
    last: Digest,
    allows_removed: bool,
    notes: Vec<String>,
}

/// What has been verified so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// The number of records.
    pub records: u64,
    /// The number of the first record.
    pub first_seq: u64,
    /// The number of the last record.
    pub last_seq: u64,
    /// The first record's time.
    pub first_ts: String,
    /// The last record's time.
    pub last_ts: String,
}

/// A fault of a line.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Not a record of a chain.
    #[error("it is not an audit record: {0}")]
    NoRecord(#[from] NoRecord),
    /// Longer than [`LINE_BYTES_MAX`].
    #[error("it is longer than any audit record: {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// No line end, and not the last line.
    #[error("it is truncated")]
    CutOff,
    /// Records are missing before it.
    #[error("seq {found} follows seq {before}: the records in between are missing")]
    Gap {
        /// Its number.
        found: u64,
        /// The number of the line before.
        before: u64,
    },
    /// Out of order, duplicated, or from another chain.
    #[error(
        "seq {found} follows seq {before}: it is out of order, a duplicate, or from another chain"
    )]
    Order {
        /// Its number.
        found: u64,
        /// The number of the line before.
        before: u64,
    },
    /// The first line, although it says that others preceded it in this file.
    #[error(
        "seq {found} is the first record, but no file begins with it: the records before it are missing"
    )]
    Headless {
        /// Its number.
        found: u64,
    },
    /// The file before it was removed and is not among the given files.
    #[error(
        "seq {found}: {why}, and the records seq {from} to {to} are not in the files that were given"
    )]
    Removed {
        /// Its number.
        found: u64,
        /// What happened to the file.
        why: &'static str,
        /// The first missing record.
        from: u64,
        /// The last missing record.
        to: u64,
    },
    /// At the start of the daemon the file did not end as it was written.
    #[error(
        "seq {found}: {lost} records before it were gone, or the last of them was changed, when the daemon started"
    )]
    Lost {
        /// Its number.
        found: u64,
        /// How many records.
        lost: u64,
    },
    /// At the start of the daemon nothing said how the file should end.
    #[error(
        "seq {found}: FILE.chain was {cause} when the daemon started, so records before it may be missing or written by somebody else"
    )]
    Unvouched {
        /// Its number.
        found: u64,
        /// The fault of `FILE.chain`.
        cause: &'static str,
    },
    /// It does not continue the line before it.
    #[error(
        "seq {found}: prev is not the hash of the line before: that line or this one was changed"
    )]
    Broken {
        /// Its number.
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
    /// No line was left.
    Nothing,
}

impl Verifier {
    /// A verifier that notes recorded removals and losses, and continues.
    #[must_use]
    pub fn allowing_removed() -> Self {
        Self {
            allows_removed: true,
            ..Self::default()
        }
    }

    /// Takes the next line, without its line end.
    ///
    /// # Errors
    /// The fault of the line; nothing after it can be verified then.
    pub fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let link = Link::parse(line)?;
        self.follows(&link)?;
        self.incident(&link)?;
        let Link { seq, ts, .. } = link;
        match &mut self.proved {
            Some(proved) => {
                proved.records += 1;
                proved.last_seq = seq;
                proved.last_ts.clear();
                proved.last_ts.push_str(&ts);
            }
            None => {
                let ts = ts.into_owned();
                self.proved = Some(Proved {
                    records: 1,
                    first_seq: seq,
                    last_seq: seq,
                    last_ts: ts.clone(),
                    first_ts: ts,
                });
            }
        }
        self.last = Digest::of(line);
        Ok(())
    }

    /// Whether the line continues the lines before it.
    fn follows(&mut self, link: &Link<'_>) -> Result<(), Fault> {
        let found = link.seq;
        let before = self.proved.as_ref().map(|proved| proved.last_seq);
        let from = before.unwrap_or_default().saturating_add(1);
        if found < from || before == Some(found) {
            return Err(Fault::Order {
                found,
                before: before.unwrap_or_default(),
            });
        }
        if found == from {
            return if link.prev == self.last {
                Ok(())
            } else {
                Err(Fault::Broken { found })
            };
        }
        match (removal(link), before) {
            (Some(why), _) => self.excuse(Fault::Removed {
                found,
                why,
                from,
                to: found - 1,
            }),
            // The rest of a chain whose earlier files are kept elsewhere.
            (None, None) if link.event == BEGIN => Ok(()),
            (None, None) => Err(Fault::Headless { found }),
            (None, Some(before)) => Err(Fault::Gap { found, before }),
        }
    }

    /// Judges what the daemon has detected and recorded itself.
    fn incident(&mut self, link: &Link<'_>) -> Result<(), Fault> {
        let found = link.seq;
        match link.event.as_ref() {
            LOSS => self.excuse(Fault::Lost {
                found,
                lost: link.lost.unwrap_or_default(),
            }),
            CHAIN => {
                let causes = ["missing", "unreadable", "behind"];
                let cause = causes
                    .into_iter()
                    .find(|cause| link.cause.as_deref() == Some(*cause));
                self.excuse(Fault::Unvouched {
                    found,
                    cause: cause.unwrap_or("wrong"),
                })
            }
            _ => Ok(()),
        }
    }

    fn excuse(&mut self, fault: Fault) -> Result<(), Fault> {
        if !self.allows_removed {
            return Err(fault);
        }
        if self.notes.len() < NOTES_MAX {
            self.notes.push(fault.to_string());
        }
        Ok(())
    }

    /// The noted faults, at most a hundred.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The end of the verified part.
    #[must_use]
    pub fn end(&self) -> Option<Chain> {
        self.proved.as_ref().map(|proved| Chain {
            seq: proved.last_seq,
            hash: self.last,
        })
    }

    /// What has been verified; None if there was no line.
    #[must_use]
    pub fn proved(&self) -> Option<&Proved> {
        self.proved.as_ref()
    }
}

/// What happened to the file before, if a record says that it was not kept.
fn removal(link: &Link<'_>) -> Option<&'static str> {
    match link.cause.as_deref().filter(|_| link.event == BEGIN)? {
        "removed" => Some("the file before it was removed while the daemon ran"),
        "truncated" => Some("the file was truncated while the daemon ran"),
        "restart" => Some("the file before it was gone when the daemon started"),
        _ => None,
    }
}

/// Reads the next line into `line`, without its line end.
///
/// # Errors
/// The error of the reader.
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

/// The longest line accepted, without its line end: many times the longest record.
pub const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// The event of the first record in each file that continues a chain.
const BEGIN: &str = "audit_file";
/// Records were missing at the end of the file.
const LOSS: &str = "audit_loss";
/// `FILE.chain` did not say where the file ends.
const CHAIN: &str = "audit_chain";
/// The most faults noted; a file can hold any number.
const NOTES_MAX: usize = 100;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
#[path = "verify/tests.rs"]
mod tests;
