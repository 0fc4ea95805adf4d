//! `sealway check --deep`: examines this machine and the way to every upstream, and says what to do.
//!
//! Opens TCP connections from the egress addresses, sends at most 1,800 bytes on a few of them, and resets them. Binds no
//! listener, so it runs beside the daemon; changes and leaves no file; has no TLS library. Every step has a limit, and the whole
//! ends within about ten seconds.

mod addresses;
mod attempt;
mod files;
mod hop;
mod machine;
mod names;
mod reach;

use std::path::Path;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::kinds::Check;
use super::report::Report;
use crate::commands::Trouble;
use crate::commands::findings::paragraphs::colours;
use crate::config::file::{self as config_file, Problem};
use crate::config::{Config, Overrides};
use crate::dial::Egress;
use crate::sys;

/// How the result is shown.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// One JSON object in place of text.
    pub json: bool,
    /// Also what each check learned.
    pub verbose: bool,
    /// Checks whose findings do not count.
    pub ignored: Vec<Check>,
}

/// Runs all checks and prints the result.
///
/// # Errors
/// [`Trouble::Refused`] if something was found; [`Trouble::Usage`] if the configuration cannot be used.
pub fn deep(path: Option<&Path>, overrides: &Overrides, options: &Options) -> Result<(), Trouble> {
    let text = path.map_or_else(|| Ok(Zeroizing::default()), config_file::text);
    let text = text.map_err(|problems| unusable(&problems))?;
    let (config, problems) = Config::read(path.unwrap_or(Path::new("")), &text, overrides);
    if !problems.is_empty() {
        return Err(unusable(&problems));
    }
    let mut report = Report::default();
    let file = path.unwrap_or(Path::new(INSTALLED)).display().to_string();
    report.values.set("config", file);
    let egress = Egress::wanted(&config.egress);
    let until = Instant::now() + TOTAL;
    let usable = addresses::examine(&config, &egress, &mut report);
    machine::examine(&config, &egress, &mut report);
    files::examine(&config, &mut report);
    hop::examine(&config, path, &mut report);
    network(&config, &usable, until, &mut report);
    report.ignore(&options.ignored);
    let heading = path.map_or("the defaults".into(), |path| path.display().to_string());
    match options.json {
        true => println!("{}", report.json(&heading)),
        false => print!("{}", report.text(&heading, colours(), options.verbose)),
    }
    match report.is_well() {
        true => Ok(()),
        false => Err(Trouble::Refused),
    }
}

/// DNS, routes and connections.
fn network(config: &Config, usable: &[std::net::IpAddr], until: Instant, report: &mut Report) {
    if usable.is_empty() {
        for check in [Check::T02, Check::T04, Check::T05, Check::T06] {
            report.skip(check, "no egress address is usable");
        }
        return;
    }
    let targets = names::examine(config, usable, report);
    reach::examine(&targets, usable, until, report);
}

/// The doctor's status for what cannot be looked at.
fn unusable(problems: &[Problem]) -> Trouble {
    let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
    Trouble::Usage(lines.join("\nsealway: "))
}

/// How many operations run at the same time: fewer than `most` if this process may open few files. Each opens this many.
fn at_once(most: usize, files: usize) -> usize {
    let limit = sys::raise_descriptor_limit().unwrap_or(FILES_USUAL);
    let free = usize::try_from(limit).unwrap_or(usize::MAX);
    (free.saturating_sub(OTHER_FILES) / files).clamp(1, most)
}

/// A list of names for a sentence: the first few, and how many more.
fn listed(names: &[String]) -> String {
    let shown = names.get(..LISTED_MAX).unwrap_or(names).join(", ");
    match names.len().saturating_sub(LISTED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

const LISTED_MAX: usize = 3;
/// The configuration file of the package.
const INSTALLED: &str = "/etc/sealway/sealway.toml";
/// The usual soft limit on open files.
const FILES_USUAL: u64 = 1_024;
/// What this process has open otherwise: netlink, runtimes, standard streams.
const OTHER_FILES: usize = 40;
/// From the start to the last connection.
const TOTAL: Duration = Duration::from_millis(9_500);
