//! The tie between a parent process and its child (prctl(2)). Never starts or ends a process itself.

use std::io;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Makes the kernel kill this process when its parent ends, and returns whether the parent is still alive.
/// `parent` is the process that started this one; the thread of it that did so must live as long as it.
///
/// # Errors
/// None that the kernel documents for this signal.
pub fn die_with_parent(parent: u32) -> io::Result<bool> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // A parent that ended before the call sends no signal.
    Ok(i32::try_from(parent).is_ok_and(|parent| getppid() == Pid::from_raw(parent)))
}

/// Keeps this process and its children from gaining rights by a program with set-user-ID or capabilities.
///
/// # Errors
/// None that the kernel documents.
pub fn keep_privileges_from_growing() -> io::Result<()> {
    Ok(prctl::set_no_new_privs()?)
}

/// Sends a signal to a child that has not been awaited yet, so that the number is still its own (kill(2)).
///
/// # Errors
/// EPERM if the child has another user now.
pub fn signal_child(child: u32, signal: ChildSignal) -> io::Result<()> {
    let signal = match signal {
        ChildSignal::HangUp => Signal::SIGHUP,
        ChildSignal::Terminate => Signal::SIGTERM,
    };
    let child = i32::try_from(child).map_err(io::Error::other)?;
    Ok(nix::sys::signal::kill(Pid::from_raw(child), signal)?)
}

/// A signal that a child handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildSignal {
    /// SIGHUP.
    HangUp,
    /// SIGTERM.
    Terminate,
}
