//! Runs one look-up against the name servers: over UDP, over TCP when an answer is truncated (RFC
//! 1035, RFC 7766), and against the next server when one fails or is slow.
//!
//! Starts no task: dropping a look-up closes its sockets, at most [`LOOK_UP_SOCKETS`]. Keeps only
//! the addresses of an answer, and does not read an answer that exceeds the bound. The caller sets
//! the deadline of the whole look-up.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsRequestSender, FirstAnswer};
use hickory_resolver::proto::op::{
    DnsRequest, DnsRequestOptions, Message, MessageType, Query, ResponseCode,
};
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::message::{self, ANSWER_BYTES_MAX, AnswerError, Found};
use super::resolv_conf::ResolvConf;
use super::server::Server;
use super::{Families, ResolveError};
use crate::authority::Host;
use crate::limits::budget::LOOK_UP_SOCKETS;

/// The name servers in force and the options of resolv.conf(5).
#[derive(Debug)]
pub(super) struct Exchange {
    servers: Vec<Asked>,
    limit: Duration,
    /// The index of the first server to query: the server that answered last, or with `rotate` the
    /// next one.
    preferred: AtomicUsize,
    rotate: bool,
    over_tcp: bool,
    no_aaaa: bool,
}

/// A name server and its known behaviour.
#[derive(Debug)]
struct Asked {
    server: Server,
    /// The server has rejected a question with EDNS.
    without_edns: AtomicBool,
}

/// Why a name server gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServerError {
    /// The query could not be sent, or the answer could not be read.
    #[error("{0}")]
    Net(#[from] NetError),
    /// The server answered with this response code.
    #[error("the server answered with the error {0}")]
    Code(ResponseCode),
    /// The server answered another question.
    #[error("the server answered another question")]
    Mismatch,
}

/// Why one attempt gave no addresses.
enum Attempt {
    Refused(AnswerError),
    Failed(ServerError),
}

impl Exchange {
    /// Sets up queries to these servers; a look-up takes at most `limit`.
    pub(super) fn new(servers: Vec<Server>, options: &ResolvConf, limit: Duration) -> Self {
        let asked = |server| Asked {
            server,
            without_edns: AtomicBool::new(false),
        };
        Self {
            servers: servers.into_iter().map(asked).collect(),
            limit,
            preferred: AtomicUsize::new(0),
            rotate: options.rotate,
            over_tcp: options.over_tcp,
            no_aaaa: options.no_aaaa,
        }
    }

    /// Queries both families at once. When one has addresses, the other gets only
    /// [`RESOLUTION_DELAY`] more, because some servers drop questions of types that they do not
    /// know.
    pub(super) async fn ask(&self, host: &Host, families: Families) -> Result<Found, ResolveError> {
        let first = if self.rotate {
            self.preferred.fetch_add(1, Ordering::Relaxed)
        } else {
            self.preferred.load(Ordering::Relaxed)
        };
        let v4 = self.ask_family(host, RecordType::A, families.v4, first);
        let wanted = families.v6 && !self.no_aaaa;
        let v6 = self.ask_family(host, RecordType::AAAA, wanted, first);
        tokio::pin!(v4, v6);
        let (v6, v4) = tokio::select! {
            v4 = &mut v4 => (self.within(self.patience(&v4), v6).await, v4),
            v6 = &mut v6 => {
                let v4 = self.within(self.patience(&v6), v4).await;
                (v6, v4)
            }
        };
        both(v6, v4)
    }

    /// Queries one family; None when it has no egress address.
    async fn ask_family(
        &self,
        host: &Host,
        kind: RecordType,
        wanted: bool,
        first: usize,
    ) -> Result<Option<Found>, ResolveError> {
        if !wanted {
            return Ok(None);
        }
        // The final dot makes the name absolute.
        let name = Name::from_ascii(format!("{host}."))
            .map_err(NetError::from)
            .map_err(ServerError::from)?;
        let query = Query::query(name, kind);
        self.ask_servers(&query, first).await.map(Some)
    }

    /// Queries the next server when one fails, and also, in parallel, when one is slow. The second
    /// attempt at a silent server leaves EDNS out, because some firewalls drop it.
    async fn ask_servers(&self, query: &Query, first: usize) -> Result<Found, ResolveError> {
        let count = self.servers.len();
        let mut answered = Vec::new();
        let attempts = 0..count.max(ATTEMPTS);
        let mut order =
            attempts.map(|number| (first.wrapping_add(number) % count.max(1), number < count));
        let mut running = FuturesUnordered::new();
        let mut failed = ServerError::from(NetError::NoConnections);
        let patience = (self.limit / 4).min(PATIENCE);
        loop {
            if running.len() < ATTEMPTS
                && let Some((number, edns)) = order.find(|(number, _)| !answered.contains(number))
                && let Some(asked) = self.servers.get(number)
            {
                running.push(async move {
                    // With more servers than parallel attempts, a silent server must make room for
                    // the next.
                    let limit = if count > ATTEMPTS {
                        patience * u32::try_from(ATTEMPTS).unwrap_or(1)
                    } else {
                        self.limit
                    };
                    let attempt = timeout(limit, self.attempt(asked, query, edns)).await;
                    let attempt = attempt.unwrap_or_else(|_| Err(NetError::Timeout.into()));
                    (number, attempt)
                });
            }
            match timeout(patience, running.next()).await {
                Err(_slow) => {}
                Ok(Some((number, Ok(found)))) => {
                    if !self.rotate {
                        self.preferred.store(number, Ordering::Relaxed);
                    }
                    return Ok(found);
                }
                Ok(Some((_, Err(Attempt::Refused(error))))) => return Err(error.into()),
                Ok(Some((number, Err(Attempt::Failed(error))))) => {
                    // A lost datagram is worth another attempt; an answer with an error code would
                    // only repeat.
                    if !matches!(error, ServerError::Net(_)) {
                        answered.push(number);
                    }
                    failed = error;
                }
                Ok(None) => return Err(failed.into()),
            }
        }
    }

    async fn attempt(&self, asked: &Asked, query: &Query, edns: bool) -> Result<Found, Attempt> {
        let server = asked.server.address()?;
        let edns = edns && !asked.without_edns.load(Ordering::Relaxed);
        let mut answer = self.question(server, query, edns).await?;
        // RFC 6891, section 7: repeat the question without EDNS for a server that does not know it.
        let is_refused = matches!(
            answer.metadata.response_code,
            ResponseCode::FormErr | ResponseCode::NotImp
        );
        if edns && is_refused {
            answer = self.question(server, query, false).await?;
            asked.without_edns.store(true, Ordering::Relaxed);
        }
        match answer.metadata.response_code {
            ResponseCode::NoError => message::read(&answer, query).map_err(Attempt::Refused),
            ResponseCode::NXDomain => Ok(Found {
                addresses: Vec::new(),
                ttl: message::negative_ttl(&answer),
            }),
            code => Err(Attempt::Failed(ServerError::Code(code))),
        }
    }

    /// Queries over UDP, and over TCP if the answer is truncated.
    async fn question(
        &self,
        server: SocketAddr,
        query: &Query,
        edns: bool,
    ) -> Result<Message, Attempt> {
        let mut options = DnsRequestOptions::default();
        options.use_edns = edns;
        options.edns_payload_len = DATAGRAM_BYTES;
        let request = DnsRequest::from_query(query.clone(), options);
        if !self.over_tcp {
            let answer = self.over_udp(server, request.clone()).await?;
            if !answer.metadata.truncation {
                return Ok(answer);
            }
        }
        over_tcp(server, &request, query).await
    }

    /// Sends one datagram from a socket of its own; the library checks the sender, the ID and the
    /// question.
    async fn over_udp(&self, server: SocketAddr, request: DnsRequest) -> Result<Message, Attempt> {
        let stream = UdpClientStream::builder(server, TokioRuntimeProvider::default());
        let mut stream = stream
            .with_timeout(Some(self.limit))
            .with_max_retries(1)
            .build();
        let answer = stream.send_message(request).first_answer().await?;
        Ok(answer.into_message())
    }

    async fn within(
        &self,
        patience: Duration,
        asked: impl Future<Output = Result<Option<Found>, ResolveError>>,
    ) -> Result<Option<Found>, ResolveError> {
        timeout(patience, asked)
            .await
            .unwrap_or(Err(ResolveError::Timeout(self.limit)))
    }

    /// How long to wait for the other family.
    fn patience(&self, first: &Result<Option<Found>, ResolveError>) -> Duration {
        let has_addresses = matches!(first, Ok(Some(found)) if !found.addresses.is_empty());
        if has_addresses {
            RESOLUTION_DELAY
        } else {
            self.limit
        }
    }
}

/// Queries over a new connection. Reads the length first, so an answer that is too long is not
/// read.
async fn over_tcp(
    server: SocketAddr,
    request: &DnsRequest,
    query: &Query,
) -> Result<Message, Attempt> {
    let question = request.to_vec().map_err(NetError::from)?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    stream
        .write_all(&[&length.to_be_bytes()[..], &question].concat())
        .await?;
    let length = stream.read_u16().await?;
    if length > ANSWER_BYTES_MAX {
        return Err(Attempt::Refused(AnswerError::TooLong));
    }
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    let answer =
        Message::from_vec(&answer).map_err(|error| NetError::from(io::Error::other(error)))?;
    let is_answer = answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == request.metadata.id;
    if is_answer && answer.queries == [query.clone()] {
        Ok(answer)
    } else {
        Err(Attempt::Failed(ServerError::Mismatch))
    }
}

/// Merges both families, IPv6 first. If one family failed, the answer of the other lives only
/// briefly, because the failure may be temporary.
fn both(
    v6: Result<Option<Found>, ResolveError>,
    v4: Result<Option<Found>, ResolveError>,
) -> Result<Found, ResolveError> {
    let found = match (v6, v4) {
        (Ok(v6), Ok(v4)) => {
            let families = || [&v6, &v4].into_iter().flatten();
            let has_addresses = families().any(|found| !found.addresses.is_empty());
            // While one family has addresses, the TTL of the other's "none" does not count.
            let lasting = families().filter(|found| !(has_addresses && found.addresses.is_empty()));
            let ttl = lasting.map(|found| found.ttl).min().unwrap_or_default();
            Found {
                addresses: families()
                    .flat_map(|found| &found.addresses)
                    .copied()
                    .collect(),
                ttl,
            }
        }
        (Ok(Some(found)), Err(_)) | (Err(_), Ok(Some(found))) if !found.addresses.is_empty() => {
            Found {
                ttl: found.ttl.min(PARTIAL_TTL_MAX),
                ..found
            }
        }
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    if found.addresses.len() > message::ADDRESSES_MAX {
        return Err(AnswerError::TooManyAddresses.into());
    }
    Ok(found)
}

impl From<NetError> for Attempt {
    fn from(error: NetError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<io::Error> for Attempt {
    fn from(error: io::Error) -> Self {
        NetError::from(error).into()
    }
}

/// The most parallel attempts at one question, one socket each. With fewer servers each is queried
/// again, because a datagram can be lost.
const ATTEMPTS: usize = LOOK_UP_SOCKETS / 2;
/// How long to wait for a server before the next is queried too.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one family waits for the other (RFC 8305, section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// The longest TTL of an answer of one family when the other failed.
const PARTIAL_TTL_MAX: Duration = Duration::from_secs(10);
/// A size that passes any network unfragmented (RFC 9715).
const DATAGRAM_BYTES: u16 = 1_232;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What is made of the answer that `change` makes of the question.
    async fn asked(change: impl FnOnce(&mut Message)) -> Result<Message, Attempt> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let query = Query::query(Name::from_ascii("a.example.").unwrap(), RecordType::A);
        let request = DnsRequest::from_query(query.clone(), DnsRequestOptions::default());
        let answers = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut question).await.unwrap();
            let mut answer = Message::from_vec(&question).unwrap();
            answer.metadata.message_type = MessageType::Response;
            change(&mut answer);
            let answer = answer.to_vec().unwrap();
            let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
            stream.write_all(&length).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        };
        tokio::join!(over_tcp(server, &request, &query), answers).0
    }

    #[tokio::test]
    async fn only_the_answer_to_the_query_is_accepted_over_tcp() {
        assert!(asked(|_| ()).await.is_ok());
        let other = Query::query(Name::from_ascii("b.example.").unwrap(), RecordType::A);
        for wrong in [
            asked(|answer| answer.metadata.id ^= 1).await,
            asked(|answer| answer.metadata.message_type = MessageType::Query).await,
            asked(|answer| answer.queries = vec![other]).await,
            asked(|answer| answer.queries.clear()).await,
        ] {
            assert!(matches!(wrong, Err(Attempt::Failed(ServerError::Mismatch))));
        }
    }
}
