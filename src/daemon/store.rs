//! The descriptors that the service manager keeps for the next daemon: the queue into which this one
//! will put its tunnels, the stream on which the next one claims them, and the listening sockets that
//! it has opened itself. Without a service manager, or under one that keeps none, there is no hand-over.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::handover::parcel::is_kept;
use crate::sys::parcel;
use crate::systemd::{self, CLAIM, HANDOVER, LISTENER};

/// What the service manager keeps for this daemon.
#[derive(Debug)]
pub(super) struct Store {
    /// Writes to the stored end of the queue. None once it is used.
    writer: Mutex<Option<UnixDatagram>>,
    /// What the next daemon says comes from here. None once it is used.
    claims: Mutex<Option<UnixStream>>,
}

impl Store {
    /// Makes the service manager keep a new queue and a new stream, instead of the former ones, and these
    /// listening sockets. Returns None without a service manager.
    pub(super) fn open(listeners: &[TcpListener]) -> Option<Self> {
        if !systemd::is_manager() {
            return None;
        }
        let stored = (|| {
            let (reader, writer) = parcel::queue()?;
            systemd::forget(HANDOVER)?;
            systemd::store(HANDOVER, reader.as_fd())?;
            let (claims, next) = parcel::stream()?;
            systemd::forget(CLAIM)?;
            systemd::store_while_connected(CLAIM, next.as_fd())?;
            for listener in listeners {
                systemd::store(LISTENER, listener.as_fd())?;
            }
            // The other ends are closed here: only the service manager has them now.
            Ok::<_, std::io::Error>((writer, claims))
        })();
        match stored {
            Ok((writer, claims)) => Some(Self {
                writer: Mutex::new(Some(writer)),
                claims: Mutex::new(Some(claims)),
            }),
            Err(error) => {
                warn!(%error, "the service manager keeps no descriptors: a restart will drain");
                None
            }
        }
    }

    /// Takes the writing end of the queue, if the service manager has kept the other.
    pub(super) fn take_writer(&self) -> Option<UnixDatagram> {
        // Until then the reading end may still be in the manager's own queue.
        let _not_there = systemd::barrier(BARRIER);
        taken(&self.writer).filter(is_kept)
    }

    /// Takes the stream on which the next daemon claims the tunnels.
    pub(super) fn take_claims(&self) -> Option<UnixStream> {
        taken(&self.claims)
    }

    /// Makes the service manager close the other end of that stream: the tunnels will be in the queue before the next daemon
    /// starts, and one of an earlier version knows no stream.
    pub(super) fn expect_no_claim(&self) {
        let _no_manager = systemd::forget(CLAIM);
    }

    /// Makes the service manager close what it keeps: a stop hands nothing over, and a client must
    /// not wait for a daemon that does not come.
    pub(super) fn close(&self) {
        for name in [HANDOVER, CLAIM, LISTENER] {
            // Without a manager there is none to close it.
            let _no_manager = systemd::forget(name);
        }
    }
}

fn taken<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// How long the service manager may need for the messages before.
const BARRIER: Duration = Duration::from_millis(500);
