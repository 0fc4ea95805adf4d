//! The life of one request: its head, the search for an upstream, the reply, and the tunnel.
//!
//! A request goes on to another upstream only before a 200 of an upstream, and only where another one can differ: after a
//! failed connection, an end without a status line, or a 503 that is about the upstream itself. Any other reply is passed
//! on: the others would say the same, and would count failed credentials once more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sealway::authority::{Authority, Destination};
use sealway::wire::Parsed;
use sealway::wire::connect::Scan;
use sealway::wire::reply::ESTABLISHED;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::acquire::Search;
use super::ask::{Answer, AskError, ask};
use super::connect::Ready;
use super::local::Local;
use super::relay::relay;
use super::remote::Remote;
use super::reply::{self, Refusal};
use super::serve::Agent;
use super::unavailable::elsewhere;
use super::upstream::{TunnelPermit, Upstream};
use crate::buffer::{Buffer, SIZE};
use crate::places::PlacePermit;

/// A request whose head is whole.
struct Call<'a> {
    agent: &'a Agent,
    local: &'a mut Local,
    /// `host:port`.
    destination: String,
    /// The bytes after the head.
    first: Zeroizing<Vec<u8>>,
    /// Whether the agent has answered 200 before the upstream.
    is_answered: bool,
}

/// A tunnel that is open.
struct Open {
    remote: Remote,
    upstream: TunnelPermit,
}

/// Why there is no tunnel.
enum No {
    /// The agent says so.
    Own(Refusal),
    /// An upstream says so.
    Remote(Answer),
    /// The application has gone.
    Gone,
}

impl From<io::Error> for No {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Serves one connection of an application.
pub async fn serve(agent: Arc<Agent>, mut local: Local, place: PlacePermit) {
    let opened = Box::pin(open(&agent, &mut local, place)).await;
    let Some(Open { remote, upstream }) = opened else {
        return;
    };
    local.reset_on_close();
    let copied = relay(local, remote, agent.stopped()).await;
    upstream.0.counts.carried(copied.up, copied.down);
}

/// From the first byte to the open tunnel; None: the application has its reply, or has gone.
async fn open(agent: &Agent, local: &mut Local, place: PlacePermit) -> Option<Open> {
    let read = tokio::select! {
        biased;
        read = timeout(HEAD, head(local)) => read.unwrap_or(Err(No::Own(Refusal::RequestTimeout))),
        // Another connection needs the place more.
        () = place.lost() => Err(No::Own(Refusal::TunnelLimit)),
    };
    drop(place);
    let mut is_answered = false;
    let opened = match read {
        Ok((authority, first)) => {
            let watched = local.clone();
            let mut call = Call {
                agent,
                local,
                destination: text(&authority),
                first,
                is_answered,
            };
            let opened = tokio::select! {
                biased;
                opened = call.open() => opened,
                () = watched.broken() => Err(No::Gone),
            };
            is_answered = call.is_answered;
            opened
        }
        Err(no) => Err(no),
    };
    match opened {
        Ok(open) => Some(open),
        Err(no) => {
            if let No::Own(refusal) = &no {
                agent.metrics.refused(refusal);
            }
            // The application does not read its reply.
            let _out_of_time = timeout(LINGER, refuse(local, no, is_answered)).await;
            None
        }
    }
}

/// Reads the head, and the bytes after it that have arrived.
async fn head(local: &mut Local) -> Result<(Authority, Zeroizing<Vec<u8>>), No> {
    let (mut scan, mut buffer, mut length) = (Scan::default(), Buffer::take(), 0);
    loop {
        let read = local.read(buffer.space().get_mut(length..).unwrap_or_default());
        let read = read.await?;
        length += read;
        buffer.fill(length);
        match scan.parse(buffer.filled(), SIZE) {
            Ok(Parsed::Complete { value, consumed }) => {
                let first = buffer.filled().get(consumed..).unwrap_or_default();
                return Ok((value.authority, Zeroizing::new(first.to_owned())));
            }
            Ok(Parsed::Incomplete) if read == 0 => return Err(No::Gone),
            Ok(Parsed::Incomplete) => {}
            Err(error) => return Err(No::Own(Refusal::Head(error))),
        }
    }
}

impl Call<'_> {
    async fn open(&mut self) -> Result<Open, No> {
        let mut search = Search::new(self.agent.order());
        let mut found = self.answer_early(&mut search).await?;
        loop {
            let next = match found.take() {
                Some(found) => Some(found),
                None => search.next().await,
            };
            let Some((upstream, ready)) = next else {
                return Err(No::Own(self.no_upstream(&search)));
            };
            let is_warm = ready.is_warm;
            upstream.counts.asked(is_warm);
            let permit = upstream.tunnel();
            let answer = self.ask(&upstream, ready, &search).await;
            let reason = match answer {
                Ok(answer) => match self.judge(&upstream, answer) {
                    Verdict::Open(answer) => return self.pass_on(answer, permit).await,
                    Verdict::Refused(answer) => return Err(No::Remote(answer)),
                    Verdict::Elsewhere(reason) => reason,
                },
                Err(error) if is_warm && error.is_of_an_old_connection() => {
                    search.again(upstream);
                    continue;
                }
                Err(error @ AskError::Silent) => {
                    let reason = format!("{}: {error}", upstream.name);
                    return Err(No::Own(Refusal::NoReply(reason)));
                }
                Err(AskError::Down) => upstream.reason().unwrap_or_default(),
                Err(error) => {
                    upstream.failed(&error.to_string());
                    error.to_string()
                }
            };
            search.failed.push((upstream, reason));
            if search.has_more() {
                self.agent.metrics.failed_over();
            }
        }
    }

    /// Answers 200 at once, if the first upstream has a warm connection and has reached the destination of late, and reads
    /// what the application then sends, to send it with the request.
    async fn answer_early(
        &mut self,
        search: &mut Search,
    ) -> Result<Option<(Arc<Upstream>, Ready)>, No> {
        let knows = search
            .first()
            .is_some_and(|upstream| upstream.recent.knows(&self.destination, Instant::now()));
        if !knows || !self.agent.settings.options.optimistic {
            return Ok(None);
        }
        let Some(found) = search.warm() else {
            return Ok(None);
        };
        self.is_answered = true;
        self.local.write_all(ESTABLISHED).await?;
        if self.first.is_empty() {
            let mut buffer = Buffer::take();
            // An application that is silent gets its tunnel without a first flight.
            if let Ok(read) = timeout(FIRST_FLIGHT, self.local.read(buffer.space())).await {
                let read = read?;
                buffer.fill(read);
                self.first.extend_from_slice(buffer.filled());
                if read == 0 {
                    return Err(No::Gone);
                }
            }
        }
        Ok(Some(found))
    }

    async fn ask(
        &self,
        upstream: &Arc<Upstream>,
        ready: Ready,
        search: &Search,
    ) -> Result<Answer, AskError> {
        // Bytes that the application sends before a 200 wait for it.
        let first = match self.is_answered {
            true => self.first.as_slice(),
            false => &[],
        };
        let asked = ask(ready, &upstream.endpoint, &self.destination, first);
        tokio::select! {
            biased;
            answer = asked => answer,
            // Another connection has found out.
            () = upstream.down(), if search.has_more() => {
                Err(AskError::Down)
            }
        }
    }

    fn judge(&self, upstream: &Upstream, answer: Answer) -> Verdict {
        upstream.counts.replied(answer.status);
        if self.is_answered {
            self.agent.metrics.was_optimistic(answer.status < 300);
        }
        if answer.status < 300 {
            upstream.answered();
            upstream.recent.reached(&self.destination, Instant::now());
            return Verdict::Open(answer);
        }
        upstream.recent.missed(&self.destination);
        match elsewhere(answer.status, &answer.bytes) {
            Some(code) => {
                upstream.avoid(&code);
                match self.agent.upstreams.len() {
                    // Its own words say more.
                    1 => Verdict::Refused(answer),
                    _ => Verdict::Elsewhere(format!("503 ({code})")),
                }
            }
            None => {
                upstream.answered();
                Verdict::Refused(answer)
            }
        }
    }

    /// Passes on the upstream's reply, unless the application has one, and the bytes that waited.
    async fn pass_on(&mut self, answer: Answer, upstream: TunnelPermit) -> Result<Open, No> {
        let Answer {
            mut remote,
            bytes,
            head,
            ..
        } = answer;
        let from = if self.is_answered { head } else { 0 };
        let unsent = bytes.get(from..).unwrap_or_default();
        let passed = async {
            self.local.write_all(unsent).await?;
            if !self.is_answered && !self.first.is_empty() {
                remote.write_all(&self.first).await?;
            }
            io::Result::Ok(())
        };
        match timeout(HEAD, passed).await {
            Ok(Ok(())) => Ok(Open { remote, upstream }),
            _ => Err(No::Gone),
        }
    }

    /// Why no upstream can take the request, and wakes the probes of those that are down.
    fn no_upstream(&self, search: &Search) -> Refusal {
        let mut reasons = Vec::new();
        for upstream in &self.agent.upstreams {
            let tried = search
                .failed
                .iter()
                .rev()
                .find(|(failed, _)| failed.place == upstream.place);
            let reason = match tried {
                Some((_, reason)) => reason.clone(),
                None => upstream.reason().unwrap_or_default(),
            };
            upstream.hasten();
            // An error of a library may have several lines.
            let reason: String = reason.chars().filter(|char| !char.is_control()).collect();
            reasons.push(format!("{}: {reason}", upstream.name));
        }
        Refusal::NoUpstream(reasons.join("; "))
    }
}

/// What an upstream's reply means for the search.
enum Verdict {
    Open(Answer),
    Refused(Answer),
    /// Another upstream may take the request.
    Elsewhere(String),
}

/// Sends the application its reply and waits for its end: closing with unread bytes sends a reset, which would overtake
/// the reply.
async fn refuse(local: &mut Local, no: No, is_answered: bool) -> io::Result<()> {
    match no {
        No::Gone => {
            // Once it was told 200, only a reset says that there is no tunnel.
            if is_answered {
                local.reset_on_close();
            }
            return Ok(());
        }
        No::Own(refusal) if is_answered => {
            let status = if matches!(refusal, Refusal::Head(_)) {
                400
            } else {
                503
            };
            local.write_all(&reply::alert(status)).await?;
        }
        No::Own(refusal) => local.write_all(&refusal.bytes()).await?,
        No::Remote(answer) if is_answered => {
            local.write_all(&reply::alert(answer.status)).await?;
        }
        No::Remote(answer) => {
            let Answer {
                mut remote, bytes, ..
            } = answer;
            local.write_all(&bytes).await?;
            let mut rest = (&mut remote).take(BODY_BYTES_MAX);
            // A broken body is better than none.
            let _copied = tokio::io::copy(&mut rest, local).await;
            remote.end_in_order();
        }
    }
    local.shutdown().await?;
    let mut unread = Buffer::take();
    let mut left = UNREAD_BYTES_MAX;
    while left > 0 {
        let read = local.read(unread.space()).await?;
        unread.fill(read);
        if read == 0 {
            break;
        }
        left = left.saturating_sub(read);
    }
    Ok(())
}

/// `host:port`, an IPv6 address in brackets.
fn text(authority: &Authority) -> String {
    match &authority.destination {
        Destination::Address(address) => {
            std::net::SocketAddr::new(*address, authority.port.number()).to_string()
        }
        Destination::Name(host) => format!("{host}:{}", authority.port.number()),
    }
}

/// From accept to the whole head.
const HEAD: Duration = Duration::from_secs(10);
/// For an application to send its ClientHello after an early 200.
const FIRST_FLIGHT: Duration = Duration::from_millis(50);
/// For a refused application to read its reply and close.
const LINGER: Duration = Duration::from_secs(2);
const UNREAD_BYTES_MAX: usize = 64 * 1024;
const BODY_BYTES_MAX: u64 = 64 * 1024;
