//! Sends one CONNECT request to an upstream and reads the head of its reply. Judges nothing but whether it is HTTP.

use std::io;
use std::time::Duration;

use sealway::sys::buffers;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::connect::Ready;
use super::endpoint::Endpoint;
use super::remote::Remote;

/// The reply of an upstream.
#[derive(Debug)]
pub struct Answer {
    /// The connection.
    pub remote: Remote,
    /// The status code.
    pub status: u16,
    /// The bytes received.
    pub bytes: Vec<u8>,
    /// The length of the head in them.
    pub head: usize,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection ended before a status line.
    #[error("it ends the connection without a reply")]
    Ended,
    /// The connection broke before a status line.
    #[error("{0}")]
    Broken(io::Error),
    /// The request was not acknowledged.
    #[error("the path to it is dead: it has not acknowledged the request")]
    Lost,
    /// Another connection has found out that the upstream is down.
    #[error("it went down")]
    Down,
    /// The reply is not HTTP, or its head has no bound.
    #[error("its reply is not HTTP/1.1")]
    NotHttp,
    /// No reply in time, from a peer that is there.
    #[error("no reply within {}", humantime::format_duration(REPLY))]
    Silent,
}

impl AskError {
    /// Whether the connection may have been closed before the request was sent, so that a new one to the same upstream is
    /// worth a try.
    #[must_use]
    pub fn is_of_an_old_connection(&self) -> bool {
        match self {
            Self::Ended | Self::Broken(_) => true,
            Self::Lost | Self::Down | Self::NotHttp | Self::Silent => false,
        }
    }
}

/// Asks an upstream for a tunnel to `host:port`; `first` are bytes of the client that go with the request.
///
/// # Errors
/// Why there is no reply.
pub async fn ask(
    ready: Ready,
    endpoint: &Endpoint,
    destination: &str,
    first: &[u8],
) -> Result<Answer, AskError> {
    let Ready {
        mut remote, took, ..
    } = ready;
    let socket = remote.socket().clone();
    // From here on every end but one in order is a reset.
    socket.reset_on_close();
    let request = request(endpoint, destination, first);
    let asked = async {
        remote.write_all(&request).await.map_err(AskError::Broken)?;
        remote.flush().await.map_err(AskError::Broken)?;
        head(&mut remote).await
    };
    let lost = async {
        sleep(UNACKNOWLEDGED.max(took)).await;
        // A dead path shows itself by what the peer's kernel has not acknowledged; a slow destination does not. The
        // kernel's own limit, TCP_USER_TIMEOUT, counts retransmissions and is three times as slow.
        match buffers::is_acknowledged(&*socket.0) {
            Ok(false) => {}
            _ => std::future::pending().await,
        }
    };
    let asked = async {
        tokio::select! {
            biased;
            asked = asked => asked,
            () = lost => Err(AskError::Lost),
        }
    };
    let asked = timeout(REPLY, asked).await;
    let (bytes, head, status) = asked.unwrap_or(Err(AskError::Silent))?;
    Ok(Answer {
        remote,
        status,
        bytes,
        head,
    })
}

fn request(endpoint: &Endpoint, destination: &str, first: &[u8]) -> Zeroizing<Vec<u8>> {
    let parts: [&[u8]; 8] = [
        b"CONNECT ",
        destination.as_bytes(),
        b" HTTP/1.1\r\nHost: ",
        destination.as_bytes(),
        b"\r\n",
        endpoint.authorization.as_bytes(),
        b"\r\n",
        first,
    ];
    // Of the whole length, because growing would leave an unwiped copy of the secret.
    let length = parts.iter().map(|part| part.len()).sum();
    let mut request = Zeroizing::new(Vec::with_capacity(length));
    for part in parts {
        request.extend_from_slice(part);
    }
    request
}

/// The bytes received, the length of the head, and the status.
async fn head(remote: &mut Remote) -> Result<(Vec<u8>, usize, u16), AskError> {
    let mut bytes = Vec::with_capacity(READ);
    loop {
        bytes.reserve(READ);
        match remote.read_buf(&mut bytes).await {
            Ok(0) if bytes.is_empty() => return Err(AskError::Ended),
            Ok(0) => return Err(AskError::NotHttp),
            Ok(_) => {}
            Err(error) => return Err(AskError::Broken(error)),
        }
        if !could_be_http(&bytes) {
            return Err(AskError::NotHttp);
        }
        let end = bytes.windows(END.len()).position(|window| window == END);
        if let Some(end) = end {
            let status = status(&bytes).ok_or(AskError::NotHttp)?;
            return Ok((bytes, end + END.len(), status));
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(AskError::NotHttp);
        }
    }
}

/// Whether the bytes begin like a status line, as far as they go.
fn could_be_http(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .zip(VERSION)
        .all(|(byte, wanted)| byte == wanted)
}

/// The final status in `HTTP/1.x NNN …` (RFC 9112, section 4). An upstream has no reason for an interim one.
fn status(bytes: &[u8]) -> Option<u16> {
    let [minor, b' ', digits @ ..] = bytes.strip_prefix(VERSION)? else {
        return None;
    };
    let [a, b, c, b' ' | b'\r', ..] = digits else {
        return None;
    };
    let is_number = [minor, a, b, c].into_iter().all(u8::is_ascii_digit);
    let status = [a, b, c].into_iter().fold(0, |sum, digit| {
        sum * 10 + u16::from(digit.wrapping_sub(b'0'))
    });
    (is_number && (200..600).contains(&status)).then_some(status)
}

const VERSION: &[u8] = b"HTTP/1.";
const END: &[u8] = b"\r\n\r\n";
const READ: usize = 1_024;
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// For the reply: longer than the upstream's own limits for look-up and connect.
pub const REPLY: Duration = Duration::from_secs(60);
/// For the acknowledgement of the request: a retransmission and 20 ms, and the other upstream still answers within a
/// quarter of a second.
pub const UNACKNOWLEDGED: Duration = Duration::from_millis(225);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_final_status_of_http_1_counts() {
        for (line, wanted) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 503\r\n", Some(503)),
            ("HTTP/1.1 100 Continue\r\n", None),
            ("HTTP/1.1 2000\r\n", None),
            ("HTTP/1.1 20\r\n", None),
            ("HTTP/2.0 200 OK\r\n", None),
            ("HTTP/1.1  200 OK\r\n", None),
            ("SSH-2.0-x\r\n", None),
        ] {
            assert_eq!(status(line.as_bytes()), wanted, "{line}");
        }
        assert!(could_be_http(b"HT") && !could_be_http(b"HX") && !could_be_http(b"\x15\x03"));
    }

    #[test]
    fn the_request_has_the_agents_credentials_and_nothing_of_the_client() {
        let endpoint = Endpoint::parse("https://n:s@a.example:9443", false).unwrap();
        let sent = request(&endpoint, "b.example:443", b"hello");
        assert_eq!(sent.len(), sent.capacity());
        assert_eq!(
            sent.as_slice(),
            b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\nProxy-Authorization: Basic bjpz\r\n\r\nhello"
        );
    }
}
