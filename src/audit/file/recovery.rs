//! Reads the end of an audit file, and the files beside it: the memory of the chain, and torn
//! lines.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memchr::memrchr;

use super::Chain;
use super::open::{MODE, OpenError};
use crate::audit::chain::Link;
use crate::audit::memory;
use crate::audit::record::timestamp;
use crate::audit::verify::LINE_BYTES_MAX;
use crate::digest::Digest;
use crate::sys::files;

/// How a file ends.
#[derive(Debug)]
pub(super) struct Tail {
    /// Its last record; None if there is none.
    pub(super) last: Option<Chain>,
    /// Bytes after that record.
    pub(super) torn: u64,
    /// Its length.
    pub(super) len: u64,
}

/// Finds the last record of a file. The bytes after it are the rest of a crash: half a line, or
/// zeros of a file system that stored the length but not the bytes.
pub(super) fn tail(file: &File) -> Result<Tail, OpenError> {
    let len = file.metadata()?.len();
    let from = len.saturating_sub(2 * LINE_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(len - from).unwrap_or(0)];
    file.read_exact_at(&mut bytes, from)?;
    let mut rest = bytes.as_slice();
    while let Some(end) = memrchr(b'\n', rest) {
        let before = rest.get(..end).unwrap_or_default();
        let start = memrchr(b'\n', before).map_or(0, |at| at + 1);
        let line = before.get(start..).unwrap_or_default();
        if let Ok(link) = Link::parse(line) {
            let torn = len - from - end as u64 - 1;
            return Ok(Tail {
                last: Some(Chain {
                    seq: link.seq,
                    hash: Digest::of(line),
                }),
                torn,
                len,
            });
        }
        rest = before;
    }
    // Only the beginning of a first line.
    if from == 0 && memrchr(b'\n', &bytes).is_none() {
        return Ok(Tail {
            last: None,
            torn: len,
            len,
        });
    }
    Err(OpenError::Foreign)
}

/// Moves the last `torn` bytes of the file into a new file beside it, and returns its name.
pub(super) fn set_aside(path: &Path, file: &File, torn: u64) -> io::Result<String> {
    let len = file.metadata()?.len();
    let from = len.saturating_sub(torn);
    let mut bytes = vec![0; usize::try_from(len - from).unwrap_or(0)];
    file.read_exact_at(&mut bytes, from)?;
    let kept = beside(
        path,
        &format!(".torn-{}", timestamp().replace([':', '-'], "")),
    );
    let mut writer = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&kept)?;
    if let Err(error) = writer.write_all(&bytes).and_then(|()| writer.sync_all()) {
        // A partial copy is useless, and the original is still in place.
        let _is_no_worse = fs::remove_file(&kept);
        return Err(error);
    }
    file.set_len(from)?;
    Ok(kept.display().to_string())
}

/// Opens the memory of the chain and locks it.
pub(super) fn open_memory(path: &Path) -> Result<File, OpenError> {
    if !folder(path).is_dir() {
        return Err(OpenError::NoFolder);
    }
    let place = memory::beside(path);
    let memory = files::open_to_write(&place, MODE).map_err(|error| in_words(&place, error))?;
    match memory.try_lock() {
        Ok(()) => Ok(memory),
        Err(TryLockError::WouldBlock) => Err(OpenError::Held),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Describes why a file cannot be opened.
pub(super) fn in_words(path: &Path, error: io::Error) -> OpenError {
    match error.kind() {
        _ if path.is_symlink() => OpenError::Link,
        io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => OpenError::NotRegular,
        io::ErrorKind::NotFound => OpenError::NoFolder,
        _ => OpenError::Io(error),
    }
}

/// The folder of a file.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// The path of a file with a suffix added to its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
