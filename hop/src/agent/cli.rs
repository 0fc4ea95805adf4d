//! The command line of the agent: settings in, one exit status out.
//!
//! Exit statuses as those of sealway: 0 done, 2 wrong flags, 78 wrong settings, 1 any other failure; `exec` returns that of
//! its command.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use sealway::commands::run::log_to_stderr;
use sealway::config::Log;
use sealway::sys;

use super::bundle::Bundle;
use super::confinement::Folders;
use super::settings::{ADMIN, Options, Role, Settings};
use super::{exec, run, waiting};

#[derive(Parser)]
#[command(name = "sealway-agent", version = sealway::VERSION, about = ABOUT, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Starts the agent on a free port, runs a command with the proxy variables set, and returns its exit status.
    Exec {
        #[command(flatten)]
        options: Options,
        /// How long to wait for an upstream before the command starts.
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration, env = "SEALWAY_AGENT_WAIT")]
        max: Duration,
        /// The command and its arguments.
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Waits until an agent on this machine is ready.
    Wait {
        /// How long to wait.
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
        max: Duration,
        /// The agent's admin address.
        #[arg(long, value_name = "ADDRESS", default_value_t = ADMIN, env = "SEALWAY_AGENT_ADMIN")]
        admin: SocketAddr,
    },
    /// Checks the settings and the files that they name, and exits.
    Check {
        #[command(flatten)]
        options: Options,
    },
}

/// Why the program ends.
enum Trouble {
    /// The settings or a file that they name are wrong; one line a problem.
    Settings(Vec<String>),
    /// Anything else.
    Other(String),
}

/// The definition of the command line, for its manual page and completions. Runs nothing.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    match execute(Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(Trouble::Settings(problems)) => {
            for problem in problems {
                eprintln!("sealway-agent: {problem}");
            }
            ExitCode::from(EX_CONFIG)
        }
        Err(Trouble::Other(reason)) => {
            eprintln!("sealway-agent: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> Result<u8, Trouble> {
    // Before the first secret is read.
    sys::keep_out_of_core_files().map_err(|error| {
        Trouble::Other(format!(
            "cannot keep this process's memory out of core files: {error}"
        ))
    })?;
    match cli.command {
        None => {
            let (settings, bundle) = load(cli.options, Role::Service)?;
            let folders = Folders::of(&settings);
            in_runtime(Some(folders.clone()), async {
                let running = run::start(settings, bundle).map_err(other)?;
                folders.enter_and_report();
                run::serve(running).await.map_err(other)
            })
            .map(|()| 0)
        }
        Some(Command::Exec {
            options,
            max,
            command,
        }) => {
            let (settings, bundle) = load(options, Role::Command)?;
            let folders = Folders::of(&settings);
            in_runtime(Some(folders.clone()), async {
                let running = run::start(settings, bundle).map_err(other)?;
                // The command inherits what restricts this thread.
                exec::exec(running, &command, max, || folders.enter_and_report())
                    .await
                    .map_err(Trouble::Other)
            })
        }
        Some(Command::Wait { max, admin }) => {
            let waited = in_runtime(None, async {
                waiting::wait(admin, max).await.map_err(Trouble::Other)
            });
            waited.map(|()| 0)
        }
        Some(Command::Check { options }) => {
            let (settings, _) = load(options, Role::Service)?;
            println!("ok: {} upstream(s)", settings.endpoints.len());
            Ok(0)
        }
    }
}

fn load(options: Options, role: Role) -> Result<(Settings, Bundle), Trouble> {
    let settings = Settings::new(options, role, |name| std::env::var_os(name));
    let settings = settings.map_err(Trouble::Settings)?;
    let bundle = Bundle::load(&settings.options);
    let bundle = bundle.map_err(|error| Trouble::Settings(vec![error.to_string()]))?;
    Ok((settings, bundle))
}

/// Runs a future on few threads, because the agent shares its machine with the application. The other threads reach these
/// folders only; this one, which runs the future, has to enter by itself.
fn in_runtime<T>(
    folders: Option<Folders>,
    future: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(THREADS_MAX))
        .thread_name("agent")
        .on_thread_start(move || {
            if let Some(folders) = &folders {
                // The main thread reports the same.
                let _reported = folders.enter();
            }
        })
        .enable_all()
        .build()
        .map_err(other)?;
    // Flushes the queued lines on drop.
    let _log = log_to_stderr(Log {
        json: None,
        level: tracing::Level::INFO,
    });
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(LAST);
    result
}

fn other(error: impl std::fmt::Display) -> Trouble {
    Trouble::Other(error.to_string())
}

const EX_CONFIG: u8 = 78;
const THREADS_MAX: usize = 4;
/// For look-ups that still run.
const LAST: Duration = Duration::from_millis(100);
const ABOUT: &str = "Takes plain CONNECT requests on loopback and carries them through TLS to Sealway. For applications that cannot speak TLS to a proxy.";
const EXAMPLES: &str = "Examples:\n  export SEALWAY_AGENT_UPSTREAMS=https://NAME:SECRET@a.example:9443,https://NAME:SECRET@b.example:9443\n  sealway-agent                          then HTTPS_PROXY=http://127.0.0.1:9293\n  sealway-agent exec -- python app.py\n  sealway-agent wait --max 30s\n\nSIGTERM and SIGINT drain and stop.\nExit status: 0 done, 1 failed, 2 wrong flags, 78 wrong settings; exec: that of its command.";
