# Sourced by `run`: the same clients through sealway-agent, which speaks TLS to sealway-hop for them. The first agents are services, one on
# loopback with credentials and one on a UNIX socket with a certificate; then each client is a command of `sealway-agent exec`, which
# sets all that the client needs. Each row also compares what the API saw with the audit records. docs/agent.md has the table.
# shellcheck shell=bash disable=SC2154 # variables of `run`

start_agents() {
  agent_socket=$work/agent.sock
  common=(SEALWAY_AGENT_CA="$work/ca.pem" SEALWAY_AGENT_ADMIN=)
  upstream=SEALWAY_AGENT_UPSTREAMS=https://agent-1:$agent_secret@localhost:$TLS_PORT
  env "${common[@]}" "$upstream" SEALWAY_AGENT_LISTEN=127.0.0.1:$AGENT_PORT "$agent" >"$daemon/agent.stdout" 2>"$daemon/agent.log" &
  agent_pid=$!
  env "${common[@]}" SEALWAY_AGENT_UPSTREAMS=https://localhost:$MTLS_PORT SEALWAY_AGENT_CERT="$work/agent.pem" \
    SEALWAY_AGENT_KEY="$work/agent.key" SEALWAY_AGENT_LISTEN="unix:$agent_socket" \
    "$agent" >"$daemon/agent2.stdout" 2>"$daemon/agent2.log" &
  agent2_pid=$!
  await 10 "$agent_pid" agent_listens || die "sealway-agent does not listen: $(tail -n 1 "$daemon/agent.log")"
  await 10 "$agent2_pid" agent2_listens || die "sealway-agent has no socket: $(tail -n 1 "$daemon/agent2.log")"
}

agent_listens() { (: <"/dev/tcp/127.0.0.1/$AGENT_PORT") 2>/dev/null; }
agent2_listens() { [ -S "$agent_socket" ]; }

agent_clients() {
  # Credentials of the client stay with the agent: the proxy would refuse these.
  export HTTPS_PROXY=http://alice:$WRONG_SECRET@127.0.0.1:$AGENT_PORT
  through_agent "curl" fault_of_client HTTP/2 "$here/curl"
  through_agent "Python requests" fault_of_client HTTP/1.1 "$python" "$here/clients.py" requests
  through_agent "Python httpx h2" fault_of_client HTTP/2 "$python" "$here/clients.py" httpx_h2
  through_agent "Node undici ProxyAgent" fault_of_client HTTP/2 "$node" "$cache/node/clients.mjs" undici
  export HTTPS_PROXY=http://localhost
  PROXY_SOCKET=$agent_socket through_agent "Node axios with https-proxy-agent, UNIX socket, certificate" \
    fault_of_client HTTP/1.1 "$node" "$cache/node/clients.mjs" axios
  unset HTTPS_PROXY

  with_exec=(env "${common[@]}" "$upstream" "$agent" exec --)
  under_exec "curl h1" fault_of_client HTTP/1.1 "$here/curl" --http1.1
  under_exec "Python requests" fault_of_client HTTP/1.1 "$python" "$here/clients.py" requests
  under_exec "Python httpx" fault_of_client HTTP/1.1 "$python" "$here/clients.py" httpx
  under_exec "Python aiohttp" fault_of_client HTTP/1.1 "$python" "$here/clients.py" aiohttp
  under_exec "Python google-genai" fault_of_client HTTP/ "$python" "$here/clients.py" genai
  under_exec "Python google-genai async" fault_of_client HTTP/ "$python" "$here/clients.py" genai_async
  under_exec "Python google-genai live" fault_of_reply "pong over WebSocket from $EGRESS" "$python" "$here/clients.py" genai_live
  under_exec "Python litellm" fault_of_text "pong over HTTP/1.1 from $EGRESS" "$python" "$here/clients.py" litellm
  under_exec "Python langchain" fault_of_text "pong over HTTP/1.1 from $EGRESS" "$python" "$here/clients.py" langchain
  under_exec "Python grpcio" fault_of_reply "pong over gRPC from $EGRESS" "$python" "$here/clients.py" grpc_call
  under_exec "Node axios with https-proxy-agent" fault_of_client HTTP/1.1 "$node" "$cache/node/clients.mjs" axios
  under_exec "Node @google/genai" fault_of_client HTTP/ "$node" "$cache/node/clients.mjs" genai_alone
  gemini_cli
  under_exec ".NET HttpClient" fault_of_client HTTP/2.0 "$python" "$here/dotnet.py" 2.0
  if wanted go; then under_exec "Go net/http" fault_of_client HTTP/2 "$cache/go/client"; fi
  if wanted java; then
    under_exec "Java HttpClient" fault_of_client HTTP/2 "${java[@]}" "$here/Client.java" HTTP_2 alone
    under_exec "Java HttpURLConnection" fault_of_reply 200 "${java_others[@]}" url alone
    under_exec "Java OkHttp" fault_of_reply 200 "${java_others[@]}" okhttp alone
    under_exec "Java Apache HttpClient" fault_of_reply 200 "${java_others[@]}" apache alone
  fi
  as_the_browsers_user
  if wanted chromium; then chromium_browser; fi
  if wanted firefox; then firefox_browser; fi
}

# From here on the agent logs in as a user of its own, whose tunnels records.py leaves out: browsers ask for hosts of their makers.
as_the_browsers_user() {
  local of_browser=SEALWAY_AGENT_UPSTREAMS=https://browser:$browser_secret@localhost:$TLS_PORT
  with_exec=(env "${common[@]}" "$of_browser" "$agent" exec --) agent_user=browser
}

# With its statistics and updates off it talks to the API only.
gemini_cli() {
  mkdir -p "$work/gemini/.gemini"
  echo '{"privacy": {"usageStatisticsEnabled": false}, "general": {"enableAutoUpdate": false, "enableAutoUpdateNotification": false}}' \
    >"$work/gemini/.gemini/settings.json"
  under_exec "gemini-cli" fault_of_text "word 0 word 1 word 2 word 3 word 4" env HOME="$work/gemini" GEMINI_API_KEY=fake "$node" \
    "$cache/node/node_modules/@google/gemini-cli/bundle/gemini.js" --skip-trust --model gemini-2.5-flash --prompt ping
}

# Firefox reads https_proxy, where its profile has no proxy and the desktop has no setting. Its own background traffic is off, but
# for settings of Mozilla, which the proxy refuses.
firefox_browser() {
  local profile=$work/firefox setting
  mkdir "$profile"
  certutil -N -d "sql:$profile" --empty-password && certutil -A -d "sql:$profile" -n rig -t C,, -i "$work/ca.pem" || die "certutil made no profile"
  for setting in app.normandy.enabled app.update.enabled browser.safebrowsing.malware.enabled browser.safebrowsing.phishing.enabled \
    browser.safebrowsing.downloads.enabled network.captive-portal-service.enabled network.connectivity-service.enabled dom.push.enabled \
    extensions.update.enabled extensions.systemAddon.update.enabled media.gmp-manager.updateEnabled datareporting.healthreport.uploadEnabled \
    browser.region.update.enabled browser.topsites.contile.enabled browser.newtabpage.enabled signon.firefoxRelay.feature; do
    echo "user_pref(\"$setting\", false);"
  done >"$profile/user.js"
  printf 'user_pref("services.settings.server", "data:,#remote-settings-dummy/v1");\nuser_pref("network.trr.mode", 5);\n' >>"$profile/user.js"
  under_exec "Firefox" fault_of_picture env HOME="$profile" firefox-esr --headless --no-remote --profile "$profile" --screenshot "$profile/page.png" \
    "https://$HOST/v1beta/models"
}

# Chromium reads https_proxy. It does not read the rig's authority, so it does not look at certificates here.
chromium_browser() {
  under_exec "Chromium" fault_of_page chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
    --disable-background-networking --disable-component-update --disable-sync --disable-extensions --ignore-certificate-errors \
    --user-data-dir="$work/chromium" --virtual-time-budget=5000 --dump-dom "https://$HOST/v1beta/models"
}

# under_exec NAME FAULT-FUNCTION EXPECTED COMMAND…: the client as the command of `exec`.
under_exec() {
  local name=$1 fault=$2
  shift 2
  case $fault in
    fault_of_page | fault_of_picture) through_agent "$name, exec" "$fault" "${with_exec[@]}" "$@" ;;
    *) through_agent "$name, exec" "$fault" "$1" "${with_exec[@]}" "${@:2}" ;;
  esac
}

# through_agent NAME FAULT-FUNCTION ARGUMENTS…: the API has seen connections, all from the egress, and each has a record with the
# agent's user.
through_agent() {
  local name=$1 seen reason
  seen=$(wc -l <"$work/api.log")
  shift
  reason=$("$@")
  mapfile -t peers < <(tail -n +$((seen + 1)) "$work/api.log" | sed -n 's/.*"peer": "\([^"]*\)".*/\1/p' | sort -u)
  ((${#peers[@]})) || reason=${reason:-the API has seen nothing}
  local peer
  for peer in "${peers[@]}"; do
    [ "${peer%:*}" = "$EGRESS" ] || reason=${reason:-a request came from $peer}
  done
  await 10 "" records_are_there || reason=${reason:-not every connection has a record of $agent_user}
  result "$name, through the agent" "$reason"
}

records_are_there() {
  local peer
  for peer in "${peers[@]}"; do
    grep -E '"event": ?"tunnel"' "$daemon/log" | grep -E "\"egress\": ?\"$peer\"" | grep -qE "\"user\": ?\"$agent_user\"" || return 1
  done
}

# fault_of_reply REPLY COMMAND…: prints nothing if the client's reply is this one.
fault_of_reply() {
  local output
  output=$(bounded "${@:2}" 2>&1)
  grep -qxF "reply: $1" <<<"$output" || echo "no reply $1; $(tail -n 3 <<<"$output" | tr '\n' ' ')"
}

# fault_of_text TEXT COMMAND…: prints nothing if the client shows this text.
fault_of_text() {
  local output
  output=$(bounded "${@:2}" </dev/null 2>&1)
  grep -qF -- "$1" <<<"$output" || echo "no $1; $(tail -n 3 <<<"$output" | tr '\n' ' ')"
}

# fault_of_picture COMMAND…: prints nothing if the browser made a picture of the page; what it asked for is in the API's log.
fault_of_picture() {
  bounded "$@" >"$work/browser.log" 2>&1
  [ -s "$work/firefox/page.png" ] && grep -q '"path": "/v1beta/models"' < <(tail -n +$((seen + 1)) "$work/api.log") ||
    echo "no picture of the page; $(tail -n 3 "$work/browser.log" | tr '\n' ' ')"
}

# fault_of_page COMMAND…: prints nothing if the browser shows the API's answer.
fault_of_page() {
  local output
  output=$(bounded "$@" 2>"$work/browser.log")
  grep -qF "from $EGRESS" <<<"$output" || echo "no page from $EGRESS; ${output:0:200} $(tail -n 2 "$work/browser.log" | tr '\n' ' ')"
}

stop_agents() {
  kill -TERM "$agent_pid" "$agent2_pid"
  local status
  wait "$agent_pid" && wait "$agent2_pid"
  status=$?
  result "sealway-agent ends on SIGTERM" "$( ((status == 0)) || echo "exit status $status: $(tail -n 1 "$daemon/agent.log")")"
}

AGENT_PORT=9293 agent_user=agent-1
