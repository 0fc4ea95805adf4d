//! Registers the series of one recorder. Every label value comes from a closed set.

use std::collections::HashMap;

use metrics::{Counter, Gauge, Histogram, Key, Label, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::{ABOUT, Total};
use crate::outcome::{DenyReason, Ending, Failure, Lookup};
use crate::policy::REPORTED;

/// Registers series with one recorder.
pub(super) struct Registry<'r>(pub(super) &'r PrometheusRecorder);

impl Registry<'_> {
    pub(super) fn counter(
        &self,
        name: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Counter {
        self.0.register_counter(&key(name, labels), &ABOUT)
    }

    pub(super) fn gauge(
        &self,
        name: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Gauge {
        self.0.register_gauge(&key(name, labels), &ABOUT)
    }

    pub(super) fn histogram(
        &self,
        name: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Histogram {
        self.0.register_histogram(&key(name, labels), &ABOUT)
    }

    /// One counter for each code; the flag says whether the tunnel had opened.
    pub(super) fn ends(&self) -> HashMap<(bool, &'static str), Total> {
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

    pub(super) fn reported(&self) -> HashMap<DenyReason, Counter> {
        let counter = |reason: DenyReason| {
            self.counter("sealway_would_deny_total", &[("code", reason.code())])
        };
        REPORTED
            .into_iter()
            .map(|reason| (reason, counter(reason)))
            .collect()
    }

    pub(super) fn lookups(&self) -> HashMap<Lookup, Counter> {
        let counter = |result: Lookup| {
            self.counter("sealway_dns_lookups_total", &[("result", result.label())])
        };
        Lookup::ALL
            .into_iter()
            .map(|result| (result, counter(result)))
            .collect()
    }

    pub(super) fn dns_files(&self) -> HashMap<(&'static str, bool), Counter> {
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

    pub(super) fn sessions(&self) -> HashMap<(&'static str, &'static str), Counter> {
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

fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
    Key::from_parts(
        name,
        labels
            .iter()
            .map(|(name, value)| Label::new(*name, *value))
            .collect::<Vec<_>>(),
    )
}

pub(super) const VERSIONS: [&str; 3] = ["1.2", "1.3", "other"];
pub(super) const GROUPS: [&str; 8] = [
    "none",
    "x25519",
    "secp256r1",
    "secp384r1",
    "secp521r1",
    "x448",
    "X25519MLKEM768",
    "other",
];
