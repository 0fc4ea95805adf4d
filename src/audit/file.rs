//! The audit file. Appends lines, each a link of the chain (`audit/chain.rs`), and reopens the path
//! when the file is renamed or removed. Leaves only whole lines in the file; moves a line torn by a
//! crash into a file beside it, and never drops it.
//!
//! `FILE.chain` beside it says where the chain ends (`audit/memory.rs`): a new daemon needs this
//! after a rotation, and so does a verifier. It also holds the lock (flock(2)) that makes this
//! process the only writer. Never waits for that lock.

mod open;
mod recovery;

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::DaemonRecord;
use super::chain::Chain;
use super::line::append_json;
use super::memory::{Memory, Remembered};
use super::record::timestamp;
use open::open_locked;
pub use open::{OpenError, usable};

/// An audit file with this process as its only writer.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    file: File,
    /// Where the chain ends, on disk beside the file; holds the lock.
    memory: File,
    /// Where the chain ends.
    chain: Chain,
    /// The file's length after the last write.
    len: u64,
    /// Bytes after the last whole line that have to be moved aside first.
    torn: u64,
    /// Bytes that an interrupted write left after the last whole line.
    cut: u64,
    /// Records about the file itself, one JSON object each; they are written before all others.
    own: Vec<u8>,
    is_unsynced: bool,
    /// Whether another process may be the writer.
    is_released: bool,
}

/// The result of appending lines.
#[derive(Debug)]
pub(super) struct Appended {
    /// Bytes of the given lines that are in the file; whole lines only.
    pub(super) taken: usize,
    pub(super) result: io::Result<()>,
}

/// The end of one line in three buffers (the file's own records, the given lines, the sealed
/// lines), and the chain at that line.
#[derive(Clone, Copy)]
struct Mark {
    own: usize,
    given: usize,
    sealed: usize,
    chain: Chain,
}

impl AuditFile {
    /// Opens or creates the file, and finds the end of its chain.
    ///
    /// # Errors
    /// Why the file cannot be used.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let memory = recovery::open_memory(path)?;
        let remembered = Memory::read(&memory)?;
        let (file, tail) = open_locked(path)?;
        let mut opened = Self {
            path: path.to_owned(),
            file,
            memory,
            chain: tail.last.unwrap_or(match remembered {
                Remembered::Memory(memory) => memory.written,
                Remembered::Nothing | Remembered::Unreadable => Chain::default(),
            }),
            len: tail.len,
            torn: tail.torn,
            cut: 0,
            own: Vec::new(),
            is_unsynced: false,
            is_released: false,
        };
        opened.compare(tail.last, remembered);
        if remembered == Remembered::Nothing {
            // Reserves its disk space before the disk is full.
            let _best_effort = opened.remember(Memory::at(opened.chain));
        }
        Ok(opened)
    }

    /// Records how the end of the file differs from the remembered one.
    fn compare(&mut self, last: Option<Chain>, remembered: Remembered) {
        let chain = |cause| DaemonRecord::AuditChain {
            ts: timestamp(),
            cause,
        };
        match (last, remembered) {
            (None, Remembered::Memory(memory)) if memory.written.seq > 0 => {
                self.note_begin("restart")
            }
            (Some(last), Remembered::Memory(memory)) => {
                let altered = is_altered(last, memory.written) || is_altered(last, memory.next);
                let lost = memory.written.seq.saturating_sub(last.seq);
                if lost > 0 || altered {
                    self.note(DaemonRecord::AuditLoss {
                        ts: timestamp(),
                        lost,
                        altered,
                    });
                } else if last.seq > memory.next.seq {
                    self.note(chain("behind"));
                }
            }
            (Some(_), Remembered::Nothing) => self.note(chain("missing")),
            (_, Remembered::Unreadable) => self.note(chain("unreadable")),
            (None, Remembered::Memory(_) | Remembered::Nothing) => {}
        }
    }

    fn remember(&self, memory: Memory) -> io::Result<()> {
        self.memory.write_all_at(memory.text().as_bytes(), 0)
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the chain ends.
    pub(super) fn chain(&self) -> Chain {
        self.chain
    }

    /// Whether written bytes may not be on disk yet.
    pub(super) fn is_unsynced(&self) -> bool {
        self.is_unsynced
    }

    /// Flushes written bytes to disk (fdatasync(2)).
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.memory.sync_data()?;
        self.is_unsynced = false;
        Ok(())
    }

    /// Lets another process become the writer. From then on every write of this one fails.
    pub(super) fn release(&mut self) -> io::Result<()> {
        self.is_released = true;
        self.file.unlock()?;
        self.memory.unlock()
    }

    /// Appends records, one JSON object a line, as the next lines of the chain.
    pub(super) fn append(&mut self, records: &[u8]) -> Appended {
        match self.make_ready() {
            Ok(()) => self.write(records),
            Err(error) => Appended {
                taken: 0,
                result: Err(error),
            },
        }
    }

    /// Makes sure that the open file is the one at the path and ends with a whole line.
    fn make_ready(&mut self) -> io::Result<()> {
        if self.is_released {
            return Err(io::Error::other("it belongs to the next daemon"));
        }
        if self.cut > 0 {
            self.file.set_len(self.len)?;
            self.cut = 0;
        }
        let held = self.file.metadata()?;
        self.notice_truncation(&held);
        self.follow(&held)?;
        if self.torn > 0 {
            let kept_in = recovery::set_aside(&self.path, &self.file, self.torn)?;
            self.note(DaemonRecord::AuditTorn {
                ts: timestamp(),
                bytes: self.torn,
                kept_in,
            });
            self.torn = 0;
            self.len = self.file.metadata()?.len();
        }
        Ok(())
    }

    /// Detects a file that another process truncated in place. Called before each write, because a
    /// new record at that place would hide the loss.
    fn notice_truncation(&mut self, held: &Metadata) {
        if held.len() < self.len {
            self.torn = recovery::tail(&self.file).map_or(0, |tail| tail.torn);
            self.len = held.len();
            self.note_begin("truncated");
        }
    }

    /// Reopens the path if it names another file, or none. Called before each write: a shipper reads a
    /// renamed file once more and then leaves it.
    fn follow(&mut self, held: &Metadata) -> io::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Writes the memory too: a daemon that starts after a crash may find the new file empty.
        self.sync()?;
        let (file, tail) = open_locked(&self.path).map_err(|error| match error {
            OpenError::Io(error) => error,
            other => io::Error::other(other),
        })?;
        (self.file, self.len, self.torn) = (file, tail.len, tail.torn);
        self.note_begin(if held.nlink() == 0 {
            "removed"
        } else {
            "renamed"
        });
        Ok(())
    }

    /// Seals the lines and writes them. Cuts a partly written line off again and does not count it.
    fn write(&mut self, records: &[u8]) -> Appended {
        let (mut sealed, marks) = self.seal(records);
        let next = marks.last().map_or(self.chain, |mark| mark.chain);
        // Before the lines: a reader of both files then finds no line that the memory does not
        // cover.
        if let Err(error) = self.remember(Memory {
            written: self.chain,
            next,
        }) {
            return Appended {
                taken: 0,
                result: Err(error),
            };
        }
        let (written, result) = write_all(&mut self.file, &sealed);
        let whole = marks
            .iter()
            .rev()
            .find(|mark| mark.sealed <= written)
            .copied();
        let whole = whole.unwrap_or(Mark {
            own: 0,
            given: 0,
            sealed: 0,
            chain: self.chain,
        });
        self.chain = whole.chain;
        self.own.drain(..whole.own);
        self.len += whole.sealed as u64;
        self.is_unsynced |= whole.sealed > 0;
        self.cut = written.saturating_sub(whole.sealed) as u64;
        if self.cut > 0 && self.file.set_len(self.len).is_ok() {
            self.cut = 0;
        }
        // The next write reports the error again.
        let _best_effort = self.remember(Memory::at(self.chain));
        sealed.clear();
        Appended {
            taken: whole.given,
            result,
        }
    }

    fn seal(&self, records: &[u8]) -> (Vec<u8>, Vec<Mark>) {
        let (mut sealed, mut marks, mut chain) = (
            Vec::with_capacity(records.len() * 2),
            Vec::new(),
            self.chain,
        );
        let (mut own, mut given) = (0, 0);
        for line in self.own.split_inclusive(|byte| *byte == b'\n') {
            own += line.len();
            chain.seal(line.trim_ascii_end(), &mut sealed);
            marks.push(Mark {
                own,
                given,
                sealed: sealed.len(),
                chain,
            });
        }
        for line in records.split_inclusive(|byte| *byte == b'\n') {
            given += line.len();
            chain.seal(line.trim_ascii_end(), &mut sealed);
            marks.push(Mark {
                own,
                given,
                sealed: sealed.len(),
                chain,
            });
        }
        (sealed, marks)
    }

    fn note_begin(&mut self, cause: &'static str) {
        self.note(DaemonRecord::AuditFile {
            ts: timestamp(),
            cause,
        });
    }

    fn note(&mut self, record: DaemonRecord) {
        append_json(&record, &mut self.own);
    }
}

/// Whether the last line differs from the one written last.
fn is_altered(last: Chain, remembered: Chain) -> bool {
    last.seq == remembered.seq && last.hash != remembered.hash
}

/// The number of bytes written, and the error that ended the write.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}
