//! The binary of the agent: arguments in, one exit status out. Everything else is the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sealway_hop::agent::cli::main()
}
