//! What is wrong with the application's environment and the proxy: D01 to D06, D15.

use super::verdicts;

verdicts! {
    PROXY_NOT_SET D01 "proxy_not_set"
        "no proxy is set (HTTPS_PROXY), so clients connect to the provider directly, not through the tunnel",
        "set HTTPS_PROXY for the application's process, or name the proxy here with --proxy",
        "export HTTPS_PROXY=http://NAME:SECRET@HOST:9293";
    PROXY_CASES_DIFFER D01 "proxy_cases_differ"
        "HTTPS_PROXY and https_proxy name different proxies; some clients read the first and some the second",
        "set both to the same URL",
        "export https_proxy=\"$HTTPS_PROXY\"";
    PROXY_VARIABLE_DIFFERS D01 "proxy_variable_differs"
        "the variable {variable} names another proxy than --proxy, and clients use the variable",
        "set the variable to the URL of --proxy; if the application sets its proxy itself, unset the variable",
        "unset {variable}";
    NO_PROXY_MATCHES D01 "no_proxy_matches"
        "the variable {variable} has the entry {entry}, which matches {host}, so clients connect to it directly and not through the tunnel",
        "remove the entry from the variable",
        "export {variable}={rest}";
    URL_INVALID D02 "proxy_url_invalid"
        "the proxy URL cannot be read: {reason}",
        "write it as http://NAME:SECRET@HOST:9293; for a listener with TLS, begin it with https://";
    URL_SCHEME D02 "proxy_url_scheme"
        "the proxy URL begins with {scheme}://, and the tunnel speaks HTTP CONNECT only",
        "begin it with http://; for a listener with TLS, with https://";
    URL_NO_SCHEME D02 "proxy_url_no_scheme"
        "the proxy URL does not begin with http:// or https://; some clients refuse such a URL, and others guess",
        "begin it with http://; for a listener with TLS, with https://";
    URL_NO_PORT D02 "proxy_url_no_port"
        "the proxy URL has no port, and clients use different defaults: 80, 443 or 1080",
        "add the listener's port, by default :9293";
    URL_ENCODING D02 "proxy_url_encoding"
        "the name or the secret in the proxy URL has a character that must be percent-encoded, such as @ / : # ? % or a letter outside ASCII",
        "encode the secret, and put the result into the URL; this command asks for the secret and prints it encoded",
        "python3 -c 'import getpass, urllib.parse; print(urllib.parse.quote(getpass.getpass(), safe=\"\"))'";
    PROXY_DNS D03 "proxy_dns_failed"
        "this machine finds no address for the proxy's name {proxy_host}: {reason}",
        "correct the name in the proxy URL, or the DNS settings of this machine",
        "getent ahosts {proxy_host}";
    PROXY_REFUSED D03 "proxy_connect_refused"
        "no program listens at {address}, or a firewall rejects the connection",
        "start the tunnel, or correct host and port in the proxy URL; on the tunnel's machine, this command lists the listeners",
        "ss -ltn";
    PROXY_TIMEOUT D03 "proxy_connect_timeout"
        "{address} does not answer within {limit}: a firewall drops the packets, or the address is wrong",
        "let this machine connect to that port in the firewall or in the cloud's security group, or correct the proxy URL";
    PROXY_UNREACHABLE D03 "proxy_unreachable"
        "this machine cannot reach {address}: {reason}",
        "check the routes of this machine and the firewalls on the way; if this is an IPv6 address and this machine has no IPv6, remove the address from DNS",
        "ip route get {ip}";
    PROXY_CLOSED D03 "proxy_closed"
        "the proxy at {address} closes the connection without an answer",
        "read the tunnel's log on its machine; a listener behind a load balancer needs the key proxy_protocol, and a listener without one must not have it",
        "journalctl --unit=sealway --lines=20";
    PROXY_SPEAKS_TLS D04 "proxy_speaks_tls"
        "the listener speaks TLS, and the proxy URL begins with http://",
        "begin the proxy URL with https://",
        "export HTTPS_PROXY=https://{userinfo}{proxy_host}:{proxy_port}";
    PROXY_SPEAKS_CLEARTEXT D04 "proxy_speaks_cleartext"
        "the listener speaks cleartext, and the proxy URL begins with https://",
        "begin the proxy URL with http://, or use the port of the listener with TLS",
        "export HTTPS_PROXY=http://{userinfo}{proxy_host}:{proxy_port}";
    PROXY_NOT_HTTP D04 "proxy_not_http"
        "the answer is neither HTTP nor TLS, so another service than a proxy listens at {address}",
        "correct host and port in the proxy URL; the tunnel's port is 9293 by default";
    PROXY_CERTIFICATE_EXPIRED D05 "proxy_certificate_expired"
        "the proxy's certificate is not valid now; it ends at {until}",
        "renew it on the tunnel's machine; if it is valid there, the clock of this machine is wrong, and this command shows it",
        "date --utc";
    PROXY_CERTIFICATE_SOON D05 "proxy_certificate_ends_soon"
        "the proxy's certificate ends at {until}, in less than {days} days",
        "renew it on the tunnel's machine, then run this command there",
        "systemctl reload sealway-hop";
    PROXY_CERTIFICATE_NAME D05 "proxy_certificate_name"
        "the proxy's certificate is not for {proxy_host}, the host in the proxy URL; it is for {names}",
        "use one of these names in the proxy URL, or issue a certificate for {proxy_host}";
    PROXY_CERTIFICATE_UNTRUSTED D05 "proxy_certificate_untrusted"
        "this machine trusts no authority that issued the proxy's certificate; its issuer is {issuer}",
        "run the doctor again with the certificate of that authority, and give it to the application too",
        "{again} --proxy-ca {file}";
    PROXY_WANTS_CERTIFICATE D05 "proxy_wants_certificate"
        "the proxy requires a client certificate, and the doctor was given none",
        "run the doctor again with a certificate and its private key",
        "{again} --cert {file} --cert-key {key_file}";
    PROXY_REFUSES_CERTIFICATE D05 "proxy_refuses_certificate"
        "the proxy refuses the client certificate, with the TLS alert {alert}",
        "use a certificate of an authority that the listener accepts, neither expired nor revoked; the hop_event record in the tunnel's audit file has the reason";
    PROXY_TLS D05 "proxy_tls_failed"
        "the TLS handshake with the proxy fails: {reason}",
        "check that the URL leads to the tunnel's listener with TLS; the client must speak TLS 1.2 or 1.3 with AES-GCM or ChaCha20";
    TUNNEL_CODE D06 "tunnel_refused"
        "the tunnel refuses the request with the code {code}: {cause}",
        "{cure}; on the tunnel's machine, this command shows what its configuration decides",
        "sealway explain --config /etc/sealway/sealway.toml {host}:{port}";
    PROXY_OPEN D06 "proxy_needs_no_credentials"
        "the proxy opens a tunnel without a name and a secret, although the URL has them, so everybody at this machine's address can use it",
        "add users on the tunnel's machine, or remove name and secret from the URL",
        "sealway user add {user} --config /etc/sealway/sealway.toml";
    OTHER_PROXY D06 "other_proxy"
        "the proxy is not Sealway, and it refuses with {status}{by}",
        "correct the proxy URL, or ask the operator of that proxy";
    CONNECT_TIMEOUT D06 "connect_timeout"
        "the proxy does not answer the CONNECT request within {limit}: a firewall behind the tunnel drops packets to {host}, DNS of the tunnel's machine is slow, or the tunnel hangs",
        "run the doctor again with a longer limit, so that the tunnel's own code arrives; if none arrives, run the second command on the tunnel's machine",
        "{again} --timeout 20\nsealway top --once";
    GRPC_SCHEME D15 "grpc_https_proxy"
        "the variable {variable} is an https:// URL, and gRPC cannot use such a proxy",
        "run sealway-agent beside the application, and set the variable to the agent's http:// URL",
        "sealway agent --help";
    GRPC_DIFFERS D15 "grpc_proxy_differs"
        "the variable grpc_proxy names another proxy, and gRPC uses that one",
        "set it to the same URL",
        "export grpc_proxy=\"$HTTPS_PROXY\"";
    NO_GRPC_PROXY D15 "no_grpc_proxy_matches"
        "the variable no_grpc_proxy has the entry {entry}, which matches {host}, so gRPC connects to it directly and not through the tunnel",
        "remove the entry from the variable",
        "export no_grpc_proxy={rest}";
    JAVA_BASIC D15 "java_disables_basic"
        "this environment starts Java (JAVA_TOOL_OPTIONS or JDK_JAVA_OPTIONS), and Java does not send name and secret to a proxy for HTTPS",
        "let Java send them",
        "export JDK_JAVA_OPTIONS=\"$JDK_JAVA_OPTIONS -Djdk.http.auth.tunneling.disabledSchemes=\"";
    JAVA_PROXY D15 "java_ignores_variables"
        "this environment starts Java (JAVA_TOOL_OPTIONS or JDK_JAVA_OPTIONS), and Java reads the property https.proxyHost, not HTTPS_PROXY",
        "set both properties, or a ProxySelector in the application",
        "export JDK_JAVA_OPTIONS=\"$JDK_JAVA_OPTIONS -Dhttps.proxyHost={proxy_host} -Dhttps.proxyPort={proxy_port}\"";
    NODE_FETCH D15 "node_fetch_ignores_variables"
        "this environment starts Node (NODE_OPTIONS, NODE_ENV or NODE_VERSION), and Node's fetch ignores HTTPS_PROXY by default",
        "set this variable (Node 24 and later), or call setGlobalDispatcher(new ProxyAgent(url)) of undici in the application",
        "export NODE_USE_ENV_PROXY=1";
}
