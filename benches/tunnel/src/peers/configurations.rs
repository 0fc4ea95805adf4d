//! The configuration of each proxy: one worker, one destination, everything else as a careful
//! operator would leave it. None logs requests except Sealway, whose audit records are part of it,
//! and haproxy-full.

use std::fmt::Write;

use crate::peers::setting::Setting;
use crate::protocol::hello::HOST;

/// Sealway: default deny, one name with a fixed address, exempt from the address guard, which forbids loopback.
pub(crate) fn sealway(setting: &Setting, mode: &str) -> String {
    let Setting {
        listen,
        source,
        upstream,
        names,
        ..
    } = setting;
    let mut allow: String = (1..*names)
        .map(|number| format!("\"host-{number}.example.com\", "))
        .collect();
    // The wanted name comes last.
    let _a_string_takes_every_write = write!(allow, "\"{HOST}:{}\"", upstream.port());
    let off_loopback = if listen.ip().is_loopback() {
        ("", String::new())
    } else {
        (
            "allow_cleartext = true\n",
            format!("[auth]\nclients = [\"{}/24\"]\n", listen.ip()),
        )
    };
    format!(
        "[[listener]]\naddress = \"{listen}\"\n{}[admin]\naddress = \"127.0.0.1:0\"\n\
         [egress]\naddresses = [\"{source}\"]\n\
         [policy]\npresets = []\nallow = [{allow}]\nallow_destinations = [\"{ip}/32\"]\n\
         [dns.hosts]\n\"{HOST}\" = [\"{ip}\"]\n\
         [limits]\ntunnels_per_client = 0\npending = 60000\naccept_rate = 1000000\nconnect_rate = 1000000\n[relay]\nworkers = 1\n{mode}\n{}",
        off_loopback.0,
        off_loopback.1,
        ip = upstream.ip(),
    )
}

/// HAProxy in http mode: it parses the CONNECT and hands it on to the upstream, which answers it.
pub(crate) fn haproxy(setting: &Setting) -> String {
    let Setting {
        listen, upstream, ..
    } = setting;
    format!(
        "{}defaults\n mode http\n{HAPROXY_DEFAULTS}\
         frontend in\n bind {listen}\n default_backend out\n\
         backend out\n server upstream {upstream}\n",
        haproxy_global(setting),
    )
}

/// HAProxy with as much of Sealway's work as it can do: CONNECT to one authority, everything else
/// refused, the static source address, keepalive in both directions, a log line for each tunnel,
/// pipes as large as Sealway's. It cannot judge the hello, which is payload in http mode.
pub(crate) fn haproxy_full(setting: &Setting) -> String {
    let Setting {
        listen,
        source,
        upstream,
        ..
    } = setting;
    format!(
        "{}defaults\n mode http\n{HAPROXY_DEFAULTS}\
         frontend in\n bind {listen}\n log stderr format raw local0\n option httplog\n option clitcpka\n\
         \x20http-request deny unless METH_CONNECT {{ url -i {HOST}:{} }}\n default_backend out\n\
         backend out\n option srvtcpka\n source {source}\n server upstream {upstream}\n",
        haproxy_global(setting) + " tune.pipesize 262144\n",
        upstream.port(),
    )
}

/// HAProxy in tcp mode: it reads the SNI and nothing else.
pub(crate) fn haproxy_sni(setting: &Setting) -> String {
    let Setting {
        listen, upstream, ..
    } = setting;
    format!(
        "{}defaults\n mode tcp\n{HAPROXY_DEFAULTS}\
         frontend in\n bind {listen}\n tcp-request inspect-delay 5s\n\
         \x20tcp-request content accept if {{ req.ssl_hello_type 1 }}\n\
         \x20use_backend out if {{ req.ssl_sni -i {HOST} }}\n\
         backend out\n server upstream {upstream}\n",
        haproxy_global(setting),
    )
}

/// A connection is two descriptors, and a spliced one two more for each pipe; HAProxy refuses to start with too few.
fn haproxy_global(setting: &Setting) -> String {
    let connections = (setting.descriptors.saturating_sub(1_500) / 2).min(10_000);
    format!("global\n nbthread 1\n maxconn {connections}\n maxpipes 500\n")
}

/// `splice-auto` alone never splices a tunnel in 2.6: HAProxy decides it where it analyses the
/// stream, and a tunnel that it only forwards does not return there (seen with strace). With both
/// options it splices from the first byte, at half the cost in bulk and the same cost in small
/// exchanges.
const HAPROXY_DEFAULTS: &str = " option splice-auto\n option splice-request\n option splice-response\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n \
                                timeout tunnel 1h\n timeout http-request 10s\n";

/// nginx: stream with `ssl_preread`, which reads the SNI and nothing else. `module` loads stream if
/// it is a separate module.
pub(crate) fn nginx(setting: &Setting, module: &str) -> String {
    let Setting {
        listen,
        upstream,
        directory,
        ..
    } = setting;
    let directory = directory.display();
    format!(
        "{module}\nuser root;\nworker_processes 1;\ndaemon off;\npid {directory}/nginx.pid;\n\
         error_log {directory}/error.log;\nworker_rlimit_nofile {descriptors};\n\
         events {{ worker_connections {descriptors}; }}\n\
         stream {{\n access_log off;\n map $ssl_preread_server_name $upstream {{ {HOST} {upstream}; }}\n\
         \x20server {{\n  listen {listen} backlog=4096;\n  ssl_preread on;\n  proxy_pass $upstream;\n\
         \x20 proxy_connect_timeout 10s;\n  proxy_timeout 1h;\n }}\n}}\n",
        descriptors = setting.descriptors,
    )
}

/// Squid: CONNECT, no cache, no access log, the one name from a hosts file.
pub(crate) fn squid(setting: &Setting) -> String {
    let Setting {
        listen,
        directory,
        descriptors,
        ..
    } = setting;
    let directory = directory.display();
    format!(
        "http_port {listen}\nhttp_access allow all\ncache deny all\naccess_log none\ncache_log {directory}/cache.log\n\
         pid_filename {directory}/squid.pid\ncoredump_dir {directory}\nhosts_file {directory}/hosts\n\
         dns_nameservers 127.0.0.1\nvisible_hostname bench\npinger_enable off\nshutdown_lifetime 0 seconds\n\
         max_filedescriptors {descriptors}\n",
    )
}

/// Tinyproxy: CONNECT, and a thread for each connection, because it has no other mode.
pub(crate) fn tinyproxy(setting: &Setting) -> String {
    let Setting {
        listen, directory, ..
    } = setting;
    format!(
        "Listen {}\nPort {}\nTimeout 3600\nMaxClients 20000\nAllow {}/24\nLogLevel Critical\n\
         LogFile \"{}/tinyproxy.log\"\nDisableViaHeader Yes\n",
        listen.ip(),
        listen.port(),
        listen.ip(),
        directory.display(),
    )
}
