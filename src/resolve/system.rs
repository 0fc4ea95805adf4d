//! Follows files of the machine while the daemon runs: reads a change once the file has settled,
//! without a signal, as glibc does.
//!
//! A missing, unreadable or unfinished file changes nothing: the contents read before stay in
//! force, and one notice reports it. Compares the stat(2) results of the file, following links.
//! Blocks; never runs on a worker or on the DNS thread. Never logs.

use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::sys::files;

/// A file that the resolver reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemFile {
    /// resolv.conf(5).
    ResolvConf,
    /// hosts(5).
    Hosts,
}

impl SystemFile {
    /// Its absolute path.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::ResolvConf => "/etc/resolv.conf",
            Self::Hosts => "/etc/hosts",
        }
    }

    /// The `file` label of `sealway_dns_file_reads_total`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ResolvConf => "resolv.conf",
            Self::Hosts => "hosts",
        }
    }
}

/// A report about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The file.
    pub file: SystemFile,
    /// The line number, from 1; None: the whole file.
    pub line: Option<usize>,
    /// The kind of event.
    pub kind: NoticeKind,
    /// A message for the log.
    pub text: String,
}

/// The kind of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// The file has changed, and its new contents are in force.
    Changed,
    /// A line could not be parsed and was skipped.
    Skipped,
    /// The file cannot be used; the contents read before stay in force.
    Kept,
    /// The file cannot be used, and no contents were read before.
    Missing,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("{0}{hint}", hint = if .0.kind() == io::ErrorKind::PermissionDenied { HINT } else { "" })]
    System(#[from] io::Error),
    #[error("it is not a regular file")]
    NotRegular,
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    #[error("it is empty; write a comment line if no names are intended")]
    Empty,
    #[error("it no longer names a server; write nameserver 127.0.0.1 if that is intended")]
    NoServer,
}

#[cfg(test)]
impl PartialEq for Unfit {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

/// The skipped lines: the first few with their reasons, and the number of all.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    lines: Vec<(usize, String)>,
    count: usize,
}

impl Skipped {
    pub(super) fn add(&mut self, line: usize, why: String) {
        self.count += 1;
        if self.lines.len() < SKIPPED_MAX {
            let why = why.chars().take(WHY_CHARS_MAX).collect();
            self.lines.push((line, why));
        }
    }

    #[cfg(test)]
    pub(super) fn lines(&self) -> &[(usize, String)] {
        &self.lines
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// A word of the file, quoted and shortened for a message.
    pub(super) fn shown(word: &str) -> String {
        format!(
            "{:?}",
            word.chars().take(WORD_CHARS_MAX).collect::<String>()
        )
    }

    fn notices(self, file: SystemFile) -> Vec<Notice> {
        let more = self.count - self.lines.len();
        let notice = |line, text| Notice {
            file,
            line,
            kind: NoticeKind::Skipped,
            text,
        };
        let lines = self.lines.into_iter();
        let mut notices: Vec<_> = lines
            .map(|(line, why)| notice(Some(line), format!("skipped: {why}")))
            .collect();
        if more > 0 {
            notices.push(notice(None, format!("skipped: {more} more lines")));
        }
        notices
    }
}

/// The parsed contents of a file.
pub(super) trait Format: Default + PartialEq {
    const FILE: SystemFile;
    const BYTES_MAX: u64;

    fn parse(text: &str) -> (Self, Skipped);
    /// Why the new contents must not replace `before`.
    fn unfit_after(&self, before: &Self, text: &str) -> Option<Unfit>;
    /// Whether losing these contents would lose nothing.
    fn is_empty(&self) -> bool;
    fn summary(&self) -> String;
}

/// A file and its contents when it was last read.
#[derive(Clone, Debug)]
pub(super) struct Followed<T> {
    path: PathBuf,
    value: Arc<T>,
    /// The stamp of the file that was read, or rejected, last.
    seen: Option<Stamp>,
    /// The stamp of a newer file that may still be incomplete.
    settling: Option<Stamp>,
    /// The number of checks since the change began.
    looks: u32,
    /// The contents in force are older than the file, because the file cannot be used.
    is_kept: bool,
}

/// The result of one check of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The contents in force stay.
    Same,
    /// The file changed since the last check and is not read yet.
    Settling,
    /// New contents are in force.
    Changed,
}

/// Identifies one state of a file: device, inode, size, mtime and ctime, both as seconds and
/// nanoseconds. Or the error that stat(2) returned.
type Stamp = Result<(u64, u64, u64, (i64, i64), (i64, i64)), io::ErrorKind>;

impl<T: Format> Followed<T> {
    /// Reads the file for the first time.
    pub(super) fn start(path: impl Into<PathBuf>, notices: &mut Vec<Notice>) -> Self {
        let mut followed = Self {
            path: path.into(),
            value: Arc::default(),
            seen: None,
            settling: None,
            looks: 0,
            is_kept: false,
        };
        followed.look_now(notices);
        followed
    }

    pub(super) fn value(&self) -> &Arc<T> {
        &self.value
    }

    /// Reads a changed file once two checks find it in the same state, or after [`LOOKS_MAX`]
    /// checks if it keeps changing.
    pub(super) fn look(&mut self, notices: &mut Vec<Notice>) -> Look {
        let now = self.stamp();
        if self.seen == Some(now) {
            (self.settling, self.looks) = (None, 0);
            return Look::Same;
        }
        let is_new = self.settling != Some(now);
        if (is_new && self.looks < LOOKS_MAX)
            || (self.looks < UNFINISHED_LOOKS_MAX && self.ends_within_a_line())
        {
            self.settling = Some(now);
            self.looks += 1;
            return Look::Settling;
        }
        self.take(now, notices)
    }

    /// Reads a changed file at once, settled or not. After the first read, a file that ends within
    /// a line is left to later checks.
    pub(super) fn look_now(&mut self, notices: &mut Vec<Notice>) -> Look {
        let now = self.stamp();
        let is_first = self.seen.is_none();
        if self.seen == Some(now) || (!is_first && self.ends_within_a_line()) {
            Look::Same
        } else {
            self.take(now, notices)
        }
    }

    /// The rest of the line may still follow: 192.0.2.5 may become 192.0.2.53.
    fn ends_within_a_line(&self) -> bool {
        self.read()
            .is_ok_and(|text| !text.is_empty() && !text.ends_with('\n'))
    }

    fn take(&mut self, stamp: Stamp, notices: &mut Vec<Notice>) -> Look {
        let is_first = self.seen.is_none();
        let was_kept = std::mem::take(&mut self.is_kept);
        self.seen = Some(stamp);
        (self.settling, self.looks) = (None, 0);
        let notice = |kind, text| Notice {
            file: T::FILE,
            line: None,
            kind,
            text,
        };
        let read = self.read().and_then(|text| {
            let (value, skipped) = T::parse(&text);
            match value.unfit_after(&self.value, &text) {
                Some(unfit) => Err(unfit),
                None => Ok((value, skipped)),
            }
        });
        let (value, skipped) = match read {
            Ok(read) => read,
            Err(unfit) if !self.value.is_empty() => {
                self.is_kept = true;
                notices.push(notice(
                    NoticeKind::Kept,
                    format!("cannot be used, so the previous contents stay in force: {unfit}"),
                ));
                return Look::Same;
            }
            Err(unfit) => {
                // A machine may have no hosts file; that is not worth a notice.
                let is_news = T::FILE == SystemFile::ResolvConf || stamp.is_ok();
                if is_news {
                    let text = format!(
                        "cannot be used, so the daemon uses {}: {unfit}",
                        self.value.summary()
                    );
                    notices.push(notice(NoticeKind::Missing, text));
                }
                return Look::Same;
            }
        };
        notices.extend(skipped.notices(T::FILE));
        let is_same = value == *self.value;
        if was_kept || !(is_first || is_same) {
            let text = format!("has changed and is in force: {}", value.summary());
            notices.push(notice(NoticeKind::Changed, text));
        }
        if is_same {
            return Look::Same;
        }
        self.value = Arc::new(value);
        Look::Changed
    }

    fn stamp(&self) -> Stamp {
        let of = |data: Metadata| {
            (
                data.dev(),
                data.ino(),
                data.size(),
                (data.mtime(), data.mtime_nsec()),
                (data.ctime(), data.ctime_nsec()),
            )
        };
        std::fs::metadata(&self.path)
            .map(of)
            .map_err(|error| error.kind())
    }

    /// Replaces bytes that are not UTF-8: they only matter in comments and in lines that are
    /// skipped anyway.
    fn read(&self) -> Result<String, Unfit> {
        let file = files::open_to_read(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(Unfit::NotRegular);
        }
        let mut bytes = Vec::new();
        file.take(T::BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > T::BYTES_MAX {
            return Err(Unfit::TooLarge(T::BYTES_MAX));
        }
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
    }
}

/// Five seconds at four checks a second.
const LOOKS_MAX: u32 = 20;
/// Two seconds at four checks a second.
const UNFINISHED_LOOKS_MAX: u32 = 8;
/// The most skipped lines of one file in the log.
const SKIPPED_MAX: usize = 8;
const WHY_CHARS_MAX: usize = 256;
const WORD_CHARS_MAX: usize = 64;
const HINT: &str = "; the daemon can read only the folders that held its files at the start: if the file has moved, restart sealway";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
