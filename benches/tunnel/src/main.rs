//! What carrying tunnels costs a proxy in CPU, Sealway beside other proxies:
//! `cargo run --release --package sealway-tunnel-bench -- --help`.
//!
//! Real proxies, one worker each, run as child processes between a client agent and an upstream agent, which are child
//! processes too and speak recorded greetings and opaque bytes, no cryptography. What counts is the CPU time of the
//! proxy's own processes per unit of work. Rounds are interleaved, so that a machine that changes its pace changes it
//! for all. Never installs anything, never uses a network but loopback and network namespaces of its own making.

mod agents;
mod arguments;
mod host;
mod measure;
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
