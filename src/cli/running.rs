//! Flags of the commands that query or control a running daemon. Sends nothing itself.

use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgGroup, ArgMatches, Args};

use super::ConfigArg;
use crate::admin::operation::EndRequest;
use crate::commands::tunnels::{self, Filter};
use crate::commands::{Trouble, operate, top};
use crate::config::{Named, Overrides};

#[derive(Args)]
#[command(after_help = TOP_EXAMPLES)]
pub(super) struct TopArgs {
    /// Print once, without control sequences, and exit.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Args)]
#[command(after_help = TUNNELS_EXAMPLES)]
pub(super) struct TunnelsArgs {
    /// Only tunnels of this user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only tunnels to this host, or to this host and port.
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Args)]
#[command(after_help = END_EXAMPLES)]
#[command(group = ArgGroup::new("which").required(true).args(["ids", "user", "client"]))]
pub(super) struct EndArgs {
    /// Identifiers of tunnels, as shown by sealway tunnels and in audit records.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All tunnels of this user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// All tunnels of clients in this network.
    #[arg(long, value_name = "CIDR")]
    client: Option<String>,
    /// The reason, for the audit records.
    #[arg(long, value_name = "TEXT", required = true)]
    reason: String,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Args)]
pub(super) struct ActArgs {
    /// The reason, for the audit record.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Selects the running daemon.
#[derive(Args)]
struct DaemonArgs {
    /// The admin listener's address, instead of the file's admin.address.
    #[arg(long, value_name = "ADDR", env = "SEALWAY_ADMIN")]
    admin: Option<String>,
    #[command(flatten)]
    config: ConfigArg,
}

impl TopArgs {
    pub(super) fn top(self, matches: &ArgMatches) -> Result<(), Trouble> {
        let (path, overrides) = self.daemon.place(matches);
        top::top(path, &overrides, self.once)
    }
}

impl TunnelsArgs {
    pub(super) fn tunnels(self, matches: &ArgMatches) -> Result<(), Trouble> {
        let (path, overrides) = self.daemon.place(matches);
        let filter = Filter {
            user: self.user,
            host: self.host,
        };
        tunnels::tunnels(path, &overrides, &filter, self.json)
    }
}

impl EndArgs {
    pub(super) fn end(self, matches: &ArgMatches) -> Result<(), Trouble> {
        let (path, overrides) = self.daemon.place(matches);
        let request = EndRequest {
            ids: (!self.ids.is_empty()).then_some(self.ids),
            user: self.user,
            client: self.client,
            reason: self.reason,
        };
        operate::end(path, &overrides, &request)
    }
}

impl ActArgs {
    pub(super) fn drain(self, matches: &ArgMatches, is_wanted: bool) -> Result<(), Trouble> {
        let (path, overrides) = self.daemon.place(matches);
        operate::drain(path, &overrides, is_wanted, self.reason)
    }

    pub(super) fn reload(self, matches: &ArgMatches) -> Result<(), Trouble> {
        let (path, overrides) = self.daemon.place(matches);
        operate::reload(path, &overrides, self.reason)
    }
}

impl DaemonArgs {
    /// The configuration file with the admin listener's address, and the flag that replaces it.
    fn place(&self, matches: &ArgMatches) -> (Option<&Path>, Overrides) {
        let source = matches
            .subcommand()
            .and_then(|(_, matches)| matches.value_source("admin"));
        let mut named = Named::default();
        if source == Some(ValueSource::EnvVariable) {
            named.admin = "SEALWAY_ADMIN";
        }
        let overrides = Overrides {
            admin: self
                .admin
                .as_deref()
                .map(|address| address.trim().to_owned()),
            named,
            ..Overrides::default()
        };
        (self.config.path(), overrides)
    }
}

const TOP_EXAMPLES: &str = "Examples:\n  sealway top\n  sealway top --config /etc/sealway/sealway.toml\n  sealway top --admin 127.0.0.1:9294 --once\n\nCtrl-C ends it. Without a terminal on standard output it prints once.\nExit status: 0 done, 1 no answer, 2 wrong flags, 78 wrong configuration.";
const TUNNELS_EXAMPLES: &str = "Examples:\n  sudo sealway tunnels\n  sudo sealway tunnels --user alice\n  sudo sealway tunnels --host generativelanguage.googleapis.com --json\n\nThe list includes tunnels that are being set up, from the moment that their request is allowed.\nExit status: 0 done, 1 no answer or the daemon refuses, 2 wrong flags, 78 wrong configuration.";
const END_EXAMPLES: &str = "Examples:\n  sudo sealway end 1a202f82158-1 1a202f82158-7 --reason 'stuck'\n  sudo sealway end --user alice --reason 'secret leaked'\n  sudo sealway end --client 192.0.2.0/24 --reason 'host is compromised'\n\nResets both sides of each tunnel. Tunnels that open afterwards continue: to keep a user out, disable the user and reload first.\nExit status: 0 all have ended, 1 one was not found, no answer or the daemon refuses, 2 wrong flags, 78 wrong configuration.";
pub(super) const DRAIN_EXAMPLES: &str = "Examples:\n  sudo sealway drain --reason 'kernel update'\n  sealway drain --config /etc/sealway/sealway.toml\n\nThe drain survives reloads and ends with sealway undrain or a restart; until then /readyz answers 503.\nExit status: 0 done, 1 no answer or the daemon refuses, 2 wrong flags, 78 wrong configuration.";
pub(super) const UNDRAIN_EXAMPLES: &str = "Example:\n  sudo sealway undrain\n\nExit status: 0 done, 1 no answer or the daemon refuses, 2 wrong flags, 78 wrong configuration.";
pub(super) const RELOAD_EXAMPLES: &str = "Examples:\n  sudo sealway reload\n  sealway reload --config /etc/sealway/sealway.toml\n\nThe daemon reads its own files, with the flags and variables it was started with.\nExit status: 0 the new configuration is in force, 1 no answer, the daemon refuses to reload, or files could not be read (their former content stays in force), 2 wrong flags, 78 the new configuration is refused (standard error has every problem).";
