//! The beginning of a connection on a listener with `proxy_protocol`: reads the header of the
//! balancer or TLS terminator and replaces the client's address by the declared one. On other
//! listeners it does nothing and reads nothing. Never reads a request, and never replies.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use super::facts::TunnelFacts;
use super::head::Secret;
use super::world::Interruption;
use super::{Origin, World, ends, pending};
use crate::admission::{Admission, Refusal};
use crate::audit::{DaemonRecord, timestamp};
use crate::config::proxy_protocol::ProxyProtocol;
use crate::limits::client::ClientNetwork;
use crate::limits::pending::PendingPermit;
use crate::outcome::{DenyReason, End, Failure};
use crate::reactor::Socket;
use crate::shared::Snapshot;
use crate::wire::Parsed;
use crate::wire::proxy_protocol::{self, Header, Source, V2_BYTES_MAX};
use crate::wire::terminator::{self, BadEvent, Event, Statement};

/// What a header says of a client besides its address.
#[derive(Debug)]
pub struct Declared {
    /// The balancer or terminator that sent the header.
    pub via: SocketAddr,
    /// What it says of the client's TLS session and certificate.
    pub statement: Statement,
}

impl Declared {
    /// The names of the client's certificate; None: it has none that counts.
    #[must_use]
    pub fn names(&self) -> Option<&[Box<str>]> {
        let certificate = self.statement.certificate.as_ref();
        certificate.map(|certificate| &*certificate.names)
    }
}

/// How a connection begins.
pub(super) enum Opening {
    /// With a client.
    Client(Start),
    /// With a balancer that only checks whether the listener answers.
    HealthCheck,
    /// With an event of the terminator; whether its record found room.
    Event(bool),
    /// Not at all.
    Refused(Refused),
}

/// The start of a client's connection.
#[derive(Default)]
pub(super) struct Start {
    /// Its bytes that came with a header.
    pub(super) bytes: Secret,
    /// The pending place of the peer that declared it.
    pub(super) pending: Option<PendingPermit>,
}

/// A refusal before the client is known.
pub(super) struct Refused {
    end: End,
    cause: Option<String>,
    /// Whether the peer sent a byte.
    has_spoken: bool,
    /// Whether the peer gets a reply.
    pub(super) is_answered: bool,
}

/// Reads the header of a connection if its listener requires one, and sets the client's address.
pub(super) async fn open(
    socket: &Socket,
    origin: &mut Origin,
    world: &World,
    snapshot: &Snapshot,
    interruption: Pin<&mut impl Future<Output = Interruption>>,
) -> Opening {
    let (config, peer) = (&snapshot.config, origin.address);
    let admission = Admission::by(config, &snapshot.egress);
    let protocol = match admission.peer(origin.listener_number, peer.ip()) {
        Ok(None) => return Opening::Client(Start::default()),
        Ok(Some(protocol)) => protocol,
        Err(refusal) => return Opening::Refused(Refused::unheard(refusal)),
    };
    // The terminator holds places for its connections without a whole header only: then the
    // declared client takes this one over.
    let pending = world.pending.enter(
        ClientNetwork::of(peer.ip()),
        world.pending_max(&config.limits),
    );
    let mut buffer = Secret::default();
    let deadline = origin.accepted + config.timeouts.request;
    let reading = read(socket, &mut buffer, protocol, peer);
    let said = tokio::select! {
        biased;
        said = world.reactor.timeout_at(deadline, reading) => {
            said.unwrap_or_else(|_| Err(Fault::bare(Failure::RequestTimeout)))
        }
        () = pending.given_up() => Err(Fault::with_cause(DenyReason::ClientLimit, pending::GIVEN_UP)),
        // No operator sees the connection yet, so this is the end of the drain.
        _ = interruption => Err(Fault::bare(DenyReason::Draining)),
    };
    match said {
        Ok(Said::Client(address, declared, consumed)) => {
            origin.address = address;
            origin.declared = Some(declared);
            buffer.drop_front(consumed);
            Opening::Client(Start {
                bytes: buffer,
                pending: Some(pending),
            })
        }
        Ok(Said::Event(event)) => {
            Opening::Event(world.shared.evidence.audit.daemon(record(*event, peer)))
        }
        Ok(Said::Nothing) => Opening::HealthCheck,
        Err(fault) => fault.after(&buffer),
    }
}

/// The record of a terminator's event.
fn record(event: Event, via: SocketAddr) -> DaemonRecord {
    let Event {
        kind,
        reason,
        client,
        certificate,
        serial,
        count,
    } = event;
    DaemonRecord::HopEvent {
        ts: timestamp(),
        kind,
        via,
        client,
        reason,
        certificate,
        certificate_serial: serial,
        count: count.filter(|count| *count > 1),
    }
}

/// What a whole header says. Small, because it is copied from one future to the next.
enum Said {
    /// There is a client at this address; the length of the header.
    Client(SocketAddr, Arc<Declared>, usize),
    /// The terminator itself has something to report.
    Event(Box<Event>),
    /// Nothing: the peer checks whether the listener answers.
    Nothing,
}

/// Why no client is declared.
struct Fault {
    end: End,
    cause: Option<String>,
}

/// Reads a whole header of the peer `via`. The bytes after it are in the buffer.
async fn read(
    socket: &Socket,
    buffer: &mut Secret,
    protocol: &ProxyProtocol,
    via: SocketAddr,
) -> Result<Said, Fault> {
    loop {
        match socket
            .read_some(|bytes| buffer.take(bytes, V2_BYTES_MAX))
            .await
        {
            Ok(0) if buffer.bytes().is_empty() => return Err(Fault::bare(Failure::ClientClosed)),
            Ok(0) => return Err(Fault::invalid(CUT)),
            Ok(_) => {}
            Err(error) => return Err(Fault::with_cause(ends::of_reading(&error), error)),
        }
        match proxy_protocol::parse(buffer.bytes()) {
            Ok(Parsed::Complete { value, consumed }) => {
                return match value.source {
                    Source::Client(address) => {
                        let declared = declared(&value, address, protocol, via)?;
                        Ok(Said::Client(address, Arc::new(declared), consumed))
                    }
                    Source::Sender => own_words(&value, protocol),
                };
            }
            Ok(Parsed::Incomplete) => {}
            Err(error) => return Err(Fault::invalid(error)),
        }
    }
}

/// What the header of the peer `via` says of the client at `address`, if the peer may declare it.
fn declared(
    header: &Header<'_>,
    address: SocketAddr,
    protocol: &ProxyProtocol,
    via: SocketAddr,
) -> Result<Declared, Fault> {
    check_token(header, protocol)?;
    // Another machine's loopback says nothing here, and rules for 127.0.0.1 mean this machine.
    if address.ip().is_loopback() && !via.ip().to_canonical().is_loopback() {
        return Err(Fault::invalid(FOREIGN_LOOPBACK));
    }
    let mut statement = terminator::read(header);
    if !protocol.identity {
        statement.certificate = None;
    }
    Ok(Declared { via, statement })
}

/// What a header without a client says.
fn own_words(header: &Header<'_>, protocol: &ProxyProtocol) -> Result<Said, Fault> {
    let Some(event) = terminator::event(header).transpose() else {
        return Ok(Said::Nothing);
    };
    check_token(header, protocol)?;
    // Without a token anybody could write records.
    if protocol.token.is_none() {
        return Ok(Said::Nothing);
    }
    let event = event.map_err(|BadEvent| Fault::invalid(BAD_EVENT))?;
    Ok(Said::Event(Box::new(event)))
}

/// Whether the peer is a terminator of the operator.
fn check_token(header: &Header<'_>, protocol: &ProxyProtocol) -> Result<(), Fault> {
    // Most balancers have no token.
    if protocol.token.is_none() || protocol.knows(terminator::token(header).as_deref()) {
        return Ok(());
    }
    Err(Fault::with_cause(DenyReason::ClientDenied, NO_TOKEN))
}

impl Fault {
    fn bare(end: impl Into<End>) -> Self {
        let (end, cause) = (end.into(), None);
        Self { end, cause }
    }

    fn with_cause(end: impl Into<End>, cause: impl ToString) -> Self {
        let (end, cause) = (end.into(), Some(cause.to_string()));
        Self { end, cause }
    }

    fn invalid(cause: impl ToString) -> Self {
        Self::with_cause(DenyReason::ProxyHeaderInvalid, cause)
    }

    /// The end of a connection that sent these bytes. Balancers connect and close all day.
    fn after(self, buffer: &Secret) -> Opening {
        let has_spoken = !buffer.bytes().is_empty();
        match self.end {
            End::Failed(Failure::ClientClosed | Failure::ClientReset) if !has_spoken => {
                Opening::HealthCheck
            }
            end => Opening::Refused(Refused {
                end,
                cause: self.cause,
                has_spoken,
                // A peer without the token is a stranger.
                is_answered: end != DenyReason::ClientDenied.into(),
            }),
        }
    }
}

impl Refused {
    /// The refusal of a peer whose bytes nobody reads.
    fn unheard(refusal: Refusal) -> Self {
        Self {
            end: refusal.into(),
            cause: Some(refusal.to_string()),
            has_spoken: false,
            is_answered: false,
        }
    }

    /// Adds the details to the record of the connection.
    pub(super) fn end(&self, facts: &mut TunnelFacts) -> End {
        if self.has_spoken {
            facts.spoken();
        }
        match &self.cause {
            Some(cause) => facts.with_cause(cause, self.end),
            None => self.end,
        }
    }
}

const NO_TOKEN: &str =
    "the PROXY protocol header does not have the token of proxy_protocol.token_file";
const BAD_EVENT: &str = "the event in the PROXY protocol header is malformed or of an unknown kind";
const CUT: &str = "the connection ended inside the PROXY protocol header";
const FOREIGN_LOOPBACK: &str =
    "the PROXY protocol header of another machine declares a loopback address";
