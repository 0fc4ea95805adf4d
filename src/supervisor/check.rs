//! Lets the hop's program check the TLS listeners and their files. Keeps no process: one that does not end is killed and reaped.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{EX_CONFIG, ProgramError, TICK, clean};

/// Lets the program check the TLS listeners and their files. It prints the problems to standard error.
///
/// # Errors
/// It cannot be started, or refuses them.
pub fn check(program: &Path, config: &Path) -> Result<(), ProgramError> {
    let status = checking(program, config)
        .status()
        .map_err(|error| ProgramError::Start(program.to_owned(), error))?;
    judge(status)
}

/// The same within a limit, after which the program is killed.
///
/// # Errors
/// It cannot be started, refuses them, or does not end in time.
pub fn check_within(program: &Path, config: &Path, limit: Duration) -> Result<(), ProgramError> {
    let started = |error| ProgramError::Start(program.to_owned(), error);
    let mut child = checking(program, config).spawn().map_err(started)?;
    let until = Instant::now() + limit;
    while Instant::now() < until {
        match child.try_wait() {
            Ok(Some(status)) => return judge(status),
            Ok(None) => std::thread::sleep(TICK),
            Err(error) => return Err(started(error)),
        }
    }
    // Both fail only for a process that has ended and was waited for.
    let _ended = child.kill();
    let _reaped = child.wait();
    Err(ProgramError::Late(limit))
}

fn checking(program: &Path, config: &Path) -> Command {
    let mut command = clean(program);
    command.arg("--config").arg(config).arg("--check");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn judge(status: ExitStatus) -> Result<(), ProgramError> {
    match status.code() {
        Some(0) => Ok(()),
        Some(EX_CONFIG) => Err(ProgramError::Refuses),
        _ => Err(ProgramError::Failed(status)),
    }
}
