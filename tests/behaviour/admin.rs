//! The admin pages: well-formed metrics with every promised name, health, readiness, no page that
//! accepts a write, and no series that a peer can add.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::collections::{BTreeMap, BTreeSet};

use support::client::{connect, dial};
use support::config::Config;
use support::daemon::Daemon;
use support::made_hello::MadeHello;
use support::raw::{RawUpstream, Tunnel};
use support::soon;
use support::users::{basic, start_with_users, user};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Names, types and labels as the reference has them.
const PROMISED: [(&str, &str, &[&str]); 48] = [
    ("sealway_tunnels_opened_total", "counter", &[]),
    ("sealway_tunnels_active", "gauge", &[]),
    ("sealway_tunnels_closed_total", "counter", &["code"]),
    ("sealway_tunnels_denied_total", "counter", &["code"]),
    ("sealway_would_deny_total", "counter", &["code"]),
    ("sealway_tunnel_bytes_total", "counter", &["direction"]),
    ("sealway_ready", "gauge", &[]),
    ("sealway_relayed_bytes_total", "counter", &["path"]),
    ("sealway_user_tunnels_active", "gauge", &["user"]),
    ("sealway_user_bytes_total", "counter", &["user"]),
    ("sealway_warm_dials_total", "counter", &["result"]),
    ("sealway_warm_opened_total", "counter", &[]),
    ("sealway_warm_closed_total", "counter", &["reason"]),
    ("sealway_warm_open", "gauge", &[]),
    ("sealway_first_byte_seconds", "histogram", &[]),
    ("sealway_setup_duration_seconds", "histogram", &["phase"]),
    ("sealway_tunnel_duration_seconds", "histogram", &[]),
    ("sealway_degraded", "gauge", &[]),
    ("sealway_standby", "gauge", &[]),
    ("sealway_handover_tunnels_total", "counter", &["result"]),
    ("sealway_handover_pause_seconds", "histogram", &[]),
    ("sealway_egress_up", "gauge", &["address"]),
    ("sealway_egress_ports_in_use", "gauge", &["address"]),
    ("sealway_egress_ports_busiest", "gauge", &["address"]),
    ("sealway_egress_ports_max", "gauge", &[]),
    ("sealway_tunnels_max", "gauge", &[]),
    (
        "sealway_tls_negotiated_total",
        "counter",
        &["version", "group"],
    ),
    ("sealway_dns_lookups_total", "counter", &["result"]),
    (
        "sealway_dns_file_reads_total",
        "counter",
        &["file", "result"],
    ),
    ("sealway_audit_failures_total", "counter", &[]),
    ("sealway_accept_errors_total", "counter", &[]),
    ("sealway_config_reloads_total", "counter", &["result"]),
    ("sealway_config_files_unreadable", "gauge", &[]),
    ("sealway_health_checks_total", "counter", &[]),
    ("sealway_clock_synchronised", "gauge", &[]),
    ("sealway_operator_acts_total", "counter", &["act"]),
    ("sealway_drained", "gauge", &[]),
    ("sealway_config_last_reload_timestamp_seconds", "gauge", &[]),
    ("sealway_config_last_reload_successful", "gauge", &[]),
    ("sealway_build_info", "gauge", &["revision", "version"]),
    ("process_cpu_seconds_total", "counter", &[]),
    ("process_open_fds", "gauge", &[]),
    ("process_max_fds", "gauge", &[]),
    ("process_resident_memory_bytes", "gauge", &[]),
    ("process_virtual_memory_bytes", "gauge", &[]),
    ("process_virtual_memory_max_bytes", "gauge", &[]),
    ("process_start_time_seconds", "gauge", &[]),
    ("process_threads", "gauge", &[]),
];

/// Hosts, ports, addresses, nonsense and user names that strangers choose.
const HOSTILE: u32 = 10_000;
/// The names in their ClientHellos; as many as an upstream's accept queue holds.
const HOSTILE_HELLOS: u32 = 100;

#[tokio::test]
async fn the_metrics_are_well_formed_and_complete() {
    let upstream = RawUpstream::start().await;
    let daemon = start_with_users(Config::to(upstream.addr()), &user("alice", "one", ""), "").await;
    // The housekeeping that starts with the daemon writes them.
    daemon
        .metric_until("sealway_egress_up{address=\"127.0.0.2\"}", |up| up == 1.0)
        .await;
    let at_start = Page::parse(&metrics(&daemon).await);
    at_start.keeps_the_promise();
    Tunnel::open_with(
        &daemon,
        &upstream,
        &[("Proxy-Authorization", &basic("alice", "one"))],
    )
    .await
    .close()
    .await;
    connect(daemon.proxy_addr(), "evil.example:443", &[]).await;
    // The last events that are counted.
    daemon
        .metric_until("sealway_tunnel_duration_seconds_count", |tunnels| {
            tunnels >= 1.0
        })
        .await;
    let later = Page::parse(&metrics(&daemon).await);
    later.keeps_the_promise();
    for code in ["closed_by_client", "idle_timeout", "internal_error"] {
        assert!(
            at_start
                .series
                .contains_key(&format!("sealway_tunnels_closed_total{{code=\"{code}\"}}")),
            "{code}"
        );
    }
    let buckets = later
        .series
        .iter()
        .filter(|(series, _)| series.starts_with("sealway_tunnel_duration_seconds_bucket"));
    assert!(buckets.count() > 5, "no buckets");
    assert_eq!(later.series["sealway_tunnel_duration_seconds_count"], 1.0);
    assert_eq!(later.series["sealway_tunnels_opened_total"], 1.0);
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn names_from_peers_add_no_series() {
    let upstream = RawUpstream::start().await;
    let unhurried =
        Config::to(upstream.addr()).section("[limits]\naccept_rate = 0\nconnect_rate = 0");
    let users = user("alice", "secret", "");
    let daemon = start_with_users(unhurried, &users, "lockout_failures = 1000000").await;
    daemon
        .metric_until("sealway_egress_up{address=\"127.0.0.2\"}", |up| up == 1.0)
        .await;
    let alice = basic("alice", "secret");
    let as_alice = [("Proxy-Authorization", alice.as_str())];
    Tunnel::open_with(&daemon, &upstream, &as_alice)
        .await
        .close()
        .await;
    daemon
        .metric_until(
            "sealway_tunnels_closed_total{code=\"closed_by_client\"}",
            |closed| closed == 1.0,
        )
        .await;
    let before = Page::parse(&metrics(&daemon).await);
    for number in 0..HOSTILE {
        let name = match number % 5 {
            0 => format!("evil{number}.example:443"),
            1 => format!("evil{number}.example:{}", 1000 + number),
            2 => format!("code=\"evil{number}\"}}:443"),
            3 => format!("203.0.{}.{}:443", number / 256, number % 256),
            _ => upstream.authority(),
        };
        let agent = format!("evil{number}");
        let credentials = if number % 5 == 4 {
            basic(&agent, "evil")
        } else {
            alice.clone()
        };
        let headers = [
            ("User-Agent", agent.as_str()),
            ("Proxy-Authorization", credentials.as_str()),
        ];
        assert_ne!(
            connect(daemon.proxy_addr(), &name, &headers).await.status(),
            200
        );
    }
    for number in 0..HOSTILE_HELLOS {
        let mut client = connect(daemon.proxy_addr(), &upstream.authority(), &as_alice)
            .await
            .established();
        let hello = MadeHello::naming(&format!("evil{number}.example")).bytes();
        client.write_all(&hello).await.unwrap();
        // The alert, or a reset after it.
        let _refused = soon("the end", client.read_to_end(&mut Vec::new())).await;
    }
    let codes = [
        "host_denied",
        "bad_request",
        "ip_literal_denied",
        "auth_failed",
        "sni_mismatch",
    ];
    daemon
        .metric_until(&denied_as("sni_mismatch"), |count| {
            count == f64::from(HOSTILE_HELLOS)
        })
        .await;
    let text = metrics(&daemon).await;
    let after = Page::parse(&text);
    let (before, now): (BTreeSet<_>, BTreeSet<_>) = (
        before.series.keys().collect(),
        after.series.keys().collect(),
    );
    assert_eq!(now, before, "series came or went");
    assert!(!text.contains("evil"), "{text}");
    let counted: f64 = codes
        .iter()
        .map(|code| after.series[&denied_as(code)])
        .sum();
    assert_eq!(counted, f64::from(HOSTILE + HOSTILE_HELLOS), "{text}");
    println!(
        "{} series before and after {} hostile names",
        now.len(),
        HOSTILE + HOSTILE_HELLOS
    );
}

fn denied_as(code: &str) -> String {
    format!("sealway_tunnels_denied_total{{code=\"{code}\"}}")
}

#[tokio::test]
async fn unknown_pages_are_404() {
    let daemon = Daemon::start(&Config::closed()).await;
    assert_eq!(
        daemon.admin_get("/healthz").await,
        (200, "ok\n".to_string())
    );
    assert_eq!(
        daemon.admin_get("/readyz").await,
        (200, "ready\n".to_string())
    );
    assert_eq!(daemon.admin_get("/metrics?name=x").await.0, 200);
    for path in [
        "/index.html",
        "/status/",
        "/favicon.ico",
        "/metrics/",
        "/metric",
        "//metrics",
        "/healthz/x",
        "/%6detrics",
        "/../metrics",
    ] {
        assert_eq!(daemon.admin_get(path).await.0, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        for path in ["/metrics", "/healthz", "/readyz", "/status", "/"] {
            let answer = exchange(&daemon, method, path).await;
            assert!(
                answer.starts_with("HTTP/1.1 405 "),
                "{method} {path}: {answer}"
            );
            assert!(
                answer.to_lowercase().contains("\r\nallow: get, head\r\n"),
                "{answer}"
            );
        }
    }
    let head = exchange(&daemon, "HEAD", "/healthz").await;
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let page = exchange(&daemon, "GET", "/metrics").await;
    assert!(
        page.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{page}"
    );
}

async fn metrics(daemon: &Daemon) -> String {
    let (status, page) = daemon.admin_get("/metrics").await;
    assert_eq!(status, 200);
    page
}

/// Sends a request without a body and reads to the end.
async fn exchange(daemon: &Daemon, method: &str, path: &str) -> String {
    let mut stream = dial(daemon.admin_addr()).await;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("the page", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    answer
}

/// A page in the Prometheus text format 0.0.4, read strictly.
struct Page {
    types: BTreeMap<String, String>,
    helped: BTreeSet<String>,
    series: BTreeMap<String, f64>,
}

impl Page {
    fn parse(text: &str) -> Page {
        assert!(text.ends_with('\n'), "the last line must end");
        let mut page = Page {
            types: BTreeMap::new(),
            helped: BTreeSet::new(),
            series: BTreeMap::new(),
        };
        for line in text.lines().filter(|line| !line.is_empty()) {
            page.line(line)
                .unwrap_or_else(|| panic!("malformed: {line:?}"));
        }
        page
    }

    fn line(&mut self, line: &str) -> Option<()> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ')?;
            return (is_name(name) && !text.is_empty() && self.helped.insert(name.into()))
                .then_some(());
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ')?;
            let known = ["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind);
            return (is_name(name)
                && known
                && self.types.insert(name.into(), kind.into()).is_none())
            .then_some(());
        }
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series
            .split_once('{')
            .map_or((series, ""), |(name, labels)| (name, labels));
        if labels.is_empty() != (name == series) {
            return None;
        }
        let labels = labels_of(labels)?;
        let unique = labels
            .iter()
            .map(|(name, _)| name)
            .collect::<BTreeSet<_>>()
            .len()
            == labels.len();
        let typed = self.types.contains_key(family(name, &self.types));
        let fits = is_name(name) && unique && typed && !series.contains(' ');
        let new = self
            .series
            .insert(series.into(), value.parse().ok()?)
            .is_none();
        (fits && new).then_some(())
    }

    fn keeps_the_promise(&self) {
        for (name, kind, labels) in PROMISED {
            assert_eq!(
                self.types.get(name).map(String::as_str),
                Some(kind),
                "{name}"
            );
            assert!(self.helped.contains(name), "no help for {name}");
            let mut found = 0;
            for series in self
                .series
                .keys()
                .filter(|series| family(&bare(series), &self.types) == name)
            {
                let given = series
                    .split_once('{')
                    .map_or(Vec::new(), |(_, labels)| labels_of(labels).unwrap());
                let given: Vec<&str> = given
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .filter(|name| *name != "le")
                    .collect();
                assert_eq!(
                    BTreeSet::from_iter(given),
                    BTreeSet::from_iter(labels.iter().copied()),
                    "{series}"
                );
                found += 1;
            }
            assert!(found > 0, "{name} has no series");
        }
        let promised: BTreeSet<_> = PROMISED
            .iter()
            .map(|(name, _, _)| name.to_string())
            .collect();
        assert_eq!(
            self.types.keys().cloned().collect::<BTreeSet<_>>(),
            promised,
            "names that nobody promised"
        );
    }
}

/// `name="value",…}`
fn labels_of(text: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    let mut rest = text.strip_suffix('}').or(text.is_empty().then_some(""))?;
    while !rest.is_empty() {
        let (name, behind) = rest.split_once("=\"")?;
        let (value, behind) = behind.split_once('"')?;
        if !is_name(name) || value.contains(['\\', '\n']) {
            return None;
        }
        labels.push((name.into(), value.into()));
        rest = behind
            .strip_prefix(',')
            .or(behind.is_empty().then_some(""))?;
    }
    Some(labels)
}

/// The name that carries the type of a sample.
fn family<'a>(name: &'a str, types: &BTreeMap<String, String>) -> &'a str {
    let parts = ["_bucket", "_sum", "_count"]
        .into_iter()
        .filter_map(|part| name.strip_suffix(part));
    parts
        .into_iter()
        .find(|name| types.get(*name).is_some_and(|kind| kind == "histogram"))
        .unwrap_or(name)
}

fn bare(series: &str) -> String {
    series.split('{').next().unwrap_or_default().into()
}

fn is_name(name: &str) -> bool {
    let start = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    start
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
