//! Forwards the handshake in clear between both sockets until the final ServerHello: exactly the
//! bytes that the state machine allows, in order. Each direction waits only for its own sink, so a
//! side that takes nothing hides neither the bytes nor the end of the other. Never decides; the
//! caller sets the deadlines.

mod direction;
mod follower;
mod unanswered;

use std::io;
use std::time::Duration;

use bytes::BytesMut;

use super::ends;
use super::facts::TunnelFacts;
use super::world::Interruption;
use crate::greeting::negotiation::{Negotiation, Outcome};
use crate::greeting::{GreetingError, extend};
use crate::limits::handshakes::HandshakePermit;
use crate::outcome::{DenyReason, End, Failure};
use crate::reactor::{Gone, Reactor, Socket};
use crate::relay::{Backlog, ByteCount, TunnelBytes};
use crate::shared::Holder;
use crate::sys;
use crate::wire::reply;
use crate::wire::server_hello::{ANSWER_BYTES_MAX, ServerHello};
use direction::Direction;
pub(super) use follower::Follower;

/// Both sockets and the bytes between them.
pub(super) struct Handshake<'a> {
    client: &'a Socket,
    upstream: &'a Socket,
    up: Direction,
    down: Direction,
    client_end: ClientEnd,
    /// The judged hello, if another upstream may get it.
    kept: Option<Box<[u8]>>,
}

/// The progress of the client's FIN.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientEnd {
    Open,
    Received,
    /// The upstream has it too, after every byte before it.
    PassedOn,
}

/// Why a handshake ended before its outcome.
pub(super) enum Interrupted {
    /// Bytes that must not pass.
    Refused(GreetingError),
    /// The client's socket failed.
    Client(io::Error),
    /// The upstream's socket failed.
    Upstream(io::Error),
    /// The upstream sent a FIN without any bytes.
    UpstreamClosed,
    /// The client sent a FIN, and either a second hello was requested or the upstream sent a FIN
    /// too.
    ClientClosed,
    /// The upstream ended the handshake with this alert, which the client has received.
    UpstreamAlert(u8),
    /// The client ended it with this alert, which the upstream has received.
    ClientAlert(u8),
    /// `timeouts.server_hello` has passed; the failure names the late side.
    Late(Failure, &'static str),
    /// The daemon or an operator ended it.
    From(Interruption),
    /// A fault of the daemon or of this machine.
    Inside(io::Error),
    /// The host lost the egress address.
    EgressLost,
}

impl<'a> Handshake<'a> {
    /// Starts with the client's bytes, of which the first `hello_bytes` are the judged hello.
    pub(super) fn new(
        client: &'a Socket,
        upstream: &'a Socket,
        greeting: BytesMut,
        hello_bytes: usize,
    ) -> Self {
        let up = Direction {
            bytes: greeting,
            allowed: hello_bytes,
            moved: ByteCount::default(),
        };
        Self {
            client,
            upstream,
            up,
            down: Direction::default(),
            client_end: ClientEnd::Open,
            kept: None,
        }
    }

    /// Sends the judged hello and forwards until the final ServerHello. After an alert that ends
    /// the handshake nothing passes.
    pub(super) async fn follow(
        &mut self,
        negotiation: &mut Negotiation<'_>,
        memory: &mut HandshakePermit<'_, Holder>,
    ) -> Result<ServerHello, Interrupted> {
        loop {
            if let Err(error) = self.up.send(self.upstream) {
                return self.last_words(negotiation, Interrupted::Upstream(error));
            }
            self.up.judge(|bytes| negotiation.client_says(bytes))?;
            if let Err(error) = self.up.send(self.upstream) {
                return self.last_words(negotiation, Interrupted::Upstream(error));
            }
            self.answer(negotiation)?;
            match negotiation.outcome() {
                Some(Outcome::Negotiated(hello)) => return Ok(hello),
                Some(alert) if self.has_delivered(alert) => return Interrupted::by(alert),
                Some(_) => {}
                None => self.pass_client_end(negotiation)?,
            }
            let kept = self.kept.as_ref().map_or(0, |hello| hello.len());
            let held = self.up.bytes.capacity() + self.down.bytes.capacity() + kept;
            if !memory.resize(held) {
                return Err(self.out_of_memory());
            }
            self.wait(negotiation.outcome().is_some()).await?;
        }
    }

    /// Waits until either socket allows progress.
    async fn wait(&mut self, is_over: bool) -> Result<(), Interrupted> {
        let (client, upstream) = (self.client, self.upstream);
        // Unsent bytes bound what is read; a failure is noticed without reading.
        let reads_client = !is_over && self.up.allowed == 0 && self.client_end == ClientEnd::Open;
        let reads_upstream = !is_over && self.down.allowed == 0;
        let (sends_up, sends_down) = (self.up.allowed > 0, self.down.allowed > 0);
        tokio::select! {
            read = client.read_some(|bytes| self.up.bytes.extend_from_slice(bytes)), if reads_client => {
                if read.map_err(Interrupted::Client)? == 0 {
                    self.client_end = ClientEnd::Received;
                }
            }
            error = client.failed(), if !reads_client => return Err(Interrupted::Client(error)),
            read = upstream.read_some(|bytes| extend(&mut self.down.bytes, bytes, ANSWER_BYTES_MAX)), if reads_upstream => {
                if read.map_err(Interrupted::Upstream)? == 0 {
                    return Err(self.upstream_closed());
                }
            }
            error = upstream.failed(), if !reads_upstream => return Err(Interrupted::Upstream(error)),
            () = upstream.writable(), if sends_up => {}
            () = client.writable(), if sends_down => {}
        }
        Ok(())
    }

    /// The refusal for the side that holds more bytes.
    fn out_of_memory(&self) -> Interrupted {
        let is_hello = self.up.bytes.len() > self.down.bytes.len();
        Interrupted::Refused(if is_hello {
            GreetingError::HelloMemory
        } else {
            GreetingError::AnswerMemory
        })
    }

    /// Passes the client's FIN on after every byte before it, unless the handshake cannot succeed
    /// any more.
    fn pass_client_end(&mut self, negotiation: &Negotiation<'_>) -> Result<(), Interrupted> {
        if self.client_end != ClientEnd::Received {
            return Ok(());
        }
        if self.up.bytes.len() > self.up.allowed {
            return Err(Interrupted::Refused(GreetingError::Truncated));
        }
        if negotiation.waits_for_client() {
            return Err(Interrupted::ClientClosed);
        }
        if self.up.allowed == 0 {
            self.client_end = ClientEnd::PassedOn;
            // Fails only on a dead socket, which the next read reports.
            let _found_by_reading = sys::shutdown_write(self.upstream);
        }
        Ok(())
    }

    /// Handles an upstream that ends its side before its ServerHello.
    fn upstream_closed(&self) -> Interrupted {
        if !self.down.bytes.is_empty() {
            Interrupted::Refused(GreetingError::AnswerTruncated)
        } else if self.client_end == ClientEnd::PassedOn {
            Interrupted::ClientClosed
        } else {
            Interrupted::UpstreamClosed
        }
    }

    /// Judges and forwards the upstream's bytes; after the ServerHello everything passes in both
    /// directions.
    fn answer(&mut self, negotiation: &mut Negotiation<'_>) -> Result<(), Interrupted> {
        self.down.judge(|bytes| negotiation.upstream_says(bytes))?;
        if let Some(Outcome::Negotiated(_)) = negotiation.outcome() {
            self.up.allowed = self.up.bytes.len();
            self.down.allowed = self.down.bytes.len();
            // The relay finds out that an upstream accepts no more, and delivers what it has sent.
            let _found_by_the_relay = self.up.send(self.upstream);
        }
        self.down.send(self.client).map_err(Interrupted::Client)
    }

    /// An upstream that accepts no more may have sent the reason: an alert, before it closed with
    /// unread bytes.
    fn last_words(
        &mut self,
        negotiation: &mut Negotiation<'_>,
        interrupted: Interrupted,
    ) -> Result<ServerHello, Interrupted> {
        // An error here is already known.
        let _known = self
            .upstream
            .try_read(|bytes| extend(&mut self.down.bytes, bytes, ANSWER_BYTES_MAX));
        self.answer(negotiation)?;
        match negotiation.outcome() {
            Some(Outcome::Negotiated(hello)) => Ok(hello),
            Some(alert) => Interrupted::by(alert),
            None => Err(interrupted),
        }
    }

    /// Whether the recipient of an alert has received it.
    fn has_delivered(&self, alert: Outcome) -> bool {
        let direction = match alert {
            Outcome::ClientAlert(_) => &self.up,
            Outcome::UpstreamAlert(_) | Outcome::Negotiated(_) => &self.down,
        };
        direction.allowed == 0
    }

    /// The end for a handshake that exceeds its time limit.
    pub(super) fn late(&self, negotiation: &Negotiation<'_>) -> Interrupted {
        if let Some(Err(alert)) = negotiation.outcome().map(Interrupted::by) {
            return alert;
        }
        let (failure, cause) = if negotiation.waits_for_client() {
            let cause = "the upstream asked for a second ClientHello, which did not arrive in time";
            (Failure::ClientHelloTimeout, cause)
        } else if self.client_end == ClientEnd::PassedOn {
            let cause = "the client ended its side and the upstream did not answer in time";
            (Failure::ClientClosed, cause)
        } else if self.up.allowed > 0 {
            let cause = "the upstream does not take the client's bytes";
            (Failure::ServerHelloTimeout, cause)
        } else {
            (Failure::ServerHelloTimeout, "")
        };
        Interrupted::Late(failure, cause)
    }

    /// The bytes sent so far.
    pub(super) fn bytes_moved(&self) -> TunnelBytes {
        TunnelBytes {
            up: self.up.moved,
            down: self.down.moved,
        }
    }

    /// The bytes that the relay sends first.
    pub(super) fn into_backlog(self) -> Backlog {
        Backlog {
            up: self.up.bytes,
            down: self.down.bytes,
            client_has_ended: self.client_end != ClientEnd::Open,
        }
    }
}

impl Interrupted {
    /// The end that an alert causes.
    fn by(outcome: Outcome) -> Result<ServerHello, Self> {
        match outcome {
            Outcome::Negotiated(hello) => Ok(hello),
            Outcome::UpstreamAlert(description) => Err(Self::UpstreamAlert(description)),
            Outcome::ClientAlert(description) => Err(Self::ClientAlert(description)),
        }
    }

    /// Reports to both sides: a reset as a reset, a refused version as an alert, everything else as
    /// a close.
    pub(super) async fn tell(
        self,
        client: &Socket,
        upstream: &Socket,
        reactor: &Reactor,
        facts: &mut TunnelFacts,
    ) -> End {
        match self {
            Self::UpstreamClosed => Failure::UpstreamClosed.into(),
            Self::ClientClosed => Failure::ClientClosed.into(),
            Self::UpstreamAlert(description) => {
                let cause =
                    format!("the upstream ended the handshake with TLS alert {description}");
                facts.with_cause(cause, Failure::UpstreamAlert)
            }
            Self::ClientAlert(description) => {
                let cause = format!("the client ended the handshake with TLS alert {description}");
                facts.with_cause(cause, Failure::ClientAlert)
            }
            Self::From(interruption) => facts.interrupted(interruption),
            Self::Late(failure, "") => failure.into(),
            Self::Late(failure, cause) => facts.with_cause(cause, failure),
            Self::EgressLost => {
                reset(client);
                reset(upstream);
                facts.lost_egress(Failure::EgressLost)
            }
            Self::Inside(error) => internal(error, client, upstream, facts),
            Self::Client(error) | Self::Upstream(error) if sys::is_fault_in_here(&error) => {
                internal(error, client, upstream, facts)
            }
            Self::Client(error) => {
                reset(upstream);
                facts.with_cause(error, Failure::ClientReset)
            }
            Self::Upstream(error) => {
                reset(client);
                facts.with_cause(error, Failure::UpstreamReset)
            }
            Self::Refused(error) => {
                let end = ends::of_greeting(&error);
                if end == DenyReason::ServerTlsVersionDenied.into() {
                    // A server that does not accept the alert in time does not need it.
                    let _no_use = reactor
                        .timeout(ALERT_MAX, upstream.write_all(&reply::farewell(end)))
                        .await;
                }
                facts.with_cause(error, end)
            }
        }
    }
}

/// The end of an attempt whose upstream ended before the ClientHello was complete.
pub(super) fn lost_upstream(gone: Gone, client: &Socket, facts: &mut TunnelFacts) -> End {
    let cause = "before the ClientHello arrived";
    match gone {
        Gone::Ended => facts.with_cause(cause, Failure::UpstreamClosed),
        Gone::Failed => {
            reset(client);
            facts.with_cause(cause, Failure::UpstreamReset)
        }
    }
}

fn internal(error: io::Error, client: &Socket, upstream: &Socket, facts: &mut TunnelFacts) -> End {
    reset(client);
    reset(upstream);
    facts.with_cause(error, Failure::InternalError)
}

fn broken() -> io::Error {
    sys::broken_invariant("more bytes would pass than were received")
}

pub(super) fn reset(surviving: &Socket) {
    // Fails only on a dead socket, whose peer knows.
    let _peer_knows = sys::reset_on_close(surviving);
}

/// Seven bytes fit into any socket whose peer reads.
const ALERT_MAX: Duration = Duration::from_secs(2);
