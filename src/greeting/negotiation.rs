//! The handshake in clear, from the judged ClientHello to the final ServerHello: a pure state
//! machine over the bytes of both sides.
//!
//! Returns how many of the received bytes may pass, and never lets one pass before its verdict: it
//! judges a second ClientHello like the first, an answer reaches the client only when it is
//! complete and well-formed, and a record out of place ends the tunnel. No I/O, no clock. RFC 8446
//! sections 2.1, 4.1.4, 4.2.10 and D.4.

use super::GreetingError;
use crate::outcome::DenyReason;
use crate::policy::{Authorised, HelloFacts, Policy};
use crate::wire::Parsed;
use crate::wire::client_hello::{HelloError, Incoming, TlsVersion};
use crate::wire::message::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, MessageError, control, final_alert,
    record_len,
};
use crate::wire::record::RECORD_HEADER_BYTES;
use crate::wire::server_hello::{self, ServerFlight, ServerHello};

/// The state of the handshake.
#[derive(Debug)]
pub struct Negotiation<'a> {
    policy: &'a Policy,
    authorised: &'a Authorised,
    early_data: bool,
    stage: Stage,
    /// The bytes of the second ClientHello received so far.
    incoming: Incoming,
    /// Whether the server requested a second ClientHello.
    pub retried: bool,
    /// Why the second ClientHello would have been refused if names were enforced.
    pub would_deny: Option<DenyReason>,
    /// The judged facts of the second ClientHello.
    pub second: Option<HelloFacts>,
}

/// How the handshake in clear ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server accepted; the bytes after this are not read.
    Negotiated(ServerHello),
    /// The client ended it with this alert, which the server gets. No other byte of either side may
    /// pass.
    ClientAlert(u8),
    /// The server ended it with this alert, which the client gets. No other byte of either side may
    /// pass.
    UpstreamAlert(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The first ClientHello is sent.
    Asked,
    /// The server has requested a second one.
    AskedToRetry,
    /// The second one is sent.
    AskedAgain,
    Done(Outcome),
}

impl Outcome {
    /// Whether all further bytes pass unread.
    fn lets_all_pass(self) -> bool {
        matches!(self, Self::Negotiated(_))
    }
}

impl<'a> Negotiation<'a> {
    /// Starts after a judged ClientHello; `early_data` is whether it announced 0-RTT data.
    #[must_use]
    pub fn new(
        policy: &'a Policy,
        authorised: &'a Authorised,
        hello_bytes_max: usize,
        early_data: bool,
    ) -> Self {
        let (stage, retried, would_deny, second) = (Stage::Asked, false, None, None);
        let incoming = Incoming::new(hello_bytes_max);
        Self {
            policy,
            authorised,
            early_data,
            stage,
            incoming,
            retried,
            would_deny,
            second,
        }
    }

    /// The outcome; None while the handshake continues.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self.stage {
            Stage::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Whether the handshake needs more bytes of the client.
    #[must_use]
    pub fn waits_for_client(&self) -> bool {
        self.stage == Stage::AskedToRetry
    }

    /// How many of the client's bytes, which follow those already passed, may go upstream now.
    ///
    /// # Errors
    /// The fault; none of the bytes that have not passed may pass.
    pub fn client_says(&mut self, bytes: &[u8]) -> Result<usize, GreetingError> {
        let mut passed = 0;
        while passed < bytes.len() {
            match self.client_record(behind(bytes, passed)?)? {
                Some(len) => passed += len,
                None => break,
            }
        }
        behind(bytes, passed)?;
        Ok(passed)
    }

    /// The length of the next piece that may pass; None when more bytes are needed.
    fn client_record(&mut self, rest: &[u8]) -> Result<Option<usize>, GreetingError> {
        if let Stage::Done(outcome) = self.stage {
            return Ok(outcome.lets_all_pass().then_some(rest.len()));
        }
        match rest.first() {
            Some(&HANDSHAKE) if self.stage == Stage::AskedToRetry => self.second_hello(rest),
            // Early data ends with the retry, but records in flight still arrive (RFC 8446, section
            // 4.2.10).
            Some(&APPLICATION_DATA) if self.early_data && self.stage != Stage::AskedAgain => {
                Ok(record_len(rest)?)
            }
            // A client that gives up sends an alert. change_cipher_spec is for middleboxes and may
            // come at any time.
            Some(&(ALERT | CHANGE_CIPHER_SPEC)) => {
                let Some(content) = control(rest)? else {
                    return Ok(None);
                };
                if let Some(description) = final_alert(content) {
                    self.stage = Stage::Done(Outcome::ClientAlert(description));
                }
                Ok(Some(RECORD_HEADER_BYTES + content.len()))
            }
            _ => Err(GreetingError::OutOfPlace),
        }
    }

    fn second_hello(&mut self, rest: &[u8]) -> Result<Option<usize>, GreetingError> {
        // After a first hello a record of another type is out of place, not another protocol.
        let parsed = self.incoming.parse(rest).map_err(|error| match error {
            HelloError::Message(MessageError::NotTls) => GreetingError::OutOfPlace,
            error => error.into(),
        })?;
        match parsed {
            Parsed::Incomplete => Ok(None),
            Parsed::Complete { value, consumed } => {
                let judged = self.policy.judge_hello(self.authorised, value)?;
                (self.would_deny, self.second) = (judged.would_deny, Some(judged.facts));
                self.stage = Stage::AskedAgain;
                Ok(Some(consumed))
            }
        }
    }

    /// How many of the upstream's bytes, which follow those already passed, may go to the client
    /// now.
    ///
    /// # Errors
    /// The fault; not one byte of a malformed answer reaches the client.
    pub fn upstream_says(&mut self, bytes: &[u8]) -> Result<usize, GreetingError> {
        let mut passed = 0;
        while passed < bytes.len() {
            if let Stage::Done(outcome) = self.stage {
                return Ok(if outcome.lets_all_pass() {
                    bytes.len()
                } else {
                    passed
                });
            }
            match server_hello::parse(behind(bytes, passed)?)? {
                Parsed::Incomplete => break,
                Parsed::Complete { value, consumed } => {
                    self.on_flight(value)?;
                    passed += consumed;
                }
            }
        }
        behind(bytes, passed)?;
        Ok(passed)
    }

    fn on_flight(&mut self, flight: ServerFlight) -> Result<(), GreetingError> {
        self.stage = match (flight, self.stage) {
            (ServerFlight::Preamble, stage) => stage,
            (ServerFlight::FinalAlert(description), _) => {
                Stage::Done(Outcome::UpstreamAlert(description))
            }
            (ServerFlight::Retry, Stage::Asked) => {
                self.retried = true;
                Stage::AskedToRetry
            }
            (ServerFlight::Hello(hello), stage)
                if stage == Stage::Asked
                    || (stage == Stage::AskedAgain && hello.version == TlsVersion::Tls13) =>
            {
                self.policy
                    .judge_server_hello(&hello)
                    .map_err(GreetingError::Denied)?;
                Stage::Done(Outcome::Negotiated(hello))
            }
            // A second retry, an older version than the retry's (RFC 8446, section 4.1.4), or an
            // answer to a second hello that was not sent yet.
            (ServerFlight::Retry | ServerFlight::Hello(_), _) => {
                return Err(GreetingError::FlightOutOfTurn);
            }
        };
        Ok(())
    }
}

/// The bytes after those that pass.
fn behind(bytes: &[u8], passed: usize) -> Result<&[u8], GreetingError> {
    let broken = GreetingError::Inside("more bytes would pass than were received");
    bytes.get(passed..).ok_or(broken)
}

impl From<DenyReason> for GreetingError {
    fn from(reason: DenyReason) -> Self {
        Self::Denied(reason)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
