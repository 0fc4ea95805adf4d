//! Opens files with care (open(2)): never waits for another process at the other end. Files to be
//! written have to be regular ones and are never opened through a symbolic link.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::statvfs::{FsFlags, fstatvfs, statvfs};
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

/// The bytes that an unprivileged process may still write to the file system of this path (statvfs(3)).
///
/// # Errors
/// The error of statvfs(3).
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let system = statvfs(path)?;
    Ok(system
        .blocks_available()
        .saturating_mul(system.fragment_size()))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    /// A process that can write in the folder could otherwise choose the file that the daemon writes.
    #[test]
    fn a_file_to_be_written_is_a_regular_one_and_no_link_leads_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("target"), "kept").unwrap();
        symlink("target", at("link")).unwrap();
        symlink("nothing", at("dangling")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        for name in ["link", "dangling", "pipe", "folder"] {
            assert!(open_to_append(&at(name), 0o640).is_err(), "{name}");
            assert!(open_to_write(&at(name), 0o640).is_err(), "{name}");
        }
        assert!(!at("nothing").exists());
        assert_eq!(std::fs::read_to_string(at("target")).unwrap(), "kept");
    }

    #[test]
    fn a_new_file_has_its_mode_and_an_old_one_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        std::fs::write(&old, "x").unwrap();
        std::fs::set_permissions(&old, Permissions::from_mode(0o600)).unwrap();
        // A mode that every usual umask(2) would narrow.
        for (path, wanted) in [(&new, 0o662), (&old, 0o600)] {
            let file = open_to_append(path, 0o662).unwrap();
            assert_eq!(file.metadata().unwrap().mode() & 0o777, wanted, "{path:?}");
        }
    }
}
