//! `allow_files`: rules on names in separate files, one per line. Reports every wrong line with its
//! file; skips none. The number of files and their size are bounded.

mod pattern;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::contents::RulesFile;
use super::fields::{Fields, entries, shown, shown_of};
use super::file::{Given, Problem};
use super::read::{self as reading, ReadError, Secrecy, shown_path};
use crate::policy::Rule;
pub use pattern::Pattern;

/// The rule files that one reader has read so far; it reads each file once, however many entries
/// name it. The users file has a reader of its own.
#[derive(Debug, Default)]
pub struct AllowFiles {
    /// The entries.
    pub patterns: Vec<Pattern>,
    /// Entries that match no file.
    pub warnings: Vec<Problem>,
    /// The rules of each file, which become part of the configuration's contents.
    pub(super) rules: HashMap<PathBuf, RulesFile>,
    bytes: u64,
}

/// The `allow_files` of a section.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) rules: Vec<Rule>,
    pub(super) patterns: Vec<Pattern>,
    pub(super) line: usize,
}

/// Reads the rules of a section's `allow_files`; None if the key is absent. Reports problems.
pub(super) fn read(fields: &mut Fields<'_, '_>, config: &Path, offline: bool) -> Option<Listed> {
    let given = fields.texts(KEY)?;
    let folder = config.parent().unwrap_or(Path::new(""));
    let mut patterns = Vec::new();
    for (place, text) in entries(&given.value) {
        match Pattern::parse(text, folder) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => {
                let shown = shown_of(text, place, given.value.len());
                fields.complain(given.line, KEY, format!("{shown}: {error}"));
            }
        }
    }
    let rules = of_patterns(fields, given.line, &patterns, offline);
    Some(Listed {
        rules,
        patterns,
        line: given.line,
    })
}

/// Reads the rules in the files of these entries, which stand in `line`.
pub(super) fn of_patterns(
    fields: &mut Fields<'_, '_>,
    line: usize,
    patterns: &[Pattern],
    offline: bool,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    for pattern in patterns {
        rules.extend(matching(fields, line, pattern, offline));
    }
    rules
}

/// Reads the rules in the files of one entry.
fn matching(
    fields: &mut Fields<'_, '_>,
    line: usize,
    pattern: &Pattern,
    offline: bool,
) -> Vec<Rule> {
    fields.reader.allow_files.patterns.push(pattern.clone());
    let files = match listed(fields, pattern) {
        Ok(files) => files,
        Err(error) => {
            let message = format!("{}: {error}", pattern.shown().display());
            fields.complain_of_file(line, KEY, error.kind(), message);
            return Vec::new();
        }
    };
    if files.is_empty() {
        let message = format!("{} matches no file", pattern.shown().display());
        let warning = fields.problem(line, KEY, message);
        fields.reader.allow_files.warnings.push(warning);
    }
    let mut rules = Vec::new();
    for file in files {
        if offline && !file.exists() {
            fields.reader.unread.push(file);
            continue;
        }
        rules.extend_from_slice(of_file(fields, line, &file));
    }
    rules
}

/// Lists the files of an entry; those in force if its folder cannot be listed.
fn listed(fields: &mut Fields<'_, '_>, pattern: &Pattern) -> Result<Vec<PathBuf>, PatternError> {
    let (path, key) = (pattern.path(), fields.name(KEY));
    let known = &mut fields.reader.files;
    let files = match pattern.files() {
        Err(PatternError::Folder(error)) => known
            .keep_listed(path, key, error, |former| {
                former.listings.get(path).cloned()
            })
            .map_err(PatternError::Folder)?,
        files => files?,
    };
    known.read.listings.insert(path.to_owned(), files.clone());
    Ok(files)
}

/// Returns the rules of one file; reads it only once.
fn of_file<'f>(fields: &'f mut Fields<'_, '_>, line: usize, file: &Path) -> &'f [Rule] {
    if !fields.reader.allow_files.rules.contains_key(file) {
        let rules = load_or_keep(fields, file).unwrap_or_else(|error| {
            let message = format!("{}: {error}", shown_path(file).display());
            fields.complain_of_file(line, KEY, error.kind(), message);
            RulesFile::default()
        });
        let known = &mut fields.reader.allow_files.rules;
        known.insert(file.to_owned(), rules);
    }
    let known = fields.reader.allow_files.rules.get(file);
    known.map(|known| &*known.rules).unwrap_or_default()
}

/// Reads one file; takes the rules in force if it cannot be read.
fn load_or_keep(fields: &mut Fields<'_, '_>, file: &Path) -> Result<RulesFile, LoadError> {
    let error = match load(fields, file) {
        Err(LoadError::Read(error)) => error,
        loaded => return loaded,
    };
    let key = fields.name(KEY);
    let files = &mut fields.reader.files;
    let kept = files
        .keep(file, key, error, |former| former.rules.get(file).cloned())
        .map_err(LoadError::Read)?;
    count_bytes(fields, kept.bytes)?;
    Ok(kept)
}

/// Counts the text of one file towards the bound of all.
fn count_bytes(fields: &mut Fields<'_, '_>, bytes: u64) -> Result<(), LoadError> {
    let known = &mut fields.reader.allow_files;
    let all = known.bytes.saturating_add(bytes);
    if all > reading::BYTES_MAX {
        return Err(LoadError::TooLarge);
    }
    known.bytes = all;
    Ok(())
}

/// Reads one file and reports its wrong lines.
fn load(fields: &mut Fields<'_, '_>, file: &Path) -> Result<RulesFile, LoadError> {
    let known = &fields.reader.allow_files;
    if known.rules.len() >= FILES_MAX {
        return Err(LoadError::TooManyFiles);
    }
    let content = reading::read(file, Secrecy::Public).map_err(|error| match error {
        ReadError::NotRegular if file.is_dir() => LoadError::Folder,
        error => LoadError::Read(error),
    })?;
    let bytes = content.text.len() as u64;
    count_bytes(fields, bytes)?;
    let (mut rules, mut wrong) = (Vec::new(), 0);
    for Given { value, line } in lines(&content.text) {
        match value.parse::<Rule>() {
            Ok(rule) => rules.push(rule),
            Err(error) => {
                let message = format!("{}: {error}", shown(value));
                let problem = Problem {
                    file: Some(shown_path(file)),
                    line: Some(line),
                    ..fields.problem(line, KEY, message)
                };
                fields.reader.problems.push(problem);
                wrong += 1;
                if wrong == WRONG_MAX {
                    return Err(LoadError::TooManyWrong);
                }
            }
        }
    }
    Ok(RulesFile {
        rules: rules.into(),
        bytes,
    })
}

/// Why a file of rules cannot be used.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    /// It cannot be read.
    #[error(transparent)]
    Read(ReadError),
    /// It is a folder.
    #[error("is a folder: write FOLDER/*.txt for the files in it")]
    Folder,
    /// More files than [`FILES_MAX`].
    #[error("more than {FILES_MAX} files")]
    TooManyFiles,
    /// All files together are too large.
    #[error(
        "with the files before it, it is larger than {} bytes",
        reading::BYTES_MAX
    )]
    TooLarge,
    /// More wrong lines than are reported.
    #[error("has {WRONG_MAX} wrong lines, so the rest is not read")]
    TooManyWrong,
}

impl LoadError {
    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Read(error) => error.kind(),
            _ => None,
        }
    }
}

/// The lines with content, without comments.
fn lines(text: &str) -> impl Iterator<Item = Given<&str>> {
    let uncommented = |line: &'_ str| -> usize { line.find('#').unwrap_or(line.len()) };
    (1..)
        .zip(text.lines())
        .map(move |(line, whole)| Given {
            value: whole.get(..uncommented(whole)).unwrap_or(whole).trim(),
            line,
        })
        .filter(|given| !given.value.is_empty())
}

/// The first file and line with this rule, for `sealway explain`.
#[must_use]
pub fn find(patterns: &[Pattern], rule: &Rule) -> Option<(PathBuf, usize)> {
    let files = patterns.iter().filter_map(|pattern| pattern.files().ok());
    files.flatten().find_map(|file| {
        let content = reading::read(&file, Secrecy::Public).ok()?;
        let line = lines(&content.text)
            .find(|given| {
                given
                    .value
                    .parse::<Rule>()
                    .is_ok_and(|found| found == *rule)
            })?
            .line;
        Some((file, line))
    })
}

/// Lists a folder, at most [`NAMES_MAX`] names.
fn names_in(folder: &Path) -> Result<Vec<String>, PatternError> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(PatternError::Folder(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        if names.len() == NAMES_MAX {
            return Err(PatternError::TooMany);
        }
        let name = entry.map_err(PatternError::Folder)?.file_name();
        // A name that is not UTF-8 cannot be written in a configuration.
        names.extend(name.into_string());
    }
    Ok(names)
}

/// Why the files of an entry cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// The folder cannot be listed.
    #[error("its folder cannot be read: {0}")]
    Folder(#[source] io::Error),
    /// More entries than `NAMES_MAX`.
    #[error("its folder has more than {NAMES_MAX} entries: give the files a folder of their own")]
    TooMany,
    /// More files than `FILES_MAX`.
    #[error("matches more than {FILES_MAX} files")]
    TooManyFiles,
}

impl PatternError {
    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Folder(error) => Some(error.kind()),
            Self::TooMany | Self::TooManyFiles => None,
        }
    }
}

const KEY: &str = "allow_files";
/// Enough for one file per team or upstream.
const FILES_MAX: usize = 1_024;
/// With `reload.watch` the folder is listed once a second.
const NAMES_MAX: usize = 16_384;
/// Enough to recognise a wrong file.
const WRONG_MAX: usize = 20;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_rule_without_its_comment() {
        let text = "# all\r\na.example # one\r\n\r\n  *.b.example:8443\t\n#c.example\nd.example#e";
        let found: Vec<_> = lines(text).map(|given| (given.line, given.value)).collect();
        assert_eq!(
            found,
            [(2, "a.example"), (4, "*.b.example:8443"), (6, "d.example")]
        );
        assert_eq!(lines("").count(), 0);
    }
}
