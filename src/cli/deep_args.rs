//! The flags of `sealway check --deep`.

use clap::Args;

use super::wrong_value;
use crate::commands::check::deep::Options;
use crate::commands::check::kinds::Check;

#[derive(Args)]
pub(super) struct DeepArgs {
    /// Examine this machine and the way to every upstream, and say what to do: addresses, routes,
    /// DNS, TCP, segment size, limits, ports, clock, Landlock, files, ages. Binds no listener.
    #[arg(long, conflicts_with = "offline")]
    pub(super) deep: bool,
    /// With --deep: print one JSON object.
    #[arg(long, requires = "deep")]
    json: bool,
    /// With --deep: also print what each check learned.
    #[arg(long, requires = "deep")]
    verbose: bool,
    /// With --deep: a check whose findings do not count, such as T09; may be repeated.
    #[arg(long, requires = "deep", value_name = "ID")]
    ignore: Vec<String>,
}

impl DeepArgs {
    pub(super) fn options(self) -> Options {
        // clap's own check would print a wrong value, which may be a misplaced secret.
        let parse = |text: &String| {
            let parsed = text.parse::<Check>();
            parsed.unwrap_or_else(|error| wrong_value("check", "'--ignore <ID>'", text, &error))
        };
        Options {
            json: self.json,
            verbose: self.verbose,
            ignored: self.ignore.iter().map(parse).collect(),
        }
    }
}
