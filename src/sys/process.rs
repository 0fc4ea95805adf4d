//! Other processes of the same program: the tie between a parent and its child (prctl(2)), names, and signals. Never starts one.

use std::io;

use std::os::fd::AsFd;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt};
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

/// Undoes [`die_with_parent`].
///
/// # Errors
/// None that the kernel documents.
pub fn live_without_parent() -> io::Result<()> {
    Ok(prctl::set_pdeathsig(None)?)
}

/// Sends a signal to a child that has not been awaited yet (kill(2)). Real-time signals are not passed on.
pub fn pass_on(child: u32, number: i32) {
    if let (Ok(child), Ok(signal)) = (i32::try_from(child), Signal::try_from(number)) {
        // Fails only if it has ended, and its end is to come.
        let _ended = nix::sys::signal::kill(Pid::from_raw(child), signal);
    }
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

/// Kills the process that has created this pair of Unix sockets (unix(7), `SO_PEERCRED`), unless it is this one.
///
/// # Errors
/// ESRCH if it has ended, EPERM if it has another user.
pub fn kill_peer(socket: &impl AsFd) -> io::Result<()> {
    Ok(nix::sys::signal::kill(peer(socket)?, Signal::SIGKILL)?)
}

/// Whether the process that has created this pair of Unix sockets is there, and not this one.
pub fn is_peer_alive(socket: &impl AsFd) -> bool {
    peer(socket).is_ok_and(|peer| nix::sys::signal::kill(peer, None).is_ok())
}

fn peer(socket: &impl AsFd) -> io::Result<Pid> {
    let peer = Pid::from_raw(getsockopt(socket, sockopt::PeerCredentials)?.pid());
    // 0: a process that this one cannot see.
    match peer.as_raw() > 1 && peer != Pid::this() {
        true => Ok(peer),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Gives the process a name in parentheses when its first thread calls it. systemd has such processes of its own in a
/// service, and does not warn of them.
///
/// # Errors
/// None that the kernel documents (prctl(2), `PR_SET_NAME`).
pub fn name_like_a_helper() -> io::Result<()> {
    Ok(prctl::set_name(c"(sealway)")?)
}

/// A signal that a child handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildSignal {
    /// SIGHUP.
    HangUp,
    /// SIGTERM.
    Terminate,
}
