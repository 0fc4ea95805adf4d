//! The sockets of the daemon: systemd hands some over, and the daemon opens the others. A socket
//! that is handed over but not configured is an error, because its clients would wait for ever.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tracing::warn;

use super::StartError;
use crate::config::Config;
use crate::sys;
use crate::systemd::Inherited;
use crate::worker::{self, Bound};

/// All sockets.
pub(super) struct Opened {
    /// The addresses for clients, in the order of the configuration.
    pub(super) listeners: Vec<SocketAddr>,
    /// The sockets of each worker.
    pub(super) shares: Vec<Vec<Bound>>,
    /// The socket of the admin listener.
    pub(super) admin: Option<TcpListener>,
}

/// Opens the configured sockets for `workers` workers.
pub(super) fn open(
    config: &Config,
    mut inherited: Vec<Inherited>,
    workers: usize,
) -> Result<Opened, StartError> {
    let mut opened = Opened {
        listeners: Vec::new(),
        shares: (0..workers).map(|_| Vec::new()).collect(),
        admin: None,
    };
    for (number, listener) in config.listeners.iter().enumerate() {
        let address = listener.address;
        let no = |error| StartError::Listen(address, error);
        let handed_over = take(&mut inherited, address);
        let shares = match handed_over.as_slice() {
            [] => worker::bind(address, number, workers).map_err(no)?,
            sockets => worker::share(sockets, number, workers).map_err(no)?,
        };
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
        let sockets = match take(&mut inherited, address) {
            handed_over if handed_over.is_empty() => vec![sys::listen(address).map_err(no)?],
            handed_over => handed_over,
        };
        opened.admin = Some(
            sockets
                .into_iter()
                .next()
                .ok_or_else(|| no(io::ErrorKind::NotFound.into()))?,
        );
    }
    match inherited.into_iter().next() {
        None => Ok(opened),
        Some(Inherited { name, address, .. }) => Err(StartError::Unasked { name, address }),
    }
}

/// Takes the inherited sockets at this address. Warns if other processes may listen there too.
fn take(inherited: &mut Vec<Inherited>, address: SocketAddr) -> Vec<TcpListener> {
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
    taken.into_iter().map(|socket| socket.socket).collect()
}
