//! An entry of `allow_files`: a path whose last component may contain `*` and `?`. Lists folders;
//! never reads a file.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::{FILES_MAX, PatternError, names_in};
use crate::config::read::{self, shown_path};

/// A path whose last component may match several names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    path: PathBuf,
    folder: PathBuf,
    /// The last component, if it contains `*` or `?`.
    name: Option<String>,
}

impl Pattern {
    /// Parses an entry; a relative path is relative to `base`.
    ///
    /// # Errors
    /// A description of the right form.
    pub fn parse(text: &str, base: &Path) -> Result<Self, &'static str> {
        let path = base.join(text);
        let (Some(name), Some(folder)) = (Path::new(text).file_name(), Path::new(text).parent())
        else {
            return Err("not a file such as hosts.txt, or a pattern such as hosts.d/*.txt");
        };
        if text.ends_with('/') {
            return Err("this is a folder: write a file, or a pattern such as hosts.d/*.txt");
        }
        if folder.to_string_lossy().contains(MARKS) {
            return Err("a * or ? is allowed only in the last part of a path, as in hosts.d/*.txt");
        }
        let name = name.to_string_lossy();
        let is_pattern = name.contains(MARKS);
        if is_pattern && name.contains(['[', '{', '\\']) {
            return Err("only * and ? are wildcards, as in hosts.d/*.txt");
        }
        Ok(Self {
            folder: base.join(folder),
            name: is_pattern.then(|| name.into_owned()),
            path,
        })
    }

    /// One file; `*` and `?` in its name are literal.
    #[must_use]
    pub fn of_file(file: &Path) -> Self {
        Self {
            path: file.to_owned(),
            folder: file.parent().unwrap_or(Path::new("")).to_owned(),
            name: None,
        }
    }

    /// Whether the entry matches a file, existing or not, also through links and `..`.
    #[must_use]
    pub fn stands_for(&self, file: &Path) -> bool {
        let wanted = real(file);
        let is_listed = || {
            self.files()
                .is_ok_and(|files| files.iter().any(|file| real(file) == wanted))
        };
        match &self.name {
            None => wanted == real(&self.path),
            Some(pattern) => {
                let folder = real(&self.folder);
                // The link itself, and its target.
                let link = file.parent().map(real).zip(file.file_name());
                let target = wanted.parent().map(Path::to_owned).zip(wanted.file_name());
                let is_meant = |(parent, name): (PathBuf, &OsStr)| {
                    parent == folder && is_meant(pattern, &name.to_string_lossy())
                };
                [link, target].into_iter().flatten().any(is_meant) || is_listed()
            }
        }
    }

    /// The entry as shown in messages: a pattern in an existing folder is not a misplaced secret.
    #[must_use]
    pub fn shown(&self) -> PathBuf {
        if self.name.is_some() && self.folder.is_dir() {
            self.path.clone()
        } else {
            shown_path(&self.path)
        }
    }

    /// The whole entry as a path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file can be read now, or the folder of `*` and `?` listed.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        match self.name {
            None => read::is_readable(&self.path),
            Some(_) => self.files().is_ok(),
        }
    }

    /// The matching files, sorted by name. A pattern skips folders, and names with a leading dot
    /// unless it begins with one. Without `*` and `?`, the file itself, existing or not.
    ///
    /// # Errors
    /// Why the files cannot be listed.
    pub fn files(&self) -> Result<Vec<PathBuf>, PatternError> {
        let Some(pattern) = &self.name else {
            return Ok(vec![self.path.clone()]);
        };
        let mut names = names_in(&self.folder)?;
        names.retain(|name| is_meant(pattern, name));
        names.sort();
        let files: Vec<_> = names
            .iter()
            .map(|name| self.folder.join(name))
            .filter(|file| !file.is_dir())
            .collect();
        if files.len() > FILES_MAX {
            return Err(PatternError::TooManyFiles);
        }
        Ok(files)
    }
}

/// Whether a pattern stands for this name in its folder.
fn is_meant(pattern: &str, name: &str) -> bool {
    (pattern.starts_with('.') || !name.starts_with('.')) && matches(pattern, name)
}

/// The path without links and `..`; what does not exist of it is resolved by its text.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut above = path.ancestors().take(DEPTH_MAX);
    let existing = above.find_map(|above| Some((above, above.canonicalize().ok()?)));
    let Some((above, real)) = existing else {
        return path;
    };
    let missing = path.strip_prefix(above).unwrap_or(&path).components();
    missing.fold(real, |mut real, component| {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                real.pop();
            }
            component => real.push(component),
        }
        real
    })
}

/// Whether a name matches: `*` matches any characters or none, `?` exactly one. Backtracks only to
/// the last `*`, so the cost is at most the product of both lengths.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut wanted, mut given) = (0, 0);
    let mut star = None;
    while given < name.len() {
        match pattern.get(wanted) {
            Some('*') => {
                star = Some((wanted, given));
                wanted += 1;
            }
            Some('?') => (wanted, given) = (wanted + 1, given + 1),
            Some(mark) if name.get(given) == Some(mark) => {
                (wanted, given) = (wanted + 1, given + 1);
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (wanted, given) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(wanted).all(|mark| *mark == '*')
}

/// More parts than a path of the kernel has that leads somewhere (PATH_MAX, path_resolution(7)).
const DEPTH_MAX: usize = 4_096;
/// The wildcards.
const MARKS: [char; 2] = ['*', '?'];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_within_one_file_name() {
        for (pattern, name, is_match) in [
            ("*.txt", "a.txt", true),
            ("*.txt", ".txt", true),
            ("*.txt", "a.txt~", false),
            ("*.txt", "atxt", false),
            ("a*b*c", "abbbcbc", true),
            ("a*b*c", "abbbcb", false),
            ("?.txt", "é.txt", true),
            ("?.txt", ".txt", false),
            ("*", "", true),
            ("**", "x", true),
            ("a", "ab", false),
            ("*a", "b", false),
            ("*?", "", false),
        ] {
            assert_eq!(matches(pattern, name), is_match, "{pattern} {name}");
        }
        let long = "a".repeat(255);
        assert!(!matches(&"*a".repeat(127), &(long + "b")));
    }

    #[test]
    fn a_pattern_lists_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a.txt", ".hidden.txt", "c.txt~", "d.list"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        std::fs::create_dir(folder.path().join("sub.txt")).unwrap();
        let files = |text: &str| -> Vec<String> {
            let found = Pattern::parse(text, folder.path())
                .unwrap()
                .files()
                .unwrap();
            let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
            found.iter().map(name).collect()
        };
        assert_eq!(files("*.txt"), ["a.txt", "b.txt"]);
        assert_eq!(files(".*.txt"), [".hidden.txt"]);
        assert_eq!(files("none/*.txt"), Vec::<String>::new());
        assert_eq!(files("none.txt"), ["none.txt"], "one that is named is one");
        std::os::unix::fs::symlink("nowhere", folder.path().join("e.txt")).unwrap();
        assert_eq!(
            files("*.txt"),
            ["a.txt", "b.txt", "e.txt"],
            "to be reported"
        );
    }

    #[test]
    fn a_file_of_the_folder_is_recognised_by_any_path() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for name in ["hosts.d", "log"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let link = |target: &str, path: &str| std::os::unix::fs::symlink(target, at(path)).unwrap();
        link("hosts.d", "other");
        link("../hosts.d/a.txt", "log/a.jsonl");
        link("../log/b.jsonl", "hosts.d/b.txt");
        let pattern = Pattern::parse("hosts.d/*.txt", folder.path()).unwrap();
        for file in [
            "hosts.d/a.txt",
            "hosts.d/../hosts.d/a.txt",
            "log/../hosts.d/./a.txt",
            "other/a.txt",
            "log/a.jsonl",
            "log/b.jsonl",
        ] {
            // The target of a link does not exist yet.
            assert_eq!(
                pattern.stands_for(&at(file)),
                file != "log/a.jsonl" && file != "log/b.jsonl",
                "{file}"
            );
        }
        for name in ["hosts.d/a.txt", "log/b.jsonl"] {
            std::fs::write(at(name), "").unwrap();
        }
        for file in ["log/a.jsonl", "log/b.jsonl"] {
            assert!(pattern.stands_for(&at(file)), "{file}");
        }
        for file in [
            "hosts.d/a.jsonl",
            "log/a.txt",
            "hosts.d/../a.txt",
            "hosts.d/.a.txt",
        ] {
            assert!(!pattern.stands_for(&at(file)), "{file}");
        }
        let one = Pattern::parse("hosts.d/a.txt", folder.path()).unwrap();
        assert!(one.stands_for(&at("other/../other/a.txt")) && !one.stands_for(&at("log/b.jsonl")));
        let missing = Pattern::parse("none/*.txt", folder.path()).unwrap();
        assert!(missing.stands_for(&at("none/../none/a.txt")));
    }

    #[test]
    fn a_wildcard_in_the_folder_is_refused() {
        for text in [
            "",
            "/",
            "..",
            "hosts.d/",
            "*/a.txt",
            "a?/b.txt",
            "[ab]*.txt",
            "{a,b}*",
        ] {
            assert!(Pattern::parse(text, Path::new("/etc")).is_err(), "{text}");
        }
        for text in ["a.txt", "hosts.d/*.txt", "/srv/a[1].txt", "../b?"] {
            assert!(Pattern::parse(text, Path::new("/etc")).is_ok(), "{text}");
        }
    }
}
