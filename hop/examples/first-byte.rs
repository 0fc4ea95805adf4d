//! The ends of `benches/hop/latency`: a client that measures the time to the first byte of a reply on a new TLS 1.3
//! connection, and the provider that it asks. Both block, so that they add as little time as possible. Not part of what
//! is published.
//!
//! `first-byte serve ADDRESS CERTIFICATE KEY` answers each request with one byte; before TLS it answers `p` with `p`.
//! `first-byte ask CA HOST ADDRESS COUNT PAUSE_MS [PROXY]` prints a line for each of COUNT requests: microseconds from the
//! CONNECT to the 200, and from connect() to the first byte. With `-` as HOST it measures round trips: twice the same.
//!
//! `first-byte load CA HOST ADDRESS COUNT PAUSE_MS PROXY` starts the requests at this pace, whether or not those before have
//! ended, until its standard input ends, and prints a line for each: milliseconds of Unix time at its start and at its end, and
//! those to its 200, or why it failed. `~PAUSE_MS` is a mean: the requests come at random, as those of many clients do.
#![allow(
    missing_docs,
    clippy::disallowed_macros,
    reason = "a program that prints"
)]

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};
use std::{env, thread};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["serve", address, certificate, key] => serve(address, certificate, key),
        ["ask", authority, host, address, count, pause, proxy @ ..] => {
            let asker = Asker {
                tls: client(authority)?,
                host,
                address,
                proxy: proxy.first().copied(),
            };
            let pause = Duration::from_millis(pause.parse()?);
            for _ in 0..count.parse()? {
                let (tunnel, first) = match asker.host {
                    "-" => ping(address)?,
                    _ => asker.ask()?,
                };
                println!("{} {}", tunnel.as_micros(), first.as_micros());
                thread::sleep(pause);
            }
            Ok(())
        }
        ["load", authority, host, address, count, pause, proxy] => {
            let asker = Asker {
                tls: client(authority)?,
                host,
                address,
                proxy: Some(proxy),
            };
            load(&asker, &starts(count.parse()?, pause)?)
        }
        _ => Err("the head of this file has the arguments".into()),
    }
}

/// One request after another.
struct Asker<'a> {
    tls: Arc<ClientConfig>,
    host: &'a str,
    address: &'a str,
    proxy: Option<&'a str>,
}

impl Asker<'_> {
    /// From the CONNECT to the 200 (without a proxy: from connect() to the connection), and to the first byte.
    fn ask(&self) -> Result<(Duration, Duration)> {
        let name = ServerName::try_from(self.host.to_owned())?;
        let mut tls = ClientConnection::new(Arc::clone(&self.tls), name)?;
        let started = Instant::now();
        let mut tcp = connect(self.proxy.unwrap_or(self.address))?;
        let mut asked = started;
        if self.proxy.is_some() {
            asked = Instant::now();
            let head = format!(
                "CONNECT {0}:443 HTTP/1.1\r\nHost: {0}:443\r\n\r\n",
                self.host
            );
            tcp.write_all(head.as_bytes())?;
            established(&mut tcp)?;
        }
        let tunnel = asked.elapsed();
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        tls.writer()
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        stream.read_exact(&mut [0; 1])?;
        Ok((tunnel, started.elapsed()))
    }
}

/// When each request starts. With a mean the pauses have an exponential distribution, the same in each run.
fn starts(count: u32, pause: &str) -> Result<Vec<Duration>> {
    let (mean, is_random) = match pause.strip_prefix('~') {
        Some(mean) => (mean, true),
        None => (pause, false),
    };
    let mean = Duration::from_millis(mean.parse()?);
    let (mut seed, mut at) = (0x9e37_79b9_7f4a_7c15_u64, Duration::ZERO);
    let start = |_| {
        let start = at;
        // xorshift64: its upper bits are a number from 0 to 1.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let share = (seed >> 11) as f64 / (1_u64 << 53) as f64;
        let pauses = if is_random {
            -share.max(1e-9).ln()
        } else {
            1.0
        };
        at += mean.mul_f64(pauses);
        start
    };
    Ok((0..count).map(start).collect())
}

/// Each request has a thread of its own.
fn load(asker: &Asker<'_>, starts: &[Duration]) -> Result<()> {
    let (begin, is_over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let sets = Arc::clone(&is_over);
    thread::spawn(move || {
        // An error means the same.
        let _end = io::stdin().read(&mut [0; 1]);
        sets.store(true, Ordering::Relaxed);
    });
    thread::scope(|scope| {
        for start in starts {
            thread::sleep(start.saturating_sub(begin.elapsed()));
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            scope.spawn(move || {
                let started = milliseconds();
                let asked = asker.ask();
                let ended = milliseconds();
                match asked {
                    Ok((tunnel, _)) => {
                        println!("{started} {ended} {:.3}", tunnel.as_secs_f64() * 1e3);
                    }
                    Err(error) => println!("{started} {ended} failed: {error}"),
                }
            });
        }
    });
    Ok(())
}

/// Of Unix time.
fn milliseconds() -> u128 {
    UNIX_EPOCH.elapsed().unwrap_or_default().as_millis()
}

fn established(tcp: &mut TcpStream) -> Result<()> {
    let (mut reply, mut byte) = (Vec::new(), [0; 1]);
    while !reply.ends_with(b"\r\n\r\n") {
        tcp.read_exact(&mut byte)?;
        reply.extend_from_slice(&byte);
    }
    match reply.get(8..13) {
        Some(b" 200 ") => Ok(()),
        _ => Err(String::from_utf8_lossy(&reply).into()),
    }
}

fn ping(address: &str) -> Result<(Duration, Duration)> {
    let mut tcp = connect(address)?;
    let started = Instant::now();
    tcp.write_all(b"p")?;
    tcp.read_exact(&mut [0; 1])?;
    Ok((started.elapsed(), started.elapsed()))
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(DEADLINE))?;
    Ok(tcp)
}

fn client(authority: &str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if authority != "-" {
        roots.add(CertificateDer::from_pem_file(authority)?)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(TLS13)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A new session each time.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn serve(address: &str, certificate: &str, key: &str) -> Result<()> {
    let chain =
        CertificateDer::pem_file_iter(certificate)?.collect::<std::result::Result<_, _>>()?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(TLS13)?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    let config = Arc::new(config);
    for tcp in TcpListener::bind(address)?.incoming() {
        let (tcp, config) = (tcp?, Arc::clone(&config));
        // A client that goes away is no fault of the provider.
        thread::spawn(move || answer(tcp, config).ok());
    }
    Ok(())
}

fn answer(mut tcp: TcpStream, config: Arc<ServerConfig>) -> Result<()> {
    tcp.set_nodelay(true)?;
    let mut first = [0; 1];
    if tcp.peek(&mut first)? == 1 && first == *b"p" {
        return Ok(tcp.write_all(b"p")?);
    }
    let mut tls = ServerConnection::new(config)?;
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    let (mut request, mut bytes) = (Vec::new(), [0; 1024]);
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            read => request.extend_from_slice(bytes.get(..read).unwrap_or_default()),
        }
    }
    stream.write_all(b"x")?;
    // Until the client goes.
    let _end = stream.read(&mut bytes);
    Ok(())
}

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
const DEADLINE: Duration = Duration::from_secs(15);
