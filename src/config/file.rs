//! Reads a TOML file and reports every problem with its line and key, not only the first.
//!
//! Finds syntax errors, wrong types and unknown keys; does not judge values. Never prints a value,
//! because it may be a secret.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::allow_files::AllowFiles;
use super::contents::Files;
use super::fields::shown_key;
use super::read::{ReadError, Secrecy, read};

/// A problem and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file; None for a flag or a property of this machine.
    pub file: Option<PathBuf>,
    /// From 1; None for the whole file.
    pub line: Option<usize>,
    /// As in `limits.tunnels`; empty if no key is concerned.
    pub key: String,
    /// The cause and the cure.
    pub message: String,
    /// The kind of the system's error, if a file cannot be read.
    pub cause: Option<io::ErrorKind>,
}

/// A value with its line.
#[derive(Clone, Debug)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Its line, from 1.
    pub line: usize,
}

/// A file being read, and its problems so far.
#[derive(Debug)]
pub struct Reader<'t> {
    file: PathBuf,
    text: &'t str,
    /// The problems found so far.
    pub problems: Vec<Problem>,
    /// The issues found so far that do not prevent a start.
    pub warnings: Vec<Problem>,
    /// Named files that were skipped.
    pub unread: Vec<PathBuf>,
    /// Named files, whether they exist or not.
    pub named: Vec<PathBuf>,
    /// The rule files of `allow_files`.
    pub allow_files: AllowFiles,
    /// The contents of the named files.
    pub files: Files,
}

/// A table of the file. Keys that are still in it at the end are unknown.
#[derive(Debug)]
pub struct Section<'t> {
    path: String,
    table: DeTable<'t>,
}

/// Reads the text of a file.
///
/// # Errors
/// One problem that names the file and the cause.
pub fn text(path: &Path) -> Result<Zeroizing<String>, Vec<Problem>> {
    read(path, Secrecy::Public)
        .map(|content| content.text)
        .map_err(|error| vec![Problem::unreadable(path, &error)])
}

impl Problem {
    /// A problem of a flag or a variable.
    pub(super) fn of_flag(name: &str, message: String) -> Self {
        Self {
            file: None,
            line: None,
            key: name.to_owned(),
            message,
            cause: None,
        }
    }

    /// A problem of a whole file.
    pub(super) fn of_file(path: &Path, message: &impl ToString) -> Self {
        Self {
            file: Some(path.to_owned()),
            line: None,
            key: String::new(),
            message: message.to_string(),
            cause: None,
        }
    }

    /// The problem of a file that cannot be read.
    pub(crate) fn unreadable(path: &Path, error: &ReadError) -> Self {
        Self {
            cause: error.kind(),
            ..Self::of_file(path, error)
        }
    }
}

impl<'t> Reader<'t> {
    /// Parses the text of a file and reports its syntax errors.
    #[must_use]
    pub fn open(file: &Path, text: &'t str) -> (Self, Section<'t>) {
        let mut reader = Self {
            file: file.to_owned(),
            text,
            problems: Vec::new(),
            warnings: Vec::new(),
            unread: Vec::new(),
            named: Vec::new(),
            allow_files: AllowFiles::default(),
            files: Files::default(),
        };
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map(|span| reader.line(span));
            reader.add(line, "", error.message().to_owned());
        }
        (
            reader,
            Section {
                path: String::new(),
                table: root.into_inner(),
            },
        )
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// The text of the file.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    /// Reports a problem of this file.
    pub fn add(&mut self, line: Option<usize>, key: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem {
            file: Some(self.file.clone()),
            line,
            key: key.into(),
            message: message.into(),
            cause: None,
        });
    }

    /// Takes the warnings, those about rule files last.
    pub(super) fn take_warnings(&mut self) -> Vec<Problem> {
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.append(&mut self.allow_files.warnings);
        warnings
    }

    fn line(&self, span: Range<usize>) -> usize {
        self.text
            .get(..span.start)
            .map_or(1, |before| before.matches('\n').count() + 1)
    }
}

impl<'t> Section<'t> {
    /// A section without keys.
    pub(super) fn named(path: String) -> Self {
        let table = DeTable::new();
        Self { path, table }
    }

    /// The key's full name, as in `limits.tunnels`.
    #[must_use]
    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Takes a value of type `T`. A value of another type is reported and counts as absent.
    pub fn take<T: DeserializeOwned>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &str,
    ) -> Option<Given<T>> {
        let value = self.remove(key)?;
        let line = reader.line(value.span());
        match T::deserialize(value.into_deserializer()) {
            Ok(value) => Some(Given { value, line }),
            Err(error) => {
                // The message quotes the value, which may be a misplaced secret, so keep only the
                // expected type.
                let expected = error
                    .message()
                    .rsplit_once("expected ")
                    .map_or("another type", |(_, expected)| in_words(expected));
                reader.add(
                    Some(line),
                    self.name(key),
                    format!("wrong type: this must be {expected}"),
                );
                None
            }
        }
    }

    /// Takes a table; empty if it is absent.
    pub fn section(&mut self, reader: &mut Reader<'_>, key: &str) -> Section<'t> {
        let path = self.name(key);
        let table = match self
            .remove(key)
            .map(|value| (reader.line(value.span()), value.into_inner()))
        {
            Some((_, DeValue::Table(table))) => table,
            None => DeTable::new(),
            Some((line, _)) => {
                reader.add(
                    Some(line),
                    path.clone(),
                    format!("this is a table: write [{path}]"),
                );
                DeTable::new()
            }
        };
        Section { path, table }
    }

    /// Takes a table that stands behind its key, with its line; None if it is absent or no table.
    pub fn inline(&mut self, reader: &mut Reader<'_>, key: &str) -> Option<Given<Section<'t>>> {
        let path = self.name(key);
        let value = self.remove(key)?;
        let line = reader.line(value.span());
        let DeValue::Table(table) = value.into_inner() else {
            let message = format!("wrong type: this must be a table, as in {key} = {{ … }}");
            reader.add(Some(line), path, message);
            return None;
        };
        let value = Section { path, table };
        Some(Given { value, line })
    }

    /// Whether no key is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Takes an array of tables, each with its line; None if it is absent.
    pub fn sections(
        &mut self,
        reader: &mut Reader<'_>,
        key: &str,
    ) -> Option<Vec<Given<Section<'t>>>> {
        let path = self.name(key);
        let value = self.remove(key)?;
        let line = reader.line(value.span());
        let DeValue::Array(array) = value.into_inner() else {
            reader.add(
                Some(line),
                path.clone(),
                format!("this is a list of tables: write [[{path}]]"),
            );
            return None;
        };
        let mut sections = Vec::new();
        for element in array {
            let line = reader.line(element.span());
            match element.into_inner() {
                DeValue::Table(table) => {
                    sections.push(Given {
                        value: Section {
                            path: path.clone(),
                            table,
                        },
                        line,
                    });
                }
                _ => reader.add(
                    Some(line),
                    path.clone(),
                    format!("this is a list of tables: write [[{path}]]"),
                ),
            }
        }
        Some(sections)
    }

    /// The remaining keys with their lines, for tables whose keys are names.
    #[must_use]
    pub fn keys(&self, reader: &Reader<'_>) -> Vec<Given<String>> {
        let keys = self.table.keys();
        keys.map(|key| Given {
            value: key.get_ref().to_string(),
            line: reader.line(key.span()),
        })
        .collect()
    }

    /// Whether a key is present and not taken yet.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.table.keys().any(|known| known.get_ref() == key)
    }

    /// Reports every key that was not taken.
    pub fn finish(self, reader: &mut Reader<'_>) {
        for key in self.table.keys() {
            let line = reader.line(key.span());
            let name = self.name(&shown_key(key.get_ref()));
            reader.add(
                Some(line),
                name,
                "this key is unknown; see docs/reference.md for the known keys",
            );
        }
    }

    fn remove(&mut self, key: &str) -> Option<Spanned<DeValue<'t>>> {
        let known = self
            .table
            .keys()
            .find(|known| known.get_ref() == key)?
            .clone();
        self.table.remove(&known)
    }
}

/// Translates serde's names of types for operators.
fn in_words(expected: &str) -> &str {
    match expected {
        "i64" => "a whole number",
        "a sequence" => "a list of texts in quotes",
        "a string" => "a text in quotes",
        "a boolean" => "true or false",
        other => other,
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}
