//! The command line: flags and environment → one call; its result → one exit status.
//!
//! 0 done; 2 wrong flags; 78 wrong configuration (EX_CONFIG of sysexits.h, on which systemd must not restart); 1 anything else. The reason
//! goes to standard error in plain sentences.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::commands::{Trouble, check, run, user};
use crate::config::Overrides;
use crate::policy::Rule;

#[derive(Parser)]
#[command(name = "sealway", version = LONG_VERSION, about = ABOUT, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the tunnel in the foreground.
    #[command(after_help = RUN_EXAMPLES)]
    Run {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        overrides: OverrideArgs,
    },
    /// Check the configuration and this machine; print every problem.
    #[command(after_help = "Example:\n  sealway check --config /etc/sealway/sealway.toml")]
    Check {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Manage the users file.
    #[command(subcommand, after_help = "Example:\n  sealway user add alice --config /etc/sealway/sealway.toml")]
    User(UserCommand),
}

#[derive(Subcommand)]
enum UserCommand {
    /// Make a user with a random secret and print its proxy URL, once.
    #[command(after_help = "Example:\n  sealway user add alice --config sealway.toml")]
    Add(UserArgs),
    /// List the users.
    #[command(after_help = "Example:\n  sealway user list --config sealway.toml")]
    List {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Remove a user.
    #[command(after_help = "Example:\n  sealway user remove alice --config sealway.toml")]
    Remove(UserArgs),
    /// Give a user a second live secret and print its proxy URL, once; the oldest of two is dropped.
    #[command(after_help = "Example:\n  sealway user rotate alice --config sealway.toml")]
    Rotate(UserArgs),
}

#[derive(Args)]
struct ConfigArg {
    /// The configuration file (TOML); without it, the defaults.
    #[arg(long, value_name = "FILE", env = "SEALWAY_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct UserArgs {
    /// The user's name: 1 to 64 of A-Z a-z 0-9 . _ -
    name: String,
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Args)]
struct OverrideArgs {
    /// Listen here instead of on the file's listeners; may be repeated.
    #[arg(long, value_name = "ADDR", env = "SEALWAY_LISTEN", value_delimiter = ',')]
    listen: Vec<SocketAddr>,
    /// Leave from this static address; may be repeated.
    #[arg(long, value_name = "IP", env = "SEALWAY_EGRESS", value_delimiter = ',')]
    egress: Vec<IpAddr>,
    /// Allow this destination besides the presets: host, host:port, *.suffix; may be repeated.
    #[arg(long, value_name = "HOST[:PORT]", env = "SEALWAY_ALLOW", value_delimiter = ',', value_parser = Rule::parse)]
    allow: Vec<Rule>,
    /// Serve metrics and health here; "" turns it off.
    #[arg(long, value_name = "ADDR", env = "SEALWAY_ADMIN")]
    admin: Option<String>,
}

/// Runs what the arguments say and reports how it went.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { config, overrides } => run::run(config.config, overrides.into()),
        Command::Check { config } => check::check(config.config.as_deref()),
        Command::User(UserCommand::Add(args)) => user::add(&args.name, args.config.config.as_deref()),
        Command::User(UserCommand::List { config }) => user::list(config.config.as_deref()),
        Command::User(UserCommand::Remove(args)) => user::remove(&args.name, args.config.config.as_deref()),
        Command::User(UserCommand::Rotate(args)) => user::rotate(&args.name, args.config.config.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Config(problems)) => {
            problems.iter().for_each(|problem| eprintln!("sealway: {problem}"));
            ExitCode::from(EX_CONFIG)
        }
        Err(Trouble::Other(reason)) => {
            eprintln!("sealway: {reason}");
            ExitCode::FAILURE
        }
    }
}

impl From<OverrideArgs> for Overrides {
    fn from(args: OverrideArgs) -> Self {
        Self { listen: args.listen, egress: args.egress, allow: args.allow, admin: args.admin }
    }
}

const EX_CONFIG: u8 = 78;
const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (revision ", env!("SEALWAY_REVISION"), ")");
const ABOUT: &str = "A CONNECT-only tunnel with a static source address. TLS passes through unopened; what policy does not name is refused.";
const EXAMPLES: &str = "Example:\n  sealway run --egress 203.0.113.7\n  curl --proxy http://127.0.0.1:9293 https://generativelanguage.googleapis.com/";
const RUN_EXAMPLES: &str = "Examples:\n  sealway run\n  sealway run --egress 203.0.113.7 --allow oauth2.googleapis.com\n  sealway run --config /etc/sealway/sealway.toml\n\nSIGTERM and SIGINT drain and stop, a second one stops at once; SIGHUP reloads.";
