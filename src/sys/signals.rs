//! Signals as a queue (signal(7), signalfd(2)): every signal that can be held back is, and is read like any other event.
//!
//! A signal that nobody chose a meaning for would end or stop the process by the kernel's default. Held back, it waits
//! in the queue instead, from the first instructions of the program on. Threads inherit what is held back, so this
//! happens before the second thread starts. Never installs a handler, so no system call is interrupted.
//!
//! Left to the kernel: SIGKILL and SIGSTOP, which nobody can hold back; the faults of a program (SIGSEGV and its like,
//! SIGABRT of a watchdog), which must end it; SIGPIPE, which Rust's runtime ignores; what does nothing by default
//! (SIGCHLD, SIGURG, SIGWINCH, SIGCONT); and the two numbers that the C library keeps for its threads (32 and 33).

use std::io;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What a thread holds back.
#[derive(Clone, Copy, Debug)]
pub struct Mask(SigSet);

/// The signals that have come and are held back.
#[derive(Debug)]
pub struct Queue(SignalFd);

/// One signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// As in signal(7).
    pub number: i32,
    /// The process that sent it; 0 for the kernel.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

/// Holds back every signal but those that end a program at once: SIGTERM, SIGINT and SIGQUIT keep their effect until
/// [`hold_all`]. Returns what was held back before.
///
/// # Errors
/// None that the kernel documents for these arguments.
pub fn hold() -> io::Result<Mask> {
    let mut held = all();
    ENDING.into_iter().for_each(|signal| held.remove(signal));
    Ok(Mask(held.thread_swap_mask(SigmaskHow::SIG_BLOCK)?))
}

/// Holds back those three too.
///
/// # Errors
/// As [`hold`].
pub fn hold_all() -> io::Result<()> {
    Ok(all().thread_block()?)
}

impl Mask {
    /// Holds back what was held back before, and nothing else. What has come meanwhile has its effect now.
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
    /// As kill(1) writes it: `SIGUSR1`, `SIGRTMIN+3`.
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
/// SIGHUP.
pub const HUP: i32 = libc::SIGHUP;

fn all() -> SigSet {
    let mut set = SigSet::all();
    LEFT.into_iter().for_each(|signal| set.remove(signal));
    set
}

/// What ends a program that is still reading its configuration.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// What is left to the kernel, beside what it does not let anybody hold back.
const LEFT: [Signal; 12] = [
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
    Signal::SIGWINCH,
    Signal::SIGCONT,
];
