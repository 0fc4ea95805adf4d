//! What is wrong between the proxy and the provider, and around the tunnel: D07 to D11, D13, D14.

use super::verdicts;

verdicts! {
    TLS_OPENED D07 "tls_is_opened"
        "the certificate of {host} is issued by {issuer}: a device between here and the provider decrypts TLS, so it could read the key and the prompts; the key was not sent",
        "exempt {host} from TLS inspection in that device";
    TLS_NAME D07 "tls_wrong_name"
        "the certificate that answers for {host} is for {names}, so another server answers; the key was not sent",
        "correct the host (--endpoint), or DNS on the tunnel's machine, where this command shows the addresses",
        "sealway explain --config /etc/sealway/sealway.toml {host}";
    TLS_EXPIRED D07 "tls_not_valid_now"
        "the certificate of {host} is not valid now; it ends at {until}; the key was not sent",
        "set the clock of this machine",
        "timedatectl set-ntp true";
    HELLO_BIG D08 "big_hello_dropped"
        "the TLS handshake with {host} fails with a large (post-quantum) ClientHello and succeeds with a small one, so a device on the path drops large ClientHellos",
        "update or bypass that device; until then, turn X25519MLKEM768 off in the client, such as GODEBUG=tlsmlkem=0 for Go";
    HELLO_SPLIT D08 "split_hello_dropped"
        "the TLS handshake with {host} fails if the ClientHello arrives in two pieces, so a device on the path reads only the first piece",
        "update or bypass that device";
    TUNNEL_ALERT D09 "tunnel_alert"
        "the tunnel ends the TLS handshake with the alert {alert}: {codes}",
        "{cure}; on the tunnel's machine, this command shows what its configuration decides",
        "sealway explain --config /etc/sealway/sealway.toml {host}:{port}";
    INNER_TLS D09 "provider_tls_failed"
        "the TLS handshake with {host} fails through the tunnel: {reason}",
        "read the code in the tunnel's audit record of this connection, on the tunnel's machine",
        "sealway audit report /var/log/sealway/audit.jsonl";
    DIRECT D10 "direct_connection_possible"
        "this machine can connect to {host} without the tunnel (at {address}), so a client that ignores the proxy leaves from another address, which the provider refuses",
        "let this machine connect to the tunnel only: the first command writes firewall rules to a file; add what else the machine needs, such as its name server, to the sets others4 and others6 in it; the second command loads them",
        "{again} --print-rules >application-host.nft\nnft --file application-host.nft";
    KEY_MISSING D11 "key_not_set"
        "the variable {key_env} is empty or not set, so the API was not asked",
        "set it in this shell; this command reads the key without showing it",
        "read -rs {key_env} && export {key_env}";
    KEY_MALFORMED D11 "key_malformed"
        "the key in {key_env} has a space, a line end, a quote or a character outside ASCII, so it was not sent",
        "set it again without them; this command reads the key without showing it",
        "read -rs {key_env} && export {key_env}";
    NO_ANSWER D11 "api_no_answer"
        "{host} gives no complete answer: {reason}",
        "try again; if it fails again, read the tunnel's audit record of this connection, on the tunnel's machine",
        "sealway audit report /var/log/sealway/audit.jsonl";
    TIME_UP D11 "time_used_up"
        "the checks did not end within {limit}; those that ran found nothing",
        "run the doctor again with a longer limit; --verbose shows how far it comes",
        "{again} --timeout 20 --verbose";
    NOT_FOUND D11 "api_not_found"
        "{host} answers {status}, so this host does not serve the API",
        "correct --endpoint or --provider";
    IPV6_DIRECT D13 "ipv6_bypasses_tunnel"
        "this machine can connect to {host} by IPv6 without the tunnel (at {address}), and the tunnel's addresses are IPv4: the provider refuses clients that prefer IPv6 and ignore the proxy",
        "let this machine connect to the tunnel only, as for direct_connection_possible; the rules hold for both families",
        "{again} --print-rules >application-host.nft\nnft --file application-host.nft";
    IPV6_SEEN D13 "ipv6_not_listed"
        "the provider saw the IPv6 address {seen}, and the tunnel's addresses are IPv4: {egress}",
        "if {seen} is an address of the tunnel's machine, add it to egress.addresses and to the key's list; otherwise the request bypassed the tunnel: let this machine connect to the tunnel only",
        "{again} --print-rules >application-host.nft\nnft --file application-host.nft";
    STREAM_GAP D14 "stream_gap"
        "a stream from {host} was silent for {gap}, longer than {limit}; load balancers and clients end such streams",
        "raise the idle limits on the path, and let the client send TCP keepalives";
    STREAM_CUT D14 "stream_cut"
        "a stream from {host} ended before its last event: {reason}",
        "look for a load balancer or a firewall with a short limit; the tunnel's audit record of this connection says which side ended it",
        "sealway audit report /var/log/sealway/audit.jsonl";
    IDLE_CUT D14 "idle_session_cut"
        "a connection that was idle for {idle} is dead: a NAT or a firewall on the path has forgotten it",
        "raise the limit there above 60 s, after which the tunnel sends TCP keepalives, and let the client send TCP keepalives at a shorter interval than the limit";
}
