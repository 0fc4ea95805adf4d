//! The files of `policy.destination_ranges`: read completely or rejected, with their age.

mod list;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::fields::Fields;
use super::file::{Given, Problem};
use super::read::{ReadError, Secrecy, shown_path};
use crate::policy::ranges::Ranges;
use list::{List, Wrong};

/// A file of networks and the age of its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangesFile {
    /// The file.
    pub path: PathBuf,
    /// When its list was created: `creationTime` of the JSON, otherwise the modification time.
    pub made: SystemTime,
}

impl RangesFile {
    /// The age of the list; zero if its time lies in the future.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.made).unwrap_or_default()
    }
}

/// Reads the ranges of the section `[policy]` and their files. Returns None without ranges, or
/// after reporting a problem.
pub(super) fn read(
    fields: &mut Fields<'_, '_>,
    config: &Path,
    offline: bool,
) -> Option<(Ranges, Vec<RangesFile>)> {
    let mut named = |key| fields.text(key).filter(|given| !given.value.is_empty());
    let (given, minus) = (named(RANGES), named(MINUS));
    let Some(given) = given else {
        if let Some(minus) = minus {
            fields.complain(
                minus.line,
                MINUS,
                format!("removes nothing: set policy.{RANGES} too"),
            );
        }
        return None;
    };
    let line = given.line;
    let named = [Some(&given), minus.as_ref()].into_iter().flatten();
    let named = named.map(|given| beside(config, &given.value));
    fields.reader.named.extend(named);
    if offline {
        let named = [Some(&given), minus.as_ref()].into_iter().flatten();
        let gone: Vec<_> = named
            .map(|given| beside(config, &given.value))
            .filter(|path| !path.exists())
            .collect();
        if !gone.is_empty() {
            fields.reader.unread.extend(gone);
            return None;
        }
    }
    let given = file(fields, config, RANGES, given);
    let minus = minus.map(|minus| file(fields, config, MINUS, minus));
    let (given, minus) = (given?, minus.map_or(Some(None), |minus| minus.map(Some))?);
    let (mut ranges, mut sources) = (given.0.clone(), vec![given.1.clone()]);
    if let Some(minus) = minus {
        ranges = ranges.less(&minus.0);
        sources.push(minus.1.clone());
    }
    if ranges.is_empty() {
        fields.complain(
            line,
            RANGES,
            format!("policy.{MINUS} removes every address: change one of the two files"),
        );
    }
    Some((ranges, sources))
}

/// Reads one file, relative to the folder of the configuration.
fn file(
    fields: &mut Fields<'_, '_>,
    config: &Path,
    key: &str,
    given: Given<String>,
) -> Option<Arc<(Ranges, RangesFile)>> {
    let path = beside(config, &given.value);
    let key = format!("policy.{key}");
    let files = &mut fields.reader.files;
    let read = load(&path).or_else(|wrong| match wrong {
        LoadError::Read(error) => files
            .keep(&path, key.clone(), error, |former| {
                former.ranges.get(&path).cloned()
            })
            .map_err(LoadError::Read),
        wrong => Err(wrong),
    });
    match read {
        Ok(list) => {
            files.read.ranges.insert(path, Arc::clone(&list));
            Some(list)
        }
        Err(wrong) => {
            let problem = wrong.problem(&path, key);
            fields.reader.problems.push(problem);
            None
        }
    }
}

fn beside(config: &Path, name: &str) -> PathBuf {
    config.parent().unwrap_or(Path::new("")).join(name)
}

/// Why a list cannot be used.
enum LoadError {
    Read(ReadError),
    Wrong(Wrong),
}

impl LoadError {
    fn problem(self, path: &Path, key: String) -> Problem {
        let cause = match &self {
            Self::Read(error) => error.kind(),
            Self::Wrong(_) => None,
        };
        let Wrong { line, message } = match self {
            Self::Read(error) => Wrong::whole(error.to_string()),
            Self::Wrong(wrong) => wrong,
        };
        Problem {
            file: Some(shown_path(path)),
            line,
            key,
            message,
            cause,
        }
    }
}

/// Reads the networks of a file. Stops at the first problem.
fn load(path: &Path) -> Result<Arc<(Ranges, RangesFile)>, LoadError> {
    let content = super::read::read(path, Secrecy::Public).map_err(LoadError::Read)?;
    let List { networks, made } = list::parse(&content.text).map_err(LoadError::Wrong)?;
    let source = RangesFile {
        path: path.to_owned(),
        made: made.map_or(content.modified, SystemTime::from),
    };
    Ok(Arc::new((Ranges::of(&networks), source)))
}

/// Older lists cause a warning: Google changes its lists every few weeks.
pub const AGE_MAX: Duration = Duration::from_secs(30 * 86_400);
const RANGES: &str = "destination_ranges";
const MINUS: &str = "destination_ranges_minus";
