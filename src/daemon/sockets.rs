//! The sockets of the daemon: systemd hands some over, and the daemon opens the others. A socket
//! that is handed over but not configured is an error, because its clients would wait for ever.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use tracing::warn;

use super::StartError;
use crate::config::Config;
use crate::sys;
use crate::systemd::{self, Inherited, LISTENER};
use crate::worker::{self, Bound};

/// All sockets.
pub(super) struct Opened {
    /// The addresses for clients, in the order of the configuration.
    pub(super) listeners: Vec<SocketAddr>,
    /// The sockets of each worker.
    pub(super) shares: Vec<Vec<Bound>>,
    /// The socket of the admin listener.
    pub(super) admin: Option<TcpListener>,
    /// Copies of the sockets that this daemon, or an earlier one, has opened: the service manager
    /// keeps them.
    pub(super) own: Vec<TcpListener>,
}

/// Opens the configured sockets for `workers` workers.
pub(super) fn open(
    config: &Config,
    mut inherited: Vec<Inherited>,
    workers: usize,
) -> Result<Opened, StartError> {
    close_stale(config, &mut inherited);
    let mut opened = Opened {
        own: Vec::new(),
        listeners: Vec::new(),
        shares: (0..workers).map(|_| Vec::new()).collect(),
        admin: None,
    };
    for (number, listener) in config.listeners.iter().enumerate() {
        let address = listener.address;
        let no = |error| StartError::Listen(address, error);
        let (mut sockets, is_stored) = take(&mut inherited, address);
        if sockets.is_empty() {
            sockets.push(sys::listen(address).map_err(no)?);
        }
        let shares = worker::share(&sockets, number, workers, !is_stored).map_err(no)?;
        if is_stored {
            opened.own.extend(sockets);
        }
        opened.listeners.extend(
            shares
                .first()
                .and_then(|share| share.first())
                .map(Bound::address),
        );
        for (all, share) in opened.shares.iter_mut().zip(shares) {
            all.extend(share);
        }
    }
    if let Some(address) = config.admin {
        let no = |error| StartError::Listen(address, error);
        let (sockets, is_stored) = take(&mut inherited, address);
        let socket = match sockets.into_iter().next() {
            Some(handed_over) => handed_over,
            None => sys::listen(address).map_err(no)?,
        };
        if is_stored {
            opened.own.push(socket.try_clone().map_err(no)?);
        }
        opened.admin = Some(socket);
    }
    match inherited.into_iter().next() {
        None => Ok(opened),
        Some(Inherited { name, address, .. }) => Err(StartError::Unasked { name, address }),
    }
}

/// Closes the stored sockets that the configuration no longer names, here and in the service manager,
/// because a new listener may need their port. It still keeps the others, for the case that this start fails.
fn close_stale(config: &Config, inherited: &mut Vec<Inherited>) {
    let listeners = config.listeners.iter().map(|listener| listener.address);
    let named: Vec<_> = listeners.chain(config.admin).collect();
    let is_stale = |socket: &mut Inherited| socket.is_stored && !named.contains(&socket.address);
    if inherited.extract_if(.., is_stale).count() > 0 {
        let mut others = inherited.iter().filter(|socket| socket.is_stored);
        let closed = systemd::forget(LISTENER)
            .and_then(|()| {
                others.try_for_each(|other| systemd::store(LISTENER, other.socket.as_fd()))
            })
            .and_then(|()| systemd::barrier(CLOSED_WITHIN));
        if let Err(error) = closed {
            warn!(%error, "the service manager still holds listening sockets that are no longer configured");
        }
    }
}

/// Takes the inherited sockets at this address, and returns whether the service manager only keeps
/// them for the daemon; so does it with one that is opened now. Warns if other processes may listen
/// there too.
fn take(inherited: &mut Vec<Inherited>, address: SocketAddr) -> (Vec<TcpListener>, bool) {
    let taken: Vec<_> = inherited
        .extract_if(.., |socket| socket.address == address)
        .collect();
    if taken
        .iter()
        .any(|socket| sys::shares_its_port(&socket.socket).unwrap_or(true))
    {
        warn!(
            %address,
            "systemd passes a socket with ReusePort=yes: any process of the user that opened it can take connections; remove ReusePort= from the socket unit"
        );
    }
    let is_stored = taken.iter().all(|socket| socket.is_stored);
    let sockets = taken.into_iter().map(|socket| socket.socket);
    (sockets.collect(), is_stored)
}

/// For the service manager to close sockets that it keeps.
const CLOSED_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);
