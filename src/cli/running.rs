//! Flags of the commands that ask a running daemon → one call. Never asks anything itself.

use std::path::Path;

use clap::Args;

use super::ConfigArg;
use crate::commands::{Trouble, operate, top};
use crate::config::Overrides;

#[derive(Args)]
pub(super) struct TopArgs {
    /// Print once, without control sequences, and end.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Args)]
pub(super) struct ActArgs {
    /// Why, for the audit record.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Which running daemon.
#[derive(Args)]
struct DaemonArgs {
    /// Ask here instead of at the file's admin.address.
    #[arg(long, value_name = "ADDR", env = "SEALWAY_ADMIN")]
    admin: Option<String>,
    #[command(flatten)]
    config: ConfigArg,
}

impl TopArgs {
    pub(super) fn top(self) -> Result<(), Trouble> {
        let (path, overrides) = self.daemon.place();
        top::top(path, &overrides, self.once)
    }
}

impl ActArgs {
    pub(super) fn drain(self, is_wanted: bool) -> Result<(), Trouble> {
        let (path, overrides) = self.daemon.place();
        operate::drain(path, &overrides, is_wanted, self.reason)
    }

    pub(super) fn reload(self) -> Result<(), Trouble> {
        let (path, overrides) = self.daemon.place();
        operate::reload(path, &overrides, self.reason)
    }
}

impl DaemonArgs {
    /// The configuration that says where the daemon is watched, and what the flag says instead.
    fn place(&self) -> (Option<&Path>, Overrides) {
        let overrides = Overrides {
            admin: self.admin.clone(),
            ..Overrides::default()
        };
        (self.config.path(), overrides)
    }
}

pub(super) const TOP_EXAMPLES: &str = "Examples:\n  sealway top\n  sealway top --config /etc/sealway/sealway.toml\n  sealway top --admin 127.0.0.1:9294 --once\n\nCtrl-C ends it. Where standard output is no terminal it prints once.\nExit status: 0 done, 1 nobody answers, 2 wrong flags, 78 wrong configuration.";
pub(super) const DRAIN_EXAMPLES: &str = "Examples:\n  sudo sealway drain --reason 'kernel update'\n  sealway drain --config /etc/sealway/sealway.toml\n\nIt lasts over reloads, until sealway undrain or a restart; /readyz says 503.\nExit status: 0 done, 1 nobody answers or the daemon refuses, 2 wrong flags, 78 wrong configuration.";
pub(super) const UNDRAIN_EXAMPLES: &str = "Example:\n  sudo sealway undrain\n\nExit status: 0 done, 1 nobody answers or the daemon refuses, 2 wrong flags, 78 wrong configuration.";
pub(super) const RELOAD_EXAMPLES: &str = "Examples:\n  sudo sealway reload\n  sealway reload --config /etc/sealway/sealway.toml\n\nThe daemon reads its own files, with the flags and variables it was started with.\nExit status: 0 the new configuration is in force, 1 nobody answers or the daemon refuses to reload, 2 wrong flags, 78 the new configuration is refused (standard error has every problem).";
