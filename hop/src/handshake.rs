//! From an accepted connection to a session: first byte, ClientHello, handshake, connection to the daemon.
//!
//! One deadline covers the handshake, and a connection holds its place until the handshake's end, so that half a handshake
//! costs its client a place and nobody else. A connection that has lost its place ends before the signature. Never judges
//! a request.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use rustls_pki_types::UnixTime;
use sealway::digest::Digest;
use sealway::wire::terminator::EventKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::events::Event;
use crate::header::{self, Facts};
use crate::identity::Identity;
use crate::idle;
use crate::material::Material;
use crate::places::PlacePermit;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::shared::{Hop, Listener};
use crate::stream::Stream;
use crate::turns;
use crate::verify::{self, RefusedCertificate};

/// One accepted connection.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: Stream,
    /// The client.
    pub peer: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
    /// Its place among the unfinished handshakes.
    pub place: PlacePermit,
}

/// Why a handshake was refused, and the certificate if that was the reason.
struct Refused {
    refusal: Refusal,
    certificate: Option<RefusedCertificate>,
    /// The client may still read an alert.
    has_alert: bool,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            certificate: None,
            has_alert: false,
        }
    }
}

/// Performs the handshake with a client and starts its session.
pub async fn perform(hop: Arc<Hop>, listener: Arc<Listener>, accepted: Accepted) {
    turns::give_way();
    let Accepted {
        stream,
        peer,
        local,
        place,
    } = accepted;
    let deadline = Instant::now() + DEADLINE;
    // Before the handshake, so that a list that arrives meanwhile counts.
    let mut material = listener.material.subscribe();
    let current = Arc::clone(&material.borrow_and_update());
    let judged_at = UnixTime::now();
    let judged_by = current.clients.as_ref().map(|clients| clients.fingerprint);
    let handshake = in_its_place(&place, handshake(&current, &stream));
    let finished = timeout_at(deadline, handshake).await;
    drop(place);
    let mut tls = match finished.unwrap_or_else(|_| Err(Refusal::Timeout.into())) {
        // A future that holds it by value has a copy of its size for each call that it passes through.
        Ok(tls) => Box::new(tls),
        Err(refused) => return refuse(&hop, &stream, peer, refused).await,
    };
    // From here on every end but one in order is a reset, that of a killed process included.
    stream.reset_on_close();
    drop(stream);
    let ends = Ends { peer, local };
    hop.sessions.clone().spawn(async move {
        let session = hop.metrics.session(hop.bounds.sessions);
        let (Some(_session), Ok(())) = (session, tls.get_mut().0.move_here()) else {
            hop.metrics.refused(Refusal::Overloaded);
            return;
        };
        let lists = Lists {
            judged_at,
            judged_by,
            material,
        };
        let chain = tls.get_ref().1.peer_certificates();
        let chain: Option<Box<[_]>> = chain.map(|chain| chain.into());
        let mut ended = pin!(ended(&hop, chain, lists, peer));
        let place = hop.idle.enter(peer.ip(), hop.bounds.idle);
        let first = Box::pin(idle::first_bytes(&hop, &mut tls, place));
        let first = tokio::select! {
            first = first => first,
            () = &mut ended => None,
        };
        let Some(first) = first else {
            return hop.metrics.accepted();
        };
        let reached = Box::pin(reach(&hop, &listener, &tls, ends));
        match reached.await {
            Ok(core) => {
                hop.metrics.accepted();
                let half_close = hop.config.borrow().timeouts.idle_limits.half_close;
                let session = Session::new(tls, core, first);
                session.relay(half_close, ended).await;
            }
            Err(refusal) => hop.metrics.refused(refusal),
        }
    });
}

/// Both ends of the client's connection.
#[derive(Clone, Copy)]
struct Ends {
    peer: SocketAddr,
    local: SocketAddr,
}

/// Runs a handshake as long as it has its place. Looks at the place first, so that a connection that has lost it costs no
/// signature.
async fn in_its_place<T>(
    place: &PlacePermit,
    handshake: impl Future<Output = Result<T, Refused>>,
) -> Result<T, Refused> {
    tokio::select! {
        biased;
        () = place.lost() => Err(Refusal::Overloaded.into()),
        done = handshake => done,
    }
}

async fn handshake(material: &Material, stream: &Stream) -> Result<TlsStream<Stream>, Refused> {
    let start = hello(stream).await?;
    turns::give_way();
    let accept = start.into_stream_with(Arc::clone(&material.config), |connection| {
        connection.set_buffer_limit(Some(UNSENT_MAX));
    });
    let mut accept = Box::pin(accept.into_fallible());
    let mut certificate = None;
    let finished = poll_fn(|context| {
        let _of_another = verify::take_refused();
        let polled = accept.as_mut().poll(context);
        // The error may come in a later poll, after the alert was sent.
        certificate = verify::take_refused().or(certificate.take());
        polled
    });
    finished.await.map_err(|(error, _)| Refused {
        refusal: Refusal::of(&error),
        certificate: certificate.take(),
        has_alert: true,
    })
}

/// Reads the ClientHello, unless the first byte belongs to a request in cleartext.
async fn hello(stream: &Stream) -> Result<tokio_rustls::StartHandshake<Stream>, Refused> {
    let mut first = [0; 1];
    match stream.0.peek(&mut first).await {
        Ok(1..) => {}
        _ => return Err(Refusal::ClosedByClient.into()),
    }
    if first.iter().all(u8::is_ascii_alphabetic) {
        return Err(Refusal::TlsRequired.into());
    }
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream.clone());
    acceptor.await.map_err(|error| Refused {
        refusal: Refusal::of(&error),
        certificate: None,
        has_alert: true,
    })
}

/// Tells the client, counts, and reports.
async fn refuse(hop: &Hop, stream: &Stream, peer: SocketAddr, refused: Refused) {
    let Refused {
        refusal,
        certificate,
        has_alert,
    } = refused;
    hop.metrics.refused(refusal);
    let kind = match refusal {
        // A probe that connects and closes is no attempt.
        Refusal::ClosedByClient => None,
        Refusal::TlsRequired => Some(EventKind::TlsRequired),
        _ => Some(EventKind::HandshakeRefused),
    };
    if let Some(kind) = kind {
        let event = Event::of_client(kind, refusal.code(), peer.ip(), certificate);
        hop.events.add(event, &hop.metrics);
    }
    let has_words = has_alert || refusal == Refusal::TlsRequired;
    match hop.lingering.acquire(LINGERING_MAX) {
        Some(_lingers) if has_words => {
            let said = (refusal == Refusal::TlsRequired).then_some(CLEARTEXT);
            // The client may not read the reply; the deadline ends the wait.
            let _read = timeout(LINGER, say(stream.clone(), said.unwrap_or_default())).await;
        }
        _ => stream.reset_on_close(),
    }
}

/// Sends the last bytes and a FIN, and waits for the client's, so that no unread byte turns the close into a reset.
async fn say(mut stream: Stream, words: &str) -> std::io::Result<()> {
    stream.write_all(words.as_bytes()).await?;
    stream.shutdown().await?;
    let mut unread = crate::buffer::Buffer::take();
    let mut left = UNREAD_MAX;
    while left > 0 {
        let read = stream.read(unread.space()).await?;
        unread.fill(read);
        if read == 0 {
            return Ok(());
        }
        left = left.saturating_sub(read);
    }
    stream.reset_on_close();
    Ok(())
}

/// Connects to the daemon and declares the client.
async fn reach(
    hop: &Hop,
    listener: &Listener,
    tls: &TlsStream<Stream>,
    ends: Ends,
) -> Result<TcpStream, Refusal> {
    let target = listener.target.borrow().clone();
    let connection = tls.get_ref().1;
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    // The handshake has read the names already.
    let identity = leaf.map(Identity::of).transpose();
    let identity = identity.map_err(|_| Refusal::CertificateNames)?;
    let facts = Facts::of(connection);
    let header = header::of_client(
        ends.peer,
        ends.local,
        &facts,
        identity.as_ref(),
        &target.token,
    );
    let header = header.map_err(|_| Refusal::CertificateNames)?;
    let connected = async {
        let mut core = TcpStream::connect(target.address).await?;
        core.set_nodelay(true)?;
        sealway::sys::reset_on_close(&core)?;
        core.write_all(&header).await?;
        std::io::Result::Ok(core)
    };
    match timeout(CORE, connected).await {
        Ok(Ok(core)) => Ok(core),
        _ => {
            let reason = Refusal::CoreUnreachable;
            tracing::debug!(core = %target.address, client = %ends.peer, listener = %listener.address, sessions = hop.metrics.sessions(), "the daemon does not take a connection");
            Err(reason)
        }
    }
}

/// The authorities and revocation lists that judged a client, and those that replace them.
struct Lists {
    /// The time of the handshake.
    judged_at: UnixTime,
    /// The fingerprint of the former.
    judged_by: Option<Digest>,
    material: watch::Receiver<Arc<Material>>,
}

/// Resolves when the remaining sessions end, or when new files of the listener no longer accept this chain.
async fn ended(
    hop: &Hop,
    chain: Option<Box<[rustls_pki_types::CertificateDer<'static>]>>,
    lists: Lists,
    peer: SocketAddr,
) {
    match chain {
        Some(chain) => tokio::select! {
            () = revoked(hop, &chain, lists, peer) => {}
            () = hop.stopped() => {}
        },
        None => hop.stopped().await,
    }
}

/// Resolves when new files of the listener no longer accept this chain.
async fn revoked(
    hop: &Hop,
    chain: &[rustls_pki_types::CertificateDer<'static>],
    lists: Lists,
    peer: SocketAddr,
) {
    let Lists {
        judged_at,
        judged_by: mut known,
        mut material,
    } = lists;
    loop {
        if material.changed().await.is_err() {
            // The program ends.
            return std::future::pending().await;
        }
        let clients = material.borrow_and_update().clients.clone();
        // Another certificate of the hop itself changes nothing for its clients.
        let Some(clients) = clients.filter(|clients| known != Some(clients.fingerprint)) else {
            continue;
        };
        known = Some(clients.fingerprint);
        // Dates of the handshake: a certificate or list that has expired since then ends no live session, and does not hide
        // that the certificate was revoked.
        let judged = clients.verifier.judge(chain, judged_at);
        let refusal = judged.err().map(|error| Refusal::of_tls(&error));
        if let Some(refusal @ (Refusal::CertificateRevoked | Refusal::UnknownCa)) = refusal {
            let facts = chain.first().map(crate::identity::facts);
            let certificate = facts.map(|(fingerprint, serial)| RefusedCertificate {
                fingerprint,
                serial,
            });
            let kind = EventKind::CertificateRevoked;
            let event = Event::of_client(kind, refusal.code(), peer.ip(), certificate);
            hop.events.add(event, &hop.metrics);
            hop.metrics.revoked();
            return;
        }
    }
}

/// From the accepted connection to the finished handshake.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// For the daemon to accept.
const CORE: Duration = Duration::from_secs(5);
/// Bytes of records that a client has not taken yet; then the daemon waits.
const UNSENT_MAX: usize = 32 * 1024;
/// For a refused client to read its alert and end the connection.
const LINGER: Duration = Duration::from_secs(2);
/// Refused clients that linger at once; others are reset.
const LINGERING_MAX: usize = 512;
/// Bytes that a refused client may still send.
const UNREAD_MAX: usize = 256 * 1024;
/// The status line says the code, because most clients show nothing else. No byte of the client is in it.
const CLEARTEXT: &str = "HTTP/1.1 400 Bad Request (tls_required)\r\nContent-Type: text/plain\r\nContent-Length: 89\r\n\
     Connection: close\r\nProxy-Status: sealway; error=http_request_error; details=\"tls_required\"\r\n\r\n\
     tls_required: this port takes TLS only; use an https:// proxy URL, and change the secret\n";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_cleartext_has_the_length_that_it_says() {
        let (head, body) = CLEARTEXT.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{}",
            body.len()
        );
    }
}
