//! Restricts the file system for the running daemon: it can reach its configuration and the files
//! named there, the resolver's files, the kernel's data about the process, the folder of the audit
//! file, and the state folder of the service.

use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::config::Config;
use crate::config::allow_files::Pattern;
use crate::handover::left;
use crate::resolve::SystemFile;
use crate::sys::confine::{Confinement, RESOLVER_FOLDERS, confine, folders_of, lasting_folders_of};

/// The result, to be logged once a log exists.
pub(super) struct Confined {
    result: io::Result<Confinement>,
    readable: Vec<PathBuf>,
    writable: Vec<PathBuf>,
}

/// Applies the restriction, as far as the kernel supports it.
pub(super) fn enter(config: &Config, path: Option<&Path>) -> Confined {
    // Files that a pattern matches may be links into other folders.
    let found = |pattern: &Pattern| pattern.files().unwrap_or_default();
    let own = path.map(nearest_folder);
    let mut readable: Vec<PathBuf> = config
        .files
        .iter()
        .flat_map(|pattern| [vec![pattern.path().to_owned()], found(pattern)].concat())
        .flat_map(|file| of_configuration(&file, own.as_deref()))
        .collect();
    let resolver = [SystemFile::ResolvConf, SystemFile::Hosts];
    readable.extend(
        resolver
            .iter()
            .flat_map(|file| lasting_folders_of(Path::new(file.path()))),
    );
    readable.extend(
        RESOLVER_FOLDERS
            .map(PathBuf::from)
            .into_iter()
            .filter(|folder| folder.is_dir()),
    );
    readable.extend(KERNEL.map(PathBuf::from));
    let mut writable = config
        .audit_file
        .as_deref()
        .map(folders_of)
        .unwrap_or_default();
    // For the list of handed-over tunnels.
    writable.extend(left::folder());
    let (readable, writable) = (unlike(readable), unlike(writable));
    Confined {
        result: confine(&readable, &writable),
        readable,
        writable,
    }
}

/// Logs the result.
pub(super) fn report(confined: &Confined) {
    let shown = |folders: &[PathBuf]| {
        folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let (readable, writable) = (shown(&confined.readable), shown(&confined.writable));
    match &confined.result {
        Ok(Confinement::Full) => info!(readable, writable, "Landlock restricts the file system"),
        Ok(Confinement::Partial) => {
            info!(
                readable,
                writable, "Landlock restricts the file system as far as this kernel supports it"
            )
        }
        Ok(Confinement::None) => {
            info!(
                "this kernel has no Landlock: only permissions and the systemd unit restrict the file system"
            )
        }
        Err(error) => {
            warn!(%error, "Landlock failed: only permissions and the systemd unit restrict the file system")
        }
    }
}

/// The folders for one file of the configuration, whose own folder is `own`. An operator may replace the folder of a file or
/// create it later; its new inode is then readable only beneath a folder that lasts. A file in `own` or a folder of it needs no
/// more than `own`, and systemd replaces the folder of credentials only at a restart.
fn of_configuration(file: &Path, own: Option<&Path>) -> Vec<PathBuf> {
    let mut folders = folders_of(file);
    let is_own = own.is_some_and(|own| nearest_folder(file).starts_with(own));
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let is_credential = credentials.is_some_and(|folder| file.starts_with(folder));
    if !is_credential && (!is_own || file.is_symlink()) {
        folders.extend(lasting_folders_of(&absolute(file)));
    }
    folders
}

/// The folder of a file, without links, or the nearest one above it that exists.
fn nearest_folder(file: &Path) -> PathBuf {
    let file = absolute(file);
    let existing = file
        .ancestors()
        .skip(1)
        .find_map(|folder| folder.canonicalize().ok());
    existing.unwrap_or_default()
}

fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

/// Each existing folder once: the others cannot be opened, so the log must not name them.
fn unlike(mut folders: Vec<PathBuf>) -> Vec<PathBuf> {
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    folders.dedup();
    folders
}

/// The kernel's data about this process, its cores and its ports.
const KERNEL: [&str; 2] = ["/proc", "/sys/fs/cgroup"];
