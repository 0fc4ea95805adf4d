//! The files of `policy.destination_ranges`: read completely or rejected, with their age.

mod list;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::fields::Fields;
use super::file::{Given, Problem};
use super::read::{Secrecy, shown_path};
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
                format!("takes nothing away: set policy.{RANGES} too"),
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
    let ((networks, source), minus) = (given?, minus.map_or(Some(None), |minus| minus.map(Some))?);
    let mut ranges = Ranges::of(&networks);
    let mut sources = vec![source];
    if let Some((networks, source)) = minus {
        ranges = ranges.less(&Ranges::of(&networks));
        sources.push(source);
    }
    if ranges.is_empty() {
        fields.complain(
            line,
            RANGES,
            format!("policy.{MINUS} takes everything away: no address would be left"),
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
) -> Option<(Vec<IpNet>, RangesFile)> {
    let path = beside(config, &given.value);
    load(&path)
        .map_err(|problem| {
            fields.reader.problems.push(Problem {
                key: format!("policy.{key}"),
                ..problem
            })
        })
        .ok()
}

fn beside(config: &Path, name: &str) -> PathBuf {
    config.parent().unwrap_or(Path::new("")).join(name)
}

/// Reads the networks of a file. Stops at the first problem.
fn load(path: &Path) -> Result<(Vec<IpNet>, RangesFile), Problem> {
    let problem = |Wrong { line, message }| Problem {
        file: Some(shown_path(path)),
        line,
        key: String::new(),
        message,
    };
    let content = super::read::read(path, Secrecy::Public)
        .map_err(|error| problem(Wrong::whole(error.to_string())))?;
    let List { networks, made } = list::parse(&content.text).map_err(problem)?;
    Ok((
        networks,
        RangesFile {
            path: path.to_owned(),
            made: made.map_or(content.modified, SystemTime::from),
        },
    ))
}

/// Older lists cause a warning: Google changes its lists every few weeks.
pub const AGE_MAX: Duration = Duration::from_secs(30 * 86_400);
const RANGES: &str = "destination_ranges";
const MINUS: &str = "destination_ranges_minus";
