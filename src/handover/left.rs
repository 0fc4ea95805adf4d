//! The list of handed-over tunnels on disk. A daemon that finds it, and not the tunnels, records
//! that they are lost. Holds no payload.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use super::format::{DESCRIPTION_BYTES_MAX, lines, read_head};
use super::state::{Change, TunnelState};

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
pub fn write<'p>(folder: &Path, mut parts: impl Iterator<Item = &'p [u8]>) -> io::Result<()> {
    let mut is_own = IS_OWN.lock().unwrap_or_else(PoisonError::into_inner);
    *is_own = true;
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(folder.join(NAME))?;
    parts.try_for_each(|part| file.write_all(part))
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
    let mut missing = BTreeMap::new();
    for (place, line) in lines(&bytes).skip(1).enumerate() {
        // Most have come, and then nothing else of their line matters.
        if let Ok(named) = serde_json::from_slice::<Named<'_>>(line) {
            if !came.contains(&*named.id)
                && let Ok(state) = serde_json::from_slice::<TunnelState>(line)
            {
                missing.insert(place, state);
            }
        } else if let Ok(change) = serde_json::from_slice::<Change>(line) {
            if let Some(state) = missing.get_mut(&change.of) {
                state.change(change);
            }
        } else if let Some(since) = read_head(line).ok().and_then(|head| head.since) {
            for ended in since.ended {
                missing.remove(&ended);
            }
        }
    }
    Ok(Some(missing.into_values().collect()))
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
        write(folder, [&b"own"[..]].into_iter()).unwrap();
        remove_former(folder).unwrap();
        assert_eq!(std::fs::read(&list).unwrap(), b"own");
        remove(folder).unwrap();
        assert!(!list.exists());
    }

    #[test]
    fn what_was_sent_ahead_and_what_has_changed_are_one_list() {
        let folder = tempfile::tempdir().unwrap();
        let state = |id: &str| {
            format!(
                "{{\"id\":\"{id}\",\"client\":\"192.0.2.7:5\",\"listener\":\"192.0.2.1:9\",\"authority\":\"a.example:443\",\"upstream\":\"192.0.2.8:443\",\"egress\":\"192.0.2.1:7\",\"age_us\":1,\"quiet_ms\":1,\"descriptors\":2,\"relay\":{{\"up\":{{\"spliced\":1,\"copied\":2}},\"down\":{{\"spliced\":3,\"copied\":4}},\"age_ms\":1,\"quiet_ms\":1}}}}\n"
            )
        };
        let head = "{\"format\":\"sealway-handover\",\"version\":1,\"frozen_ns\":1,\"tunnels\":4,\"descriptors\":8}\n";
        let ahead = head.to_owned() + &["1-0", "1-1", "1-2", "1-3"].map(state).concat();
        let since = "{\"format\":\"sealway-handover\",\"version\":1,\"frozen_ns\":2,\"tunnels\":3,\"descriptors\":6,\"since\":{\"changed\":1,\"ended\":[1]}}\n";
        let change = "{\"of\":2,\"quiet_ms\":0,\"descriptors\":0,\"relay\":{\"up\":{\"spliced\":10,\"copied\":2},\"down\":{\"spliced\":3,\"copied\":4},\"age_ms\":1,\"quiet_ms\":1}}\n";
        // Not by this process, which the other test looks at.
        std::fs::write(folder.path().join(NAME), ahead + since + change).unwrap();
        let came = HashSet::from(["1-3".to_owned()]);
        let missing = missing(folder.path(), &came).unwrap().unwrap();
        let known = missing
            .iter()
            .map(|state| (state.id.as_str(), state.relay.up.spliced));
        assert_eq!(known.collect::<Vec<_>>(), [("1-0", 1), ("1-2", 10)]);
    }
}
