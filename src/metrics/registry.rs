//! Registers the series of one recorder. Every label value comes from a closed set.

use std::collections::HashMap;

use metrics::{Counter, Gauge, Histogram, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::definitions::{
    DNS_FILE_READS, DNS_FILES, DNS_LOOKUPS, Definition, GROUPS, TLS_NEGOTIATED, TUNNELS_CLOSED,
    TUNNELS_DENIED, VERSIONS, WOULD_DENY,
};
use super::{ABOUT, Total};
use crate::outcome::{DenyReason, Ending, Failure, Lookup};
use crate::policy::REPORTED;

/// Registers series with one recorder.
pub(super) struct Registry<'r>(pub(super) &'r PrometheusRecorder);

impl Registry<'_> {
    /// The series of a metric with these values of its labels.
    pub(super) fn counter<const N: usize>(
        &self,
        metric: &Definition,
        values: [&'static str; N],
    ) -> Counter {
        self.0.register_counter(&metric.key(values), &ABOUT)
    }

    /// Like [`Registry::counter`].
    pub(super) fn gauge<const N: usize>(
        &self,
        metric: &Definition,
        values: [&'static str; N],
    ) -> Gauge {
        self.0.register_gauge(&metric.key(values), &ABOUT)
    }

    /// Like [`Registry::counter`].
    pub(super) fn histogram<const N: usize>(
        &self,
        metric: &Definition,
        values: [&'static str; N],
    ) -> Histogram {
        self.0.register_histogram(&metric.key(values), &ABOUT)
    }

    /// One counter for each code; the flag says whether the tunnel had opened.
    pub(super) fn ends(&self) -> HashMap<(bool, &'static str), Total> {
        let count = |metric, code| Total::of(self.counter(metric, [code]));
        let denied = DenyReason::ALL
            .iter()
            .map(|reason| reason.code())
            .chain(Failure::ALL.iter().map(|failure| failure.code()))
            .map(|code| ((false, code), count(&TUNNELS_DENIED, code)));
        let closed = Ending::ALL
            .iter()
            .map(|ending| ending.code())
            .map(|code| ((true, code), count(&TUNNELS_CLOSED, code)));
        denied.chain(closed).collect()
    }

    pub(super) fn reported(&self) -> HashMap<DenyReason, Counter> {
        let counter = |reason: DenyReason| self.counter(&WOULD_DENY, [reason.code()]);
        REPORTED
            .into_iter()
            .map(|reason| (reason, counter(reason)))
            .collect()
    }

    pub(super) fn lookups(&self) -> HashMap<Lookup, Counter> {
        let counter = |result: Lookup| self.counter(&DNS_LOOKUPS, [result.label()]);
        Lookup::ALL
            .into_iter()
            .map(|result| (result, counter(result)))
            .collect()
    }

    pub(super) fn dns_files(&self) -> HashMap<(&'static str, bool), Counter> {
        let counter = |file, is_taken| {
            let result = if is_taken { "changed" } else { "kept" };
            self.counter(&DNS_FILE_READS, [file, result])
        };
        DNS_FILES
            .into_iter()
            .flat_map(|file| [(file, true), (file, false)])
            .map(|(file, is_taken)| ((file, is_taken), counter(file, is_taken)))
            .collect()
    }

    pub(super) fn sessions(&self) -> HashMap<(&'static str, &'static str), Counter> {
        let counter = |version, group| self.counter(&TLS_NEGOTIATED, [version, group]);
        VERSIONS
            .into_iter()
            .flat_map(|version| GROUPS.map(|group| (version, group)))
            .map(|(version, group)| ((version, group), counter(version, group)))
            .collect()
    }
}
