//! Every metric: cached handles to the series, and the page that Prometheus scrapes.
//!
//! Labels come from closed sets or from the configuration, never from a peer. Each daemon has its
//! own recorder, so nothing here is global. Text format: Prometheus exposition 0.0.4.

mod configured;
pub mod definitions;
pub mod recent;
mod registry;
mod total;
pub mod warm;

use std::collections::HashMap;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_process::Collector;

use crate::authority::UserId;
use crate::outcome::{DenyReason, End, Lookup};
use crate::sys::usage;
pub use configured::Configured;
use definitions::{
    ACCEPT_ERRORS, ACTS, AUDIT_FAILURES, BUILD_INFO, CLOCK_SYNCHRONISED, CONFIG_FILES_UNREADABLE,
    CONFIG_LAST_RELOAD, CONFIG_LAST_RELOAD_SUCCESSFUL, CONFIG_RELOADS, DEGRADED, DRAINED,
    EGRESS_PORTS_MAX, FIRST_BYTE, GROUPS, HANDOVER_PAUSE, HANDOVER_RESULTS, HANDOVER_TUNNELS,
    HEALTH_CHECKS, OPERATOR_ACTS, READY, RELAYED_BYTES, SETUP_DURATION, STANDBY, TUNNEL_BYTES,
    TUNNEL_DURATION, TUNNELS_ACTIVE, TUNNELS_MAX, TUNNELS_OPENED, USER_BYTES, USER_TUNNELS_ACTIVE,
    VERSIONS, buckets, describe,
};
use registry::Registry;
pub use total::Total;
use warm::WarmMetrics;

/// Handles to all series.
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
    handed_over: [Counter; HANDOVER_RESULTS.len()],
    handover_pause: Histogram,
    /// Warm upstream sockets.
    pub warm: WarmMetrics,
    /// Bytes from clients to upstreams.
    pub bytes_up: Total,
    /// Bytes from upstreams to clients.
    pub bytes_down: Total,
    /// Bytes that never entered user space.
    pub spliced: Total,
    /// Bytes that passed through user space.
    pub copied: Total,
    /// Tunnels that opened.
    pub opened: Total,
    /// Opened tunnels that have not ended.
    pub active: Gauge,
    /// From the accept to the end of a tunnel, in seconds.
    pub tunnel_duration: Histogram,
    /// From a client's first byte after the handshake to the upstream's next byte, in seconds.
    pub first_byte: Histogram,
    /// Failures of accept(2).
    pub accept_errors: Counter,
    /// Connections by which a balancer only checks that a listener answers.
    pub health_checks: Counter,
    /// Audit records that could not be written.
    pub audit_failures: Counter,
}

/// A phase of the set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From the accept to the whole CONNECT head.
    Request,
    /// The lookup of the name.
    Dns,
    /// The TCP connection to the upstream.
    Connect,
    /// From the 200 to the whole ClientHello.
    ClientHello,
    /// From the ClientHello to the whole ServerHello.
    ServerHello,
    /// From the accept to the first byte sent upstream.
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
    /// Registers every series, so that the first scrape has them all.
    #[must_use]
    pub fn new(version: &'static str, revision: &'static str) -> Self {
        let recorder = buckets(PrometheusBuilder::new()).build_recorder();
        describe(&recorder);
        let process = Collector::default();
        metrics::with_local_recorder(&recorder, || process.describe());
        let registry = Registry(&recorder);
        let part = |metric, value| Total::of(registry.counter(metric, [value]));
        registry.gauge(&BUILD_INFO, [version, revision]).set(1.0);
        Self {
            ends: registry.ends(),
            reported: registry.reported(),
            phases: Phase::ALL.map(|(_, phase)| registry.histogram(&SETUP_DURATION, [phase])),
            dns: registry.lookups(),
            dns_files: registry.dns_files(),
            negotiated: registry.sessions(),
            bytes_up: part(&TUNNEL_BYTES, "up"),
            bytes_down: part(&TUNNEL_BYTES, "down"),
            spliced: part(&RELAYED_BYTES, "splice"),
            copied: part(&RELAYED_BYTES, "copy"),
            reloads: ["ok", "failed"].map(|result| registry.counter(&CONFIG_RELOADS, [result])),
            last_reload: registry.gauge(&CONFIG_LAST_RELOAD, []),
            opened: Total::of(registry.counter(&TUNNELS_OPENED, [])),
            acts: ACTS
                .map(|act| (act, registry.counter(&OPERATOR_ACTS, [act])))
                .into(),
            drained: registry.gauge(&DRAINED, []),
            handed_over: HANDOVER_RESULTS
                .map(|result| registry.counter(&HANDOVER_TUNNELS, [result])),
            handover_pause: registry.histogram(&HANDOVER_PAUSE, []),
            warm: WarmMetrics::of(&registry),
            last_reload_successful: registry.gauge(&CONFIG_LAST_RELOAD_SUCCESSFUL, []),
            clock: registry.gauge(&CLOCK_SYNCHRONISED, []),
            active: registry.gauge(&TUNNELS_ACTIVE, []),
            tunnel_duration: registry.histogram(&TUNNEL_DURATION, []),
            first_byte: registry.histogram(&FIRST_BYTE, []),
            accept_errors: registry.counter(&ACCEPT_ERRORS, []),
            health_checks: registry.counter(&HEALTH_CHECKS, []),
            audit_failures: registry.counter(&AUDIT_FAILURES, []),
            handle: recorder.handle(),
            process,
            recorder,
        }
    }

    /// Counts an end: of an opened tunnel as `closed`, of any other attempt as `denied`.
    pub fn ended(&self, end: End) {
        if let Some(counter) = self.ends.get(&(matches!(end, End::Ended(_)), end.code())) {
            counter.increment(1);
        }
    }

    /// Returns the count of this end.
    #[must_use]
    pub fn count(&self, end: End) -> u64 {
        self.ends
            .get(&(matches!(end, End::Ended(_)), end.code()))
            .map_or(0, Total::get)
    }

    /// Counts an attempt that the policy would refuse if it were enforced.
    pub fn would_deny(&self, reason: DenyReason) {
        if let Some(counter) = self.reported.get(&reason) {
            counter.increment(1);
        }
    }

    /// Records the duration of a phase of the set-up.
    pub fn phase(&self, phase: Phase, seconds: f64) {
        let histogram = Phase::ALL
            .iter()
            .zip(&self.phases)
            .find(|((known, _), _)| *known == phase);
        if let Some((_, histogram)) = histogram {
            histogram.record(seconds);
        }
    }

    /// Counts a negotiated session. Unknown versions and groups count as `other`; below TLS 1.3 the
    /// group is `none`.
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

    /// Counts a lookup.
    pub fn dns_lookup(&self, result: Lookup) {
        if let Some(counter) = self.dns.get(&result) {
            counter.increment(1);
        }
    }

    /// Counts a change of a resolver file: `is_taken` if its content is in force, otherwise the old
    /// content stays.
    pub fn dns_file_read(&self, file: &'static str, is_taken: bool) {
        if let Some(counter) = self.dns_files.get(&(file, is_taken)) {
            counter.increment(1);
        }
    }

    /// Counts a reload: successful at this Unix time, or refused (None).
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

    /// Sets the time when the configuration in force was read.
    pub fn configured(&self, unix_seconds: f64) {
        self.last_reload.set(unix_seconds);
        self.last_reload_successful.set(1.0);
    }

    /// Sets whether the clock is synchronised; None if the kernel does not report it.
    pub fn clock_synchronised(&self, is_synchronised: Option<bool>) {
        self.clock
            .set(is_synchronised.map_or(f64::NAN, |is| if is { 1.0 } else { 0.0 }));
    }

    /// Counts an act of an operator.
    pub fn operated(&self, act: &str) {
        if let Some(counter) = self.acts.get(act) {
            counter.increment(1);
        }
    }

    /// Counts the tunnels of a former daemon; `pause` is how long no daemon had them, if any came.
    pub fn took_over(&self, adopted: usize, refused: usize, lost: usize, pause: Option<Duration>) {
        for (counter, tunnels) in self.handed_over.iter().zip([adopted, refused, lost]) {
            counter.increment(tunnels as u64);
        }
        if let Some(pause) = pause {
            self.handover_pause.record(pause.as_secs_f64());
        }
    }

    /// Sets whether an operator drains the daemon.
    pub fn drained(&self, is_drained: bool) {
        self.drained.set(if is_drained { 1.0 } else { 0.0 });
    }

    /// Sets whether new tunnels can be carried, whether only a floating egress address is missing for
    /// that, and the number of faults that do not prevent it.
    pub fn readiness(&self, is_ready: bool, is_standby: bool, degraded: usize) {
        let registry = Registry(&self.recorder);
        let gauge = |is_so: bool| f64::from(u8::from(is_so));
        registry.gauge(&READY, []).set(gauge(is_ready));
        registry.gauge(&STANDBY, []).set(gauge(is_standby));
        registry.gauge(&DEGRADED, []).set(degraded as f64);
    }

    /// Sets the number of files whose former content is in force because they cannot be read.
    pub fn unreadable(&self, files: usize) {
        let registry = Registry(&self.recorder);
        registry
            .gauge(&CONFIG_FILES_UNREADABLE, [])
            .set(files as f64);
    }

    /// Sets the most tunnels at once, and the number of ports that the kernel has for one source
    /// and upstream.
    pub fn bounds(&self, tunnels_max: usize, ports_max: usize) {
        let registry = Registry(&self.recorder);
        registry.gauge(&TUNNELS_MAX, []).set(tunnels_max as f64);
        registry.gauge(&EGRESS_PORTS_MAX, []).set(ports_max as f64);
    }

    /// Returns the series of a configured user: its open tunnels and their bytes.
    pub fn user(&self, user: &UserId) -> (Gauge, Counter) {
        let values = || [label_value(user.as_str())];
        let active = USER_TUNNELS_ACTIVE.key(values());
        let bytes = USER_BYTES.key(values());
        (
            self.recorder.register_gauge(&active, &ABOUT),
            self.recorder.register_counter(&bytes, &ABOUT),
        )
    }

    /// Returns the text that Prometheus scrapes.
    #[must_use]
    pub fn render(&self, configured: &Configured) -> String {
        metrics::with_local_recorder(&self.recorder, || self.process.collect());
        with_cpu_seconds(&self.handle.render(), usage::cpu_time().ok()) + &configured.render()
    }

    /// Aggregates histogram samples. Call this every few seconds, because samples take memory until
    /// then.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Replaces the CPU time by its value in fractions of a second. The recorder has only whole
/// numbers, so the rate of a daemon that uses a hundredth of a core would be 0 for minutes and then
/// jump.
fn with_cpu_seconds(page: &str, time: Option<Duration>) -> String {
    let exact = |line: &str| {
        time.filter(|_| line.starts_with(CPU_SECONDS))
            .map(|time| format!("{CPU_SECONDS}{}", time.as_secs_f64()))
    };
    page.split_inclusive('\n')
        .map(|line| exact(line).map_or_else(|| line.to_owned(), |exact| exact + "\n"))
        .collect()
}

/// Escapes a label value for the exporter: it reads a single backslash as the start of an escape,
/// and escapes quotes itself.
fn label_value(text: &str) -> String {
    text.replace('\\', "\\\\")
}

const ABOUT: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// The start of the sample line.
const CPU_SECONDS: &str = "process_cpu_seconds_total ";

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
    fn cpu_time_has_fractions_of_a_second() {
        let page =
            "# HELP process_cpu_seconds_total x\nprocess_cpu_seconds_total 3\nprocess_threads 5\n";
        let exact = with_cpu_seconds(page, Some(Duration::from_micros(3_250_000)));
        assert_eq!(exact, page.replace("total 3\n", "total 3.25\n"));
        assert_eq!(with_cpu_seconds(page, None), page);
    }
}
