//! The command line: reads the configuration, opens everything that can fail, restricts the process, and runs until a signal.
//! Never prints the content of a file.
//!
//! Exit statuses as those of sealway: 0 done, 2 wrong flags, 78 wrong configuration, 1 any other failure.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use sealway::commands::run::log_to_stderr;
use sealway::config::{Config, Overrides};
use sealway::sys;
use sealway::sys::confine::{Confinement, confine, folders_of, lasting_folders_of};

use crate::material::Material;
use crate::reload::Origin;
use crate::shared::Target;
use crate::{run, target};

#[derive(Parser)]
#[command(name = "sealway-hop", version = sealway::VERSION, about = ABOUT, after_help = EXAMPLES)]
struct Cli {
    /// The configuration file of sealway (TOML).
    #[arg(long, value_name = "FILE", env = "SEALWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Check the TLS listeners and their files, print every problem, and exit.
    #[arg(long)]
    check: bool,
    /// Exit with 0 if a listener has tls or the configuration is wrong, with 1 if no listener has tls. For the condition of a
    /// service.
    #[arg(long, conflicts_with = "check")]
    is_needed: bool,
    /// The process that started this one and ends it: sealway's supervisor.
    #[arg(long, value_name = "PID", hide = true)]
    supervised_by: Option<u32>,
}

/// Why the program ends.
#[derive(Debug)]
pub enum Trouble {
    /// The configuration or a file that it names is wrong; one line a problem.
    Config(Vec<String>),
    /// No listener has TLS, which `--is-needed` asks.
    NotNeeded,
    /// Anything else.
    Other(String),
}

/// Runs the command line and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    match execute(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Config(problems)) => {
            for problem in problems {
                eprintln!("sealway-hop: {problem}");
            }
            ExitCode::from(EX_CONFIG)
        }
        Err(Trouble::NotNeeded) => ExitCode::FAILURE,
        Err(Trouble::Other(reason)) => {
            eprintln!("sealway-hop: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// The definition of the command line, for its manual page and completions. Runs nothing.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

fn execute(cli: Cli) -> Result<(), Trouble> {
    // Before the first secret is read.
    sys::keep_out_of_core_files().map_err(|error| {
        Trouble::Other(format!(
            "cannot keep this process's memory out of core files: {error}"
        ))
    })?;
    if let Some(parent) = cli.supervised_by {
        let is_alive = sys::process::die_with_parent(parent).map_err(|error| {
            Trouble::Other(format!(
                "cannot tie this process to its supervisor: {error}"
            ))
        })?;
        if !is_alive {
            return Err(Trouble::Other("the supervisor has ended".to_owned()));
        }
    }
    let overrides = Overrides {
        for_hop: true,
        ..Overrides::default()
    };
    let origin = Origin {
        path: cli.config,
        overrides,
    };
    let config = origin.load();
    if cli.is_needed {
        // A wrong configuration must fail loudly, at the start itself.
        let is_needed = config.map_or(true, |config| !config.tls.listeners.is_empty());
        return is_needed.then_some(()).ok_or(Trouble::NotNeeded);
    }
    let config = config.map_err(Trouble::Config)?;
    let loaded = load(&config)?;
    if cli.check {
        println!("ok: {} TLS listener(s)", loaded.len());
        return Ok(());
    }
    // Before a second thread starts.
    let confined = enter(&config, &origin);
    // Flushes the queued lines on drop.
    let _log = log_to_stderr(config.log);
    match confined {
        Ok(Confinement::Full | Confinement::Partial) => {
            tracing::info!("Landlock restricts the file system");
        }
        Ok(Confinement::None) => tracing::info!("this kernel has no Landlock"),
        Err(error) => {
            tracing::warn!(%error, "Landlock failed: only permissions and the systemd unit restrict the file system")
        }
    }
    let is_supervised = cli.supervised_by.is_some();
    run::run(Arc::new(config), origin, loaded, is_supervised)
        .map_err(|error| Trouble::Other(error.to_string()))
}

/// The files of every listener, or every problem.
fn load(config: &Config) -> Result<Vec<(Material, Target)>, Trouble> {
    if config.tls.listeners.is_empty() {
        return Err(Trouble::Config(vec![NO_LISTENER.to_owned()]));
    }
    let loaded = config.tls.listeners.iter().map(|listener| {
        let material = Material::load(listener, config.policy.names());
        let material = material.map_err(|error| format!("{}: {error}", listener.address))?;
        Ok((material, target::of(listener)?))
    });
    let (mut usable, mut problems) = (Vec::new(), Vec::new());
    for one in loaded {
        match one {
            Ok(one) => usable.push(one),
            Err(problem) => problems.push(problem),
        }
    }
    match problems.is_empty() {
        true => Ok(usable),
        false => Err(Trouble::Config(problems)),
    }
}

/// Restricts the file system to the folders of the configuration and of the files of TLS.
fn enter(config: &Config, origin: &Origin) -> std::io::Result<Confinement> {
    let of_tls = config.tls.listeners.iter().flat_map(Material::files);
    let named = config.allow_files.iter().map(|file| file.path().to_owned());
    let files = origin.path.iter().cloned().chain(named).chain(of_tls);
    let mut folders: Vec<PathBuf> = files
        .flat_map(|file| {
            let file = std::path::absolute(&file).unwrap_or(file);
            [folders_of(&file), lasting_folders_of(&file)].concat()
        })
        .filter(|folder| folder.is_dir())
        .collect();
    folders.sort();
    folders.dedup();
    confine(&folders, &[])
}

const EX_CONFIG: u8 = 78;
const NO_LISTENER: &str =
    "no [[listener]] has tls: give the one that clients reach tls = { certificate = …, key = … }";
const ABOUT: &str = "Terminates the TLS of Sealway's clients and passes them on to the daemon. Holds the private key; the daemon never does.";
const EXAMPLES: &str = "Examples:\n  sealway-hop --config /etc/sealway/sealway.toml --check\n  sealway-hop --config /etc/sealway/sealway.toml\n\nSIGHUP reads the configuration, certificates, keys and revocation lists again; SIGTERM and SIGINT drain and stop.\nExit status: 0 done, 1 failed, 2 wrong flags, 78 wrong configuration.";
