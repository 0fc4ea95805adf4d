//! Opens an audit file for its only writer, or says why it cannot be one. Never waits for a lock.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use super::recovery::{self, Tail};
use crate::sys::files;

/// Why a path cannot be the audit file.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A symbolic link: a user who can change it would choose the file.
    #[error("it is a symbolic link: name the file that it leads to")]
    Link,
    /// Not a regular file.
    #[error("it is not a regular file")]
    NotRegular,
    /// The folder does not exist.
    #[error("its folder does not exist: create it, and let the daemon's user write to it")]
    NoFolder,
    /// Another process holds the lock.
    #[error("another process writes to it: each daemon needs a file of its own")]
    Held,
    /// The file holds something other than an audit chain.
    #[error(
        "its last line is not an audit record: move the file away, and the daemon creates a new one"
    )]
    Foreign,
    /// Any other error.
    #[error("it cannot be opened: {0}; let the daemon's user write to it and to its folder")]
    Io(#[from] io::Error),
}

impl OpenError {
    /// Whether the error persists until an operator changes something.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            // systemd makes a folder read-only that the unit may not write to.
            Self::Io(error) => [
                io::ErrorKind::PermissionDenied,
                io::ErrorKind::ReadOnlyFilesystem,
            ]
            .contains(&error.kind()),
            Self::Held => false,
            Self::Link | Self::NotRegular | Self::NoFolder | Self::Foreign => true,
        }
    }
}

/// Whether [`super::AuditFile::open`] would succeed. Creates nothing and ignores the lock.
///
/// # Errors
/// Why it would fail.
pub fn usable(path: &Path) -> Result<(), OpenError> {
    let folder = recovery::folder(path);
    if !folder.is_dir() {
        return Err(OpenError::NoFolder);
    }
    if path.is_symlink() {
        return Err(OpenError::Link);
    }
    // Before the open: opening a FIFO would wait for its other end.
    if path.exists() && !path.is_file() {
        return Err(OpenError::NotRegular);
    }
    match File::options().append(true).open(path) {
        Ok(_) => recovery::tail(&File::open(path)?).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound && files::may_write_in(folder) => {
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(io::Error::from(io::ErrorKind::PermissionDenied).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens the file without another process' lock, and finds how it ends. Makes sure that the
/// directory entry is on disk too.
pub(super) fn open_locked(path: &Path) -> Result<(File, Tail), OpenError> {
    let file =
        files::open_to_append(path, MODE).map_err(|error| recovery::in_words(path, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::Held),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    File::open(recovery::folder(path))?.sync_all()?;
    let tail = recovery::tail(&file)?;
    Ok((file, tail))
}

/// The daemon's user writes, its group reads.
pub(super) const MODE: u32 = 0o640;
