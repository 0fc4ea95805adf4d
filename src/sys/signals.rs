//! Signals as a queue (signal(7), signalfd(2)): blocks every signal that can be blocked, and reads
//! it like any other event.
//!
//! The kernel's default for a signal without a handler may end or stop the process. A blocked
//! signal waits in the queue instead, from the first instructions of the program on. Threads
//! inherit the mask, so this happens before the second thread starts. Installs no handler, so no
//! signal interrupts a system call.
//!
//! The kernel still handles SIGKILL and SIGSTOP, which cannot be blocked; program faults (SIGSEGV
//! and similar, SIGABRT of a watchdog), which must end the process; SIGPIPE, which Rust's runtime
//! ignores; signals without effect by default (SIGCHLD, SIGURG, SIGCONT; SIGWINCH has a meaning here); and the two
//! numbers that the C library reserves for its threads (32 and 33).

use std::io;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signal mask of a thread.
#[derive(Clone, Copy, Debug)]
pub struct Mask(SigSet);

/// The queue of blocked signals.
#[derive(Debug)]
pub struct Queue(SignalFd);

/// One signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// As in signal(7).
    pub number: i32,
    /// The process that sent it; 0 if the kernel did.
    pub pid: u32,
    /// The sender's user.
    pub uid: u32,
}

/// Blocks every signal except those that end a program at once: SIGTERM, SIGINT and SIGQUIT keep
/// their effect until [`hold_all`]. Those left to the kernel get their effect, whatever the parent has blocked.
/// Returns the previous mask.
///
/// # Errors
/// None that the kernel documents for these arguments.
pub fn hold() -> io::Result<Mask> {
    let mut held = all();
    ENDING.into_iter().for_each(|signal| held.remove(signal));
    Ok(Mask(held.thread_swap_mask(SigmaskHow::SIG_SETMASK)?))
}

/// Blocks those three too.
///
/// # Errors
/// As [`hold`].
pub fn hold_all() -> io::Result<()> {
    Ok(all().thread_block()?)
}

/// Blocks every signal, also those that end a faulty program: another process gets them.
///
/// # Errors
/// As [`hold`].
pub fn hold_every() -> io::Result<()> {
    Ok(SigSet::all().thread_block()?)
}

/// Ends this process by a signal that has ended another one.
pub fn die_of(number: i32) {
    let Ok(signal) = Signal::try_from(number) else {
        return;
    };
    let _ends = release_all().map(|()| nix::sys::signal::raise(signal));
}

/// Blocks no signal any more: a child inherits the mask of its parent.
///
/// # Errors
/// As [`hold`].
pub fn release_all() -> io::Result<()> {
    Ok(SigSet::all().thread_unblock()?)
}

impl Mask {
    /// Restores a previous mask. Signals that arrived in between take effect now.
    ///
    /// # Errors
    /// As [`hold`].
    pub fn restore(self) -> io::Result<()> {
        Ok(self.0.thread_set_mask()?)
    }
}

impl Queue {
    /// Opens the queue.
    ///
    /// # Errors
    /// EMFILE, ENFILE or ENOMEM.
    pub fn open() -> io::Result<Self> {
        Ok(Self(SignalFd::with_flags(&all(), SfdFlags::SFD_CLOEXEC)?))
    }

    /// Opens a queue of every signal, also of ended children.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of_every() -> io::Result<Self> {
        let every = SigSet::all();
        Ok(Self(SignalFd::with_flags(&every, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Waits for the next signal and takes it.
    ///
    /// # Errors
    /// None that the kernel documents for this descriptor.
    pub fn take(&self) -> io::Result<Received> {
        let info = self.0.read_signal()?.ok_or(io::ErrorKind::WouldBlock)?;
        let number = i32::try_from(info.ssi_signo).unwrap_or_default();
        Ok(Received {
            number,
            pid: info.ssi_pid,
            uid: info.ssi_uid,
        })
    }
}

impl Received {
    /// As kill(1) prints it: `SIGUSR1`, `SIGRTMIN+3`.
    #[must_use]
    pub fn name(&self) -> String {
        match Signal::try_from(self.number) {
            Ok(signal) => signal.as_str().to_owned(),
            Err(_) => format!("SIGRTMIN+{}", self.number.saturating_sub(libc::SIGRTMIN())),
        }
    }
}

/// SIGTERM.
pub const TERM: i32 = libc::SIGTERM;
/// SIGINT.
pub const INT: i32 = libc::SIGINT;
/// SIGQUIT.
pub const QUIT: i32 = libc::SIGQUIT;
/// SIGUSR2.
pub const USR2: i32 = libc::SIGUSR2;
/// SIGHUP.
pub const HUP: i32 = libc::SIGHUP;
/// SIGCHLD.
pub const CHLD: i32 = libc::SIGCHLD;
/// SIGWINCH.
pub const WINCH: i32 = libc::SIGWINCH;

fn all() -> SigSet {
    let mut set = SigSet::all();
    LEFT.into_iter().for_each(|signal| set.remove(signal));
    set
}

/// Signals that end a program while it reads its configuration.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// Signals left to the kernel, besides those that cannot be blocked.
const LEFT: [Signal; 11] = [
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTRAP,
    Signal::SIGPIPE,
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGCONT,
];
