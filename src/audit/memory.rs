//! What `FILE.chain` beside an audit file says: where the chain ends, and where it ends once the lines that are being written
//! are in the file. So a daemon that is killed at any moment leaves a file that ends between the two. Never trusts what it
//! reads, and never opens the audit file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::chain::{Chain, Hash};

/// Two ends of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The last line that is in the file.
    pub written: Chain,
    /// The last line that may be.
    pub next: Chain,
}

/// What was found in the place of `FILE.chain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// Nothing, or an empty file.
    Nothing,
    /// Something else.
    Unreadable,
    /// The memory of a chain.
    Memory(Memory),
}

/// Why a file is not what `FILE.chain` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFault {
    /// Records that were written are not in the file.
    #[error("it is ahead of the file: the records seq {from} to {to} were written and are gone")]
    Ahead {
        /// The first one.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// Records are in the file that were not written by the daemon.
    #[error(
        "it is behind the file: the records seq {from} to {to} were written by somebody else, or this is an older FILE.chain"
    )]
    Behind {
        /// The first one.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// A record is another one than was written.
    #[error("it has another hash than the record seq {seq}: one of the two was changed")]
    Differs {
        /// The number of the record.
        seq: u64,
    },
}

impl Memory {
    /// A chain of which everything is written.
    #[must_use]
    pub fn at(chain: Chain) -> Self {
        Self {
            written: chain,
            next: chain,
        }
    }

    /// As it stands in the file: always as long, so that it is replaced whole.
    #[must_use]
    pub fn text(&self) -> String {
        let line = |chain: Chain| format!("{:020} {}\n", chain.seq, chain.hash);
        line(self.written) + &line(self.next)
    }

    /// Reads what [`Memory::text`] has made.
    #[must_use]
    pub fn parse(text: &[u8]) -> Remembered {
        if text.is_empty() {
            return Remembered::Nothing;
        }
        let line = |line: &[u8]| -> Option<Chain> {
            let (seq, hash) = std::str::from_utf8(line)
                .ok()?
                .strip_suffix('\n')?
                .split_once(' ')?;
            Some(Chain {
                seq: seq.parse().ok()?,
                hash: Hash::parse(hash)?,
            })
        };
        let memory = text
            .split_at_checked(LINE_BYTES)
            .and_then(|(written, next)| {
                Some(Self {
                    written: line(written)?,
                    next: line(next)?,
                })
                .filter(|memory| memory.written.seq <= memory.next.seq)
            });
        memory.map_or(Remembered::Unreadable, Remembered::Memory)
    }

    /// Reads an open `FILE.chain`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(file: &File) -> io::Result<Remembered> {
        // One byte more than there should be.
        let mut text = [0; 2 * LINE_BYTES + 1];
        let mut length = 0;
        while let Some(rest) = text.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self::parse(text.get(..length).unwrap_or_default()))
    }

    /// Judges a file by what `FILE.chain` said before and after the file was read, for the daemon may be writing to both. `end`
    /// is the last record that was read, and `at_written` the hash of the one that `before.written` names, if it was read.
    ///
    /// # Errors
    /// What does not fit.
    pub fn judge(
        before: &Self,
        after: &Self,
        at_written: Option<Hash>,
        end: Chain,
    ) -> Result<(), MemoryFault> {
        if before.written.seq > end.seq {
            return Err(MemoryFault::Ahead {
                from: end.seq + 1,
                to: before.written.seq,
            });
        }
        if at_written.is_some_and(|hash| hash != before.written.hash) {
            return Err(MemoryFault::Differs {
                seq: before.written.seq,
            });
        }
        if end.seq > after.next.seq {
            return Err(MemoryFault::Behind {
                from: after.next.seq + 1,
                to: end.seq,
            });
        }
        if end.seq == after.next.seq && end.hash != after.next.hash {
            return Err(MemoryFault::Differs { seq: end.seq });
        }
        Ok(())
    }
}

/// Where the memory of an audit file is.
#[must_use]
pub fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".chain");
    name.into()
}

/// Twenty digits, a space, 64 digits, a line end.
const LINE_BYTES: usize = 86;

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(seq: u64) -> Chain {
        Chain {
            seq,
            hash: Hash::of(&seq.to_be_bytes()),
        }
    }

    #[test]
    fn its_text_is_read_and_no_other() {
        let memory = Memory {
            written: chain(7),
            next: chain(9),
        };
        let text = memory.text();
        assert_eq!(
            (text.len(), Memory::parse(text.as_bytes())),
            (172, Remembered::Memory(memory))
        );
        assert_eq!(Memory::parse(b""), Remembered::Nothing);
        for cut in 1..text.len() {
            assert_eq!(
                Memory::parse(text.as_bytes().get(..cut).unwrap_or_default()),
                Remembered::Unreadable,
                "{cut}"
            );
        }
        let backwards = Memory {
            written: chain(9),
            next: chain(7),
        }
        .text();
        for bad in [
            format!("{text}x"),
            text.replace(' ', "x"),
            text.to_uppercase(),
            "0".repeat(172),
            backwards,
        ] {
            assert_eq!(
                Memory::parse(bad.as_bytes()),
                Remembered::Unreadable,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_file_ends_between_what_was_written_and_what_was_to_be() {
        let memory = Memory {
            written: chain(7),
            next: chain(9),
        };
        let judge = |end: u64| {
            Memory::judge(
                &memory,
                &memory,
                (end >= 7).then_some(chain(7).hash),
                chain(end),
            )
        };
        assert_eq!(judge(6), Err(MemoryFault::Ahead { from: 7, to: 7 }));
        assert_eq!([7, 8, 9].map(judge), [Ok(()); 3]);
        assert_eq!(judge(11), Err(MemoryFault::Behind { from: 10, to: 11 }));
        let other = Chain {
            seq: 9,
            hash: Hash::default(),
        };
        assert_eq!(
            Memory::judge(&memory, &memory, None, other),
            Err(MemoryFault::Differs { seq: 9 })
        );
        let changed = Memory::judge(&memory, &memory, Some(Hash::default()), chain(8));
        assert_eq!(changed, Err(MemoryFault::Differs { seq: 7 }));
        // While the daemon goes on writing.
        assert_eq!(
            Memory::judge(
                &memory,
                &Memory::at(chain(20)),
                Some(chain(7).hash),
                chain(12)
            ),
            Ok(())
        );
    }
}
