# Sourced by `run`: the same clients with an https:// proxy URL, through sealway-hop. Those whose library cannot speak TLS to a proxy are
# here too, with what they do instead. docs/clients.md has the table.
# shellcheck shell=bash disable=SC2154 # variables of `run`

# The daemon's listener for the hop, and two of the hop's: with TLS and credentials, and with a client certificate.
hop_config() {
  cat <<TOML
[[listener]]
address = "127.0.0.1:$CORE_PORT"
proxy_protocol = { from = ["127.0.0.1"], identity = true, token_file = "hop.token" }
[[listener]]
address = "127.0.0.1:$TLS_PORT"
tls = { certificate = "hop.pem", key = "hop.key", core = "127.0.0.1:$CORE_PORT", token_file = "hop.token" }
[[listener]]
address = "127.0.0.1:$MTLS_PORT"
tls = { certificate = "hop.pem", key = "hop.key", core = "127.0.0.1:$CORE_PORT", token_file = "hop.token", client_ca = "client-ca.pem" }
[hop]
address = "127.0.0.1:$HOP_METRICS_PORT"
TOML
}

# Needs the daemon's folder and its users.
start_hop() {
  (cd "$daemon" && umask 077 && cp "$work/hop.pem" "$work/hop.key" . && cp "$work/ca.pem" client-ca.pem) || die "no files for the hop"
  "$hop" --config "$daemon/sealway.toml" >"$daemon/hop.stdout" 2>"$daemon/hop.log" &
  hop_pid=$!
  await 10 "$hop_pid" hop_listens || die "sealway-hop did not start: $(tail -n 3 "$daemon/hop.log")"
}

hop_listens() { (: <"/dev/tcp/127.0.0.1/$TLS_PORT") 2>/dev/null; }

# How Java's clients are started; after the certificates.
java_commands() {
  local jar libraries=
  for jar in okhttp okio httpclient5 httpcore5 httpcore5-h2 slf4j-api; do libraries+=/usr/share/java/$jar.jar:; done
  java=(java -Djdk.http.auth.tunneling.disabledSchemes= -Djavax.net.ssl.trustStore="$work/trust.p12"
    -Djavax.net.ssl.trustStorePassword=changeit)
  java_others=("${java[@]}" -cp "$libraries" "$here/Others.java")
}

# Clients that speak TLS to a proxy, first with credentials and then with a certificate and without.
hop_clients() {
  export HTTPS_PROXY=https://alice:$secret@localhost:$TLS_PORT
  client "curl, TLS to the proxy" HTTP/2 "$here/curl" --proxy-cacert "$work/ca.pem"
  client "Python requests, TLS to the proxy" HTTP/1.1 "$python" "$here/clients.py" requests
  client "Python httpx h2, TLS to the proxy" HTTP/2 "$python" "$here/clients.py" httpx_own_proxy
  client "Python aiohttp, TLS to the proxy" HTTP/1.1 "$python" "$here/clients.py" aiohttp_own_proxy
  client "Python google-genai, TLS to the proxy" HTTP/ "$python" "$here/clients.py" genai
  client "Node axios with https-proxy-agent, TLS to the proxy" HTTP/1.1 "$node" "$cache/node/clients.mjs" axios
  client "Node undici ProxyAgent, TLS to the proxy" HTTP/2 "$node" "$cache/node/clients.mjs" undici
  client "Node @google/genai, TLS to the proxy" HTTP/ "$node" "$cache/node/clients.mjs" genai
  if wanted go; then client "Go net/http, TLS to the proxy" HTTP/2 "$cache/go/client"; fi
  if wanted java; then
    local output
    output=$(PROXY_SCHEME=https bounded "${java_others[@]}" apache 2>&1)
    result "Java Apache HttpClient, TLS to the proxy" "$(grep -q '^reply: 200$' <<<"$output" || tail -n 1 <<<"$output")"
  fi

  export HTTPS_PROXY=https://localhost:$MTLS_PORT CLIENT_CERTIFICATE=$work/app.pem CLIENT_KEY=$work/app.key
  client "curl, client certificate" HTTP/2 "$here/curl" --proxy-cacert "$work/ca.pem" \
    --proxy-cert "$CLIENT_CERTIFICATE" --proxy-key "$CLIENT_KEY"
  client "Python requests, client certificate" HTTP/1.1 "$python" "$here/clients.py" requests
  client "Python httpx h2, client certificate" HTTP/2 "$python" "$here/clients.py" httpx_own_proxy
  client "Python aiohttp, client certificate" HTTP/1.1 "$python" "$here/clients.py" aiohttp_own_proxy
  client "Node axios with https-proxy-agent, client certificate" HTTP/1.1 "$node" "$cache/node/clients.mjs" axios
  client "Node undici ProxyAgent, client certificate" HTTP/2 "$node" "$cache/node/clients.mjs" undici
  if wanted go; then client "Go net/http, client certificate" HTTP/2 "$cache/go/client"; fi
  unset CLIENT_CERTIFICATE CLIENT_KEY

  # Without the certificate no client comes as far as a CONNECT.
  refusal "curl, no client certificate" "certificate required|alert" "$here/curl" --proxy-cacert "$work/ca.pem"
  refusal "Python requests, no client certificate" "[Cc]ertificate|CERTIFICATE|alert|SSL" "$python" "$here/clients.py" requests
  refusal "Node undici, no client certificate" "[Pp]roxy [Cc]onnection failed|certificate required|alert" "$node" "$cache/node/clients.mjs" undici
  unset HTTPS_PROXY
}

# Clients that send a plain CONNECT to the TLS port: each is told so, before it sends credentials.
hop_cleartext() {
  export HTTPS_PROXY=http://alice:$secret@localhost:$TLS_PORT
  refusal "curl, http:// URL of the TLS port" "400 .*tls_required" "$here/curl"
  # It takes the https:// of a proxy with credentials for http://.
  HTTPS_PROXY=https://alice:$secret@localhost:$TLS_PORT \
    refusal ".NET HttpClient, https:// URL of the TLS port" "400 .*tls_required" "$python" "$here/dotnet.py" 1.1
  plain=2
  if wanted java; then
    refusal "Java HttpClient on the TLS port" "400|tls_required" "${java[@]}" "$here/Client.java" HTTP_1_1
    refusal "Java HttpURLConnection on the TLS port" "400 .*tls_required" "${java_others[@]}" url
    refusal "Java OkHttp on the TLS port" "400" "${java_others[@]}" okhttp
    refusal "Java Apache HttpClient with an http:// proxy on the TLS port" "400 .*tls_required" "${java_others[@]}" apache
    plain=6
  fi
  unset HTTPS_PROXY
}

# Clients that take an https:// URL and leave the proxy out: their requests go around it, from another address.
hop_ignored() {
  export HTTPS_PROXY=https://alice:$secret@localhost:$TLS_PORT
  refusal "Python grpcio goes around an https:// proxy" "the proxy was not used" "$python" "$here/clients.py" grpc
  refusal "Python aiohttp goes around an https:// proxy of the environment" "not supported, ignoring" "$python" "$here/clients.py" aiohttp
  refusal "Python google-genai async goes around an https:// proxy of the environment" "not supported, ignoring" \
    "$python" "$here/clients.py" genai_async
  unset HTTPS_PROXY
}

# What the hop and the daemon say of it.
judge_hop() {
  local seen
  seen=$(curl --silent --show-error --fail --max-time 5 --noproxy '*' "http://127.0.0.1:$HOP_METRICS_PORT/metrics")
  seen=$(sed -n 's/^sealway_hop_handshakes_total{result="tls_required"} //p' <<<"$seen")
  result "the hop has counted $plain clients in cleartext" "$( ((${seen:-0} >= plain)) || echo "it counts ${seen:-none}")"
  result "an event says that a credential may have crossed in clear" \
    "$(grep -q '"kind": \?"tls_required"' "$daemon/log" || echo "no hop_event of tls_required")"
  result "records name the certificate and the session of TLS" \
    "$(grep -qE '"auth": ?"certificate".*"hop_version": ?"TLSv1.3"' "$daemon/log" || echo "none does")"
}

stop_hop() {
  kill -TERM "$hop_pid"
  wait "$hop_pid"
  local status=$?
  result "sealway-hop ends on SIGTERM" "$( ((status == 0)) || echo "exit status $status: $(tail -n 1 "$daemon/hop.log")")"
}

CORE_PORT=9296 TLS_PORT=9443 MTLS_PORT=9444 HOP_METRICS_PORT=9295
