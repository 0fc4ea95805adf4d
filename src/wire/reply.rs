//! The bytes that the daemon itself writes to a client: the 200, an HTTP refusal, a TLS alert. They
//! hold no byte from a peer, so nothing can be injected (RFC 9112, RFC 9209, RFC 8446 section 6).

use crate::outcome::{End, Reply};

/// The complete answer to a granted CONNECT: no header field, because some clients fail on one.
pub const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The bytes of a reply; empty for a plain close.
#[must_use]
pub fn farewell(end: End) -> Vec<u8> {
    match end.reply() {
        Reply::Http(status, error) => refusal(end, status, error),
        Reply::Alert(description) => alert(description).to_vec(),
        Reply::Close => Vec::new(),
    }
}

/// A fatal alert in a plaintext record. Every client since TLS 1.0 reads version 3.3.
#[must_use]
pub fn alert(description: u8) -> [u8; 7] {
    [ALERT_RECORD, 3, 3, 0, 2, FATAL, description]
}

fn refusal(end: End, status: u16, error: &str) -> Vec<u8> {
    let text = format!("{}; {}", end.cause(), end.cure());
    http(status, error, end.code(), &text)
}

/// An HTTP refusal with this status, error type (RFC 9209, section 2.3), code and text. Clients show only the status line,
/// so the reason phrase carries the code. The text is one line.
#[must_use]
pub fn http(status: u16, error: &str, code: &str, text: &str) -> Vec<u8> {
    let body = format!("{code}: {text}\n");
    let extra = match (status, code) {
        (405, _) => "Allow: CONNECT\r\n",
        (407, _) => "Proxy-Authenticate: Basic realm=\"sealway\", charset=\"UTF-8\"\r\n",
        (429 | 503, _) => "Retry-After: 5\r\n",
        _ => "",
    };
    format!(
        "HTTP/1.1 {status} {} ({code})\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\
         Proxy-Status: sealway; error={error}; details=\"{code}\"\r\n{extra}\r\n{body}",
        phrase(status),
        body.len(),
    )
    .into_bytes()
}

/// RFC 9110, section 15.
fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    }
}

const ALERT_RECORD: u8 = 21;
const FATAL: u8 = 2;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::outcome::{DenyReason, Ending, Failure};

    #[test]
    fn a_refusal_says_its_code_in_the_status_line_the_header_and_the_body() {
        let text = String::from_utf8(farewell(DenyReason::HostDenied.into())).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 403 Forbidden (host_denied)\r\n"),
            "{head}"
        );
        assert!(head.contains(
            "\r\nProxy-Status: sealway; error=http_request_denied; details=\"host_denied\""
        ));
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
        assert!(
            body.starts_with("host_denied: ") && body.ends_with('\n') && body.lines().count() == 1
        );
    }

    #[test]
    fn statuses_that_need_a_header_have_it() {
        let text = |end: End| String::from_utf8(farewell(end)).unwrap();
        assert!(text(DenyReason::MethodNotAllowed.into()).contains("\r\nAllow: CONNECT\r\n"));
        assert!(
            text(DenyReason::AuthRequired.into())
                .contains("\r\nProxy-Authenticate: Basic realm=\"sealway\", charset=\"UTF-8\"\r\n")
        );
        assert!(text(DenyReason::TunnelLimit.into()).contains("\r\nRetry-After: 5\r\n"));
        assert!(text(DenyReason::UserLimit.into()).contains("\r\nRetry-After: 5\r\n"));
    }

    #[test]
    fn every_http_status_has_a_phrase() {
        let denied = DenyReason::ALL.iter().map(|r| End::from(*r));
        let failed = Failure::ALL.iter().map(|f| End::from(*f));
        let ended = Ending::ALL.iter().map(|e| End::from(*e));
        for end in denied.chain(failed).chain(ended) {
            match end.reply() {
                Reply::Http(status, _) => assert_ne!(phrase(status), "Error", "{end:?}"),
                Reply::Alert(n) => assert_eq!(farewell(end), [21, 3, 3, 0, 2, 2, n]),
                Reply::Close => assert!(farewell(end).is_empty()),
            }
        }
    }
}
