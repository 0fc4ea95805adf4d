//! The list of handed-over tunnels on disk. A daemon that finds it, and not the tunnels, records
//! that they are lost. Holds no payload.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use super::format::{DESCRIPTION_BYTES_MAX, lines};
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
pub fn write(folder: &Path, parts: &[Vec<u8>]) -> io::Result<()> {
    let mut is_own = IS_OWN.lock().unwrap_or_else(PoisonError::into_inner);
    *is_own = true;
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(folder.join(NAME))?;
    parts.iter().try_for_each(|part| file.write_all(part))
}

/// What tells one tunnel from others.
#[derive(Deserialize)]
struct Named<'l> {
    #[serde(borrow)]
    id: Cow<'l, str>,
}

/// Returns the tunnels of the list that are not among those that came, as far as it is understood;
/// None if there is no list.
///
/// # Errors
/// It cannot be read.
pub fn missing(folder: &Path, came: &HashSet<String>) -> io::Result<Option<Vec<TunnelState>>> {
    let mut bytes = Vec::new();
    match File::open(folder.join(NAME)) {
        Ok(file) => file.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let has_come = |line: &&[u8]| {
        serde_json::from_slice::<Named<'_>>(line).is_ok_and(|named| came.contains(&*named.id))
    };
    let missing = lines(&bytes).skip(1).filter(|line| !has_come(line));
    let missing = missing.filter_map(|line| serde_json::from_slice(line).ok());
    Ok(Some(missing.collect()))
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

/// Removes the list of the former daemon, unless this one has written its own in that place meanwhile.
///
/// # Errors
/// It cannot be removed.
pub fn remove_former(folder: &Path) -> io::Result<()> {
    let is_own = IS_OWN.lock().unwrap_or_else(PoisonError::into_inner);
    if *is_own { Ok(()) } else { remove(folder) }
}

/// Whether this process has written a list. Locked while it writes one, and while it removes the former one.
static IS_OWN: Mutex<bool> = Mutex::new(false);
const NAME: &str = "handover.parked";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_the_former_daemon_goes_and_that_of_this_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, list) = (folder.path(), folder.path().join(NAME));
        std::fs::write(&list, "former").unwrap();
        remove_former(folder).unwrap();
        assert!(!list.exists());
        write(folder, &[b"own".to_vec()]).unwrap();
        remove_former(folder).unwrap();
        assert_eq!(std::fs::read(&list).unwrap(), b"own");
        remove(folder).unwrap();
        assert!(!list.exists());
    }
}
