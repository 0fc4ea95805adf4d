//! One HTTP/1.1 exchange on a connection that is open already (RFC 9112). Head and body are bounded; the caller has the
//! deadline.
//!
//! Its own client, because a request holds a secret and its bytes are wiped here; hyper would keep copies.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::refusal::BODY_MAX;

/// A connection: TCP, TLS, or TLS within either.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// A connection of any kind.
pub type Stream = Box<dyn Connection>;

/// The answer to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The words behind it.
    pub reason: String,
    headers: Vec<(String, String)>,
    /// The body, or its first [`BODY_MAX`] bytes.
    pub body: Vec<u8>,
    /// Whether the body ended as its framing says.
    pub whole: bool,
    /// Whether another request may follow on the connection.
    pub reusable: bool,
    /// The longest wait for bytes of the body.
    pub longest_gap: Duration,
}

impl Reply {
    /// The value of a header; its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The peer closed before a whole head.
    #[error("the connection was closed without an answer")]
    Closed,
    /// Bytes that are no HTTP; the first ones.
    #[error("the answer is not HTTP")]
    NotHttp(Vec<u8>),
}

/// Sends a request and reads the whole answer. A head without a body follows CONNECT's 200.
///
/// # Errors
/// There is no answer, or none in HTTP.
pub async fn exchange(
    stream: &mut Stream,
    request: &Zeroizing<Vec<u8>>,
) -> Result<Reply, HttpError> {
    // A peer that answers before it has read all, such as with 431, has still answered.
    let sent = match stream.write_all(request).await {
        Ok(()) => stream.flush().await,
        Err(error) => Err(error),
    };
    let connect = request.starts_with(b"CONNECT ");
    match (read(stream, connect).await, sent) {
        (Ok(reply), _) => Ok(reply),
        // The failed write took the socket's error; the read finds only an end.
        (Err(HttpError::Closed | HttpError::Io(_)), Err(error)) => Err(error.into()),
        (Err(error), _) => Err(error),
    }
}

async fn read(stream: &mut Stream, connect: bool) -> Result<Reply, HttpError> {
    let mut bytes = Vec::new();
    let (mut reply, consumed) = loop {
        if let Some(found) = head(&bytes)? {
            break found;
        }
        if bytes.len() > HEAD_MAX {
            return Err(HttpError::NotHttp(bytes));
        }
        let mut piece = [0; 4096];
        let limit = if connect { 1 } else { piece.len() };
        let piece = piece.get_mut(..limit).unwrap_or_default();
        match stream.read(piece).await {
            Ok(0) if bytes.is_empty() => return Err(HttpError::Closed),
            Ok(0) => return Err(HttpError::NotHttp(bytes)),
            Ok(count) => bytes.extend(piece.iter().take(count)),
            Err(error) if bytes.is_empty() => return Err(error.into()),
            Err(_) => return Err(HttpError::NotHttp(bytes)),
        }
    };
    let rest = bytes.split_off(consumed);
    if (connect && reply.status == 200) || matches!(reply.status, 204 | 304) {
        reply.whole = true;
        reply.reusable = true;
        return Ok(reply);
    }
    let mut body = BodyReader {
        stream,
        bytes: rest,
        gap: Duration::ZERO,
    };
    reply.whole = body.read(&mut reply).await;
    reply.longest_gap = body.gap;
    let closes = reply
        .header("connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"));
    reply.reusable &= reply.whole && !closes;
    Ok(reply)
}

/// A whole head, and its length; None for the beginning of one.
fn head(bytes: &[u8]) -> Result<Option<(Reply, usize)>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(consumed)) => {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers = response.headers.iter();
            let headers = headers.map(|one| (one.name.to_ascii_lowercase(), text(one.value)));
            let reply = Reply {
                status: response.code.unwrap_or_default(),
                reason: response.reason.unwrap_or_default().to_owned(),
                headers: headers.collect(),
                ..Reply::default()
            };
            Ok(Some((reply, consumed)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(HttpError::NotHttp(
            bytes.get(..16).unwrap_or(bytes).to_vec(),
        )),
    }
}

struct BodyReader<'a> {
    stream: &'a mut Stream,
    bytes: Vec<u8>,
    gap: Duration,
}

impl BodyReader<'_> {
    /// Reads the body; whether it was whole.
    async fn read(&mut self, reply: &mut Reply) -> bool {
        let chunked = reply
            .header("transfer-encoding")
            .is_some_and(|value| value.to_ascii_lowercase().contains("chunked"));
        let length = reply
            .header("content-length")
            .and_then(|value| value.trim().parse::<usize>().ok());
        reply.reusable = chunked || length.is_some();
        match (chunked, length) {
            (true, _) => self.chunks(&mut reply.body).await,
            (false, Some(length)) => self.take(length, &mut reply.body).await,
            (false, None) => {
                loop {
                    let length = self.bytes.len();
                    self.take(length, &mut reply.body).await;
                    if !self.more().await {
                        break;
                    }
                }
                true
            }
        }
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let (start, size) = loop {
                match httparse::parse_chunk_size(&self.bytes) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) if self.bytes.len() <= CHUNK_HEAD_MAX => {
                        if !self.more().await {
                            return false;
                        }
                    }
                    _ => return false,
                }
            };
            self.bytes.drain(..start.min(self.bytes.len()));
            let Ok(size) = usize::try_from(size) else {
                return false;
            };
            if size == 0 {
                // Trailers are rare; an empty line ends the message.
                return self.take(2, &mut Vec::new()).await;
            }
            if !self.take(size, body).await || !self.take(2, &mut Vec::new()).await {
                return false;
            }
        }
    }

    /// Moves this many bytes to the body, which keeps [`BODY_MAX`].
    async fn take(&mut self, mut count: usize, body: &mut Vec<u8>) -> bool {
        while count > 0 {
            if self.bytes.is_empty() && !self.more().await {
                return false;
            }
            let piece: Vec<u8> = self.bytes.drain(..count.min(self.bytes.len())).collect();
            count -= piece.len();
            let room = BODY_MAX.saturating_sub(body.len());
            body.extend(piece.iter().take(room));
        }
        true
    }

    async fn more(&mut self) -> bool {
        let began = Instant::now();
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.gap = self.gap.max(began.elapsed());
                self.bytes.extend(piece.iter().take(count));
                true
            }
        }
    }
}

/// As much as any server sends.
const HEAD_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 100;
const CHUNK_HEAD_MAX: usize = 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    async fn answered(request: &str, pieces: &[&str]) -> Result<Reply, HttpError> {
        let (near, mut far) = tokio::io::duplex(64);
        let pieces: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        let writer = tokio::spawn(async move {
            for piece in pieces {
                // The reader may have seen enough.
                if far.write_all(piece.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        let mut stream: Stream = Box::new(near);
        let reply = exchange(&mut stream, &Zeroizing::new(request.as_bytes().to_vec())).await;
        drop(stream);
        writer.await.unwrap();
        reply
    }

    #[tokio::test]
    async fn a_body_is_read_by_each_framing_in_any_pieces() {
        let head = "HTTP/1.1 403 Forbidden (host_denied)\r\nX-A: b\r\n";
        for (rest, whole, reusable) in [
            ("Content-Length: 5\r\n\r\nhello", true, true),
            ("Content-Length: 9\r\n\r\nhello", false, false),
            (
                "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
                true,
                true,
            ),
            (
                "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
                false,
                false,
            ),
            ("Connection: close\r\n\r\nhello", true, false),
        ] {
            let text = format!("{head}{rest}");
            let single: Vec<&str> = text.split_inclusive(|_| true).collect();
            for pieces in [vec![text.as_str()], single] {
                let reply = answered("GET /", &pieces).await.unwrap();
                assert_eq!(
                    (reply.status, reply.body.as_slice()),
                    (403, &b"hello"[..]),
                    "{rest}"
                );
                assert_eq!((reply.whole, reply.reusable), (whole, reusable), "{rest}");
                assert_eq!(reply.header("x-a"), Some("b"));
                assert_eq!(reply.reason, "Forbidden (host_denied)");
            }
        }
    }

    #[tokio::test]
    async fn a_large_body_is_cut_and_other_bytes_are_no_answer() {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1 << 20);
        let body = "x".repeat(1 << 20);
        let reply = answered("GET /", &[&head, &body]).await.unwrap();
        assert_eq!((reply.body.len(), reply.whole), (BODY_MAX, true));
        assert!(matches!(
            answered("GET /", &["\x15\x03\x03"]).await,
            Err(HttpError::NotHttp(_))
        ));
        assert!(matches!(
            answered("GET /", &[]).await,
            Err(HttpError::Closed)
        ));
        let endless = "x".repeat(HEAD_MAX + 100);
        assert!(
            answered("GET /", &["HTTP/1.1 200 OK\r\nA: ", &endless])
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn the_bytes_after_a_200_to_connect_belong_to_the_tunnel() {
        let (near, mut far) = tokio::io::duplex(256);
        far.write_all(b"HTTP/1.1 200 OK\r\n\r\nX").await.unwrap();
        let mut stream: Stream = Box::new(near);
        let request = Zeroizing::new(b"CONNECT a:443 HTTP/1.1\r\n\r\n".to_vec());
        assert_eq!(exchange(&mut stream, &request).await.unwrap().status, 200);
        assert_eq!(stream.read_u8().await.unwrap(), b'X');
    }
}
