//! Files of the machine that are followed while the daemon runs: a change is read once the file has settled, without a
//! signal, as glibc does.
//!
//! A file that is gone, unreadable or unfinished changes nothing: what was read before stays in force, and a notice says
//! so once. Compares what stat(2) says of the file that links lead to. Blocks; never runs on a worker or the thread of
//! DNS. Never logs.

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
    /// Where it is.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::ResolvConf => "/etc/resolv.conf",
            Self::Hosts => "/etc/hosts",
        }
    }

    /// The label of `sealway_dns_file_reads_total`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ResolvConf => "resolv.conf",
            Self::Hosts => "hosts",
        }
    }
}

/// Something to report of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Which.
    pub file: SystemFile,
    /// Where in it.
    pub line: Option<usize>,
    /// What happened.
    pub kind: NoticeKind,
    /// In words.
    pub text: String,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// It has changed, and what it says is in force.
    Changed,
    /// A part of it was not understood.
    Skipped,
    /// It cannot be used; what was read before stays in force.
    Kept,
    /// It cannot be used, and nothing was read before.
    Missing,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("{0}{hint}", hint = if .0.kind() == io::ErrorKind::PermissionDenied { HINT } else { "" })]
    System(#[from] io::Error),
    #[error("it is no regular file")]
    NotRegular,
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    #[error("it is empty; a comment line means: no names")]
    Empty,
    #[error("it names no server any more; write nameserver 127.0.0.1 if that is meant")]
    NoServer,
}

#[cfg(test)]
impl PartialEq for Unfit {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

/// What was not understood: the first few lines, and how many there were.
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

    /// A word of the file, in a message.
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

/// What a file can say.
pub(super) trait Format: Default + PartialEq {
    const FILE: SystemFile;
    const BYTES_MAX: u64;

    fn parse(text: &str) -> (Self, Skipped);
    /// Why this must not replace what the file said before.
    fn unfit_after(&self, before: &Self, text: &str) -> Option<Unfit>;
    /// Whether it says nothing that would be missed.
    fn is_empty(&self) -> bool;
    fn summary(&self) -> String;
}

/// A file and what it said when it was last read.
#[derive(Clone, Debug)]
pub(super) struct Followed<T> {
    path: PathBuf,
    value: Arc<T>,
    /// The file that was read, or was found unfit.
    seen: Option<Stamp>,
    /// A newer one, which may still be being written.
    settling: Option<Stamp>,
    /// Looks since it began to change.
    looks: u32,
    /// What was read last is kept because the file cannot be used.
    is_kept: bool,
}

/// What one look at a file found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// What is in force stays.
    Same,
    /// It has changed a moment ago and is not read yet.
    Settling,
    /// Something else is in force.
    Changed,
}

/// What tells one state of a file from another: device, inode, size, and the times of the last change of its bytes and of
/// its inode, in nanoseconds. Or why there is none.
type Stamp = Result<(u64, u64, u64, (i64, i64), (i64, i64)), io::ErrorKind>;

impl<T: Format> Followed<T> {
    /// Reads it for the first time.
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

    /// Reads a file that has changed and stayed the same since the last look, or that changes all the time.
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

    /// Reads a file that has changed, whether or not it has settled. After the first time, one that ends within a line is
    /// left to the next looks.
    pub(super) fn look_now(&mut self, notices: &mut Vec<Notice>) -> Look {
        let now = self.stamp();
        let is_first = self.seen.is_none();
        if self.seen == Some(now) || (!is_first && self.ends_within_a_line()) {
            Look::Same
        } else {
            self.take(now, notices)
        }
    }

    /// The rest of the line may still be written: 192.0.2.5 may become 192.0.2.53.
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
                    format!("cannot be used, what was in force stays: {unfit}"),
                ));
                return Look::Same;
            }
            Err(unfit) => {
                // A machine without a hosts file has no names in it.
                let is_news = T::FILE == SystemFile::ResolvConf || stamp.is_ok();
                if is_news {
                    let text = format!(
                        "cannot be used, so there are {}: {unfit}",
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

    /// Bytes that are no UTF-8 can only be in comments or in what is skipped.
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

/// With a quarter of a second between them, five seconds.
const LOOKS_MAX: u32 = 20;
/// Two seconds.
const UNFINISHED_LOOKS_MAX: u32 = 8;
/// Lines of one file in the log.
const SKIPPED_MAX: usize = 8;
const WHY_CHARS_MAX: usize = 256;
const WORD_CHARS_MAX: usize = 64;
const HINT: &str = "; since its start the daemon reads beneath the folders that its files were in then: if it is elsewhere now, restart";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
