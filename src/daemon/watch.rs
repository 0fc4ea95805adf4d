//! `reload.watch`: detects changed, new and removed files of the configuration by a check each
//! second.
//!
//! A change counts when two checks in a row find the same state, so a file is not read while it is
//! being written. Compares stat(2) and keeps no content.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::config::allow_files::Pattern;

/// The state of the files of a configuration at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(Vec<(Pattern, Listed)>);

/// The files of a pattern, or why they cannot be listed, which is another state than none.
type Listed = Result<Vec<Found>, String>;

/// A file and its state; None if it does not exist.
type Found = (PathBuf, Option<Mark>);

/// The attributes (stat(2)) that differ when a file is written, replaced, or reached through
/// another link: device, inode, size, mode, and the times of the last change of content and of
/// status in seconds and nanoseconds. Links are followed, so the swap of Kubernetes' `..data` is a
/// new inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    mode: u32,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Mark {
    fn of(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            mode: found.mode(),
            written: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Seen {
    /// Takes the state of these files.
    #[must_use]
    pub fn now(files: &[Pattern]) -> Self {
        let look = |pattern: &Pattern| {
            let listed = pattern.files().map(|files| {
                let marks = files.into_iter().map(|file| {
                    let mark = Mark::of(&file);
                    (file, mark)
                });
                marks.collect()
            });
            (pattern.clone(), listed.map_err(|error| error.to_string()))
        };
        Self(files.iter().map(look).collect())
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter().map(|(pattern, _)| pattern)
    }

    /// Returns the state of exactly these files. One whose state was not taken differs from every
    /// state, so that the next check reads it.
    pub(super) fn only(self, files: &[Pattern]) -> Self {
        let state = |pattern: &Pattern| {
            let taken = self.0.iter().find(|(known, _)| known == pattern);
            let none = || (pattern.clone(), Err(NOT_TAKEN.to_owned()));
            taken.cloned().unwrap_or_else(none)
        };
        Self(files.iter().map(state).collect())
    }

    /// Returns the files that have changed, are new or are gone.
    fn changed<'s>(&'s self, now: &'s Self) -> Vec<&'s Path> {
        let marks = |seen: &'s Self| {
            seen.0
                .iter()
                .flat_map(|(_, listed)| listed.iter().flatten())
        };
        let others = |one: &'s Self, other: &'s Self| {
            let known: HashSet<_> = marks(other).collect();
            marks(one).filter(move |mark| !known.contains(mark))
        };
        let found = others(self, now).chain(others(now, self));
        // A pattern whose folder can be listed now, or cannot any more.
        let pairs = self.0.iter().zip(&now.0);
        let listings =
            pairs.filter(|((_, before), (_, after))| before.as_ref().err() != after.as_ref().err());
        let mut files: Vec<_> = found
            .map(|(file, _)| file.as_path())
            .chain(listings.map(|((pattern, _), _)| pattern.path()))
            .collect();
        files.sort_unstable();
        files.dedup();
        files
    }
}

/// The checks since the last reading.
#[derive(Debug)]
pub(super) struct Watch {
    next: Instant,
    /// The last check, if it found a change.
    last: Option<Seen>,
    /// Checks in a row that each found another change.
    unsettled: u32,
    /// Refused reloads in a row.
    refused: u32,
    /// When a kept file may next cause a reload although it looks the same.
    retry: Instant,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            next: Instant::now() + EVERY,
            last: None,
            unsettled: 0,
            refused: 0,
            retry: Instant::now(),
        }
    }

    /// Waits until the files differ from the `read` state in two equal checks, or until one of
    /// `kept`, which could not be read, can be read and looks the same: an error of a disk or a
    /// file server leaves no trace in stat(2). The latter happens at most once a minute.
    /// Cancel-safe.
    pub(super) async fn changed(&mut self, read: Seen, kept: &[Pattern]) {
        loop {
            sleep_until(self.next).await;
            self.next = Instant::now() + EVERY;
            let files: Vec<_> = read.files().cloned().collect();
            let may_retry = Instant::now() >= self.retry;
            let kept = if may_retry { kept.to_vec() } else { Vec::new() };
            let look = move || {
                let now = Seen::now(&files);
                (now, kept.iter().any(Pattern::is_readable))
            };
            // A blocked file server must not delay signals.
            let Ok((now, is_back)) = tokio::task::spawn_blocking(look).await else {
                continue;
            };
            if is_back && now == read {
                self.retry = Instant::now() + RARELY;
                info!("a file of the configuration can be read again");
                return;
            }
            if self.note_state(&read, &now) {
                let changed = read.changed(&now);
                let named = changed.iter().take(NAMED_MAX);
                let named: Vec<_> = named.map(|file| file.display().to_string()).collect();
                let (number, files) = (changed.len(), named.join(" "));
                info!(number, files, "files of the configuration have changed");
                return;
            }
        }
    }

    /// Notes the state that a check finds. Returns whether it differs from `read` and equals that of
    /// the check before.
    fn note_state(&mut self, read: &Seen, now: &Seen) -> bool {
        let has_changed = now != read;
        let has_settled = has_changed && self.last.as_ref() == Some(now);
        if has_settled || !has_changed {
            (self.last, self.unsettled) = (None, 0);
            return has_settled;
        }
        self.last = Some(now.clone());
        self.unsettled += 1;
        if self.unsettled == UNSETTLED {
            warn!("files of the configuration keep changing, so they are not read yet");
        }
        false
    }

    /// Records the result of a reload. After refusals in a row the process itself may be writing a
    /// matched file, such as its log, so the files are then checked once a minute.
    pub(super) fn reloaded(&mut self, is_taken: bool) {
        if is_taken {
            self.refused = 0;
            self.next = self.next.min(Instant::now() + EVERY);
            return;
        }
        self.refused += 1;
        if self.refused >= REFUSED_MAX {
            if self.refused == REFUSED_MAX {
                warn!(
                    "several reloads in a row were refused: files are checked once a minute until a reload succeeds"
                );
            }
            self.next = Instant::now() + RARELY;
        }
    }
}

/// No message of the system.
const NOT_TAKEN: &str = "its state was not taken";
/// A reload follows one to three seconds after a change.
const EVERY: Duration = Duration::from_secs(1);
/// The interval after refusals in a row.
const RARELY: Duration = Duration::from_secs(60);
/// Refused reloads before the interval grows; an operator who edits in several steps needs fewer.
const REFUSED_MAX: u32 = 8;
/// Checks before the log says that a file does not settle.
const UNSETTLED: u32 = 30;
/// Files named in one log line.
const NAMED_MAX: usize = 5;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn each_change_of_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("one")).unwrap();
        std::fs::create_dir(at("two")).unwrap();
        for name in ["a.txt", "one/k.txt", "two/k.txt"] {
            std::fs::write(at(name), "same").unwrap();
        }
        symlink("one", at("..data")).unwrap();
        symlink("..data/k.txt", at("k.txt")).unwrap();
        let files = [
            Pattern::of_file(&at("a.txt")),
            Pattern::of_file(&at("none")),
            Pattern::parse("*.txt", folder.path()).unwrap(),
        ];
        let mut before = Seen::now(&files);
        assert_eq!(before, Seen::now(&files));
        let mut differs = |what: &str, file: &str| {
            let now = Seen::now(&files);
            assert_eq!(before.changed(&now), [at(file)], "{what}");
            assert_ne!(before, now, "{what}");
            before = now;
        };
        std::fs::write(at("a.txt"), "other").unwrap();
        differs("another size", "a.txt");
        let modified = std::fs::metadata(at("a.txt")).unwrap().modified().unwrap();
        std::fs::write(at("new"), "OTHER").unwrap();
        std::fs::File::options()
            .write(true)
            .open(at("new"))
            .unwrap()
            .set_modified(modified)
            .unwrap();
        std::fs::rename(at("new"), at("a.txt")).unwrap();
        differs("another inode of the same size and time", "a.txt");
        symlink("two", at("..tmp")).unwrap();
        std::fs::rename(at("..tmp"), at("..data")).unwrap();
        differs("the swap of ..data", "k.txt");
        std::fs::write(at("none"), "").unwrap();
        differs("a file that came", "none");
        std::fs::write(at("b.txt"), "").unwrap();
        differs("a file of the pattern", "b.txt");
        std::fs::remove_file(at("b.txt")).unwrap();
        differs("a file that is gone", "b.txt");
    }

    /// The next check has to read a file that the configuration names since the last one.
    #[test]
    fn a_file_whose_state_was_not_taken_differs() {
        let folder = tempfile::tempdir().unwrap();
        let [known, new] =
            ["a.txt", "b.txt"].map(|name| Pattern::of_file(&folder.path().join(name)));
        let taken = Seen::now(std::slice::from_ref(&known));
        let files = [known.clone(), new];
        assert_ne!(taken.clone().only(&files), Seen::now(&files));
        assert_eq!(
            taken.only(std::slice::from_ref(&known)),
            Seen::now(std::slice::from_ref(&known))
        );
    }

    #[test]
    fn a_pattern_is_readable_when_its_folder_can_be_listed() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts.d");
        let pattern = Pattern::parse("hosts.d/*.txt", folder.path()).unwrap();
        std::fs::write(&hosts, "").unwrap();
        assert!(!pattern.is_readable());
        std::fs::remove_file(&hosts).unwrap();
        std::fs::create_dir(&hosts).unwrap();
        assert!(pattern.is_readable());
    }

    #[test]
    fn a_folder_that_cannot_be_listed_differs_from_one_without_files() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts.d");
        let files = [Pattern::parse("hosts.d/*.txt", folder.path()).unwrap()];
        let missing = Seen::now(&files);
        std::fs::write(&hosts, "").unwrap();
        let unlisted = Seen::now(&files);
        std::fs::remove_file(&hosts).unwrap();
        std::fs::create_dir(&hosts).unwrap();
        let empty = Seen::now(&files);
        assert_eq!(missing, empty);
        assert_ne!(unlisted, empty);
        assert_eq!(unlisted.changed(&empty), [hosts.join("*.txt")]);
    }

    #[tokio::test]
    async fn a_file_is_read_when_two_looks_find_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        let look = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Seen::now(&[Pattern::of_file(&file)])
        };
        let looks: Vec<_> = ["", "1", "12", "123"].map(look).into();
        let mut watch = Watch::new();
        let mut settled = |at: usize| watch.note_state(&looks[0], &looks[at]);
        assert!(!settled(0));
        // A file during a write.
        assert!(!settled(1) && !settled(2) && !settled(3));
        assert!(settled(3));
        // Back to the read state, then another change: two checks again.
        assert!(!settled(1) && !settled(0) && !settled(1));
        assert!(settled(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_file_that_looks_the_same_is_tried_again_once_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let (file, away) = (folder.path().join("a.txt"), folder.path().join("none"));
        std::fs::write(&file, "").unwrap();
        let seen = Seen::now(&[Pattern::of_file(&file), Pattern::of_file(&away)]);
        let mut watch = Watch::new();
        // Neither half of the minute nor the whole: no check falls on the moment of a time-out.
        let in_time = RARELY * 3 / 4;
        let [away, kept] = [away, file].map(|file| [Pattern::of_file(&file)]);
        let mut returns = async |kept: &[Pattern]| {
            let changed = watch.changed(seen.clone(), kept);
            tokio::time::timeout(in_time, changed).await.is_ok()
        };
        assert!(!returns(&away).await, "it still cannot be read");
        assert!(returns(&kept).await, "it can be read");
        assert!(!returns(&kept).await, "and fails at once again");
        assert!(returns(&kept).await, "the minute is over");
    }

    #[tokio::test]
    async fn refusals_one_after_the_other_are_tried_again_rarely() {
        let mut watch = Watch::new();
        for _ in 1..REFUSED_MAX {
            watch.reloaded(false);
            assert!(watch.next <= Instant::now() + EVERY);
        }
        watch.reloaded(false);
        assert!(watch.next > Instant::now() + RARELY / 2);
        // A reload that the operator orders ends that too.
        watch.reloaded(true);
        assert!(watch.next <= Instant::now() + EVERY);
        watch.reloaded(false);
        assert!(watch.next <= Instant::now() + EVERY);
    }
}
