//! The load of `tests/handover/run`: `drive` opens tunnels through a proxy, `serve` is the upstream behind it.
//!
//! Both ends of a tunnel count and hash every byte, and each frame carries its number and the time at which it was sent, so
//! a lost, repeated or changed byte is found, and how long a byte took. Both processes run on one machine and share its
//! monotonic clock. They read commands from standard input (`mark`, `ending`, `finish`) and print one JSON object a line. They do no
//! cryptography besides the hashes: the handshake that a proxy sees is recorded, and the bytes after it are opaque.
//!
//! From the bottom up: `clock`, `frame`; `kind`, `stats`; `peer`, `control`; `drive`, `serve`.

mod clock;
mod control;
mod drive;
mod frame;
mod kind;
mod peer;
mod serve;
mod stats;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The load program.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    role: Role,
    #[command(flatten)]
    greeting: GreetingFiles,
}

/// What this process is.
#[derive(Subcommand)]
enum Role {
    /// The upstream.
    Serve(serve::Options),
    /// The clients.
    Drive(drive::Options),
}

/// The recorded handshake.
#[derive(Args)]
struct GreetingFiles {
    /// The ClientHello, as the client sends it.
    #[arg(long, global = true, default_value = "hello.bin")]
    hello: PathBuf,
    /// The upstream's answer to it.
    #[arg(long, global = true, default_value = "answer.bin")]
    answer: PathBuf,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("handover-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let greeting = peer::Greeting {
        hello: std::fs::read(options.greeting.hello)?,
        answer: std::fs::read(options.greeting.answer)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    let ended = tasks.block_on(&runtime, async {
        match options.role {
            Role::Serve(options) => serve::run(options, greeting).await,
            Role::Drive(options) => drive::run(options, greeting).await,
        }
    });
    // Standard input is read by a thread that nothing wakes.
    runtime.shutdown_background();
    ended
}
