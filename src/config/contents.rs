//! The parsed contents of the files that a configuration names, by path. A reload uses the contents
//! in force for a file that it cannot read.
//!
//! Holds hashes of tokens and of users' secrets, never a secret. Reads no file.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::destinations::RangesFile;
use super::read::ReadError;
use crate::auth::{SecretHash, Users};
use crate::authority::UserId;
use crate::policy::Rule;
use crate::policy::ranges::Ranges;

/// The contents of the files of one configuration.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The text of the configuration itself, which holds no secrets; None if it was never read.
    pub(super) text: Option<Text>,
    /// The hash of each token.
    pub(super) tokens: HashMap<PathBuf, SecretHash>,
    /// The networks of each file of ranges.
    pub(super) ranges: HashMap<PathBuf, Arc<(Ranges, RangesFile)>>,
    /// The rules of each file of `allow_files`.
    pub(super) rules: HashMap<PathBuf, RulesFile>,
    /// The files of each pattern of `allow_files`.
    pub(super) listings: HashMap<PathBuf, Vec<PathBuf>>,
    /// The users file.
    pub(super) users: Option<UsersFile>,
}

/// The text of a configuration.
#[derive(Clone, Default)]
pub(super) struct Text(Arc<Zeroizing<String>>);

/// The contents of a file of `allow_files`.
#[derive(Clone, Debug, Default)]
pub(super) struct RulesFile {
    pub(super) rules: Arc<[Rule]>,
    /// The size of its text.
    pub(super) bytes: u64,
}

/// The contents of a users file.
#[derive(Clone, Debug)]
pub(super) struct UsersFile {
    pub(super) path: PathBuf,
    pub(super) users: Arc<Users>,
    /// The users with `allow_files`, whose rules a reload reads again.
    pub(super) narrowed: HashMap<UserId, Narrowing>,
}

/// The rules that narrow one user.
#[derive(Clone, Debug)]
pub(super) struct Narrowing {
    /// The rules of `allow`.
    pub(super) own: Vec<Rule>,
    /// The entries of `allow_files`.
    pub(super) patterns: Vec<super::allow_files::Pattern>,
    /// The line of `allow_files`.
    pub(super) line: usize,
}

/// A file that cannot be read, so its former content stays in force.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The file, or the pattern whose folder cannot be listed.
    pub file: PathBuf,
    /// The key that names it; empty for the configuration itself.
    pub key: String,
    /// Why it cannot be read.
    pub error: Arc<io::Error>,
}

impl Contents {
    /// The text of the configuration itself; None if it was never read.
    pub(crate) fn text(&self) -> Option<Arc<Zeroizing<String>>> {
        self.text.as_ref().map(|text| Arc::clone(&text.0))
    }

    /// Whether a pattern of both lists fewer files than it did in `former`: they were deleted, or
    /// somebody is replacing them.
    pub(crate) fn misses_files_of(&self, former: &Self) -> bool {
        self.listings.iter().any(|(pattern, files)| {
            let before = former.listings.get(pattern);
            before.is_some_and(|before| before.iter().any(|file| !files.contains(file)))
        })
    }
}

impl Text {
    pub(super) fn of(text: &str) -> Self {
        Self(Arc::new(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for Text {
    /// A comment may hold a misplaced secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Text(redacted)")
    }
}

impl Kept {
    /// The cure, for operators.
    #[must_use]
    pub fn cure(&self) -> &'static str {
        match (self.error.kind(), self.key.as_str()) {
            (io::ErrorKind::NotFound, "auth.users_file") => {
                "put the file back and reload; to let no user in, leave an empty file with mode 0600; to ask for no credentials, remove auth.users_file"
            }
            (io::ErrorKind::NotFound, _) => {
                "put the file back and reload, or change the key that names it"
            }
            (io::ErrorKind::PermissionDenied, _) => {
                "let the daemon's user or group read the file and reload; if they may, the file is outside of the folders that the daemon reads since its start: restart"
            }
            _ => "mend the file or its file system (the kernel's log says more) and reload",
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, error) = (self.file.display(), &self.error);
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(
            f,
            "{file}: cannot be read: {error}; its former content stays in force: {}",
            self.cure()
        )
    }
}

/// The files of a configuration while it is read: the contents in force, those that were read, and
/// the files whose content in force is kept.
#[derive(Debug, Default)]
pub struct Files {
    pub(super) former: Arc<Contents>,
    pub(super) read: Contents,
    pub(super) kept: Vec<Kept>,
}

impl Files {
    pub(super) fn after(former: &Arc<Contents>) -> Self {
        Self {
            former: Arc::clone(former),
            ..Self::default()
        }
    }

    /// Returns the content in force of a file that cannot be read, and notes the file.
    ///
    /// # Errors
    /// The error, if the file has no content in force, or can be read and is wrong.
    pub(super) fn keep<T>(
        &mut self,
        file: &Path,
        key: String,
        error: ReadError,
        find: impl FnOnce(&Contents) -> Option<T>,
    ) -> Result<T, ReadError> {
        let error = error.into_system()?;
        self.keep_listed(file, key, error, find)
            .map_err(ReadError::of)
    }

    /// Like [`Files::keep`], for an error of the system.
    ///
    /// # Errors
    /// The error, if there is no content in force.
    pub(super) fn keep_listed<T>(
        &mut self,
        file: &Path,
        key: String,
        error: io::Error,
        find: impl FnOnce(&Contents) -> Option<T>,
    ) -> Result<T, io::Error> {
        let Some(content) = find(&self.former) else {
            return Err(error);
        };
        self.note(Kept {
            file: file.to_owned(),
            key,
            error: Arc::new(error),
        });
        Ok(content)
    }

    /// Notes a file whose content in force is kept, once however many keys name it.
    pub(super) fn note(&mut self, kept: Kept) {
        if !self.kept.iter().any(|noted| noted.file == kept.file) {
            self.kept.push(kept);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
