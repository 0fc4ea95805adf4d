//! Writes the man pages and the shell completions of sealway-hop, sealway-agent and sealway-doctor, made from their own
//! command lines: `cargo run --package sealway-hop --example hop-manual -- FOLDER`. The daemon's `examples/manual.rs` has
//! the rest.
#![allow(missing_docs)]

use std::path::Path;
use std::{env, io};

#[path = "../../examples/manual.rs"]
#[allow(dead_code, reason = "it writes the daemon's pages too")]
mod manual;

fn main() -> io::Result<()> {
    let folder = env::args_os()
        .nth(1)
        .ok_or_else(|| io::Error::other("which folder?"))?;
    let programs = [
        ("sealway-hop", sealway_hop::cli::command()),
        ("sealway-agent", sealway_hop::agent::cli::command()),
        ("sealway-doctor", sealway_hop::doctor::cli::command()),
    ];
    for (name, command) in programs {
        manual::write_program(command, name, Path::new(&folder))?;
    }
    Ok(())
}
