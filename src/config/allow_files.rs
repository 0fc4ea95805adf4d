//! `allow_files`: rules on names in separate files, one per line. Reports every wrong line with its
//! file; skips none. The number of files and their size are bounded.

mod pattern;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::fields::{Fields, entries, shown, shown_of};
use super::file::{Given, Problem};
use super::read::{self as reading, ReadError, Secrecy, shown_path};
use crate::policy::Rule;
pub use pattern::Pattern;

/// The rule files read so far for one configuration; each file is read once, however many entries
/// name it.
#[derive(Debug, Default)]
pub struct AllowFiles {
    /// The entries.
    pub patterns: Vec<Pattern>,
    /// Entries that match no file.
    pub warnings: Vec<Problem>,
    rules: HashMap<PathBuf, Vec<Rule>>,
    bytes: u64,
}

/// Reads the rules of a section's `allow_files`; None if the key is absent. Reports problems.
pub(super) fn read(fields: &mut Fields<'_, '_>, config: &Path, offline: bool) -> Option<Vec<Rule>> {
    let given = fields.texts(KEY)?;
    let folder = config.parent().unwrap_or(Path::new(""));
    let mut rules = Vec::new();
    for (place, text) in entries(&given.value) {
        match Pattern::parse(text, folder) {
            Ok(pattern) => rules.extend(matching(fields, given.line, &pattern, offline)),
            Err(error) => {
                let shown = shown_of(text, place, given.value.len());
                fields.complain(given.line, KEY, format!("{shown}: {error}"));
            }
        }
    }
    Some(rules)
}

/// Reads the rules in the files of one entry.
fn matching(
    fields: &mut Fields<'_, '_>,
    line: usize,
    pattern: &Pattern,
    offline: bool,
) -> Vec<Rule> {
    fields.reader.allow_files.patterns.push(pattern.clone());
    let files = match pattern.files() {
        Ok(files) => files,
        Err(error) => {
            fields.complain(line, KEY, format!("{}: {error}", pattern.shown().display()));
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

/// Returns the rules of one file; reads it only once.
fn of_file<'f>(fields: &'f mut Fields<'_, '_>, line: usize, file: &Path) -> &'f [Rule] {
    if !fields.reader.allow_files.rules.contains_key(file) {
        let rules = load(fields, file).unwrap_or_else(|message| {
            let message = format!("{}: {message}", shown_path(file).display());
            fields.complain(line, KEY, message);
            Vec::new()
        });
        let known = &mut fields.reader.allow_files.rules;
        known.insert(file.to_owned(), rules);
    }
    let known = fields.reader.allow_files.rules.get(file);
    known.map(Vec::as_slice).unwrap_or_default()
}

/// Reads one file and reports its wrong lines.
fn load(fields: &mut Fields<'_, '_>, file: &Path) -> Result<Vec<Rule>, String> {
    let known = &fields.reader.allow_files;
    if known.rules.len() >= FILES_MAX {
        return Err(format!("more than {FILES_MAX} files"));
    }
    let content = reading::read(file, Secrecy::Public).map_err(|error| match error {
        ReadError::NotRegular if file.is_dir() => {
            "is a folder: write FOLDER/*.txt for the files in it".to_owned()
        }
        error => error.to_string(),
    })?;
    let bytes = known.bytes.saturating_add(content.text.len() as u64);
    if bytes > reading::BYTES_MAX {
        return Err(format!(
            "with the files before it, it is larger than {} bytes",
            reading::BYTES_MAX
        ));
    }
    fields.reader.allow_files.bytes = bytes;
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
                    return Err(format!(
                        "has {WRONG_MAX} wrong lines, so the rest is not read"
                    ));
                }
            }
        }
    }
    Ok(rules)
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
