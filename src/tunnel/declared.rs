//! The beginning of a connection on a listener with `proxy_protocol`: reads the header of the
//! balancer or TLS terminator and replaces the client's address by the declared one. On other
//! listeners it does nothing and reads nothing. Never reads a request, and never replies.

use std::net::SocketAddr;
use std::sync::Arc;

use super::facts::TunnelFacts;
use super::head::Secret;
use super::{Client, World, ends, pending};
use crate::admission::{Admission, Refusal};
use crate::audit::{DaemonRecord, timestamp};
use crate::config::proxy_protocol::ProxyProtocol;
use crate::limits::client::ClientNetwork;
use crate::outcome::{DenyReason, End, Failure};
use crate::reactor::Socket;
use crate::shared::Snapshot;
use crate::wire::Parsed;
use crate::wire::proxy_protocol::{self, Source, V2_BYTES_MAX};
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
    /// With a client, whose first bytes these are.
    Client(Secret),
    /// With a balancer that only checks whether the listener answers.
    HealthCheck,
    /// With an event of the terminator; whether its record found room.
    Event(bool),
    /// Not at all.
    Refused(Refused),
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
pub(super) async fn open(client: &mut Client, world: &World, snapshot: &Snapshot) -> Opening {
    let (config, peer) = (&snapshot.config, client.origin.address);
    let admission = Admission::by(config, &snapshot.egress);
    let protocol = match admission.peer(client.origin.listener_number, peer.ip()) {
        Ok(None) => return Opening::Client(Secret::default()),
        Ok(Some(protocol)) => protocol,
        Err(refusal) => return Opening::Refused(Refused::unheard(refusal)),
    };
    // The terminator's own place is for its connections without a whole header only: then the
    // declared client takes one.
    let pending = world.pending.enter(
        ClientNetwork::of(peer.ip()),
        world.pending_max(&config.limits),
    );
    let mut buffer = Secret::default();
    let deadline = client.origin.accepted + config.timeouts.request;
    let reading = read(&client.socket, &mut buffer, protocol);
    let read = tokio::select! {
        biased;
        read = world.reactor.timeout_at(deadline, reading) => {
            read.unwrap_or_else(|_| Err(Fault::bare(Failure::RequestTimeout)))
        }
        () = pending.given_up() => Err(Fault::with_cause(DenyReason::ClientLimit, pending::GIVEN_UP)),
        () = world.kill.cancelled() => Err(Fault::bare(DenyReason::Draining)),
    };
    let mut event = None;
    let declared = read.and_then(|whole| match whole.client {
        _ if (whole.client.is_some() || whole.event.is_some()) && !whole.is_known => {
            Err(Fault::with_cause(DenyReason::ClientDenied, NO_TOKEN))
        }
        Some(address) => {
            let mut statement = whole.statement;
            if !protocol.identity {
                statement.certificate = None;
            }
            declare(client, address, statement).map(|()| Some(whole.consumed))
        }
        None => {
            // Without a token anybody could write records.
            let known = whole.event.filter(|_| protocol.token.is_some());
            event = known.transpose().map_err(bad_event)?;
            Ok(None)
        }
    });
    match (declared, event) {
        (Ok(None), Some(event)) => {
            Opening::Event(world.shared.evidence.audit.daemon(record(event, peer)))
        }
        (Ok(Some(consumed)), _) => {
            buffer.drop_front(consumed);
            Opening::Client(buffer)
        }
        (Ok(None), None) => Opening::HealthCheck,
        (Err(fault), _) => fault.after(&buffer),
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

fn bad_event(_: BadEvent) -> Fault {
    Fault::invalid("the event in the PROXY protocol header is malformed or of an unknown kind")
}

/// A whole header.
struct Whole {
    /// None: the peer speaks for itself.
    client: Option<SocketAddr>,
    /// Only if the peer speaks for itself.
    event: Option<Result<Event, BadEvent>>,
    /// Whether the peer is a terminator of the operator.
    is_known: bool,
    statement: Statement,
    consumed: usize,
}

/// Why no client is declared.
struct Fault {
    end: End,
    cause: Option<String>,
}

/// Reads a whole header. The bytes after it are in the buffer.
async fn read(
    socket: &Socket,
    buffer: &mut Secret,
    protocol: &ProxyProtocol,
) -> Result<Whole, Fault> {
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
                let (client, event) = match value.source {
                    Source::Client(address) => (Some(address), None),
                    Source::Sender => (None, terminator::event(&value).transpose()),
                };
                return Ok(Whole {
                    client,
                    event,
                    is_known: protocol.knows(terminator::token(&value).as_deref()),
                    statement: terminator::read(&value),
                    consumed,
                });
            }
            Ok(Parsed::Incomplete) => {}
            Err(error) => return Err(Fault::invalid(error)),
        }
    }
}

/// Replaces the address of the connection.
fn declare(client: &mut Client, address: SocketAddr, statement: Statement) -> Result<(), Fault> {
    let via = client.origin.address;
    // Another machine's loopback says nothing here, and rules for 127.0.0.1 mean this machine.
    if address.ip().is_loopback() && !via.ip().to_canonical().is_loopback() {
        return Err(Fault::invalid(FOREIGN_LOOPBACK));
    }
    client.origin.address = address;
    client.origin.declared = Some(Arc::new(Declared { via, statement }));
    Ok(())
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
const CUT: &str = "the connection ended inside the PROXY protocol header";
const FOREIGN_LOOPBACK: &str =
    "the PROXY protocol header of another machine declares a loopback address";
