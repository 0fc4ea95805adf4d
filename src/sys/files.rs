//! Opens files with care (open(2)): never waits for another process at the other end. Files to be
//! written have to be regular ones and are never opened through a symbolic link.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{AccessFlags, access};

/// Opens a file to read and append. Creates a missing file with `mode`, whatever the umask.
///
/// # Errors
/// The error of open(2); `InvalidInput` if it is not a regular file.
pub fn open_to_append(path: &Path, mode: u32) -> io::Result<File> {
    open(OpenOptions::new().append(true), path, mode)
}

/// Opens a file like [`open_to_append`], to write anywhere in it.
///
/// # Errors
/// As [`open_to_append`].
pub fn open_to_write(path: &Path, mode: u32) -> io::Result<File> {
    open(OpenOptions::new().write(true), path, mode)
}

/// Opens a file to read it, through links. Does not wait for a writer of a FIFO (open(2), fifo(7)).
///
/// # Errors
/// The error of open(2).
pub fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
}

/// Whether the mount of this file is read-only (statvfs(3), `ST_RDONLY`).
///
/// # Errors
/// The error of fstatvfs(3).
pub fn is_on_read_only_mount(file: &File) -> io::Result<bool> {
    Ok(fstatvfs(file)?.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether this process may create files in a folder (access(2)).
#[must_use]
pub fn may_write_in(folder: &Path) -> bool {
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

fn open(options: &mut OpenOptions, path: &Path, mode: u32) -> io::Result<File> {
    options
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    let file = match options.clone().create_new(true).mode(mode).open(path) {
        Ok(made) => {
            made.set_permissions(Permissions::from_mode(mode))?;
            made
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path)?,
        Err(error) => return Err(error),
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}
