//! `sealway-hop` as a child process, and TLS clients for it.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use support::soon;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::core::{Core, TOKEN};
use crate::process::{self, Process, address};
use crate::zoo::{Authority, Issued, write};

/// A running hop. Dropped, it is killed.
pub(crate) struct Hop {
    process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
    pub(crate) authority: Authority,
    /// Whether a test plays the daemon, which then takes [`BEGINNING`].
    is_before_core: bool,
}

impl Hop {
    /// Starts a hop before this daemon, with a certificate for [`NAME`], and waits until it listens. `tls` adds keys to
    /// the table, `more` adds sections.
    pub(crate) async fn start(core: &Core, tls: &str, more: &str) -> Hop {
        let folder = tempfile::tempdir().unwrap();
        Hop::start_in(folder, core, tls, more).await
    }

    /// The same, with files of the test in its folder.
    pub(crate) async fn start_in(folder: TempDir, core: &Core, tls: &str, more: &str) -> Hop {
        let mut hop = Hop::start_before(core.address, folder, tls, more).await;
        hop.is_before_core = true;
        hop
    }

    /// The same before a daemon at this address.
    pub(crate) async fn start_before(
        core: SocketAddr,
        folder: TempDir,
        tls: &str,
        more: &str,
    ) -> Hop {
        let authority = Authority::new("hop CA");
        let own = authority.server(&[NAME]);
        write(&folder, "hop.pem", &own.pem);
        write(&folder, "hop.key", &own.key_pem);
        write(&folder, "hop.token", TOKEN);
        write(&folder, "sealway.toml", &config(core, tls, more));
        let (process, listening) = Process::start(command(&folder)).await;
        Hop {
            process,
            address: address(&listening, "listeners").unwrap(),
            folder,
            authority,
            is_before_core: false,
        }
    }

    pub(crate) async fn handshakes(&self, result: &str) -> f64 {
        self.metrics().await[&format!("sealway_hop_handshakes_total{{result=\"{result}\"}}")]
    }

    /// A client that trusts the hop's authority.
    pub(crate) fn client(&self) -> Client {
        Client {
            begins: self.is_before_core,
            ..Client::trusting(&self.authority)
        }
    }

    /// Shakes hands as a plain client.
    pub(crate) async fn connect(&self) -> TlsStream<TcpStream> {
        self.client().connect(self.address).await.unwrap()
    }
}

impl Deref for Hop {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Hop {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// How a client shakes hands.
#[derive(Clone)]
pub(crate) struct Client {
    authority: rustls::pki_types::CertificateDer<'static>,
    pub(crate) versions: &'static [&'static SupportedProtocolVersion],
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) identity: Option<Issued>,
    /// Whether it sends [`BEGINNING`], without which the hop passes no client on.
    pub(crate) begins: bool,
}

impl Client {
    pub(crate) fn trusting(authority: &Authority) -> Client {
        Client {
            authority: authority.der(),
            versions: rustls::ALL_VERSIONS,
            alpn: Vec::new(),
            identity: None,
            begins: false,
        }
    }

    pub(crate) fn with(mut self, identity: &Issued) -> Client {
        self.identity = Some(identity.clone());
        self
    }

    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        self.over(stream).await
    }

    pub(crate) async fn over<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(NAME).unwrap();
        let connector = TlsConnector::from(Arc::new(self.config()));
        let mut stream = soon("a handshake", connector.connect(name, stream)).await?;
        if self.begins {
            // A client that is refused finds out when it reads.
            let _sent = stream.write_all(&[BEGINNING]).await;
            let _sent = stream.flush().await;
        }
        Ok(stream)
    }

    pub(crate) fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(self.versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match &self.identity {
            Some(own) => builder
                .with_client_auth_cert(own.chain.clone(), own.key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config
    }
}

/// The program with the configuration of this folder.
pub(crate) fn command(folder: &TempDir) -> Command {
    let mut command = process::command(env!("CARGO_BIN_EXE_sealway-hop"));
    command
        .arg("--config")
        .arg(folder.path().join("sealway.toml"));
    command
}

/// A configuration with one TLS listener.
pub(crate) fn config(core: SocketAddr, tls: &str, more: &str) -> String {
    let anyone = "[auth]\nclients = [\"127.0.0.0/8\"]\n";
    let auth = if more.contains("[auth]") { "" } else { anyone };
    let own = "[hop]\naddress = \"127.0.0.1:0\"\n";
    let own = if more.contains("[hop]") { "" } else { own };
    format!(
        "[[listener]]\naddress = \"{core}\"\nproxy_protocol = {{ {PROTOCOL} }}\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificate = \"hop.pem\", key = \"hop.key\", core = \"{core}\", token_file = \"hop.token\"{tls} }}\n\
         {own}[log]\nformat = \"json\"\n{auth}{more}"
    )
}

/// The first byte of a client, which [`Core`] takes.
pub(crate) const BEGINNING: u8 = b'!';
/// The name of the hop.
pub(crate) const NAME: &str = "hop.example.com";
pub(crate) const ONLY_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub(crate) const ONLY_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
/// The daemon's listener trusts the hop and the certificates that it declares.
const PROTOCOL: &str = "from = [\"127.0.0.1\"], identity = true, token_file = \"hop.token\"";
