//! T11 and T12: the audit file, who may change the configuration, and the age of lists.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use time::OffsetDateTime;

use super::listed;
use crate::audit::file;
use crate::commands::check::kinds::{
    self,
    Check::{T11, T12},
};
use crate::commands::check::report::{Finding, Report};
use crate::config::Config;
use crate::config::destinations::AGE_MAX;
use crate::config::read::shown_path;
use crate::sys::files::free_bytes;

pub(super) fn examine(config: &Config, report: &mut Report) {
    match &config.audit_file {
        Some(file) => audit(file, report),
        None => report.fact(T11, "audit records go to standard error"),
    }
    open_files(config, report);
    ages(config, SystemTime::now(), report);
}

fn audit(path: &Path, report: &mut Report) {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let finding = |kind| {
        let named = Finding::new(kind).with("folder", folder.display());
        named.with("file", absolute.display())
    };
    if let Err(error) = file::usable(path) {
        return report.found(finding(kinds::AUDIT_UNUSABLE).with("reason", error));
    }
    if let (Ok(of_folder), Ok(of_file)) = (folder.metadata(), path.symlink_metadata())
        && owner_differs(of_folder.uid(), of_file.uid())
    {
        report.found(finding(kinds::AUDIT_OWNER));
    }
    if let Ok(free) = free_bytes(folder) {
        let free = free / MIB;
        report.fact(
            T11,
            format!("{free} MiB are free in {}", shown_path(folder).display()),
        );
        if free < FREE_MIN_MIB {
            report.found(finding(kinds::AUDIT_SPACE).with("free", free));
        }
    }
}

/// The service's user owns the folder, unless root does: then a daemon of root writes there.
fn owner_differs(folder: u32, file: u32) -> bool {
    folder != 0 && folder != file
}

/// The files of the configuration, itself included, that anybody may write. Their contents decide who may use the tunnel.
fn open_files(config: &Config, report: &mut Report) {
    let patterns = config.files.iter();
    let mut files: Vec<PathBuf> = patterns
        .flat_map(|pattern| pattern.files().unwrap_or_default())
        .filter(|file| {
            file.metadata()
                .is_ok_and(|found| found.is_file() && found.mode() & OTHERS_WRITE != 0)
        })
        .collect();
    files.sort();
    files.dedup();
    if let Some(first) = files.first() {
        let names: Vec<_> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let finding = Finding::new(kinds::FILE_OPEN).with("files", listed(&names));
        report.found(finding.with("file", first.display()));
    }
}

fn ages(config: &Config, now: SystemTime, report: &mut Report) {
    let today = OffsetDateTime::from(now);
    let months = today.year() * 12 + i32::from(u8::from(today.month()));
    let is_old = |source: &str| read_in(source).is_some_and(|read| months - read > MONTHS_MAX);
    let presets = config.presets.iter();
    let old: Vec<_> = presets
        .filter(|chosen| is_old(chosen.preset().source))
        .map(ToString::to_string)
        .collect();
    if !old.is_empty() {
        report.found(Finding::new(kinds::PRESETS_OLD).with("presets", listed(&old)));
    }
    for chosen in &config.presets {
        let source = chosen.preset().source;
        report.fact(T12, format!("preset {chosen}: {source}"));
    }
    for source in &config.ranges {
        let (age, file) = (source.age(now), shown_path(&source.path));
        let days = age.as_secs() / 86_400;
        report.fact(T12, format!("{}: {days} days old", file.display()));
        if age > AGE_MAX {
            let finding = Finding::new(kinds::RANGES_OLD).with("file", file.display());
            report.found(finding.with("days", days));
        }
    }
}

/// The month in which a preset's names were read, counted from the year 0, by the end of its source: `November 2026`,
/// `mid-2026`.
fn read_in(source: &str) -> Option<i32> {
    let mut words = source.rsplit([' ', '-']);
    let year: i32 = words.next()?.parse().ok()?;
    let word = words.next()?;
    let month = match MONTHS.iter().position(|month| *month == word) {
        Some(at) => i32::try_from(at).ok()? + 1,
        None => (word == "mid").then_some(6)?,
    };
    Some(year * 12 + month)
}

const MIB: u64 = 1 << 20;
/// A busy tunnel writes some 100 MiB of records a day.
const FREE_MIN_MIB: u64 = 256;
const OTHERS_WRITE: u32 = 0o002;
const MONTHS_MAX: i32 = 12;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use crate::policy::presets::Preset;

    #[test]
    fn the_source_of_each_preset_says_when_it_was_read() {
        for preset in Preset::all() {
            let read = read_in(preset.source);
            let years = 2026 * 12..2100 * 12;
            assert!(
                read.is_some_and(|at| years.contains(&at)),
                "{}",
                preset.name
            );
        }
        assert_eq!(read_in("x 1.2, January 2027"), Some(2027 * 12 + 1));
        assert_eq!(read_in("a page, mid-2026"), Some(2026 * 12 + 6));
        assert_eq!(read_in("2026"), None);
    }

    #[test]
    fn presets_are_old_after_a_year_and_not_before() {
        let toml = "[policy]\npresets = [\"gemini\", \"anthropic\"]\n";
        let config = Config::parse(Path::new("a.toml"), toml, &Overrides::default()).unwrap();
        let text = |date: time::Date| {
            let mut report = Report::default();
            let now = SystemTime::from(date.midnight().assume_utc());
            ages(&config, now, &mut report);
            report.text("x", false, false)
        };
        let old = text(time::macros::date!(2027 - 12 - 01));
        assert!(old.contains("T12 presets_old"), "{old}");
        assert!(old.contains("names in gemini, anthropic are"), "{old}");
        let one = text(time::macros::date!(2027 - 07 - 01));
        assert!(one.contains("names in gemini are"), "{one}");
        assert_eq!(text(time::macros::date!(2027 - 06 - 30)), "ok: x\n");
    }

    #[test]
    fn a_file_of_another_user_is_told_unless_root_owns_the_folder() {
        assert!(owner_differs(990, 0) && owner_differs(990, 991));
        assert!(!owner_differs(990, 990) && !owner_differs(0, 990) && !owner_differs(0, 0));
    }
}
