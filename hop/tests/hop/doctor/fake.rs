//! A provider of an API. What it answers depends on the key, so that one provider serves many tests at once.
//!
//! Keys begin with `CANARY-`, so that an output with a key is found. `CANARY-well` is let in;
//! `CANARY-NAME:STATUS[:TYPE]` gets the refusal of that fixture; the others are at [`answer`].

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::version::{TLS12, TLS13};
use support::HOST;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::zoo::{Authority, Issued, Wanted, write};

/// A running provider.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    requests: AtomicUsize,
    /// The source addresses that `CANARY-listed` is restricted to.
    allowed: Mutex<Vec<IpAddr>>,
}

impl Fake {
    /// Starts one with a good certificate for [`HOST`]; `ca.pem` in its folder is the authority.
    pub(crate) async fn start() -> Fake {
        let authority = Authority::new("provider CA");
        let issued = authority.server(&[HOST]);
        Fake::with(&authority, &issued, &[&TLS12, &TLS13]).await
    }

    /// Starts one with this certificate and these versions.
    pub(crate) async fn with(
        authority: &Authority,
        issued: &Issued,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Fake::at(listener, authority, issued, versions)
    }

    /// The same at this listener.
    pub(crate) fn at(
        listener: TcpListener,
        authority: &Authority,
        issued: &Issued,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Fake {
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(&folder, "ca.pem", &authority.pem());
        let acceptor = TlsAcceptor::from(Arc::new(server(issued, versions)));
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(serve(acceptor, stream, peer.ip().to_canonical(), state));
            }
        });
        Fake {
            address,
            folder,
            state,
        }
    }

    /// How many requests it has read.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Restricts `CANARY-listed` to these source addresses.
    pub(crate) fn allow(&self, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        *self.state.allowed.lock().unwrap() = addresses.collect();
    }

    pub(crate) fn ca(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }
}

/// A certificate for these names that is valid within these years.
pub(crate) fn issued(authority: &Authority, name: &str, from: i32, until: i32) -> Issued {
    authority.issue(&Wanted {
        names: vec![rcgen::SanType::DnsName(name.try_into().unwrap())],
        purpose: rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        from,
        until,
        ..Wanted::client(8)
    })
}

/// The settings of a server with this certificate.
pub(crate) fn server(
    issued: &Issued,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(versions).unwrap();
    let builder = builder.with_no_client_auth();
    builder
        .with_single_cert(issued.chain.clone(), issued.key())
        .unwrap()
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, peer: IpAddr, state: Arc<State>) {
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    while let Some((line, key)) = request(&mut stream).await {
        state.requests.fetch_add(1, Ordering::SeqCst);
        if answer(&mut stream, &line, &key, peer, &state)
            .await
            .is_none()
        {
            return;
        }
    }
}

/// The request line and the key of the next request; its body is read too.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let of = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches("Bearer ").to_owned())
    };
    let length = of("Content-Length: ").map_or(0, |length| length.parse().unwrap());
    stream.read_exact(&mut vec![0; length]).await.ok()?;
    let names = [
        "x-goog-api-key: ",
        "x-api-key: ",
        "api-key: ",
        "Authorization: ",
    ];
    let key = names.iter().find_map(|name| of(name)).unwrap_or_default();
    Some((head.lines().next().unwrap().to_owned(), key))
}

/// Answers one request. None: the connection is over.
async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    line: &str,
    key: &str,
    peer: IpAddr,
    state: &State,
) -> Option<()> {
    let what = key.strip_prefix("CANARY-").unwrap_or_default();
    let streams = line.contains(":streamGenerateContent");
    match what {
        "cut" | "slow" | "well" | "listed" if streams => return events(stream, what).await,
        "well" | "cut" | "slow" => reply(stream, 200, "", "{}").await,
        // Google lets a leaked key list, and nothing else.
        "leaked" if line.starts_with("GET ") => reply(stream, 200, "", "{}").await,
        "leaked" => reply(stream, 403, "", &fixture("google-key-leaked")).await,
        "listed" if state.allowed.lock().unwrap().contains(&peer) => {
            reply(stream, 200, "", "{}").await
        }
        "listed" => {
            let body = fixture("google-ip-blocked").replace("203.0.113.7", &peer.to_string());
            reply(stream, 403, "", &body).await
        }
        "" | "absent" => reply(stream, 404, "", "").await,
        "half" => {
            let half = b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n{}";
            stream.write_all(half).await.ok()?;
            stream.flush().await.ok()?;
            None
        }
        "close" => {
            reply(stream, 200, "Connection: close\r\n", "{}").await?;
            None
        }
        fixed => {
            let parts: Vec<_> = fixed.split(':').collect();
            let status = parts[1].parse().unwrap();
            let kind = parts
                .get(2)
                .map(|kind| format!("x-amzn-ErrorType: {kind}\r\n"));
            reply(
                stream,
                status,
                &kind.unwrap_or_default(),
                &fixture(parts[0]),
            )
            .await
        }
    }
}

async fn reply(
    stream: &mut (impl AsyncWrite + Unpin),
    status: u16,
    headers: &str,
    body: &str,
) -> Option<()> {
    // Chunked, as Google answers.
    let text = format!(
        "HTTP/1.1 {status} X\r\n{headers}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    let text = match body.is_empty() {
        true => format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"),
        false => text,
    };
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.flush().await.ok()
}

/// Three events, as one stream; `cut` ends after the first, `slow` is silent between them.
async fn events(stream: &mut (impl AsyncWrite + Unpin), what: &str) -> Option<()> {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    for _ in 0..3 {
        stream.write_all(b"6\r\ndata: \r\n").await.ok()?;
        stream.flush().await.ok()?;
        match what {
            "cut" => return None,
            "slow" => tokio::time::sleep(SILENCE).await,
            _ => {}
        }
    }
    stream.write_all(b"0\r\n\r\n").await.ok()?;
    stream.flush().await.ok()
}

fn fixture(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/refusals");
    std::fs::read_to_string(format!("{folder}/{name}.json")).unwrap()
}

/// How long a slow stream is silent.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);
