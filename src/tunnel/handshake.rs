//! Carries the handshake in clear between both sockets until the real ServerHello: what the state machine lets
//! through, in order, and nothing else. Never decides; deadlines are the caller's.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};

use super::ends;
use super::story::Story;
use crate::greeting::negotiation::{Negotiation, Outcome};
use crate::greeting::{GreetingError, extend};
use crate::outcome::{DenyReason, End, Failure};
use crate::reactor::{Reactor, Socket};
use crate::relay::{Moved, Tally};
use crate::sys;
use crate::wire::reply;
use crate::wire::server_hello::ANSWER_BYTES_MAX;
use crate::wire::server_hello::ServerHello;

/// Both sockets, what has been passed on, and what has come of each side and was not passed on yet.
pub(super) struct Handshake<'a> {
    pub(super) client: &'a Socket,
    pub(super) upstream: &'a Socket,
    pub(super) tally: Tally,
    pub(super) from_client: BytesMut,
    pub(super) from_upstream: BytesMut,
}

/// What ended a handshake before its outcome.
pub(super) enum Interrupted {
    /// Bytes that may not pass.
    Refused(GreetingError),
    /// The client's socket failed.
    Client(io::Error),
    /// The upstream's did.
    Upstream(io::Error),
    /// The upstream ended its side without a word.
    UpstreamClosed,
    /// The client ended its side when a second hello was asked for.
    ClientClosed,
    /// The upstream ended the handshake with this alert, which the client has.
    UpstreamAlert(u8),
    /// The client ended it with this alert, which the upstream has.
    ClientAlert(u8),
    /// The daemon's drain ran out.
    Killed,
}

impl Handshake<'_> {
    /// Sends the judged hello, the first `hello_bytes` of what has come, and follows until the real ServerHello; then
    /// passes on all that has come. After an alert that ends the handshake nothing passes.
    pub(super) async fn follow(
        &mut self,
        hello_bytes: usize,
        negotiation: &mut Negotiation<'_>,
    ) -> Result<ServerHello, Interrupted> {
        self.pass_up(hello_bytes).await?;
        if self.from_client.is_empty() {
            // The hello is not needed any more, and the server may take its time.
            self.from_client = BytesMut::new();
        }
        let mut client_is_open = true;
        loop {
            let up = negotiation
                .client_says(&self.from_client)
                .map_err(Interrupted::Refused)?;
            if let Err(interrupted) = self.pass_up(up).await {
                return self.last_words(negotiation, interrupted).await;
            }
            self.answer(negotiation).await?;
            if let Some(outcome) = negotiation.outcome() {
                let hello = Interrupted::unless_negotiated(outcome)?;
                // An upstream that takes no more is found out by the relay, which delivers what it has said.
                let _found_out_there = self.pass_up(self.from_client.len()).await;
                return Ok(hello);
            }
            if !client_is_open && !self.from_client.is_empty() {
                return Err(Interrupted::Refused(GreetingError::Truncated));
            }
            if !client_is_open && negotiation.waits_for_client() {
                return Err(Interrupted::ClientClosed);
            }
            tokio::select! {
                read = self.client.read_some(|bytes| self.from_client.extend_from_slice(bytes)), if client_is_open => {
                    // Its FIN is still there for the relay to find.
                    client_is_open = read.map_err(Interrupted::Client)? > 0;
                }
                () = self.client.failed(), if !client_is_open => {
                    return Err(Interrupted::Client(io::ErrorKind::ConnectionReset.into()));
                }
                read = self.upstream.read_some(|bytes| extend(&mut self.from_upstream, bytes, ANSWER_BYTES_MAX)) => {
                    if read.map_err(Interrupted::Upstream)? == 0 {
                        let inside = !self.from_upstream.is_empty();
                        return Err(if inside { Interrupted::Refused(GreetingError::AnswerTruncated) } else { Interrupted::UpstreamClosed });
                    }
                }
            }
        }
    }

    /// Passes on what the upstream has said.
    async fn answer(&mut self, negotiation: &mut Negotiation<'_>) -> Result<(), Interrupted> {
        let down = negotiation
            .upstream_says(&self.from_upstream)
            .map_err(Interrupted::Refused)?;
        pass(
            self.client,
            &mut self.from_upstream,
            down,
            &mut self.tally.down,
        )
        .await
        .map_err(Interrupted::Client)
    }

    /// An upstream that takes no more may have said why: an alert, sent before it closed on bytes it had not read.
    async fn last_words(
        &mut self,
        negotiation: &mut Negotiation<'_>,
        interrupted: Interrupted,
    ) -> Result<ServerHello, Interrupted> {
        // An error here is the one that is known already.
        let _known = self
            .upstream
            .try_read(|bytes| extend(&mut self.from_upstream, bytes, ANSWER_BYTES_MAX));
        self.answer(negotiation).await?;
        negotiation
            .outcome()
            .map_or(Err(interrupted), Interrupted::unless_negotiated)
    }

    async fn pass_up(&mut self, len: usize) -> Result<(), Interrupted> {
        pass(
            self.upstream,
            &mut self.from_client,
            len,
            &mut self.tally.up,
        )
        .await
        .map_err(Interrupted::Upstream)
    }
}

impl Interrupted {
    fn unless_negotiated(outcome: Outcome) -> Result<ServerHello, Self> {
        match outcome {
            Outcome::Negotiated(hello) => Ok(hello),
            Outcome::UpstreamAlert(description) => Err(Self::UpstreamAlert(description)),
            Outcome::ClientAlert(description) => Err(Self::ClientAlert(description)),
        }
    }

    /// Tells both sides: a reset as a reset, a refused version as an alert, all else as a close.
    pub(super) async fn told(
        self,
        client: &Socket,
        upstream: &Socket,
        reactor: &Reactor,
        story: &mut Story,
    ) -> End {
        match self {
            Self::UpstreamClosed => Failure::UpstreamClosed.into(),
            Self::ClientClosed => Failure::ClientClosed.into(),
            Self::UpstreamAlert(description) => {
                let cause =
                    format!("the upstream ended the handshake with TLS alert {description}");
                story.because(cause, Failure::UpstreamAlert)
            }
            Self::ClientAlert(description) => {
                let cause = format!("the client ended the handshake with TLS alert {description}");
                story.because(cause, Failure::ClientAlert)
            }
            Self::Killed => story.killed(),
            Self::Client(error) => {
                reset(upstream);
                story.because(error, Failure::ClientReset)
            }
            Self::Upstream(error) => {
                reset(client);
                story.because(error, Failure::UpstreamReset)
            }
            Self::Refused(error) => {
                let end = ends::of_greeting(&error);
                if end == DenyReason::ServerTlsVersionDenied.into() {
                    // A server that does not take the alert in time has no use for it.
                    let _no_use = reactor
                        .timeout(ALERT_MAX, upstream.write_all(&reply::farewell(end)))
                        .await;
                }
                story.because(error, end)
            }
        }
    }
}

fn reset(surviving: &Socket) {
    // Fails on a dead socket only, whose peer knows.
    let _peer_knows = sys::reset_on_close(surviving);
}

/// Sends the first `len` bytes, and counts each when it is out of hand.
async fn pass(
    to: &Socket,
    bytes: &mut BytesMut,
    mut len: usize,
    moved: &mut Moved,
) -> io::Result<()> {
    while len > 0 {
        let written = to.write_some(bytes.get(..len).unwrap_or_default()).await?;
        bytes.advance(written);
        moved.copied += written as u64;
        len -= written;
    }
    Ok(())
}

/// Seven bytes fit into any socket that is read at all.
const ALERT_MAX: Duration = Duration::from_secs(2);
