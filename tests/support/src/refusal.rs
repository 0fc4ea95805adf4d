//! What a refusal before the 200 looks like from every side: the reply, the end of the connection, the audit record and the metric. The
//! table repeats the promise of the reference by hand, so that a change of the vocabulary in the daemon shows here.

use sealway::outcome::{DenyReason, End, Failure};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::client::Reply;
use crate::daemon::Daemon;
use crate::raw::read_to_end;

/// One code and how it is told.
pub struct Refusal {
    pub code: &'static str,
    status_line: &'static str,
    error: &'static str,
    outcome: &'static str,
    extra: Option<(&'static str, &'static str)>,
}

/// Every code that is told in HTTP.
pub const REFUSALS: [Refusal; 27] = [
    denied(
        "bad_request",
        "HTTP/1.1 400 Bad Request (bad_request)",
        "http_request_error",
    ),
    denied(
        "proxy_header_invalid",
        "HTTP/1.1 400 Bad Request (proxy_header_invalid)",
        "http_request_error",
    ),
    denied(
        "client_denied",
        "HTTP/1.1 403 Forbidden (client_denied)",
        "http_request_denied",
    ),
    denied(
        "host_denied",
        "HTTP/1.1 403 Forbidden (host_denied)",
        "http_request_denied",
    ),
    denied(
        "port_denied",
        "HTTP/1.1 403 Forbidden (port_denied)",
        "http_request_denied",
    ),
    denied(
        "ip_literal_denied",
        "HTTP/1.1 403 Forbidden (ip_literal_denied)",
        "http_request_denied",
    ),
    denied(
        "destination_denied",
        "HTTP/1.1 403 Forbidden (destination_denied)",
        "destination_ip_prohibited",
    ),
    denied(
        "method_not_allowed",
        "HTTP/1.1 405 Method Not Allowed (method_not_allowed)",
        "http_request_denied",
    )
    .with("Allow", "CONNECT"),
    denied(
        "auth_required",
        "HTTP/1.1 407 Proxy Authentication Required (auth_required)",
        "http_request_denied",
    )
    .with("Proxy-Authenticate", BASIC),
    denied(
        "auth_failed",
        "HTTP/1.1 407 Proxy Authentication Required (auth_failed)",
        "http_request_denied",
    )
    .with("Proxy-Authenticate", BASIC),
    denied(
        "auth_locked",
        "HTTP/1.1 407 Proxy Authentication Required (auth_locked)",
        "http_request_denied",
    )
    .with("Proxy-Authenticate", BASIC),
    failed(
        "request_timeout",
        "HTTP/1.1 408 Request Timeout (request_timeout)",
        "http_request_error",
    ),
    denied(
        "user_limit",
        "HTTP/1.1 429 Too Many Requests (user_limit)",
        "connection_limit_reached",
    )
    .with("Retry-After", "5"),
    denied(
        "client_limit",
        "HTTP/1.1 429 Too Many Requests (client_limit)",
        "connection_limit_reached",
    )
    .with("Retry-After", "5"),
    denied(
        "head_too_large",
        "HTTP/1.1 431 Request Header Fields Too Large (head_too_large)",
        "http_request_error",
    ),
    failed(
        "dns_failed",
        "HTTP/1.1 502 Bad Gateway (dns_failed)",
        "dns_error",
    ),
    failed(
        "connect_refused",
        "HTTP/1.1 502 Bad Gateway (connect_refused)",
        "connection_refused",
    ),
    failed(
        "connect_unreachable",
        "HTTP/1.1 502 Bad Gateway (connect_unreachable)",
        "destination_ip_unroutable",
    ),
    failed(
        "connect_reset",
        "HTTP/1.1 502 Bad Gateway (connect_reset)",
        "connection_terminated",
    ),
    failed(
        "ended_by_operator",
        "HTTP/1.1 503 Service Unavailable (ended_by_operator)",
        "connection_terminated",
    )
    .with("Retry-After", "5"),
    denied(
        "tunnel_limit",
        "HTTP/1.1 503 Service Unavailable (tunnel_limit)",
        "connection_limit_reached",
    )
    .with("Retry-After", "5"),
    denied(
        "draining",
        "HTTP/1.1 503 Service Unavailable (draining)",
        "destination_unavailable",
    )
    .with("Retry-After", "5"),
    failed(
        "egress_unavailable",
        "HTTP/1.1 503 Service Unavailable (egress_unavailable)",
        "proxy_configuration_error",
    )
    .with("Retry-After", "5"),
    failed(
        "egress_ports_exhausted",
        "HTTP/1.1 503 Service Unavailable (egress_ports_exhausted)",
        "connection_limit_reached",
    )
    .with("Retry-After", "5"),
    denied(
        "audit_unavailable",
        "HTTP/1.1 503 Service Unavailable (audit_unavailable)",
        "proxy_internal_error",
    )
    .with("Retry-After", "5"),
    failed(
        "dns_timeout",
        "HTTP/1.1 504 Gateway Timeout (dns_timeout)",
        "dns_timeout",
    ),
    failed(
        "connect_timeout",
        "HTTP/1.1 504 Gateway Timeout (connect_timeout)",
        "connection_timeout",
    ),
];

impl Refusal {
    pub fn of(code: &str) -> &'static Refusal {
        REFUSALS
            .iter()
            .find(|refusal| refusal.code == code)
            .unwrap_or_else(|| panic!("{code} is not in the table"))
    }

    const fn with(mut self, name: &'static str, value: &'static str) -> Refusal {
        self.extra = Some((name, value));
        self
    }

    /// The whole head, the one line of the body, and the clean end of the connection.
    pub async fn is_told_by(&self, reply: &mut Reply) {
        let (code, told) = (
            self.code,
            format!("{}\n{:?}\n{}", reply.status_line, reply.headers, reply.body),
        );
        assert_eq!(reply.status_line, self.status_line, "{told}");
        let proxy_status = format!("sealway; error={}; details=\"{code}\"", self.error);
        let length = reply.body.len().to_string();
        let mut wanted = vec![
            ("Content-Type", "text/plain"),
            ("Content-Length", &length),
            ("Connection", "close"),
            ("Proxy-Status", &proxy_status),
        ];
        wanted.extend(self.extra);
        let headers: Vec<_> = reply
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(headers, wanted, "{told}");
        assert_eq!(reply.body, body(code), "{told}");
        assert_eq!(
            read_to_end(&mut reply.stream).await,
            b"",
            "more than Content-Length said: {told}"
        );
    }
}

/// The line that explains a code.
fn body(code: &str) -> String {
    let denied = DenyReason::ALL.iter().map(|reason| End::from(*reason));
    let mut ends = denied.chain(Failure::ALL.iter().map(|failure| End::from(*failure)));
    let end = ends.find(|end| end.code() == code).expect("a code");
    format!("{code}: {}; {}\n", end.cause(), end.cure())
}

/// Checks a refusal that is the first of its code: reply, audit record and metric. Gives the record.
pub async fn refused(daemon: &mut Daemon, reply: Reply, code: &str) -> Value {
    refused_again(daemon, reply, code, 1).await
}

/// The same for the `nth` refusal of its code.
pub async fn refused_again(daemon: &mut Daemon, mut reply: Reply, code: &str, nth: usize) -> Value {
    let refusal = Refusal::of(code);
    refusal.is_told_by(&mut reply).await;
    let client = reply.stream.local_addr().expect("an address");
    let record = daemon.tunnel_record().await;
    assert_eq!(
        record["client"],
        client.to_string(),
        "the record of another attempt: {record}"
    );
    assert_eq!(
        (&record["code"], &record["outcome"]),
        (&code.into(), &refusal.outcome.into()),
        "{record}"
    );
    assert_eq!(
        (&record["bytes_up"], &record["bytes_down"]),
        (&0.into(), &0.into()),
        "{record}"
    );
    assert_eq!(count(daemon, code).await, nth as f64, "{code}");
    record
}

/// `sealway_tunnels_denied_total` of one code.
pub async fn count(daemon: &Daemon, code: &str) -> f64 {
    let series = format!("sealway_tunnels_denied_total{{code=\"{code}\"}}");
    daemon
        .metric(&series)
        .await
        .unwrap_or_else(|| panic!("no series {series}"))
}

/// Sends `head` as it is and reads the answer.
pub async fn answer_to(proxy: std::net::SocketAddr, head: &[u8]) -> Reply {
    let mut stream = crate::client::dial(proxy).await;
    send(&mut stream, head).await;
    crate::client::read_reply(stream).await
}

/// Sends bytes to a peer that may have made up its mind already.
pub async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    tokio::io::AsyncWriteExt::write_all(stream, bytes)
        .await
        .expect("send");
}

const fn denied(code: &'static str, status_line: &'static str, error: &'static str) -> Refusal {
    Refusal {
        code,
        status_line,
        error,
        outcome: "denied",
        extra: None,
    }
}

const fn failed(code: &'static str, status_line: &'static str, error: &'static str) -> Refusal {
    Refusal {
        code,
        status_line,
        error,
        outcome: "failed",
        extra: None,
    }
}

const BASIC: &str = "Basic realm=\"sealway\", charset=\"UTF-8\"";
