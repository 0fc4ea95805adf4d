//! `sealway user`: its flags, and the call that they mean.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ConfigArg;
use crate::commands::{Trouble, user};

#[derive(Subcommand)]
pub(super) enum UserCommand {
    /// Create a user with a random secret and print its proxy URL, once.
    #[command(after_help = "Example:\n  sealway user add alice --config sealway.toml")]
    Add(UserArgs),
    /// Create a user for each name of an htpasswd file, each with a new random secret, and print
    /// them as CSV, once.
    #[command(after_help = IMPORT_EXAMPLES)]
    Import {
        /// The htpasswd file: NAME:HASH lines. Its hashes are not kept.
        file: PathBuf,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// List the users.
    #[command(after_help = "Example:\n  sealway user list --config sealway.toml")]
    List {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Remove a user.
    #[command(after_help = "Example:\n  sealway user remove alice --config sealway.toml")]
    Remove(UserArgs),
    /// Add a second valid secret to a user and print its proxy URL, once; of two secrets the older
    /// is removed.
    #[command(after_help = "Example:\n  sealway user rotate alice --config sealway.toml")]
    Rotate(UserArgs),
}

#[derive(Args)]
pub(super) struct UserArgs {
    /// The user's name: 1 to 128 printable ASCII characters without space and colon
    name: String,
    #[command(flatten)]
    config: ConfigArg,
}

impl UserCommand {
    pub(super) fn execute(self) -> Result<(), Trouble> {
        match self {
            UserCommand::Add(args) => user::add(&args.name, args.config.path()),
            UserCommand::Import { file, config } => user::import(&file, config.path()),
            UserCommand::List { config } => user::list(config.path()),
            UserCommand::Remove(args) => user::remove(&args.name, args.config.path()),
            UserCommand::Rotate(args) => user::rotate(&args.name, args.config.path()),
        }
    }
}

const IMPORT_EXAMPLES: &str = "Example:\n  sealway user import /etc/squid/htpasswd --config /etc/sealway/sealway.toml >secrets.csv\n\nExisting users are not changed.";
