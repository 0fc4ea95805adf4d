//! What the agent itself answers to an application. Everything else comes from the upstream, byte for byte.

use sealway::outcome::{DenyReason, End, Failure};
use sealway::wire::connect::HeadError;
use sealway::wire::reply;

/// Why the agent refuses a request itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The head is wrong.
    Head(HeadError),
    /// The head did not arrive in time.
    RequestTimeout,
    /// As many connections as descriptors allow.
    TunnelLimit,
    /// No upstream can take the request; why, for each.
    NoUpstream(String),
    /// The upstream did not reply in time.
    NoReply(String),
}

impl Refusal {
    /// The code in the reply and the metric.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoUpstream(_) => NO_UPSTREAM,
            Self::NoReply(_) => NO_REPLY,
            other => other.end().code(),
        }
    }

    /// The codes, in the order of the metric.
    pub const CODES: [&'static str; 7] = [
        "bad_request",
        "method_not_allowed",
        "head_too_large",
        "request_timeout",
        "tunnel_limit",
        NO_UPSTREAM,
        NO_REPLY,
    ];

    /// The bytes of the reply.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::NoUpstream(reasons) => {
                reply::http(503, "destination_unavailable", NO_UPSTREAM, reasons)
            }
            Self::NoReply(reason) => reply::http(504, "connection_timeout", NO_REPLY, reason),
            other => reply::farewell(other.end()),
        }
    }

    fn end(&self) -> End {
        match self {
            Self::Head(HeadError::Method) => DenyReason::MethodNotAllowed.into(),
            Self::Head(HeadError::TooLarge) => DenyReason::HeadTooLarge.into(),
            Self::Head(_) => DenyReason::BadRequest.into(),
            Self::RequestTimeout => Failure::RequestTimeout.into(),
            Self::TunnelLimit | Self::NoUpstream(_) | Self::NoReply(_) => {
                DenyReason::TunnelLimit.into()
            }
        }
    }
}

/// The alert that stands for a status when the agent has answered 200 already (RFC 8446, section 6.2).
#[must_use]
pub fn alert(status: u16) -> [u8; 7] {
    reply::alert(match status {
        400..500 => ACCESS_DENIED,
        _ => INTERNAL_ERROR,
    })
}

const NO_UPSTREAM: &str = "agent_no_upstream";
const NO_REPLY: &str = "agent_no_reply";
const ACCESS_DENIED: u8 = 49;
const INTERNAL_ERROR: u8 = 80;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_code_in_the_status_line() {
        let all = [
            Refusal::Head(HeadError::Syntax),
            Refusal::Head(HeadError::Method),
            Refusal::Head(HeadError::TooLarge),
            Refusal::RequestTimeout,
            Refusal::TunnelLimit,
            Refusal::NoUpstream("a.example:1: x".into()),
            Refusal::NoReply("a.example:1: y".into()),
        ];
        assert_eq!(all.clone().map(|one| one.code()), Refusal::CODES);
        for one in all {
            let text = String::from_utf8(one.bytes()).unwrap();
            let line = text.lines().next().unwrap();
            assert!(line.ends_with(&format!("({})", one.code())), "{line}");
        }
    }
}
