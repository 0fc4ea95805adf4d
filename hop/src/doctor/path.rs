//! The way to the provider, step by step: TCP to the proxy, TLS with it, CONNECT, TLS with the provider.
//!
//! Each step has a deadline and returns what it met; which finding that is, is decided in [`super::checks`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::sign::CertifiedKey;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::http::{self, HttpError, Reply, Stream};
use super::proxy_url::{ProxyUrl, authority};
use super::tls::{self, Handshake, Hello, TlsFailure};

/// Where the request goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The provider's host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// What every step needs.
pub struct Path {
    /// The proxy.
    pub proxy: ProxyUrl,
    /// The provider.
    pub target: Target,
    /// The certificate for the proxy.
    pub identity: Option<Arc<CertifiedKey>>,
    /// The limit for one step.
    pub limit: Duration,
}

/// The outcome of a connection attempt to one address.
pub type Attempt = (SocketAddr, Result<TcpStream, io::Error>);

/// The addresses of a name, at most `ADDRESSES_MAX`.
///
/// # Errors
/// The resolver's, or that it takes too long.
pub async fn resolve(host: &str, port: u16, limit: Duration) -> io::Result<Vec<SocketAddr>> {
    let found = timeout(limit, lookup_host((host, port))).await;
    let found = found.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(found.take(ADDRESSES_MAX).collect())
}

/// Connects to every address at once, each within the limit. In the order of the addresses.
pub async fn dial_each(addresses: &[SocketAddr], limit: Duration) -> Vec<Attempt> {
    let mut attempts = JoinSet::new();
    for (place, address) in addresses.iter().copied().enumerate() {
        attempts.spawn(async move {
            let connected = timeout(limit, TcpStream::connect(address)).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            (place, (address, connected))
        });
    }
    let mut ended: Vec<_> = attempts.join_all().await;
    ended.sort_by_key(|(place, _)| *place);
    ended.into_iter().map(|(_, attempt)| attempt).collect()
}

/// What CONNECT was answered with.
pub enum Connected {
    /// 200: the tunnel is open.
    Open(Stream),
    /// Another status.
    Refused(Reply),
    /// No answer in HTTP; the first bytes, if any.
    NotHttp(Vec<u8>),
    /// Closed or reset.
    Closed,
    /// The proxy ended TLS with this.
    Tls(TlsFailure),
    /// No answer within the limit.
    Late,
}

impl Path {
    /// TLS with the proxy on an open connection.
    pub async fn secure(&self, stream: TcpStream) -> Handshake {
        let Ok(name) = ServerName::try_from(self.proxy.host.clone()) else {
            return failed(TlsFailure::Other(
                "the proxy's host is no name for TLS".to_owned(),
            ));
        };
        let handshake = tls::connect(
            Box::new(stream),
            name,
            Hello::PostQuantum,
            self.identity.clone(),
        );
        match timeout(self.limit, handshake).await {
            Ok(handshake) => handshake,
            Err(_) => failed(TlsFailure::Other("no answer in time".to_owned())),
        }
    }

    /// CONNECT to the target, with the credentials of the URL or without.
    pub async fn connect(&self, mut stream: Stream, with_credentials: bool) -> Connected {
        let request = self.request(with_credentials);
        match timeout(self.limit, http::exchange(&mut stream, &request)).await {
            Ok(Ok(reply)) if reply.status == 200 => Connected::Open(stream),
            Ok(Ok(reply)) => Connected::Refused(reply),
            Ok(Err(HttpError::NotHttp(bytes))) => Connected::NotHttp(bytes),
            Ok(Err(HttpError::Closed)) => Connected::Closed,
            Ok(Err(HttpError::Io(error))) => match TlsFailure::of(&error) {
                TlsFailure::Closed => Connected::Closed,
                failure => Connected::Tls(failure),
            },
            Err(_) => Connected::Late,
        }
    }

    fn request(&self, with_credentials: bool) -> Zeroizing<Vec<u8>> {
        let to = authority(&self.target.host, self.target.port);
        let mut request = Zeroizing::new(Vec::with_capacity(REQUEST_MAX));
        request.extend(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").as_bytes());
        if let Some(credentials) = self.proxy.credentials.as_ref().filter(|_| with_credentials) {
            let plain = Zeroizing::new(format!("{}:{}", credentials.user, *credentials.secret));
            let encoded = Zeroizing::new(base64::Engine::encode(
                &base64::engine::general_purpose::STANDARD,
                plain.as_bytes(),
            ));
            request.extend(b"Proxy-Authorization: Basic ");
            request.extend(encoded.as_bytes());
            request.extend(b"\r\n");
        }
        request.extend(b"\r\n");
        request
    }

    /// A tunnel over a new connection to this address; None if any step fails.
    pub async fn tunnel(&self, address: SocketAddr) -> Option<Stream> {
        let (_, connected) = dial_each(&[address], self.limit).await.pop()?;
        let stream = connected.ok()?;
        let stream = match self.proxy.tls {
            true => self.secure(stream).await.result.ok()?,
            false => Box::new(stream),
        };
        match self.connect(stream, true).await {
            Connected::Open(stream) => Some(stream),
            _ => None,
        }
    }

    /// TLS with the provider through an open tunnel.
    pub async fn inner(&self, stream: Stream, hello: Hello) -> Handshake {
        let Ok(name) = ServerName::try_from(self.target.host.clone()) else {
            return failed(TlsFailure::Other("the host is no name for TLS".to_owned()));
        };
        match timeout(self.limit, tls::connect(stream, name, hello, None)).await {
            Ok(handshake) => handshake,
            Err(_) => failed(TlsFailure::Other(LATE.to_owned())),
        }
    }

    /// Whether a ClientHello in two pieces is answered by a ServerHello. None if there is no tunnel.
    pub async fn split_hello_is_answered(&self, address: SocketAddr) -> Option<bool> {
        let mut stream = self.tunnel(address).await?;
        let name = ServerName::try_from(self.target.host.clone()).ok()?;
        let hello = tls::hello(name, Hello::PostQuantum).ok()?;
        // Within the record's header and the random: a device that looks at the first segment finds no SNI there.
        let (first, second) = hello.split_at_checked(SPLIT_AT)?;
        let answered = async {
            stream.write_all(first).await?;
            stream.flush().await?;
            // The kernel sends the first piece at once; the pause keeps the second out of its segment.
            sleep(PAUSE).await;
            stream.write_all(second).await?;
            stream.flush().await?;
            stream.read_u8().await
        };
        let answer = timeout(self.limit, answered).await;
        Some(matches!(answer, Ok(Ok(HANDSHAKE_RECORD))))
    }
}

fn failed(failure: TlsFailure) -> Handshake {
    Handshake {
        result: Err(failure),
        chain: Vec::new(),
        asked: false,
        negotiated: String::new(),
    }
}

/// The reason of a handshake that took too long.
pub const LATE: &str = "no answer in time";
/// A proxy behind a name with more addresses is a service of its own.
const ADDRESSES_MAX: usize = 8;
/// More than head and credentials need, so that no grown buffer leaves a copy.
const REQUEST_MAX: usize = 4096;
const SPLIT_AT: usize = 20;
const PAUSE: Duration = Duration::from_millis(20);
const HANDSHAKE_RECORD: u8 = 22;
