//! The descriptor store of the service manager (sd_pid_notify_with_fds(3), `FDSTORE=1`): it keeps
//! descriptors while the service restarts, and passes them to the next process.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::Duration;

use crate::sys;
use crate::sys::parcel;

/// The name of the queue with the tunnels.
pub const HANDOVER: &str = "sealway-handover";
/// The name of the stream on which the next daemon claims the tunnels of a former one that still carries them.
pub const CLAIM: &str = "sealway-claim";
/// The name of a listening socket that the daemon has opened.
pub const LISTENER: &str = "sealway-listener";

/// Whether the daemon runs under a service manager.
#[must_use]
pub fn is_manager() -> bool {
    std::env::var_os(NOTIFY_SOCKET).is_some()
}

/// Makes the service manager keep this descriptor, even if its other end is closed.
///
/// # Errors
/// There is no service manager, or it does not read.
pub fn store(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    send(
        &format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"),
        &[descriptor],
    )
}

/// Makes the service manager keep this descriptor until its other end is closed.
///
/// # Errors
/// As [`store`].
pub fn store_while_connected(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    send(&format!("FDSTORE=1\nFDNAME={name}\n"), &[descriptor])
}

/// Sends no message from now on: the service manager would take it for one of the next daemon. Waits until it has read all
/// messages before.
///
/// # Errors
/// As [`barrier`]; then messages are sent as before.
pub fn fall_silent() -> io::Result<()> {
    // Whoever sends at this moment has finished, and nobody begins.
    *SILENCE.write().unwrap_or_else(PoisonError::into_inner) = true;
    await_reader(LAST)
        .inspect_err(|_| *SILENCE.write().unwrap_or_else(PoisonError::into_inner) = false)
}

/// Whether this process sends no message any more.
pub(super) fn is_silent() -> bool {
    *SILENCE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the service manager close what it keeps under this name.
///
/// # Errors
/// As [`store`].
pub fn forget(name: &str) -> io::Result<()> {
    send(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[])
}

/// Waits until the service manager has read all messages before.
///
/// # Errors
/// As [`store`], or it has not read them after `patience`.
pub fn barrier(patience: Duration) -> io::Result<()> {
    if is_silent() {
        return Err(io::ErrorKind::NotConnected.into());
    }
    await_reader(patience)
}

fn await_reader(patience: Duration) -> io::Result<()> {
    let pipe = sys::pipe()?;
    send_always(b"BARRIER=1", &[pipe.writer.as_fd()])?;
    drop(pipe.writer);
    match parcel::wait_for_end(&pipe.reader, patience) {
        true => Ok(()),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}

pub(super) fn send(message: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let silence = SILENCE.read().unwrap_or_else(PoisonError::into_inner);
    if *silence {
        return Err(io::ErrorKind::NotConnected.into());
    }
    send_always(message.as_bytes(), descriptors)
}

/// Sends all messages of this process through its main process, which is the only one that the service manager listens to.
pub(super) fn send_through(main_process: UnixDatagram) {
    // Called once, at the start.
    let _once = THROUGH.set(main_process);
}

/// Sends a message (sd_notify(3)), also of another process.
pub(super) fn send_always(message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if let Some(main_process) = THROUGH.get() {
        return parcel::send_bytes(main_process, message, descriptors);
    }
    let name: OsString = std::env::var_os(NOTIFY_SOCKET).ok_or(io::ErrorKind::NotFound)?;
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect_addr(&address)?;
    parcel::send_bytes(&socket, message, descriptors)
}

static THROUGH: OnceLock<UnixDatagram> = OnceLock::new();
/// Locked while a message is sent.
static SILENCE: RwLock<bool> = RwLock::new(false);
/// How long the service manager may need for the last messages.
const LAST: Duration = Duration::from_secs(1);
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// A service manager that does not read for so long keeps nothing.
const PATIENCE: Duration = Duration::from_secs(1);
