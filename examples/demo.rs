//! All of Sealway in a few seconds, without internet: `cargo run --example demo`.
//!
//! A local TLS server answers like the Gemini API and allows one source address only. The demo asks
//! it directly and through Sealway, shows the server's certificate, tries another name in the SNI,
//! and prints the audit records. Everything stays on loopback; the key and the certificates are
//! created for this run.
#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sealway::config::{Config, Overrides};
use sealway::daemon::{Daemon, Origin};
use sealway::digest::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const HOST: &str = "generativelanguage.googleapis.com";
/// The only address on the key's allowlist.
const STATIC_ADDRESS: &str = "127.0.0.2";

#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::new()?;
    let pki = Pki::new()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let gemini = listener.local_addr()?;
    runtime.spawn(serve(listener, TlsAcceptor::from(Arc::new(pki.server()?))));
    let connector = TlsConnector::from(Arc::new(pki.client()?));
    say(
        "1",
        &format!(
            "A TLS server that answers like the Gemini API listens on {gemini}; its key allows {STATIC_ADDRESS} only."
        ),
    );

    say(
        "2",
        "Asked directly, from whatever address this machine has today:",
    );
    let direct = runtime
        .block_on(async { ask(TcpStream::connect(gemini).await?, &connector, HOST).await })?;
    show(&direct.text);
    expect(
        direct.text.contains("403") && direct.text.contains("API_KEY_IP_ADDRESS_BLOCKED"),
        "the direct request is blocked",
    )?;

    let audit = Page::default();
    let daemon = Daemon::start(configuration(gemini)?, Origin::default(), audit.clone())?;
    let proxy = *daemon.listeners().first().ok_or("no listener")?;
    say(
        "3",
        &format!(
            "Sealway runs on {proxy} and leaves from {STATIC_ADDRESS}. The same request through it:"
        ),
    );
    let tunnelled = runtime
        .block_on(async { ask(connect(proxy, gemini.port()).await?, &connector, HOST).await })?;
    show(&tunnelled.text);
    expect(
        tunnelled.text.contains("200 OK") && tunnelled.text.contains("pong"),
        "the tunnelled request is answered",
    )?;

    say(
        "4",
        "The certificate that the client saw is the server's own; nobody opened the session in between:",
    );
    show(&format!(
        "server's  {}\nclient saw {}",
        fingerprint(&pki.leaf),
        fingerprint(&tunnelled.leaf)
    ));
    expect(
        pki.leaf == tunnelled.leaf,
        "the certificate is the server's",
    )?;

    say(
        "5",
        "CONNECT to the allowed host, but another name in the TLS hello (how data would leave a looser proxy):",
    );
    let refused = runtime.block_on(async {
        ask(
            connect(proxy, gemini.port()).await?,
            &connector,
            "evil.example",
        )
        .await
    });
    let alert = refused
        .err()
        .ok_or("a wrong SNI was let through")?
        .to_string();
    show(&alert);
    expect(
        alert.contains("UnrecognisedName"),
        "the client is told by a TLS alert",
    )?;

    daemon.stop(std::future::ready(()));
    say("6", "What the audit log says of it:");
    let records = audit.text();
    show(&records);
    expect(
        records.contains("\"outcome\":\"allowed\"") && records.contains("sni_mismatch"),
        "both attempts are recorded",
    )?;
    println!("\nAll of it held.");
    Ok(())
}

fn configuration(gemini: SocketAddr) -> Result<Config, String> {
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"\"\n[egress]\naddresses = [\"{STATIC_ADDRESS}\"]\n\
         [policy]\nallow = [\"{HOST}:{}\"]\nallow_destinations = [\"127.0.0.1\"]\n[dns.hosts]\n\"{HOST}\" = [\"{}\"]\n",
        gemini.port(),
        gemini.ip()
    );
    Config::parse(Path::new("demo"), &text, &Overrides::default())
        .map_err(|problems| format!("{problems:?}"))
}

struct Answer {
    text: String,
    leaf: CertificateDer<'static>,
}

/// A CONNECT request like any client's.
async fn connect(proxy: SocketAddr, port: u16) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(proxy).await?;
    socket
        .write_all(format!("CONNECT {HOST}:{port} HTTP/1.1\r\n\r\n").as_bytes())
        .await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    let granted = head.starts_with(b"HTTP/1.1 200 ");
    granted
        .then_some(socket)
        .ok_or_else(|| io::Error::other(String::from_utf8_lossy(&head).into_owned()))
}

async fn ask(
    socket: TcpStream,
    connector: &TlsConnector,
    name: &'static str,
) -> io::Result<Answer> {
    let mut tls: TlsStream<TcpStream> = connector
        .connect(
            ServerName::try_from(name).map_err(io::Error::other)?,
            socket,
        )
        .await?;
    let leaf = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .cloned();
    let leaf = leaf
        .ok_or_else(|| io::Error::other("no certificate"))?
        .into_owned();
    let path = "/v1beta/models/gemini-2.5-flash:generateContent";
    tls.write_all(
        format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .as_bytes(),
    )
    .await?;
    let mut text = String::new();
    tls.read_to_string(&mut text).await?;
    Ok(Answer { text, leaf })
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor) {
    while let Ok((socket, peer)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(mut tls) = acceptor.accept(socket).await else {
                return;
            };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match tls.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => return,
                }
            }
            let reply = if peer.ip().to_string() == STATIC_ADDRESS {
                PONG.to_owned()
            } else {
                blocked(peer)
            };
            let sent = tls.write_all(reply.as_bytes()).await;
            let closed = tls.shutdown().await;
            drop((sent, closed));
        });
    }
}

const PONG: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n\
    {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[{\"text\":\"pong\"}]},\"finishReason\":\"STOP\"}]}";

fn blocked(peer: SocketAddr) -> String {
    format!(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n\
         {{\"error\":{{\"code\":403,\"status\":\"PERMISSION_DENIED\",\"message\":\"The provided API key has an IP address restriction. \
         The originating IP address of the call ({}) violates this restriction.\",\
         \"details\":[{{\"reason\":\"API_KEY_IP_ADDRESS_BLOCKED\"}}]}}}}",
        peer.ip()
    )
}

/// A certificate authority and one certificate for the API's name (and for the wrong one, so that
/// only Sealway refuses it).
struct Pki {
    authority: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: KeyPair,
}

impl Pki {
    fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let names = vec![HOST.to_owned(), "evil.example".to_owned()];
        let leaf = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        Ok(Self {
            authority: authority.der().clone(),
            leaf: leaf.der().clone(),
            key,
        })
    }

    fn server(&self) -> Result<ServerConfig, rustls::Error> {
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der()).into();
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        builder
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.leaf.clone()], key)
    }

    fn client(&self) -> Result<ClientConfig, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        Ok(builder
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}

/// Collects the daemon's audit records for the demo.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn text(&self) -> String {
        self.0
            .lock()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .map_err(|_| io::Error::other("poisoned"))?
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Digest::of(certificate).to_string()
}

fn expect(held: bool, what: &str) -> Result<(), String> {
    if held {
        Ok(())
    } else {
        Err(format!("this did not hold: {what}"))
    }
}

fn say(step: &str, text: &str) {
    println!("\n{step}. {text}");
}

fn show(text: &str) {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .for_each(|line| println!("     {line}"));
}
