//! Flags and variables that replace values of the configuration file. Checks each value; never
//! reads the file.

use std::fmt::Display;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use super::wrong_value;
use crate::config::fields::{ip_address, socket_address};
use crate::config::{Named, Overrides};
use crate::policy::Rule;

#[derive(Args)]
pub(super) struct OverrideArgs {
    /// Listen here instead of on the file's listeners; may be repeated.
    #[arg(
        long,
        value_name = "ADDR",
        env = "SEALWAY_LISTEN",
        value_delimiter = ','
    )]
    listen: Vec<String>,
    /// Leave from this static address instead of the file's; may be repeated.
    #[arg(long, value_name = "IP", env = "SEALWAY_EGRESS", value_delimiter = ',')]
    egress: Vec<String>,
    /// Allow this destination besides the presets, instead of the file's policy.allow: host, host:port, *.suffix,
    /// *-part.example.com; may be repeated.
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        env = "SEALWAY_ALLOW",
        value_delimiter = ','
    )]
    allow: Vec<String>,
    /// Serve metrics and health here; "" turns it off.
    #[arg(long, value_name = "ADDR", env = "SEALWAY_ADMIN")]
    admin: Option<String>,
}

impl OverrideArgs {
    /// Checks each value. A wrong one ends the process as a wrong flag does, with the name of what the operator set:
    /// the flag or the variable.
    pub(super) fn read(self, matches: &ArgMatches) -> Overrides {
        let (name, matches) = matches.subcommand().unwrap_or(("", matches));
        let set = |flag: &'static str, id: &str| match matches.value_source(id) {
            Some(ValueSource::EnvVariable) => matching_variable(flag),
            _ => flag,
        };
        let named = Named {
            listen: set("--listen", "listen"),
            egress: set("--egress", "egress"),
            admin: set("--admin", "admin"),
        };
        Overrides {
            listen: list(name, named.listen, &self.listen, socket_address),
            egress: list(name, named.egress, &self.egress, ip_address),
            allow: list(name, set("--allow", "allow"), &self.allow, Rule::parse),
            admin: self.admin.map(|address| address.trim().to_owned()),
            named,
            offline: false,
            for_hop: false,
            handed_over: None,
        }
    }
}

/// The variable that sets the same value as a flag.
fn matching_variable(flag: &'static str) -> &'static str {
    match flag {
        "--listen" => "SEALWAY_LISTEN",
        "--egress" => "SEALWAY_EGRESS",
        "--allow" => "SEALWAY_ALLOW",
        _ => "SEALWAY_ADMIN",
    }
}

/// The entries of a list, without the spaces around them. An empty one, as compose files and trailing commas leave it, is none.
fn list<T, E: Display>(
    command: &str,
    name: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, E>,
) -> Vec<T> {
    let entries = texts
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty());
    entries
        .map(|text| parse(text).unwrap_or_else(|error| wrong_value(command, name, text, &error)))
        .collect()
}
