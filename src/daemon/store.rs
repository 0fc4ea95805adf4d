//! The descriptors that the service manager keeps for the next daemon: the queue into which this one
//! will put its tunnels, and the listening sockets that it has opened itself. Without a service
//! manager, or under one that keeps none, there is no hand-over.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::handover::parcel::is_kept;
use crate::sys::parcel;
use crate::systemd::{self, HANDOVER, LISTENER};

/// What the service manager keeps for this daemon.
#[derive(Debug)]
pub(super) struct Store {
    /// Writes to the stored end of the queue. None once it is used.
    writer: Mutex<Option<UnixDatagram>>,
}

impl Store {
    /// Makes the service manager keep a new queue, instead of the former one, and these listening
    /// sockets. Returns None without a service manager.
    pub(super) fn open(listeners: &[TcpListener]) -> Option<Self> {
        if !systemd::is_manager() {
            return None;
        }
        let stored = (|| {
            let (reader, writer) = parcel::queue()?;
            systemd::forget(HANDOVER)?;
            systemd::store(HANDOVER, reader.as_fd())?;
            for listener in listeners {
                systemd::store(LISTENER, listener.as_fd())?;
            }
            // The reading end is closed here: only the service manager has it now.
            Ok::<_, std::io::Error>(writer)
        })();
        match stored {
            Ok(writer) => Some(Self {
                writer: Mutex::new(Some(writer)),
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
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        writer.filter(is_kept)
    }

    /// Makes the service manager close what it keeps: a stop hands nothing over, and a client must
    /// not wait for a daemon that does not come.
    pub(super) fn close(&self) {
        for name in [HANDOVER, LISTENER] {
            // Without a manager there is none to close it.
            let _no_manager = systemd::forget(name);
        }
    }
}

/// How long the service manager may need for the messages before.
const BARRIER: Duration = Duration::from_millis(500);
