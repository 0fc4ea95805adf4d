//! Connects to an upstream: look-up, TCP, TLS, within one deadline. Tries several addresses of a name in turn, the next
//! one as soon as one fails or takes long.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use sealway::sys::options;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::endpoint::Endpoint;
use super::remote::Remote;
use crate::stream::Stream;

/// A connection past its handshake that has carried no request.
#[derive(Debug)]
pub struct Ready {
    /// The connection.
    pub remote: Remote,
    /// When its handshake ended.
    pub since: Instant,
    /// How long TCP and TLS took.
    pub took: Duration,
    /// Whether it has waited among the warm ones: its upstream may have closed it by now.
    pub is_warm: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("its name does not resolve: {0}")]
    Lookup(io::Error),
    /// No address accepts a connection.
    #[error("{0}")]
    Tcp(io::Error),
    /// The handshake fails.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// It takes too long.
    #[error("no connection within {}", humantime::format_duration(DEADLINE))]
    Timeout,
}

/// Connects to an endpoint, whose addresses these may be.
///
/// # Errors
/// Why it fails; holds no secret.
pub async fn connect(endpoint: &Endpoint, tls: Arc<ClientConfig>) -> Result<Ready, ConnectError> {
    let started = Instant::now();
    let connected = async {
        let addresses = addresses(endpoint).await.map_err(ConnectError::Lookup)?;
        let socket = first_of(addresses).await.map_err(ConnectError::Tcp)?;
        set_up(&socket).map_err(ConnectError::Tcp)?;
        let stream = Stream(Arc::new(socket));
        let Some(name) = endpoint.tls.clone() else {
            return Ok(Remote::Plain(stream));
        };
        let connector = TlsConnector::from(tls);
        let connecting = connector.connect_with(name, stream, |connection| {
            connection.set_buffer_limit(Some(UNSENT_MAX));
        });
        let tls = Box::pin(connecting).await.map_err(ConnectError::Tls)?;
        Ok(Remote::Tls(Box::new(tls)))
    };
    let remote = timeout(DEADLINE, connected).await;
    let remote = remote.unwrap_or(Err(ConnectError::Timeout))?;
    let since = Instant::now();
    Ok(Ready {
        remote,
        since,
        took: since - started,
        is_warm: false,
    })
}

async fn addresses(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    let found = lookup_host((endpoint.host.as_str(), endpoint.port)).await?;
    let found: Vec<_> = found.take(ADDRESSES_MAX).collect();
    match found.is_empty() {
        true => Err(io::Error::other("no address")),
        false => Ok(found),
    }
}

fn set_up(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    // A vanished upstream is noticed within seconds while nothing is sent.
    options::probe_when_silent(socket, SILENCE)
}

/// The connection to the address that answers first.
async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let (mut attempts, mut left) = (JoinSet::new(), addresses.into_iter());
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    loop {
        match left.next() {
            Some(address) => drop(attempts.spawn(TcpStream::connect(address))),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(done) = attempts.join_next() => match done {
                Ok(Ok(socket)) => return Ok(socket),
                Ok(Err(error)) => last = error,
                Err(error) => last = error.into(),
            },
            () = sleep(STAGGER), if left.len() > 0 => {}
        }
    }
}

/// From the look-up to the finished handshake.
pub const DEADLINE: Duration = Duration::from_secs(3);
/// RFC 8305, section 5.
const STAGGER: Duration = Duration::from_millis(250);
const ADDRESSES_MAX: usize = 8;
/// Before a silent upstream is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(5);
/// Bytes of records that the upstream has not taken yet; then the application waits.
const UNSENT_MAX: usize = 32 * 1024;
