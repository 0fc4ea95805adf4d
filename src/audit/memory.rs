//! The content of `FILE.chain` beside an audit file: where the chain ends now, and where it ends
//! after the write in progress. A daemon killed at any moment leaves a file that ends between the
//! two. Never trusts the bytes it reads, and never opens the audit file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::chain::Chain;
use crate::digest::Digest;

/// Two ends of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The last line known to be in the file.
    pub written: Chain,
    /// The last line that may be in the file.
    pub next: Chain,
}

/// What the path of `FILE.chain` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// No file, or an empty one.
    Nothing,
    /// Anything else.
    Unreadable,
    /// A valid memory.
    Memory(Memory),
}

/// How a file contradicts `FILE.chain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFault {
    /// The file lacks records that were written.
    #[error("it is ahead of the file: the records seq {from} to {to} were written and are gone")]
    Ahead {
        /// The first missing record.
        from: u64,
        /// The last missing record.
        to: u64,
    },
    /// The file has records that the daemon did not write.
    #[error(
        "it is behind the file: the records seq {from} to {to} were written by somebody else, or this is an older FILE.chain"
    )]
    Behind {
        /// The first such record.
        from: u64,
        /// The last such record.
        to: u64,
    },
    /// A record differs from the one written.
    #[error("its hash differs from that of the record seq {seq}: one of the two was changed")]
    Differs {
        /// The record's number.
        seq: u64,
    },
}

impl Memory {
    /// The memory of a chain without a write in progress.
    #[must_use]
    pub fn at(chain: Chain) -> Self {
        Self {
            written: chain,
            next: chain,
        }
    }

    /// The text of the file. Its length is constant, so that each write replaces all of it.
    #[must_use]
    pub fn text(&self) -> String {
        let line = |chain: Chain| format!("{:020} {}\n", chain.seq, chain.hash);
        line(self.written) + &line(self.next)
    }

    /// Parses the output of [`Memory::text`].
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
                hash: Digest::parse(hash)?,
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
    /// The error of the kernel.
    pub fn read(file: &File) -> io::Result<Remembered> {
        // One byte more than expected, to detect a longer file.
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

    /// Compares a file with `FILE.chain`, which was read before and after it, because the daemon
    /// may be writing to both. `end` is the last record that was read; `at_written` is the hash of
    /// the record `before.written` names, if it was read.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn judge(
        before: &Self,
        after: &Self,
        at_written: Option<Digest>,
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

/// The path of the memory of an audit file.
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
            hash: Digest::of(seq.to_be_bytes()),
        }
    }

    #[test]
    fn only_its_own_text_is_parsed() {
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
    fn a_file_ends_between_the_written_and_the_expected_length() {
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
            hash: Digest::default(),
        };
        assert_eq!(
            Memory::judge(&memory, &memory, None, other),
            Err(MemoryFault::Differs { seq: 9 })
        );
        let changed = Memory::judge(&memory, &memory, Some(Digest::default()), chain(8));
        assert_eq!(changed, Err(MemoryFault::Differs { seq: 7 }));
        // While the daemon writes.
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
