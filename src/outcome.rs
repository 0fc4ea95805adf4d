//! The vocabulary of endings: every refusal, failure and ending has one variant, one short code and
//! one reply.
//!
//! Reply, metric, audit record, tests and `docs/reference.md` use the same code. This file never
//! decides how a tunnel ends; it only names the endings. Error types in `Proxy-Status` follow RFC
//! 9209, section 2.3.

/// How a tunnel, or an attempt at one, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The policy, the protocol or a limit refused it.
    Denied(DenyReason),
    /// The network or a peer failed before the tunnel opened.
    Failed(Failure),
    /// The tunnel opened, and ended.
    Ended(Ending),
}

/// The reply to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Before the 200: an HTTP refusal with this status and RFC 9209 error type.
    Http(u16, &'static str),
    /// After the 200: a fatal TLS alert with this description (RFC 8446, section 6), then a close.
    Alert(u8),
    /// After the 200, if the client would not understand an alert or must not get one: a plain
    /// close.
    Close,
}

/// The result of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lookup {
    /// DNS answered, or a cached answer is still valid.
    Ok,
    /// The configuration or the hosts file holds the answer.
    Fixed,
    /// DNS is down, so its last answer was used.
    Stale,
    /// No answer in time.
    Timeout,
    /// No such name, or no usable address.
    NoAddress,
    /// DNS answered with an error, or no query could be sent.
    Failed,
}

macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $code:literal $reply:expr, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", $code, "`: ", $text)] $variant,)+
        }

        impl $name {
            /// All variants, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The short code in reply, metric, audit record and test.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The reply to the client.
            #[must_use]
            pub fn reply(self) -> Reply {
                match self { $(Self::$variant => $reply,)+ }
            }

            /// One or two sentences: the cause and the cure.
            #[must_use]
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

use Reply::{Alert, Close, Http};

vocabulary! {
    /// Why policy, protocol or a limit refused an attempt.
    DenyReason {
        BadRequest "bad_request" Http(400, "http_request_error"),
            "the CONNECT request is malformed; send CONNECT host:port HTTP/1.1 without a body";
        ClientDenied "client_denied" Http(403, "http_request_denied"),
            "this client address may not use the tunnel; ask the operator to add it to auth.clients or to the user's sources";
        HostDenied "host_denied" Http(403, "http_request_denied"),
            "the policy does not allow this host; ask the operator to add it to policy.allow";
        PortDenied "port_denied" Http(403, "http_request_denied"),
            "the policy allows this host but not this port; ask the operator to add host:port to policy.allow";
        IpLiteralDenied "ip_literal_denied" Http(403, "http_request_denied"),
            "an address literal has no name to hold the TLS session to; use the host's name";
        DestinationDenied "destination_denied" Http(403, "destination_ip_prohibited"),
            "the name resolves to an address that is not globally reachable, is this host's own or is outside of policy.destination_ranges; see policy.allow_destinations";
        MethodNotAllowed "method_not_allowed" Http(405, "http_request_denied"),
            "this is a tunnel, it takes CONNECT only; set it as the proxy for https URLs";
        AuthRequired "auth_required" Http(407, "http_request_denied"),
            "credentials are required; put them into the proxy URL, http://NAME:SECRET@HOST:PORT";
        AuthFailed "auth_failed" Http(407, "http_request_denied"),
            "the credentials are unknown, expired or disabled; ask the operator for new ones";
        AuthLocked "auth_locked" Http(407, "http_request_denied"),
            "too many different secrets have failed for this name or from this address; use the right one, which is let in at any time";
        UserLimit "user_limit" Http(429, "connection_limit_reached"),
            "this user has as many tunnels as allowed; close some or ask for a higher limit";
        ClientLimit "client_limit" Http(429, "connection_limit_reached"),
            "this client has as many tunnels as allowed, opens them too fast, or keeps connections that ask for nothing; close some, slow down, or ask for higher limits";
        HeadTooLarge "head_too_large" Http(431, "http_request_error"),
            "the request head is larger than limits.head_bytes; send fewer or shorter header fields";
        TunnelLimit "tunnel_limit" Http(503, "connection_limit_reached"),
            "the tunnel carries as many connections as it can; try again later";
        Draining "draining" Http(503, "destination_unavailable"),
            "the tunnel takes no new connections, because it is stopping or an operator has drained it; connect again, to another instance if there is one";
        AuditUnavailable "audit_unavailable" Http(503, "proxy_internal_error"),
            "the audit record cannot be written, so no tunnel is opened; the operator finds the cause in the log";
        NotTls "not_tls" Close,
            "the client's first bytes are not a TLS handshake; the tunnel carries TLS only";
        ClientHelloMalformed "client_hello_malformed" Alert(DECODE_ERROR),
            "the ClientHello is malformed; mend or update the client, error in the audit record says what is wrong";
        ClientHelloTooLarge "client_hello_too_large" Alert(DECODE_ERROR),
            "the ClientHello is larger than limits.client_hello_bytes; raise the limit if the client is right";
        SniMissing "sni_missing" Alert(UNRECOGNIZED_NAME),
            "the ClientHello names no server; the client must send SNI";
        SniMismatch "sni_mismatch" Alert(UNRECOGNIZED_NAME),
            "the ClientHello names another server than CONNECT did; the client must use one name for both";
        TlsVersionDenied "tls_version_denied" Alert(PROTOCOL_VERSION),
            "the client offers no TLS version that policy.min_tls allows; update the client";
        ServerTlsVersionDenied "server_tls_version_denied" Alert(PROTOCOL_VERSION),
            "the server chose a TLS version that policy.min_tls does not allow; update the server";
        EchDenied "ech_denied" Alert(ACCESS_DENIED),
            "the ClientHello carries encrypted_client_hello and policy.ech is \"deny\"; turn ECH off in the client";
    }
}

vocabulary! {
    /// Why a permitted attempt failed.
    Failure {
        RequestTimeout "request_timeout" Http(408, "http_request_error"),
            "the request head did not arrive within timeouts.request; send it at once";
        DnsFailed "dns_failed" Http(502, "dns_error"),
            "the name has no address that the tunnel can use; check the name and the resolver";
        ConnectRefused "connect_refused" Http(502, "connection_refused"),
            "the upstream refused the connection; check that it listens on this port";
        ConnectUnreachable "connect_unreachable" Http(502, "destination_ip_unroutable"),
            "the upstream cannot be reached from the egress address; check routes and firewall";
        ConnectReset "connect_reset" Http(502, "connection_terminated"),
            "the upstream reset the connection while it was being set up; check firewall and upstream";
        EgressUnavailable "egress_unavailable" Http(503, "proxy_configuration_error"),
            "no static address can be used as the source; the operator must bring it back to the host";
        EgressLost "egress_lost" Close,
            "the egress address left this host while the tunnel was being set up, and stayed away for egress.loss_grace; connect again, the operator must bring the address back";
        EgressPortsExhausted "egress_ports_exhausted" Http(503, "connection_limit_reached"),
            "the static address has no free port towards this upstream; add an egress address";
        DnsTimeout "dns_timeout" Http(504, "dns_timeout"),
            "the resolver did not answer within dns.timeout; try again, check the resolver";
        ConnectTimeout "connect_timeout" Http(504, "connection_timeout"),
            "the upstream did not answer within timeouts.connect; try again, check routes and firewall";
        ClientHelloTimeout "client_hello_timeout" Close,
            "the ClientHello did not arrive within timeouts.client_hello, or a second one that the server asked for within timeouts.server_hello; the client must send it at once";
        ServerHelloTimeout "server_hello_timeout" Close,
            "the upstream's ServerHello did not arrive within timeouts.server_hello; look at the upstream and the way to it";
        ServerNotTls "server_not_tls" Close,
            "the upstream's first bytes are not TLS; check host and port";
        ServerHelloMalformed "server_hello_malformed" Close,
            "the upstream's ServerHello is malformed or out of turn; look at the upstream, error in the audit record says what is wrong";
        UpstreamClosed "closed_by_upstream" Close,
            "the upstream closed the connection before its ServerHello, or before the ClientHello had come; look at the upstream";
        UpstreamReset "reset_by_upstream" Close,
            "the upstream reset the connection before its ServerHello, or before the ClientHello had come; look at the upstream and at firewalls";
        UpstreamAlert "alert_by_upstream" Close,
            "the upstream ended the handshake with a TLS alert, which the client gets; error in the audit record says which, look at the upstream and at what the client offers";
        ClientClosed "closed_by_client" Close,
            "the client closed the connection before its ClientHello was whole, before the upstream was connected, or before the ServerHello, which then did not come; look at the client if it happens often";
        ClientReset "reset_by_client" Close,
            "the client reset the connection before a tunnel stood; look at the client if it happens often";
        ClientAlert "alert_by_client" Close,
            "the client ended the handshake with a TLS alert before the upstream's ServerHello; error in the audit record says which, look at the client";
        EndedByOperator "ended_by_operator" Http(503, "connection_terminated"),
            "an operator ended this attempt with sealway end; ask the operator why, error in the audit record says it";
        InternalError "internal_error" Close,
            "the daemon failed for a reason of its own before the ServerHello; report it with the error in the audit record";
        Drained "drained" Close,
            "the daemon stopped before the ServerHello had come; connect again";
    }
}

vocabulary! {
    /// How a permitted tunnel ended.
    Ending {
        ClosedByClient "closed_by_client" Close, "both sides ended, the client first";
        ClosedByUpstream "closed_by_upstream" Close, "both sides ended, the upstream first";
        ResetByClient "reset_by_client" Close, "the client reset the connection, or could no longer be reached";
        ResetByUpstream "reset_by_upstream" Close, "the upstream reset the connection, or could no longer be reached";
        IdleTimeout "idle_timeout" Close, "no byte went either way for timeouts.idle";
        HalfCloseTimeout "half_close_timeout" Close, "one side had ended and the other was silent for timeouts.half_close";
        Stalled "stalled" Close, "bytes waited for a side that took none, or hardly any, of them for timeouts.stalled, or in more tunnels of one user than limits.stalled_per_user";
        MaxAge "max_age" Close, "the tunnel reached timeouts.max_age";
        EgressLost "egress_lost" Close, "the egress address that the tunnel left from was away from this host for egress.loss_grace";
        Drained "drained" Close, "the tunnel outlived timeouts.drain while the daemon was stopping";
        Revoked "revoked" Close, "a reload or the user's expiry took back what allowed it, and timeouts.drain is over; revoked_by and error in the audit record say what";
        EndedByOperator "ended_by_operator" Close, "an operator ended the tunnel with sealway end; error in the audit record says who and why";
        InternalError "internal_error" Close, "the relay failed for a reason of its own; error in the audit record says which";
    }
}

impl End {
    /// The short code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Denied(reason) => reason.code(),
            Self::Failed(failure) => failure.code(),
            Self::Ended(ending) => ending.code(),
        }
    }

    /// The audit record's `outcome`.
    #[must_use]
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Failed(_) => "failed",
            Self::Ended(_) => "allowed",
        }
    }

    /// The reply to the client.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            Self::Denied(reason) => reason.reply(),
            Self::Failed(failure) => failure.reply(),
            Self::Ended(ending) => ending.reply(),
        }
    }

    /// The cause and the cure.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Denied(reason) => reason.explanation(),
            Self::Failed(failure) => failure.explanation(),
            Self::Ended(ending) => ending.explanation(),
        }
    }

    /// The cause and the cure separately; an ending needs no cure.
    #[must_use]
    pub fn cause_and_cure(self) -> (&'static str, &'static str) {
        self.explanation()
            .split_once("; ")
            .unwrap_or((self.explanation(), ""))
    }
}

impl Lookup {
    /// All endings.
    pub const ALL: [Self; 6] = [
        Self::Ok,
        Self::Fixed,
        Self::Stale,
        Self::Timeout,
        Self::NoAddress,
        Self::Failed,
    ];

    /// The metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fixed => "fixed",
            Self::Stale => "stale",
            Self::Timeout => "timeout",
            Self::NoAddress => "no_address",
            Self::Failed => "failed",
        }
    }
}

impl From<DenyReason> for End {
    fn from(reason: DenyReason) -> Self {
        Self::Denied(reason)
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        Self::Ended(ending)
    }
}

/// RFC 8446, section 6.2.
const ACCESS_DENIED: u8 = 49;
/// RFC 8446, section 6.2.
const DECODE_ERROR: u8 = 50;
/// RFC 8446, section 6.2.
const PROTOCOL_VERSION: u8 = 70;
/// RFC 6066, section 3.
const UNRECOGNIZED_NAME: u8 = 112;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_within_their_kind_and_short() {
        let denied: Vec<_> = DenyReason::ALL.iter().map(|r| r.code()).collect();
        let failed: Vec<_> = Failure::ALL.iter().map(|f| f.code()).collect();
        let ended: Vec<_> = Ending::ALL.iter().map(|e| e.code()).collect();
        for codes in [&denied, &failed, &ended] {
            assert_eq!(codes.iter().collect::<HashSet<_>>().len(), codes.len());
            assert!(
                codes
                    .iter()
                    .all(|c| c.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
            );
        }
        assert!(denied.iter().all(|code| !failed.contains(code)));
    }

    #[test]
    fn every_refusal_and_failure_says_what_to_do() {
        let denied = DenyReason::ALL.iter().map(|reason| End::from(*reason));
        for end in denied.chain(Failure::ALL.iter().map(|failure| End::from(*failure))) {
            let (cause, cure) = end.cause_and_cure();
            assert!(
                !cause.is_empty() && !cure.is_empty(),
                "{}: {:?}",
                end.code(),
                end.explanation()
            );
        }
    }
}
