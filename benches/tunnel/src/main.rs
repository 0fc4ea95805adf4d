//! Measures what a tunnel costs a proxy in CPU, for Sealway and other proxies side by side:
//! `cargo run --release --package sealway-tunnel-bench -- --help`.
//!
//! The proxies are real, have one worker each, and run as child processes between two agents, which are child processes
//! too: a client and an upstream that speak a recorded greeting and then opaque bytes, without cryptography. The figure is
//! the CPU time of the proxy's own processes per unit of work. Rounds are interleaved, so a machine that changes its pace
//! changes it for all proxies. Installs nothing; uses no network except loopback and network namespaces that it makes.
//!
//! From the bottom up: `arguments`, `interrupt`, `not_run`, `protocol` and `host`; `roles` and `agents`; `peers`; `measure`;
//! `report`; `runs`. No module imports itself by way of others; `tests/house/bench_layers.rs` checks that.

mod agents;
mod arguments;
mod host;
mod interrupt;
mod measure;
mod not_run;
mod peers;
mod protocol;
mod report;
mod roles;
mod runs;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use arguments::{Options, Role};
use host::process;
use roles::{bare, client, copy, upstream};
use runs::comparison;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tunnel: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    process::raise_descriptor_limit()?;
    match options.role {
        None => comparison::run(options),
        Some(Role::Client) => client::serve(),
        Some(Role::Upstream) => upstream::serve(options.listen()?, options.ports),
        Some(Role::BareLoop) => {
            bare::serve(options.listen()?, options.upstream()?, options.source()?)
        }
        Some(Role::TokioCopy) => copy::serve(options.listen()?, options.upstream()?),
    }
}
