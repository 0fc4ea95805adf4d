//! What is wrong between the proxy and the provider, and around the tunnel: D07 to D11, D13, D14.

use super::verdicts;

verdicts! {
    TLS_OPENED D07 "tls_is_opened"
        "the certificate of {host} is issued by {issuer}, so a device between here and the provider opens TLS and reads the key and the prompts; the key was not sent",
        "exempt {host} from inspection in that device";
    TLS_NAME D07 "tls_wrong_name"
        "the certificate that {host} presents is for {names}, so another server answers; the key was not sent",
        "correct DNS of the tunnel's machine, or the host",
        "sealway explain {host}";
    TLS_EXPIRED D07 "tls_not_valid_now"
        "the certificate of {host} is not valid now; it ends at {until}; the key was not sent",
        "set the clock of this machine",
        "timedatectl set-ntp true";
    HELLO_BIG D08 "big_hello_dropped"
        "the handshake with {host} succeeds with a small ClientHello and fails with a post-quantum one of two segments, so a device on the path drops large hellos",
        "update or bypass that device; until then turn X25519MLKEM768 off in the client, such as GODEBUG=tlsmlkem=0 for Go";
    HELLO_SPLIT D08 "split_hello_dropped"
        "the handshake with {host} fails if the ClientHello arrives in two pieces, so a device on the path reads only the first",
        "update or bypass that device";
    TUNNEL_ALERT D09 "tunnel_alert"
        "the tunnel ends the TLS handshake with the alert {alert}: {codes}",
        "{cure}",
        "sealway explain {host}:{port}";
    INNER_TLS D09 "provider_tls_failed"
        "the TLS handshake with {host} fails through the tunnel: {reason}",
        "read the tunnel's audit record of this tunnel: its code names the cause",
        "sealway audit report /var/log/sealway/audit.jsonl";
    DIRECT D10 "direct_connection_possible"
        "{host} can be reached from here without the tunnel (at {address}), so a client that ignores the proxy leaves from another address",
        "allow this machine's applications to reach only the tunnel",
        "nft --file deploy/nftables/application-host.nft";
    KEY_MISSING D11 "key_not_set"
        "the variable {key_env} is not set or empty, so the API was not asked",
        "export it in this shell, without writing the key into the command's arguments",
        "read -rs {key_env} && export {key_env}";
    KEY_MALFORMED D11 "key_malformed"
        "the key in {key_env} has a space, a line end, a quote or a character outside ASCII, so it was not sent",
        "store it again without them",
        "read -rs {key_env} && export {key_env}";
    NO_ANSWER D11 "api_no_answer"
        "{host} gives no whole answer: {reason}",
        "try again; if it lasts, read the tunnel's audit record of this tunnel",
        "sealway tunnels --host {host}";
    TIME_UP D11 "time_used_up"
        "the checks did not end within {limit}, and those that ran found nothing",
        "run the doctor again without --quick, or with a longer --timeout; --verbose shows how far it came",
        "sealway doctor --timeout 20 --verbose";
    NOT_FOUND D11 "api_not_found"
        "{host} answered {status}, so it does not serve this API",
        "correct --endpoint or --provider";
    IPV6_DIRECT D13 "ipv6_bypasses_tunnel"
        "{host} can be reached from here by IPv6 without the tunnel (at {address}), and the tunnel's addresses are IPv4: clients that prefer IPv6 are refused",
        "block direct connections of both families",
        "nft --file deploy/nftables/application-host.nft";
    IPV6_SEEN D13 "ipv6_not_listed"
        "the provider saw {seen}, an IPv6 address, and the tunnel's addresses are IPv4: {egress}",
        "add the IPv6 address to egress.addresses and to the key if it is the tunnel's; otherwise block IPv6 from the application's machine",
        "nft --file deploy/nftables/application-host.nft";
    STREAM_GAP D14 "stream_gap"
        "a stream from {host} was silent for {gap}, longer than {limit}; balancers and clients end such streams",
        "raise the idle limits on the path, and let the client send TCP keepalives";
    STREAM_CUT D14 "stream_cut"
        "a stream from {host} ended before its last event: {reason}",
        "read the tunnel's audit record of this tunnel; look for a balancer or firewall with a short limit",
        "sealway tunnels --host {host}";
    IDLE_CUT D14 "idle_session_cut"
        "a session that was idle for {idle} is dead: a NAT or firewall on the path forgot it",
        "raise its limit, or set keepalive of client and tunnel below it (timeouts.keepalive)";
}
