//! Every code with its reply, its cause and its cure.
//!
//! Reply, metric, audit record, `/status` and the tables of `docs/reference.md` have their texts from
//! here, so a text is plain, without Markdown. Error types in `Proxy-Status` follow RFC 9209, section
//! 2.3.

use super::Reply::{self, Alert, Close, Http};

macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident {
        $($variant:ident $code:literal $reply:expr, $cause:literal $(, $cure:literal)?;)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", $code, "`: ", $cause)] $variant,)+
        }

        impl $name {
            /// All variants, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The short code in reply, metric, audit record and test.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The variant with this code.
            #[must_use]
            pub fn of_code(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.code() == code)
            }

            /// The reply to the client.
            #[must_use]
            pub fn reply(self) -> Reply {
                match self { $(Self::$variant => $reply,)+ }
            }

            /// Why it happened.
            #[must_use]
            pub fn cause(self) -> &'static str {
                match self { $(Self::$variant => $cause,)+ }
            }

            /// What to do; empty for an ending, which needs no cure.
            #[must_use]
            pub fn cure(self) -> &'static str {
                match self { $(Self::$variant => concat!($($cure)?),)+ }
            }
        }
    };
}

vocabulary! {
    /// Why policy, protocol or a limit refused an attempt.
    DenyReason {
        BadRequest "bad_request" Http(400, "http_request_error"),
            "the CONNECT request is malformed",
            "send CONNECT host:port HTTP/1.1 without a body";
        TlsOnCleartext "tls_on_cleartext" Alert(PROTOCOL_VERSION),
            "the client speaks TLS to a listener without TLS",
            "use http:// in the proxy URL, or https:// with the address of a listener with tls";
        ProxyHeaderInvalid "proxy_header_invalid" Http(400, "http_request_error"),
            "the listener has proxy_protocol, and the connection does not begin with a valid PROXY protocol header",
            "turn the header on in the balancer, such as send-proxy-v2; error in the audit record says what is wrong";
        ClientDenied "client_denied" Http(403, "http_request_denied"),
            "the client's address is not in auth.clients, or not in the user's sources; or the peer, which gets no answer, is not in proxy_protocol.from of the listener",
            "ask the operator to add it there";
        HostDenied "host_denied" Http(403, "http_request_denied"),
            "no preset and no rule allows this host, or none of the user's rules does",
            "ask the operator to add it to policy.allow";
        PortDenied "port_denied" Http(403, "http_request_denied"),
            "the rules allow this host, but not on this port",
            "ask the operator to add host:port to policy.allow";
        IpLiteralDenied "ip_literal_denied" Http(403, "http_request_denied"),
            "the target is an address, and a tunnel needs a name to compare with SNI",
            "use the host's name";
        DestinationDenied "destination_denied" Http(403, "destination_ip_prohibited"),
            "the address guard forbids an address of this name: it is not globally reachable, is this host's own, or is outside of policy.destination_ranges",
            "ask the operator to add the address to policy.allow_destinations, or to download newer ranges";
        MethodNotAllowed "method_not_allowed" Http(405, "http_request_denied"),
            "the method is not CONNECT",
            "set the proxy for https URLs only";
        AuthRequired "auth_required" Http(407, "http_request_denied"),
            "credentials are required",
            "put them into the proxy URL, http://NAME:SECRET@HOST:PORT";
        AuthFailed "auth_failed" Http(407, "http_request_denied"),
            "the credentials are wrong, expired, disabled or not Basic",
            "ask the operator for a new secret, sealway user rotate NAME";
        AuthLocked "auth_locked" Http(407, "http_request_denied"),
            "the credentials are wrong, after too many different wrong ones for this name or from this client",
            "use the right secret, which is accepted at any time";
        UserLimit "user_limit" Http(429, "connection_limit_reached"),
            "the user has as many tunnels as allowed",
            "close some, or ask the operator to raise the user's tunnels or limits.tunnels_per_user";
        ClientLimit "client_limit" Http(429, "connection_limit_reached"),
            "the client has as many tunnels as allowed, opens them too fast, or had the most pending connections when there were too many",
            "close some, slow down, or ask the operator to raise limits.tunnels_per_client, limits.accept_rate, limits.connect_rate or limits.pending";
        HeadTooLarge "head_too_large" Http(431, "http_request_error"),
            "the request head is larger than limits.head_bytes or has more than 64 fields",
            "send fewer or shorter header fields";
        TunnelLimit "tunnel_limit" Http(503, "connection_limit_reached"),
            "limits.tunnels tunnels are open or being set up, or no descriptor or memory is left for another",
            "try again later; the operator can raise limits.tunnels or LimitNOFILE";
        Draining "draining" Http(503, "destination_unavailable"),
            "the daemon is stopping, or sealway drain was called",
            "connect again, to another instance if there is one; sealway undrain ends a drain";
        AuditUnavailable "audit_unavailable" Http(503, "proxy_internal_error"),
            "audit records cannot be written, and audit.on_failure is \"deny\"",
            "the operator finds the reason in the log: make room on the disk, or repair the log stream";
        NotTls "not_tls" Close,
            "the client's first bytes after the 200 are not TLS",
            "send nothing but TLS through the tunnel";
        ClientHelloMalformed "client_hello_malformed" Alert(DECODE_ERROR),
            "the ClientHello is malformed or truncated, or the client sent something else before the ServerHello",
            "update the client; error in the audit record says what is wrong";
        ClientHelloTooLarge "client_hello_too_large" Alert(DECODE_ERROR),
            "the ClientHello is larger than limits.client_hello_bytes or 128 records, or is unfinished beyond 4 KiB while the memory for hellos is used up",
            "raise the limit if the client is right; error in the audit record says so if it is the memory";
        SniMissing "sni_missing" Alert(UNRECOGNIZED_NAME),
            "the ClientHello names no server",
            "make the client send SNI";
        SniMismatch "sni_mismatch" Alert(UNRECOGNIZED_NAME),
            "SNI is not the CONNECT host; only letter case and one trailing dot may differ",
            "use one name for both";
        TlsVersionDenied "tls_version_denied" Alert(PROTOCOL_VERSION),
            "the client offers no TLS version that policy.min_tls allows",
            "update the client";
        ServerTlsVersionDenied "server_tls_version_denied" Alert(PROTOCOL_VERSION),
            "the server chose a TLS version that policy.min_tls does not allow or that is unknown to Sealway; both sides get the alert",
            "update the server";
        EchDenied "ech_denied" Alert(ACCESS_DENIED),
            "the ClientHello has encrypted_client_hello, and policy.ech is \"deny\"",
            "turn ECH off in the client";
    }
}

vocabulary! {
    /// Why a permitted attempt failed.
    Failure {
        RequestTimeout "request_timeout" Http(408, "http_request_error"),
            "the complete request head did not arrive within timeouts.request",
            "send it at once";
        DnsFailed "dns_failed" Http(502, "dns_error"),
            "the name has no address of a family with an egress address, the answer exceeds a bound, or DNS answered with an error",
            "check the name and the resolver";
        ConnectRefused "connect_refused" Http(502, "connection_refused"),
            "the upstream refused the connection",
            "check that it listens on this port";
        ConnectUnreachable "connect_unreachable" Http(502, "destination_ip_unroutable"),
            "the upstream cannot be reached from the egress address",
            "check routes and firewall";
        ConnectReset "connect_reset" Http(502, "connection_terminated"),
            "the connection to the upstream was reset while it was being established",
            "check the firewall and the upstream";
        EgressUnavailable "egress_unavailable" Http(503, "proxy_configuration_error"),
            "no egress address of this family is on this host, the user has none, or the kernel does not say which addresses are local",
            "the operator restores the address or changes the user's egress; error in the audit record says which";
        EgressLost "egress_lost" Close,
            "the egress address was away from this host for egress.loss_grace while the tunnel was being set up; the client is reset",
            "connect again; the operator restores the address";
        EgressPortsExhausted "egress_ports_exhausted" Http(503, "connection_limit_reached"),
            "the egress address has no free port to this upstream",
            "add an egress address";
        DnsTimeout "dns_timeout" Http(504, "dns_timeout"),
            "no answer arrived within dns.timeout, or the look-up did not get its turn",
            "try again; check the resolver";
        ConnectTimeout "connect_timeout" Http(504, "connection_timeout"),
            "look-up and connect took longer than timeouts.connect",
            "try again; check routes and firewall";
        ClientHelloTimeout "client_hello_timeout" Close,
            "the complete ClientHello did not arrive within timeouts.client_hello, or a second one, which the server asked for, within timeouts.server_hello",
            "send it at once";
        ServerHelloTimeout "server_hello_timeout" Close,
            "the complete ServerHello did not arrive within timeouts.server_hello",
            "check the upstream and the path to it";
        ServerNotTls "server_not_tls" Close,
            "the upstream's first bytes are not TLS",
            "check host and port";
        ServerHelloMalformed "server_hello_malformed" Close,
            "the upstream's answer is malformed or out of order",
            "check the upstream; error in the audit record says what is wrong";
        UpstreamClosed "closed_by_upstream" Close,
            "the upstream closed before its ServerHello, or before the ClientHello arrived",
            "check the upstream";
        UpstreamReset "reset_by_upstream" Close,
            "the upstream reset the connection before its ServerHello, or before the ClientHello arrived; the client is reset too",
            "check the upstream and firewalls";
        UpstreamAlert "alert_by_upstream" Close,
            "the upstream ended the handshake with a TLS alert, which the client gets",
            "check the upstream, and what the client offers; error in the audit record names the alert";
        ClientClosed "closed_by_client" Close,
            "the client closed, at least for sending, before its ClientHello was complete or before the upstream was connected; or it closed before the ServerHello, and the upstream then closed or was silent for timeouts.server_hello",
            "keep both directions open until the TLS session ends";
        ClientReset "reset_by_client" Close,
            "the client reset the connection before the tunnel was established",
            "check the client if it happens often";
        ClientAlert "alert_by_client" Close,
            "the client ended the handshake with a TLS alert before the ServerHello",
            "check the client; error in the audit record names the alert";
        EndedByOperator "ended_by_operator" Http(503, "connection_terminated"),
            "an operator ended the attempt (sealway end) before the tunnel was established; after the 200 both sides are reset",
            "ask the operator; error in the audit record says who and why";
        InternalError "internal_error" Close,
            "the daemon failed for an internal reason before the ServerHello",
            "report it with the error in the audit record";
        Drained "drained" Close,
            "the daemon stopped between the 200 and the ServerHello",
            "connect again";
    }
}

vocabulary! {
    /// How a permitted tunnel ended.
    Ending {
        ClosedByClient "closed_by_client" Close,
            "both sides ended, the client first";
        ClosedByUpstream "closed_by_upstream" Close,
            "both sides ended, the upstream first";
        ResetByClient "reset_by_client" Close,
            "the client reset the connection, or is no longer reachable";
        ResetByUpstream "reset_by_upstream" Close,
            "the upstream reset the connection, or is no longer reachable";
        IdleTimeout "idle_timeout" Close,
            "no byte in either direction for timeouts.idle";
        HalfCloseTimeout "half_close_timeout" Close,
            "one side had ended, and the other was silent for timeouts.half_close";
        Stalled "stalled" Close,
            "bytes waited for a side that took less than 256 KiB of them in timeouts.stalled, or in 5 s while the user had limits.stalled_per_user other stalled tunnels; error in the audit record names the side";
        MaxAge "max_age" Close,
            "the tunnel reached timeouts.max_age";
        EgressLost "egress_lost" Close,
            "the tunnel's egress address was away from this host for egress.loss_grace";
        Drained "drained" Close,
            "the tunnel outlived timeouts.drain, or a second signal came";
        HandoverLost "handover_lost" Close,
            "no daemon continued the tunnel after a hand-over, and both sides were reset; error in the audit record says why, and the bytes are those at the hand-over";
        Revoked "revoked" Close,
            "a reload or the user's expires withdrew a permission of the tunnel, and timeouts.drain has passed; revoked_by and error in the audit record name the rule";
        EndedByOperator "ended_by_operator" Close,
            "an operator ended the tunnel (sealway end); error in the audit record says who and why";
        InternalError "internal_error" Close,
            "the relay failed for an internal reason; error in the audit record gives it";
    }
}

impl Ending {
    /// Whether both sides ended by themselves. After any other ending both connections are reset.
    #[must_use]
    pub fn is_orderly(self) -> bool {
        matches!(self, Self::ClosedByClient | Self::ClosedByUpstream)
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
