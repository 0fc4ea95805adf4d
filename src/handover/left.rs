//! The list of handed-over tunnels on disk. A daemon that finds it, and not the tunnels, records
//! that they are lost. Holds no payload.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::format::{DESCRIPTION_BYTES_MAX, Head, read_head};
use super::state::TunnelState;

/// Where the list is: in the first folder of systemd's `STATE_DIRECTORY`; None without systemd.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    let folders = std::env::var_os("STATE_DIRECTORY")?;
    let first = std::env::split_paths(&folders).next()?;
    first.is_absolute().then_some(first)
}

/// Writes the list.
///
/// # Errors
/// The folder is missing, not writable or full.
pub fn write(folder: &Path, lines: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    options.open(folder.join(NAME))?.write_all(lines)
}

/// Reads the list, as far as it is understood; None if there is none.
///
/// # Errors
/// It cannot be read.
pub fn read(folder: &Path) -> io::Result<Option<(Option<Head>, Vec<TunnelState>)>> {
    let mut bytes = Vec::new();
    match File::open(folder.join(NAME)) {
        Ok(file) => file.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let head = read_head(&bytes).ok();
    let lines = bytes.split(|byte| *byte == b'\n').skip(1);
    let tunnels = lines.filter_map(|line| serde_json::from_slice(line).ok());
    Ok(Some((head, tunnels.collect())))
}

/// Removes the list.
///
/// # Errors
/// It cannot be removed.
pub fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(folder.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

const NAME: &str = "handover.parked";
