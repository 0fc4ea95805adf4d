//! The main process of the service, for a daemon that outlives it: systemd starts this process, and this process starts the
//! daemon as its child. It passes signals on and ends as the daemon does, or, at a restart, before it: then systemd starts
//! the next daemon while this one still carries its tunnels. The unit has to leave the daemon alone (`KillMode=process`,
//! systemd.kill(5)).
//!
//! It also passes on what the daemon tells systemd, with descriptors, because systemd listens to the main process only. It reads
//! nothing else but signals, keeps no socket and no secret, and can open no file (Landlock). If it dies, the kernel kills
//! the daemon.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::store::{send_always, send_through};
use crate::sys::confine::confine;
use crate::sys::keep_out_of_core_files;
use crate::sys::parcel;
use crate::sys::process::{die_with_parent, live_without_parent, name_like_a_helper, pass_on};
use crate::sys::signals::{CHLD, Queue, die_of, hold_every};

/// Runs the daemon with the arguments of this process until it ends or leaves. Returns the exit status of this process;
/// if a signal has ended the daemon, it ends this process too.
///
/// # Errors
/// The daemon cannot be started.
pub fn run() -> io::Result<u8> {
    // Its environment may name what nobody else should see.
    keep_out_of_core_files()?;
    hold_every()?;
    let (own, daemons) = UnixDatagram::pair()?;
    let mut daemon = start(daemons)?;
    // The daemon has its own copies of the sockets that systemd passes.
    drop(super::inherit());
    // The daemon says so if the kernel has no Landlock.
    let _at_best = confine(&[], &[]);
    std::thread::Builder::new()
        .name("messages".to_owned())
        .spawn(move || pass_messages_on(&own))?;
    let signals = Queue::of_every()?;
    loop {
        let number = signals.take()?.number;
        if number != CHLD {
            // Until it is awaited, its number is its own.
            pass_on(daemon.id(), number);
        } else if let Some(status) = daemon.try_wait()? {
            return Ok(mirrored(status));
        }
    }
}

fn start(channel: UnixDatagram) -> io::Result<Child> {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(std::env::current_exe()?);
    std::os::unix::process::CommandExt::arg0(&mut command, arguments.next().unwrap_or_default());
    // What systemd means for this process is for its child.
    command.args(arguments).env_remove("LISTEN_PID");
    command.env_remove("WATCHDOG_PID");
    command.env(MAIN_PROCESS, std::process::id().to_string());
    command.stdin(Stdio::from(OwnedFd::from(channel))).spawn()
}

/// Passes the daemon's messages on to systemd, and ends this process when the daemon says that it leaves.
fn pass_messages_on(daemon: &UnixDatagram) {
    while let Ok((message, descriptors)) = parcel::receive_bytes(daemon) {
        if message == LEAVES {
            std::process::exit(HANDED_OVER.into());
        }
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        // The daemon repeats what counts, and notices a barrier that is not passed.
        let _in_vain = send_always(&message, &descriptors);
    }
}

/// The exit status that a process must have for systemd to report what became of the daemon.
fn mirrored(status: ExitStatus) -> u8 {
    if let Some(number) = std::os::unix::process::ExitStatusExt::signal(&status) {
        die_of(number);
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.unwrap_or(u8::MAX)
}

/// The daemon's side: the main process that has started it.
#[derive(Debug)]
pub struct MainProcess(UnixDatagram);

impl MainProcess {
    /// The main process, if one has started this one. From then on the kernel kills this process with it. Call it before
    /// anything reads standard input.
    ///
    /// # Errors
    /// It has ended already.
    pub fn of_this() -> io::Result<Option<Self>> {
        let Some(parent) = number() else {
            return Ok(None);
        };
        if !die_with_parent(parent)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        let channel = UnixDatagram::from(io::stdin().as_fd().try_clone_to_owned()?);
        channel.set_write_timeout(Some(PATIENCE))?;
        send_through(channel.try_clone()?);
        Ok(Some(Self(channel)))
    }

    /// Ends it, and outlives it. From then on the service manager gets no message of this process. Call it on the thread that
    /// has called [`Self::of_this`]: the kernel ties that thread's parent to the process.
    ///
    /// # Errors
    /// The service manager does not answer; then this process has not left.
    pub fn leave(self) -> io::Result<()> {
        super::fall_silent()?;
        // systemd warns at a start of other processes in the service unless they are named so.
        let _only_the_warning = name_like_a_helper();
        live_without_parent()?;
        // Fails only if it has ended, and then there is nothing left to end.
        let _ended = self.0.send(LEAVES);
        Ok(())
    }
}

/// The number of the main process that has started this one, if there is one.
#[must_use]
pub fn number() -> Option<u32> {
    std::env::var(MAIN_PROCESS).ok()?.parse().ok()
}

/// A variable of the daemon: the number of its main process.
const MAIN_PROCESS: &str = "SEALWAY_MAIN_PROCESS";
/// The exit status of a daemon whose tunnels wait for the next one.
const HANDED_OVER: u8 = 75;
/// No notification (sd_notify(3)) begins so.
const LEAVES: &[u8] = b"\0leaves";
/// A main process that does not read for so long passes nothing on.
const PATIENCE: Duration = Duration::from_secs(1);
