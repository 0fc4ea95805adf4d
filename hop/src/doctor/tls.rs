//! TLS client sessions of the doctor: the handshake with the proxy and, within the tunnel, with the provider.
//!
//! Accepts any certificate and reports it; [`super::trust`] judges it. Never sends application bytes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, ClientConnection, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;

use super::http::Stream;
use super::trust::Keeper;

/// Which key exchange a ClientHello offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// X25519MLKEM768 first: about 1,500 bytes, two segments.
    PostQuantum,
    /// X25519 and P-256: one segment.
    Small,
}

/// A session, or what its handshake failed with.
pub struct Handshake {
    /// The session.
    pub result: Result<Stream, TlsFailure>,
    /// The certificates that the peer presented.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whether the peer asked for a client certificate.
    pub asked: bool,
    /// Version, suite and group.
    pub negotiated: String,
}

/// Why a handshake, or a session behind it, failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// The peer sent this alert.
    Alert(AlertDescription),
    /// The peer closed or reset the connection.
    Closed,
    /// The peer speaks no TLS.
    NotTls,
    /// Anything else; the text is ours.
    Other(String),
}

impl TlsFailure {
    /// Reads what tokio-rustls reports.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(Error::AlertReceived(alert)) => Self::Alert(*alert),
            Some(Error::InvalidMessage(_)) => Self::NotTls,
            Some(Error::PeerIncompatible(_)) => {
                Self::Other("the peer shares no version or cipher with this client".to_owned())
            }
            Some(_) => Self::Other("the peer violates the protocol".to_owned()),
            None => Self::Closed,
        }
    }
}

/// Performs a handshake on an open connection. The caller has the deadline.
pub async fn connect(
    stream: Stream,
    name: ServerName<'static>,
    hello: Hello,
    identity: Option<Arc<CertifiedKey>>,
) -> Handshake {
    let provider = provider(hello);
    let keeper = Keeper::new(Arc::clone(&provider));
    let presented = Arc::new(Presented {
        identity,
        asked: AtomicBool::new(false),
    });
    let config = config(provider, &keeper, &presented);
    let result = match config {
        Ok(config) => {
            TlsConnector::from(Arc::new(config))
                .connect(name, stream)
                .await
        }
        Err(error) => Err(io::Error::other(error)),
    };
    let negotiated = result.as_ref().map_or_else(
        |_| String::new(),
        |session| {
            let (_, connection) = session.get_ref();
            let version = connection
                .protocol_version()
                .and_then(|version| version.as_str())
                .unwrap_or("?");
            let group = connection
                .negotiated_key_exchange_group()
                .map(|group| group.name());
            let group = group.and_then(|group| group.as_str()).unwrap_or("?");
            format!("{version} {group}")
        },
    );
    Handshake {
        result: result
            .map(|session| Box::new(session) as Stream)
            .map_err(|error| TlsFailure::of(&error)),
        chain: keeper.chain(),
        asked: presented.asked.load(Ordering::Relaxed),
        negotiated,
    }
}

/// The bytes of a ClientHello.
///
/// # Errors
/// rustls makes none; it does.
pub fn hello(name: ServerName<'static>, hello: Hello) -> Result<Vec<u8>, Error> {
    let provider = provider(hello);
    let keeper = Keeper::new(Arc::clone(&provider));
    let presented = Arc::new(Presented {
        identity: None,
        asked: AtomicBool::new(false),
    });
    let config = config(provider, &keeper, &presented)?;
    let mut connection = ClientConnection::new(Arc::new(config), name)?;
    let mut bytes = Vec::new();
    // Into a vector no write fails.
    while connection.wants_write()
        && connection
            .write_tls(&mut bytes)
            .is_ok_and(|written| written > 0)
    {}
    Ok(bytes)
}

fn provider(hello: Hello) -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group as group;
    let kx_groups = match hello {
        Hello::PostQuantum => vec![
            group::X25519MLKEM768,
            group::X25519,
            group::SECP256R1,
            group::SECP384R1,
        ],
        Hello::Small => vec![group::X25519, group::SECP256R1, group::SECP384R1],
    };
    Arc::new(CryptoProvider {
        kx_groups,
        ..aws_lc_rs::default_provider()
    })
}

fn config(
    provider: Arc<CryptoProvider>,
    keeper: &Arc<Keeper>,
    presented: &Arc<Presented>,
) -> Result<ClientConfig, Error> {
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(keeper) as _)
        .with_client_cert_resolver(Arc::clone(presented) as _);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Our certificate, and whether it was asked for.
#[derive(Debug)]
struct Presented {
    identity: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Presented {
    fn resolve(
        &self,
        _issuers: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.identity.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
