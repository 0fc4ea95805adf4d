//! The command line: turns flags and variables into one call, and its result into an exit status.
//!
//! 0: done. 2: wrong flags. 78: wrong configuration (EX_CONFIG of sysexits.h, after which systemd
//! must not restart). 1: any other failure. The reason goes to standard error in plain sentences.

mod audit;
mod deep_args;
mod overrides;
mod running;
mod user;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use clap::builder::OsStringValueParser;
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::check::deep;
use crate::commands::companion::{self, Companion};
use crate::commands::explain::Question;
use crate::commands::{Trouble, check, explain, presets, run};
use crate::config::Overrides;
use crate::config::fields::shown;
use crate::policy::presets::ChosenPreset;
use crate::supervisor;
use crate::sys::signals;
use audit::AuditCommand;
use deep_args::DeepArgs;
use overrides::OverrideArgs;
use running::{
    ActArgs, DRAIN_EXAMPLES, EndArgs, RELOAD_EXAMPLES, TopArgs, TunnelsArgs, UNDRAIN_EXAMPLES,
};
use user::UserCommand;

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
        /// Do not start sealway-hop for the TLS listeners: a service or container of its own runs it.
        #[arg(long)]
        no_hop: bool,
        /// Under systemd, run the daemon as a child process that outlives this one at a restart, so that tunnels flow until the next daemon has them. The unit needs KillMode=process and ExecStop=-/bin/kill -WINCH $MAINPID 0.
        #[arg(long)]
        outlive: bool,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        overrides: OverrideArgs,
    },
    /// Check the configuration and this machine; print every problem.
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// Check only the configuration, on a machine other than its own: skip addresses, ports,
        /// name servers and the audit file, and skip named files that do not exist here.
        #[arg(long)]
        offline: bool,
        #[command(flatten)]
        deep: DeepArgs,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        overrides: OverrideArgs,
    },
    /// Show what the configuration decides for a destination, and why. Queries DNS; opens no
    /// connection to the destination.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainArgs),
    /// List the presets of host names, or show all that is known of one: hosts, source, and how the
    /// provider checks source addresses.
    #[command(after_help = PRESETS_EXAMPLES)]
    Presets {
        /// The presets to show in full; without any, a table of all.
        #[arg(value_name = "NAME[:PARAMETER]")]
        presets: Vec<String>,
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Find out why a request through the tunnel fails, from the application's side. Runs
    /// sealway-doctor, which lies beside this program.
    #[command(disable_help_flag = true, after_help = DOCTOR_EXAMPLES)]
    Doctor(CompanionArgs),
    /// Give the applications of this machine a local proxy that reaches the tunnel by TLS. Runs
    /// sealway-agent, which lies beside this program.
    #[command(disable_help_flag = true, after_help = AGENT_EXAMPLES)]
    Agent(CompanionArgs),
    /// Show the activity of a running daemon, live in the terminal.
    Top(TopArgs),
    /// List the open tunnels of a running daemon: user, destination, age, bytes.
    Tunnels(TunnelsArgs),
    /// Make a running daemon end tunnels: by identifier, by user or by client network.
    End(EndArgs),
    /// Make a running daemon refuse new tunnels with 503; open tunnels continue.
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain(ActArgs),
    /// Make a drained daemon accept new tunnels again.
    #[command(after_help = UNDRAIN_EXAMPLES)]
    Undrain(ActArgs),
    /// Make a running daemon reload its configuration, and print the result.
    #[command(after_help = RELOAD_EXAMPLES)]
    Reload(ActArgs),
    /// Verify audit files, or summarise them.
    #[command(
        subcommand,
        after_help = "Example:\n  sealway audit verify /var/log/sealway/audit.jsonl"
    )]
    Audit(AuditCommand),
    /// Manage the users file.
    #[command(
        subcommand,
        after_help = "Example:\n  sealway user add alice --config /etc/sealway/sealway.toml"
    )]
    User(UserCommand),
}

#[derive(Args)]
struct ExplainArgs {
    /// The destination; without a port, 443.
    #[arg(value_name = "HOST[:PORT]")]
    target: String,
    /// Use the credentials of this user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Assume a ClientHello with this SNI; "" means none. Default: the host of the destination.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    overrides: OverrideArgs,
}

#[derive(Args)]
struct CompanionArgs {
    /// The arguments of the companion, unchanged; --help shows them.
    #[arg(
        value_name = "ARGUMENT",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    arguments: Vec<OsString>,
}

#[derive(Args)]
struct ConfigArg {
    /// The configuration file (TOML); without it, the defaults.
    #[arg(long, value_name = "FILE", env = "SEALWAY_CONFIG", value_parser = OsStringValueParser::new())]
    config: Option<OsString>,
}

/// Runs the command line and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    // Not for operators: the daemon starts itself again in this role.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == supervisor::COMMAND)
    {
        return supervisor::run();
    }
    // From here on, blocked signals cannot end a daemon that has no handlers yet; SIGTERM, SIGINT and
    // SIGQUIT still do. The process has only this thread, so the mask is the process's.
    let held = signals::hold();
    let matches = Cli::command().get_matches();
    let command = Cli::from_arg_matches(&matches)
        .unwrap_or_else(|error| error.exit())
        .command;
    if !matches!(command, Command::Run { .. })
        && let Ok(held) = held
    {
        // Fails only for an invalid mask, and this one came from the kernel.
        let _as_before = held.restore();
    }
    match execute(command, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => report_trouble(trouble),
    }
}

fn execute(command: Command, matches: &ArgMatches) -> Result<(), Trouble> {
    match command {
        Command::Run {
            no_hop,
            outlive,
            config,
            overrides,
        } => match outlive && run::needs_main_process() {
            true => run::as_main_process(),
            false => run::run(
                config.path().map(Path::to_owned),
                overrides.read(matches),
                no_hop,
            ),
        },
        Command::Check {
            deep: args @ DeepArgs { deep: true, .. },
            config,
            overrides,
            ..
        } => deep::deep(config.path(), &overrides.read(matches), &args.options()),
        Command::Check {
            offline,
            config,
            overrides,
            ..
        } => check::check(
            config.path(),
            &Overrides {
                offline,
                ..overrides.read(matches)
            },
        ),
        Command::Explain(arguments) => explain_target(arguments, matches),
        Command::Presets { presets, json } => presets::presets(&chosen(&presets), json),
        Command::Doctor(args) => companion::run(Companion::Doctor, &args.arguments),
        Command::Agent(args) => companion::run(Companion::Agent, &args.arguments),
        Command::Top(args) => args.top(matches),
        Command::Tunnels(args) => args.tunnels(matches),
        Command::End(args) => args.end(matches),
        Command::Drain(args) => args.drain(matches, true),
        Command::Undrain(args) => args.drain(matches, false),
        Command::Reload(args) => args.reload(matches),
        Command::Audit(command) => command.execute(),
        Command::User(command) => command.execute(),
    }
}

/// The presets that an operator names. clap's own check would print a wrong value, which may be a
/// misplaced secret.
fn chosen(presets: &[String]) -> Vec<ChosenPreset> {
    let parse = |text: &String| {
        ChosenPreset::parse(text)
            .unwrap_or_else(|error| wrong_value("presets", "'[NAME[:PARAMETER]]...'", text, &error))
    };
    presets.iter().map(parse).collect()
}

fn explain_target(arguments: ExplainArgs, matches: &ArgMatches) -> Result<(), Trouble> {
    let target = explain::target(&arguments.target).unwrap_or_else(|error| {
        wrong_value("explain", "'<HOST[:PORT]>'", &arguments.target, &error)
    });
    explain::explain(
        &Question {
            target,
            user: arguments.user,
            sni: arguments.sni,
            json: arguments.json,
        },
        arguments.config.path(),
        &arguments.overrides.read(matches),
    )
}

fn report_trouble(trouble: Trouble) -> ExitCode {
    match trouble {
        Trouble::Config(problems) => {
            problems
                .iter()
                .for_each(|problem| eprintln!("sealway: {problem}"));
            ExitCode::from(EX_CONFIG)
        }
        Trouble::Waiting(problems) => {
            problems
                .iter()
                .for_each(|problem| eprintln!("sealway: {problem}"));
            ExitCode::from(EX_TEMPFAIL)
        }
        Trouble::HandedOver => ExitCode::from(EX_TEMPFAIL),
        Trouble::Child(status) => ExitCode::from(status),
        Trouble::Usage(reason) => {
            eprintln!("sealway: {reason}");
            ExitCode::from(USAGE)
        }
        Trouble::Refused => ExitCode::FAILURE,
        Trouble::Other(reason) => {
            eprintln!("sealway: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// The definition of the command line, for generating man pages and completions. Runs nothing.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

fn wrong_value(command: &str, name: &str, text: &str, error: &dyn Display) -> ! {
    let mut cli = Cli::command();
    cli.build();
    let message = format!("invalid value for {name}: {}: {error}\n", shown(text));
    let command = cli.find_subcommand(command).cloned();
    command
        .unwrap_or(cli)
        .error(ErrorKind::ValueValidation, message)
        .exit()
}

impl ConfigArg {
    /// The path of the file. An empty variable, as compose files set it, counts as unset.
    fn path(&self) -> Option<&Path> {
        self.config
            .as_deref()
            .filter(|path| !path.is_empty())
            .map(Path::new)
    }
}

const EX_CONFIG: u8 = 78;
/// EX_TEMPFAIL of sysexits.h: systemd tries again, and keeps the tunnels of the former daemon meanwhile.
const EX_TEMPFAIL: u8 = 75;
/// The status that clap uses.
const USAGE: u8 = 2;
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (revision ",
    env!("SEALWAY_REVISION"),
    ")"
);
const ABOUT: &str = "A CONNECT-only tunnel with a static source address. TLS passes through unopened; hosts that the policy does not name are refused.";
const EXAMPLES: &str = "Example:\n  sealway run --egress 203.0.113.7\n  curl --proxy http://127.0.0.1:9293 https://generativelanguage.googleapis.com/";
const CHECK_EXAMPLES: &str = "Examples:\n  sealway check --config /etc/sealway/sealway.toml\n  sealway check --deep --config /etc/sealway/sealway.toml\n\nExit status: 0 no problem, 2 wrong flags, 78 at least one problem. With --deep: 0 no finding, 1 at least one, 2 wrong flags or a configuration that cannot be used.";
const EXPLAIN_EXAMPLES: &str = "Examples:\n  sealway explain generativelanguage.googleapis.com --config /etc/sealway/sealway.toml\n  sealway explain api.example.com:8443 --user alice --sni other.example.com\n\nExit status: 0 a tunnel would be allowed, 1 refused (the code is in the verdict), 2 wrong flags or no host, 78 wrong configuration.";
const PRESETS_EXAMPLES: &str = "Examples:\n  sealway presets\n  sealway presets gemini\n  sealway presets bedrock:us-east-1 azure-openai:my-resource --json";
const DOCTOR_EXAMPLES: &str = "Examples:\n  sealway doctor --help\n  sealway doctor --proxy http://tunnel.example:9293 --key-env GEMINI_API_KEY";
const AGENT_EXAMPLES: &str = "Example:\n  sealway agent --help";
const RUN_EXAMPLES: &str = "Examples:\n  sealway run\n  sealway run --egress 203.0.113.7 --allow oauth2.googleapis.com\n  sealway run --config /etc/sealway/sealway.toml\n\nSIGTERM drains and stops, a second one or SIGQUIT stops at once; SIGHUP reloads. SIGUSR2 and SIGINT hand the tunnels over to the next daemon under systemd, and drain elsewhere.\nExit status: 0 done, 1 failed, 2 wrong flags, 75 wrong configuration while handed-over tunnels wait, 78 wrong configuration.";
