//! Files that are opened with care (open(2)), never waiting for anybody at the other end; those that are written are
//! regular ones, and never reached through a symbolic link.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{AccessFlags, access};

/// Opens a file to append to it, and to read. One that is not there is made with `mode`, whatever the umask.
///
/// # Errors
/// What open(2) said; `InvalidInput` for what is no regular file.
pub fn open_to_append(path: &Path, mode: u32) -> io::Result<File> {
    open(OpenOptions::new().append(true), path, mode)
}

/// The same to write anywhere in it.
///
/// # Errors
/// As [`open_to_append`].
pub fn open_to_write(path: &Path, mode: u32) -> io::Result<File> {
    open(OpenOptions::new().write(true), path, mode)
}

/// Opens a file to read it, through links; what waits for somebody at the other end does not wait (open(2), fifo(7)).
///
/// # Errors
/// What open(2) said.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
}

/// Whether nothing on the mount of this file can be changed through it (statvfs(3), `ST_RDONLY`).
///
/// # Errors
/// What fstatvfs(3) said.
pub fn is_on_read_only_mount(file: &File) -> io::Result<bool> {
    Ok(fstatvfs(file)?.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether this process may make files in a folder (access(2)).
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
