//! What is wrong with the application's environment and the proxy: D01 to D06, D15.

use super::verdicts;

verdicts! {
    PROXY_NOT_SET D01 "proxy_not_set"
        "no proxy variable is set, so clients connect directly",
        "set HTTPS_PROXY for the application's process, or name the proxy with --proxy",
        "export HTTPS_PROXY=http://NAME:SECRET@HOST:9293";
    PROXY_CASES_DIFFER D01 "proxy_cases_differ"
        "HTTPS_PROXY and https_proxy name different proxies, and clients differ in which one they read",
        "set both to the same URL",
        "export https_proxy=\"$HTTPS_PROXY\"";
    PROXY_VARIABLE_DIFFERS D01 "proxy_variable_differs"
        "{variable} names another proxy than --proxy, and clients use the variable",
        "set the variable to the URL of --proxy, or unset it if the application configures its proxy itself",
        "unset {variable}";
    NO_PROXY_MATCHES D01 "no_proxy_matches"
        "{variable} has the entry {entry}, which matches {host}, so clients connect to it directly",
        "remove the entry",
        "export {variable}={rest}";
    URL_INVALID D02 "proxy_url_invalid"
        "the proxy URL cannot be read: {reason}",
        "write it as http://NAME:SECRET@HOST:9293, or https:// for a TLS listener";
    URL_SCHEME D02 "proxy_url_scheme"
        "the proxy URL has the scheme {scheme}, and the tunnel speaks HTTP CONNECT only",
        "use http:// for a cleartext listener and https:// for a TLS listener";
    URL_NO_SCHEME D02 "proxy_url_no_scheme"
        "the proxy URL has no scheme; some clients refuse it, and others guess",
        "begin it with http:// or, for a TLS listener, https://";
    URL_NO_PORT D02 "proxy_url_no_port"
        "the proxy URL has no port, and clients differ in the default: 80, 443 or 1080",
        "name the listener's port, by default 9293";
    URL_ENCODING D02 "proxy_url_encoding"
        "the name or secret in the proxy URL has a character that must be percent-encoded, such as @ / : # ? % or a letter outside ASCII",
        "encode the secret; this command asks for it and prints it encoded",
        "python3 -c 'import getpass, urllib.parse; print(urllib.parse.quote(getpass.getpass(), safe=\"\"))'";
    PROXY_DNS D03 "proxy_dns_failed"
        "the proxy's name {proxy_host} has no address here: {reason}",
        "correct the name, or the resolver of this machine",
        "getent ahosts {proxy_host}";
    PROXY_REFUSED D03 "proxy_connect_refused"
        "nothing listens at {address}",
        "start the tunnel, or correct host and port; on the tunnel's machine the command shows its listeners",
        "ss -ltn";
    PROXY_TIMEOUT D03 "proxy_connect_timeout"
        "{address} does not answer within {limit}: a firewall drops the packets, or the address is wrong",
        "open the port to this client in the firewall or the cloud's security group";
    PROXY_UNREACHABLE D03 "proxy_unreachable"
        "{address} cannot be reached from here: {reason}",
        "check routes and firewall; if it is an IPv6 address and this machine has no IPv6, remove it from DNS",
        "ip route get {ip}";
    PROXY_CLOSED D03 "proxy_closed"
        "the proxy at {address} closes the connection without an answer",
        "if a balancer is before the listener, the listener needs proxy_protocol; without one it must not have it; the tunnel's log names the client";
    PROXY_SPEAKS_TLS D04 "proxy_speaks_tls"
        "the listener speaks TLS, and the URL begins with http://",
        "use https:// in the proxy URL",
        "export HTTPS_PROXY=https://{userinfo}{proxy_host}:{proxy_port}";
    PROXY_SPEAKS_CLEARTEXT D04 "proxy_speaks_cleartext"
        "the listener speaks cleartext, and the URL begins with https://",
        "use http:// in the proxy URL, or the port of the TLS listener",
        "export HTTPS_PROXY=http://{userinfo}{proxy_host}:{proxy_port}";
    PROXY_NOT_HTTP D04 "proxy_not_http"
        "the proxy's answer is neither HTTP nor TLS, so another service listens at {address}",
        "correct the port";
    PROXY_CERTIFICATE_EXPIRED D05 "proxy_certificate_expired"
        "the proxy's certificate is not valid now; it ends at {until}",
        "renew it on the tunnel's machine, or set the clock of this one",
        "sealway-hop --check";
    PROXY_CERTIFICATE_SOON D05 "proxy_certificate_ends_soon"
        "the proxy's certificate ends at {until}, in less than {days} days",
        "renew it on the tunnel's machine, then reload the hop",
        "systemctl reload sealway-hop";
    PROXY_CERTIFICATE_NAME D05 "proxy_certificate_name"
        "the proxy's certificate is not for {proxy_host}; it names {names}",
        "use one of these names in the proxy URL, or issue a certificate for {proxy_host}";
    PROXY_CERTIFICATE_UNTRUSTED D05 "proxy_certificate_untrusted"
        "no authority that is trusted here issued the proxy's certificate; its issuer is {issuer}",
        "name the authority's certificate with --proxy-ca, and give it to the application too",
        "sealway doctor --proxy {proxy} --proxy-ca {file}";
    PROXY_WANTS_CERTIFICATE D05 "proxy_wants_certificate"
        "the proxy asks for a client certificate, and none was given",
        "name one with --cert and --cert-key",
        "sealway doctor --proxy {proxy} --cert {file} --cert-key {key_file}";
    PROXY_REFUSES_CERTIFICATE D05 "proxy_refuses_certificate"
        "the proxy refuses the client certificate with the alert {alert}",
        "use one that its authorities issued and that is neither expired nor revoked; the tunnel's audit has a hop_event with the reason";
    PROXY_TLS D05 "proxy_tls_failed"
        "the TLS handshake with the proxy fails: {reason}",
        "update the client; the hop takes TLS 1.2 and 1.3 with AEAD suites";
    TUNNEL_CODE D06 "tunnel_refused"
        "the tunnel refuses with {code}: {cause}",
        "{cure}",
        "sealway explain {host}:{port}";
    PROXY_OPEN D06 "proxy_needs_no_credentials"
        "the proxy grants a tunnel without credentials, although the URL has them, so anyone at this client's address can use it",
        "add users to the tunnel (sealway user add), or take the credentials out of the URL",
        "sealway user add {user} --config /etc/sealway/sealway.toml";
    OTHER_PROXY D06 "other_proxy"
        "another proxy than Sealway refuses with {status}{by}",
        "correct the proxy URL, or ask the operator of that proxy";
    CONNECT_TIMEOUT D06 "connect_timeout"
        "the proxy does not answer CONNECT within {limit}: a firewall behind the tunnel drops packets to {host}, DNS of the tunnel's machine is slow, or the tunnel hangs",
        "run the doctor again with --timeout 20, longer than timeouts.connect, and read the tunnel's own code; if there is none again, look at the tunnel",
        "sealway doctor --timeout 20\nsealway top --once";
    GRPC_SCHEME D15 "grpc_https_proxy"
        "{variable} is an https:// URL, which gRPC cannot use as a proxy",
        "run sealway-agent beside the application and set the variable to its http:// URL",
        "sealway agent --help";
    GRPC_DIFFERS D15 "grpc_proxy_differs"
        "grpc_proxy names another proxy, and gRPC prefers it",
        "set it to the same URL",
        "export grpc_proxy=\"$HTTPS_PROXY\"";
    NO_GRPC_PROXY D15 "no_grpc_proxy_matches"
        "no_grpc_proxy has the entry {entry}, which matches {host}, so gRPC connects to it directly",
        "remove the entry",
        "export no_grpc_proxy={rest}";
    JAVA_BASIC D15 "java_disables_basic"
        "Java is used here (JAVA_TOOL_OPTIONS or JDK_JAVA_OPTIONS), and it does not send Basic credentials to a proxy for HTTPS",
        "allow it",
        "export JDK_JAVA_OPTIONS=\"$JDK_JAVA_OPTIONS -Djdk.http.auth.tunneling.disabledSchemes=\"";
    JAVA_PROXY D15 "java_ignores_variables"
        "Java is used here (JAVA_TOOL_OPTIONS or JDK_JAVA_OPTIONS), and it reads https.proxyHost, not HTTPS_PROXY",
        "set both properties, or a ProxySelector in the application",
        "export JDK_JAVA_OPTIONS=\"$JDK_JAVA_OPTIONS -Dhttps.proxyHost={proxy_host} -Dhttps.proxyPort={proxy_port}\"";
    NODE_FETCH D15 "node_fetch_ignores_variables"
        "Node is used here (NODE_OPTIONS, NODE_ENV or NODE_VERSION), and its fetch ignores HTTPS_PROXY unless it is told to",
        "set the variable (Node 24 and later), or setGlobalDispatcher(new ProxyAgent(url)) from undici",
        "export NODE_USE_ENV_PROXY=1";
}
