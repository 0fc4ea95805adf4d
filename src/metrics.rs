//! Every metric: names, labels, help and cached handles, in one place.
//!
//! Labels come from closed sets or from the configuration, never from a peer. Each daemon has a recorder of its own,
//! so nothing here is global. Text format: Prometheus exposition 0.0.4.

mod configured;
pub mod recent;
mod total;

use std::collections::HashMap;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use metrics_process::Collector;

use crate::authority::UserId;
use crate::outcome::{DenyReason, End, Ending, Failure, Lookup};
use crate::policy::REPORTED;
use crate::sys::usage;
pub use configured::Configured;
pub use total::Total;

/// Handles to all of them.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    process: Collector,
    ends: HashMap<(bool, &'static str), Total>,
    reported: HashMap<DenyReason, Counter>,
    phases: [Histogram; Phase::ALL.len()],
    dns: HashMap<Lookup, Counter>,
    dns_files: HashMap<(&'static str, bool), Counter>,
    negotiated: HashMap<(&'static str, &'static str), Counter>,
    reloads: [Counter; 2],
    last_reload: Gauge,
    last_reload_successful: Gauge,
    clock: Gauge,
    acts: HashMap<&'static str, Counter>,
    drained: Gauge,
    /// Bytes from clients to upstreams.
    pub bytes_up: Total,
    /// Bytes from upstreams to clients.
    pub bytes_down: Total,
    /// Bytes that never entered user space.
    pub spliced: Total,
    /// Bytes that did.
    pub copied: Total,
    /// Tunnels that passed every judgement.
    pub opened: Total,
    /// Those of them that have not ended.
    pub active: Gauge,
    /// From the accept to the end of a tunnel, in seconds.
    pub tunnel_duration: Histogram,
    /// From a client's first byte behind the handshake to the upstream's answer, in seconds.
    pub first_byte: Histogram,
    /// accept(2) failed.
    pub accept_errors: Counter,
    /// Audit records that could not be written.
    pub audit_failures: Counter,
}

/// A part of the set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Accept to the whole CONNECT head.
    Request,
    /// The look-up of the name.
    Dns,
    /// TCP to the upstream.
    Connect,
    /// 200 to the whole ClientHello.
    ClientHello,
    /// From there to the whole ServerHello.
    ServerHello,
    /// Accept to the first byte sent upstream.
    Total,
}

impl Phase {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Request, "request"),
        (Self::Dns, "dns"),
        (Self::Connect, "connect"),
        (Self::ClientHello, "client_hello"),
        (Self::ServerHello, "server_hello"),
        (Self::Total, "total"),
    ];
}

impl Metrics {
    /// Registers every series, so that each is there from the first scrape on.
    #[must_use]
    pub fn new(version: &'static str, revision: &'static str) -> Self {
        let recorder = buckets(PrometheusBuilder::new()).build_recorder();
        describe(&recorder);
        let process = Collector::default();
        metrics::with_local_recorder(&recorder, || process.describe());
        let registry = Registry(&recorder);
        let counter = |name, labels: &[_]| registry.counter(name, labels);
        let total = |name, labels: &[_]| Total::of(registry.counter(name, labels));
        let gauge = |name| registry.gauge(name, &[]);
        let histogram = |name, labels: &[_]| registry.histogram(name, labels);
        let build = [("version", version), ("revision", revision)];
        registry.gauge("sealway_build_info", &build).set(1.0);
        Self {
            ends: registry.ends(),
            reported: registry.reported(),
            phases: Phase::ALL
                .map(|(_, phase)| histogram("sealway_setup_duration_seconds", &[("phase", phase)])),
            dns: registry.lookups(),
            dns_files: registry.dns_files(),
            negotiated: registry.sessions(),
            bytes_up: total("sealway_tunnel_bytes_total", &[("direction", "up")]),
            bytes_down: total("sealway_tunnel_bytes_total", &[("direction", "down")]),
            spliced: total("sealway_relayed_bytes_total", &[("path", "splice")]),
            copied: total("sealway_relayed_bytes_total", &[("path", "copy")]),
            reloads: ["ok", "failed"]
                .map(|result| counter("sealway_config_reloads_total", &[("result", result)])),
            last_reload: gauge("sealway_config_last_reload_timestamp_seconds"),
            opened: total("sealway_tunnels_opened_total", &[]),
            acts: ACTS
                .map(|act| (act, counter("sealway_operator_acts_total", &[("act", act)])))
                .into(),
            drained: gauge("sealway_drained"),
            last_reload_successful: gauge("sealway_config_last_reload_successful"),
            clock: gauge("sealway_clock_synchronised"),
            active: gauge("sealway_tunnels_active"),
            tunnel_duration: histogram("sealway_tunnel_duration_seconds", &[]),
            first_byte: histogram("sealway_first_byte_seconds", &[]),
            accept_errors: counter("sealway_accept_errors_total", &[]),
            audit_failures: counter("sealway_audit_failures_total", &[]),
            handle: recorder.handle(),
            process,
            recorder,
        }
    }

    /// Counts an end: a tunnel's under `closed`, all else under `denied`.
    pub fn ended(&self, end: End) {
        if let Some(counter) = self.ends.get(&(matches!(end, End::Ended(_)), end.code())) {
            counter.increment(1);
        }
    }

    /// How often this end has been counted.
    #[must_use]
    pub fn count(&self, end: End) -> u64 {
        self.ends
            .get(&(matches!(end, End::Ended(_)), end.code()))
            .map_or(0, Total::get)
    }

    /// Counts an attempt that policy would have refused if names were enforced.
    pub fn would_deny(&self, reason: DenyReason) {
        if let Some(counter) = self.reported.get(&reason) {
            counter.increment(1);
        }
    }

    /// Notes how long a part of the set-up took.
    pub fn phase(&self, phase: Phase, seconds: f64) {
        let histogram = Phase::ALL
            .iter()
            .zip(&self.phases)
            .find(|((known, _), _)| *known == phase);
        if let Some((_, histogram)) = histogram {
            histogram.record(seconds);
        }
    }

    /// Counts a negotiated session; what clients of today do not negotiate is `other`, and below TLS 1.3 the group is
    /// `none`.
    pub fn negotiated(&self, version: &str, group: Option<&str>) {
        let known = |names: &[&'static str], name| {
            names
                .iter()
                .find(|known| **known == name)
                .copied()
                .unwrap_or("other")
        };
        let labels = (
            known(&VERSIONS, version),
            known(&GROUPS, group.unwrap_or("none")),
        );
        if let Some(counter) = self.negotiated.get(&labels) {
            counter.increment(1);
        }
    }

    /// Counts a look-up.
    pub fn dns_lookup(&self, result: Lookup) {
        if let Some(counter) = self.dns.get(&result) {
            counter.increment(1);
        }
    }

    /// Counts a changed file of the machine's resolver: what it says is in force, or what it said before is kept.
    pub fn dns_file_read(&self, file: &'static str, is_taken: bool) {
        if let Some(counter) = self.dns_files.get(&(file, is_taken)) {
            counter.increment(1);
        }
    }

    /// Counts a reload; a good one's time is that of the configuration in force.
    pub fn reloaded(&self, unix_seconds: Option<f64>) {
        let [ok, failed] = &self.reloads;
        match unix_seconds {
            Some(seconds) => {
                ok.increment(1);
                self.configured(seconds);
            }
            None => {
                failed.increment(1);
                self.last_reload_successful.set(0.0);
            }
        }
    }

    /// Notes when the configuration in force was read.
    pub fn configured(&self, unix_seconds: f64) {
        self.last_reload.set(unix_seconds);
        self.last_reload_successful.set(1.0);
    }

    /// Notes whether the clock is synchronised.
    pub fn clock_synchronised(&self, is_synchronised: Option<bool>) {
        self.clock
            .set(is_synchronised.map_or(f64::NAN, |is| if is { 1.0 } else { 0.0 }));
    }

    /// Counts what an operator has asked of the running daemon.
    pub fn operated(&self, act: &str) {
        if let Some(counter) = self.acts.get(act) {
            counter.increment(1);
        }
    }

    /// Notes whether an operator keeps new tunnels away.
    pub fn drained(&self, is_drained: bool) {
        self.drained.set(if is_drained { 1.0 } else { 0.0 });
    }

    /// Notes how many connections there may be at once, and how many ports the kernel has for one source and upstream.
    pub fn bounds(&self, tunnels_max: usize, ports_max: usize) {
        for (name, bound) in [
            ("sealway_tunnels_max", tunnels_max),
            ("sealway_egress_ports_max", ports_max),
        ] {
            self.recorder
                .register_gauge(&Key::from_name(name), &ABOUT)
                .set(bound as f64);
        }
    }

    /// The series of a configured user: its tunnels, and the bytes that they have moved.
    pub fn user(&self, user: &UserId) -> (Gauge, Counter) {
        let key =
            |name| Key::from_parts(name, vec![Label::new("user", label_value(user.as_str()))]);
        let active = self
            .recorder
            .register_gauge(&key("sealway_user_tunnels_active"), &ABOUT);
        (
            active,
            self.recorder
                .register_counter(&key("sealway_user_bytes_total"), &ABOUT),
        )
    }

    /// The text that Prometheus scrapes.
    #[must_use]
    pub fn render(&self, configured: &Configured) -> String {
        metrics::with_local_recorder(&self.recorder, || self.process.collect());
        with_cpu_seconds(&self.handle.render(), usage::cpu_time().ok()) + &configured.render()
    }

    /// Folds histogram samples together; to be called every few seconds, or they pile up.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// Registers series with one recorder.
struct Registry<'r>(&'r PrometheusRecorder);

impl Registry<'_> {
    fn counter(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Counter {
        self.0.register_counter(&key(name, labels), &ABOUT)
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Gauge {
        self.0.register_gauge(&key(name, labels), &ABOUT)
    }

    fn histogram(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Histogram {
        self.0.register_histogram(&key(name, labels), &ABOUT)
    }

    /// One counter for each end; the flag says whether a tunnel had opened.
    fn ends(&self) -> HashMap<(bool, &'static str), Total> {
        let count = |name, code| Total::of(self.counter(name, &[("code", code)]));
        let denied = DenyReason::ALL
            .iter()
            .map(|reason| reason.code())
            .chain(Failure::ALL.iter().map(|failure| failure.code()))
            .map(|code| ((false, code), count("sealway_tunnels_denied_total", code)));
        let closed = Ending::ALL
            .iter()
            .map(|ending| ending.code())
            .map(|code| ((true, code), count("sealway_tunnels_closed_total", code)));
        denied.chain(closed).collect()
    }

    fn reported(&self) -> HashMap<DenyReason, Counter> {
        let counter = |reason: DenyReason| {
            self.counter("sealway_would_deny_total", &[("code", reason.code())])
        };
        REPORTED
            .into_iter()
            .map(|reason| (reason, counter(reason)))
            .collect()
    }

    fn lookups(&self) -> HashMap<Lookup, Counter> {
        let counter = |result: Lookup| {
            self.counter("sealway_dns_lookups_total", &[("result", result.label())])
        };
        Lookup::ALL
            .into_iter()
            .map(|result| (result, counter(result)))
            .collect()
    }

    fn dns_files(&self) -> HashMap<(&'static str, bool), Counter> {
        let counter = |file, is_taken| {
            let result = if is_taken { "changed" } else { "kept" };
            let labels = [("file", file), ("result", result)];
            self.counter("sealway_dns_file_reads_total", &labels)
        };
        ["resolv.conf", "hosts"]
            .into_iter()
            .flat_map(|file| [(file, true), (file, false)])
            .map(|(file, is_taken)| ((file, is_taken), counter(file, is_taken)))
            .collect()
    }

    fn sessions(&self) -> HashMap<(&'static str, &'static str), Counter> {
        let counter = |version, group| {
            let labels = [("version", version), ("group", group)];
            self.counter("sealway_tls_negotiated_total", &labels)
        };
        VERSIONS
            .into_iter()
            .flat_map(|version| GROUPS.map(|group| (version, group)))
            .map(|(version, group)| ((version, group), counter(version, group)))
            .collect()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// The same page with the CPU time in fractions. The recorder counts in whole numbers only, and a daemon that uses a
/// hundredth of a core would stand still for minutes and then leap.
fn with_cpu_seconds(page: &str, time: Option<Duration>) -> String {
    let exact = |line: &str| {
        time.filter(|_| line.starts_with(CPU_SECONDS))
            .map(|time| format!("{CPU_SECONDS}{}", time.as_secs_f64()))
    };
    page.split_inclusive('\n')
        .map(|line| exact(line).map_or_else(|| line.to_owned(), |exact| exact + "\n"))
        .collect()
}

/// A text as the exporter has to get it to print it right: it takes a backslash for the start of an escape, unless there
/// are two, and escapes quotes itself.
fn label_value(text: &str) -> String {
    text.replace('\\', "\\\\")
}

fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
    Key::from_parts(
        name,
        labels
            .iter()
            .map(|(name, value)| Label::new(*name, *value))
            .collect::<Vec<_>>(),
    )
}

/// Set-up takes from below a millisecond to the deadlines of 10 s; a tunnel from a second to hours.
fn buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
    const SETUP: [f64; 12] = [
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0,
    ];
    const ANSWER: [f64; 12] = [
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0,
    ];
    const LIFE: [f64; 9] = [0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0];
    let full = |name: &str| Matcher::Full(name.to_owned());
    builder
        .set_buckets_for_metric(full("sealway_setup_duration_seconds"), &SETUP)
        .and_then(|builder| {
            builder.set_buckets_for_metric(full("sealway_first_byte_seconds"), &ANSWER)
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(full("sealway_tunnel_duration_seconds"), &LIFE)
        })
        // Fails for an empty list only.
        .unwrap_or_else(|_| PrometheusBuilder::new())
}

fn describe(recorder: &PrometheusRecorder) {
    for (name, text) in COUNTERS {
        recorder.describe_counter(KeyName::from_const_str(name), None, text.into());
    }
    for (name, text) in GAUGES {
        recorder.describe_gauge(KeyName::from_const_str(name), None, text.into());
    }
    for (name, text) in HISTOGRAMS {
        recorder.describe_histogram(
            KeyName::from_const_str(name),
            Some(Unit::Seconds),
            text.into(),
        );
    }
}

const ABOUT: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// How the sample begins.
const CPU_SECONDS: &str = "process_cpu_seconds_total ";
const VERSIONS: [&str; 3] = ["1.2", "1.3", "other"];
const GROUPS: [&str; 8] = [
    "none",
    "x25519",
    "secp256r1",
    "secp384r1",
    "secp521r1",
    "x448",
    "X25519MLKEM768",
    "other",
];

/// What an operator can ask.
const ACTS: [&str; 4] = ["end", "drain", "undrain", "reload"];

const COUNTERS: [(&str, &str); 14] = [
    (
        "sealway_tunnels_opened_total",
        "Tunnels that passed every judgement.",
    ),
    (
        "sealway_tunnels_closed_total",
        "Tunnels that ended, by how.",
    ),
    (
        "sealway_tunnels_denied_total",
        "Attempts that were refused or failed, by code.",
    ),
    (
        "sealway_would_deny_total",
        "Attempts that report mode let pass, by the code that would have refused them.",
    ),
    (
        "sealway_tunnel_bytes_total",
        "Bytes relayed, by direction; grows while a tunnel runs.",
    ),
    (
        "sealway_user_bytes_total",
        "Bytes relayed for the user, both ways together; grows while a tunnel runs.",
    ),
    (
        "sealway_relayed_bytes_total",
        "Bytes relayed, by path: spliced inside the kernel, or copied.",
    ),
    (
        "sealway_tls_negotiated_total",
        "TLS sessions by what the server chose.",
    ),
    ("sealway_dns_lookups_total", "Look-ups of names, by result."),
    (
        "sealway_dns_file_reads_total",
        "Changes of /etc/resolv.conf and /etc/hosts: put in force, or kept out because the file could not be used.",
    ),
    (
        "sealway_accept_errors_total",
        "Connections that could not be accepted.",
    ),
    (
        "sealway_audit_failures_total",
        "Audit records that could not be written.",
    ),
    (
        "sealway_config_reloads_total",
        "Reloads of the configuration, by result.",
    ),
    (
        "sealway_operator_acts_total",
        "What operators have asked of the running daemon.",
    ),
];

const GAUGES: [(&str, &str); 13] = [
    ("sealway_tunnels_active", "Tunnels that are open."),
    (
        "sealway_user_tunnels_active",
        "Tunnels of the user, those that are being set up included.",
    ),
    (
        "sealway_egress_up",
        "1 while the egress address is on this host.",
    ),
    (
        "sealway_egress_ports_in_use",
        "Ports of the egress address that tunnels hold or the kernel keeps after them (TIME_WAIT), towards all upstreams.",
    ),
    (
        "sealway_egress_ports_busiest",
        "Those of them towards the upstream with the most.",
    ),
    (
        "sealway_egress_ports_max",
        "Ports that the kernel has for one egress address and one upstream.",
    ),
    (
        "sealway_destination_ranges_age_seconds",
        "How old the older file of the destination ranges is.",
    ),
    ("sealway_tunnels_max", "Tunnels that there may be at once."),
    (
        "sealway_clock_synchronised",
        "1 while the kernel holds its clock for synchronised; NaN where it cannot be asked.",
    ),
    (
        "sealway_config_last_reload_timestamp_seconds",
        "When the configuration in force was read, in Unix time.",
    ),
    (
        "sealway_config_last_reload_successful",
        "0 from a reload that was refused until one is taken.",
    ),
    (
        "sealway_drained",
        "1 from sealway drain until sealway undrain: new tunnels are refused.",
    ),
    (
        "sealway_build_info",
        "1; the labels say which build this is.",
    ),
];

const HISTOGRAMS: [(&str, &str); 3] = [
    (
        "sealway_setup_duration_seconds",
        "How long each part of setting up a tunnel took.",
    ),
    (
        "sealway_first_byte_seconds",
        "From the client's first byte behind its hello to the upstream's first one after that.",
    ),
    (
        "sealway_tunnel_duration_seconds",
        "From the accept to the end of a tunnel.",
    ),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_users_name_is_escaped_as_the_exposition_format_has_it() {
        let metrics = Metrics::new("1", "r");
        for (name, wanted) in [
            ("svc-llm@corp.example", "svc-llm@corp.example"),
            ("a\"b", "a\\\"b"),
            ("CORP\\svc", "CORP\\\\svc"),
            ("a\\\"b", "a\\\\\\\"b"),
            ("a\\\\b", "a\\\\\\\\b"),
            ("a\\n", "a\\\\n"),
            ("{x}=1,y\\", "{x}=1,y\\\\"),
        ] {
            metrics.user(&UserId::parse(name).unwrap()).0.set(7.0);
            let page = metrics.render(&Configured::default());
            let line = format!("sealway_user_tunnels_active{{user=\"{wanted}\"}} 7");
            assert_eq!(
                page.lines().filter(|known| **known == line).count(),
                1,
                "{line} in {page}"
            );
        }
    }

    #[test]
    fn cpu_time_is_told_in_fractions() {
        let page =
            "# HELP process_cpu_seconds_total x\nprocess_cpu_seconds_total 3\nprocess_threads 5\n";
        let exact = with_cpu_seconds(page, Some(Duration::from_micros(3_250_000)));
        assert_eq!(exact, page.replace("total 3\n", "total 3.25\n"));
        assert_eq!(with_cpu_seconds(page, None), page);
    }
}
