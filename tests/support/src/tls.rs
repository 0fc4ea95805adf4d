//! A real TLS upstream with a certificate of the test's own authority, and the client side that trusts it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, client, server};

use crate::client::tls_connect;
use crate::{HOST, soon};

/// The settings of both TLS sides: one protocol version, one ALPN list, one certificate for
/// [`HOST`].
pub struct TlsUpstream {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    accepted: AtomicUsize,
    leaf: CertificateDer<'static>,
    client: Arc<ClientConfig>,
}

impl TlsUpstream {
    /// `version` is the only one that either side supports; `alpn` is offered by both.
    pub async fn start(version: &'static SupportedProtocolVersion, alpn: &[&str]) -> TlsUpstream {
        let identity = Identity::new();
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsUpstream {
            listener: TcpListener::bind("127.0.0.1:0")
                .await
                .expect("bind the upstream"),
            accepted: AtomicUsize::new(0),
            leaf: identity.leaf.clone(),
            client: Arc::new(identity.client(version, alpn.clone())),
            acceptor: TlsAcceptor::from(Arc::new(identity.server(version, alpn))),
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound address")
    }

    /// The authority that a client requests.
    pub fn authority(&self) -> String {
        format!("{HOST}:{}", self.addr().port())
    }

    /// A client that trusts this upstream's authority and no other.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// The certificate that this upstream shows.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    /// How many TCP connections were accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// A tunnel to this upstream: the TLS session of the client, and that of the upstream.
    pub async fn tunnel(
        &self,
        proxy: SocketAddr,
    ) -> (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>) {
        let authority = self.authority();
        let (client, (server, _)) =
            tokio::join!(tls_connect(proxy, &authority, self.client()), self.accept());
        (client, server)
    }

    /// Accepts a connection and does the handshake; returns the peer's address too.
    pub async fn accept(&self) -> (server::TlsStream<TcpStream>, SocketAddr) {
        let (stream, peer) = soon("a connection to the upstream", self.listener.accept())
            .await
            .expect("accept");
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let stream = soon("the TLS handshake", self.acceptor.accept(stream))
            .await
            .expect("TLS handshake");
        (stream, peer)
    }
}

/// A certificate authority and the one certificate it has signed.
struct Identity {
    ca: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new() -> Identity {
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
        let leaf_key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec![HOST.to_string()]).expect("parameters");
        let leaf = leaf
            .signed_by(&leaf_key, &Issuer::new(ca, ca_key))
            .expect("a certificate");
        Identity {
            ca: ca_certificate.der().clone(),
            leaf: leaf.der().clone(),
            key: PrivateKeyDer::try_from(leaf_key.serialize_der()).expect("a key in PKCS #8"),
        }
    }

    fn client(
        &self,
        version: &'static SupportedProtocolVersion,
        alpn: Vec<Vec<u8>>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder
            .with_protocol_versions(&[version])
            .expect("a version");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn;
        config
    }

    fn server(
        self,
        version: &'static SupportedProtocolVersion,
        alpn: Vec<Vec<u8>>,
    ) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_no_client_auth();
        let mut config = builder
            .with_single_cert(vec![self.leaf], self.key)
            .expect("a certificate and its key");
        config.alpn_protocols = alpn;
        config
    }
}
