//! What each command of the command line does: one file each.

mod ask;
pub mod audit;
pub mod check;
pub mod companion;
pub mod explain;
pub mod findings;
mod look_up;
pub mod operate;
pub mod presets;
pub mod run;
pub mod top;
pub mod tunnels;
pub mod user;

use std::path::Path;

use crate::config::file::Problem;
use crate::config::{Config, Overrides};

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub enum Trouble {
    /// The configuration is wrong: one line a problem.
    Config(Vec<String>),
    /// The same, or a limit is too low, while tunnels of a former daemon wait: worth another try soon.
    Waiting(Vec<String>),
    /// The tunnels wait for the next daemon, which the service manager has to start.
    HandedOver,
    /// The process that did it has ended with this status, and has said why.
    Child(u8),
    /// Anything else.
    Other(String),
    /// What was asked for cannot be looked at.
    Usage(String),
    /// A tunnel would be refused; standard output says why.
    Refused,
}

impl Trouble {
    fn of(problems: &[Problem]) -> Self {
        Self::Config(problems.iter().map(Problem::to_string).collect())
    }
}

fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, Trouble> {
    Config::load(path, overrides).map_err(|problems| Trouble::of(&problems))
}
