//! Measures set-ups for `benches/hop/run`: `setup-client CA NAME HOST COUNT TARGET…`, where a target is `tls:ADDRESS` or
//! `bare:ADDRESS`. It takes turns between the targets and prints a line for each set-up: the target, microseconds in all,
//! and those of them until TCP was connected and until TLS was.
//!
//! A set-up through `tls` is TCP, TLS and CONNECT, three round trips. One to `bare` is TCP and two exchanges of a byte with
//! an echo: three round trips and nothing else.
#![allow(missing_docs, clippy::disallowed_macros)]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [authority, name, host, count, targets @ ..] = words.as_slice() else {
        return Err("usage: setup-client CA NAME HOST COUNT TARGET…".into());
    };
    let config = Arc::new(config(authority)?);
    for _ in 0..count.parse()? {
        for target in targets {
            let (kind, address) = target.split_once(':').ok_or("not a target")?;
            let address: SocketAddr = address.parse()?;
            let began = Instant::now();
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let connected = began.elapsed();
            let secured = match kind {
                "tls" => {
                    let name = ServerName::try_from(name.clone())?;
                    let session = ClientConnection::new(Arc::clone(&config), name)?;
                    set_up(stream, session, host, began)?
                }
                _ => exchange(stream, began)?,
            };
            let whole = began.elapsed();
            let [whole, connected, secured] =
                [whole, connected, secured].map(|time| time.as_micros());
            println!("{target} {whole} {connected} {secured}");
        }
    }
    Ok(())
}

/// The groups that OpenSSL 3.0 prefers, so that a figure is comparable with that of other clients here.
fn config(authority: &str) -> Result<ClientConfig, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority)?)?;
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// TLS and CONNECT; the time until TLS was complete.
fn set_up(
    mut stream: TcpStream,
    mut session: ClientConnection,
    host: &str,
    began: Instant,
) -> Result<Duration, Box<dyn Error>> {
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    let secured = began.elapsed();
    let mut tls = rustls::Stream::new(&mut session, &mut stream);
    let head = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
    tls.write_all(head.as_bytes())?;
    tls.flush()?;
    let (mut reply, mut piece) = (Vec::new(), [0; 1024]);
    while !reply.ends_with(b"\r\n\r\n") {
        let read = tls.read(&mut piece)?;
        reply.extend_from_slice(
            piece
                .get(..read)
                .filter(|new| !new.is_empty())
                .ok_or("ended")?,
        );
    }
    if !reply.starts_with(b"HTTP/1.1 200") {
        return Err(String::from_utf8_lossy(&reply).into());
    }
    Ok(secured)
}

/// Two exchanges of a byte; the time of the first.
fn exchange(mut stream: TcpStream, began: Instant) -> Result<Duration, Box<dyn Error>> {
    let mut byte = [0];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    let first = began.elapsed();
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(first)
}

const PATIENCE: Duration = Duration::from_secs(10);
