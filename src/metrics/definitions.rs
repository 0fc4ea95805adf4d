//! Every metric of the daemon: its name, type, labels and help text, each written once. Registration,
//! the help texts of `/metrics` and the table of docs/reference.md come from here; metrics-process
//! names the `process_` metrics. Registers no series.

mod handover;
mod warm;

use metrics::{Key, KeyName, Label, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

pub(super) use handover::{HANDOVER_PAUSE, HANDOVER_RESULTS, HANDOVER_TUNNELS};
pub(super) use warm::{WARM_CLOSED, WARM_DIALS, WARM_OPEN, WARM_OPENED};

/// A metric.
#[derive(Debug)]
pub struct Definition {
    /// The name in the exposition format.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The labels, in the order in which a series gives their values.
    pub labels: &'static [LabelName],
    /// The help text.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A sum that never decreases.
    Counter,
    /// A value that can decrease.
    Gauge,
    /// A distribution of seconds, with the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// A label of a metric.
#[derive(Debug)]
pub struct LabelName {
    /// The name.
    pub name: &'static str,
    /// Every value. Empty if the values are codes of `outcome`, or come from the configuration or
    /// the build.
    pub values: &'static [&'static str],
}

impl Kind {
    /// The word of the exposition format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

impl Definition {
    const fn counter(name: &'static str, labels: &'static [LabelName], help: &'static str) -> Self {
        Self::new(name, Kind::Counter, labels, help)
    }

    const fn gauge(name: &'static str, labels: &'static [LabelName], help: &'static str) -> Self {
        Self::new(name, Kind::Gauge, labels, help)
    }

    const fn new(
        name: &'static str,
        kind: Kind,
        labels: &'static [LabelName],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            labels,
            help,
        }
    }

    /// The key of the series with these values of the labels, in their order.
    pub(super) fn key<V: Into<SharedString>>(
        &self,
        values: impl IntoIterator<Item = V, IntoIter: ExactSizeIterator>,
    ) -> Key {
        let values = values.into_iter();
        debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        let labels = self.labels.iter().zip(values);
        let labels = labels.map(|(label, value)| Label::new(label.name, value));
        Key::from_parts(self.name, labels.collect::<Vec<_>>())
    }
}

const fn label(name: &'static str, values: &'static [&'static str]) -> LabelName {
    LabelName { name, values }
}

/// Sets the buckets of each histogram.
pub(super) fn buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
    ALL.iter().fold(builder, |builder, metric| {
        let Kind::Histogram(bounds) = metric.kind else {
            return builder;
        };
        builder
            .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)
            // This fails only for an empty list.
            .unwrap_or_else(|_| PrometheusBuilder::new())
    })
}

/// Registers the help text of every metric.
pub(super) fn describe(recorder: &PrometheusRecorder) {
    for metric in ALL {
        let (name, help) = (KeyName::from_const_str(metric.name), metric.help.into());
        match metric.kind {
            Kind::Counter => recorder.describe_counter(name, None, help),
            Kind::Gauge => recorder.describe_gauge(name, None, help),
            Kind::Histogram(_) => recorder.describe_histogram(name, Some(Unit::Seconds), help),
        }
    }
}

/// Every metric, in the order of docs/reference.md.
pub const ALL: &[&Definition] = &[
    &TUNNELS_OPENED,
    &TUNNELS_ACTIVE,
    &TUNNELS_CLOSED,
    &TUNNELS_DENIED,
    &WOULD_DENY,
    &TUNNEL_BYTES,
    &RELAYED_BYTES,
    &USER_TUNNELS_ACTIVE,
    &USER_BYTES,
    &FIRST_BYTE,
    &SETUP_DURATION,
    &TLS_NEGOTIATED,
    &TUNNEL_DURATION,
    &READY,
    &STANDBY,
    &DEGRADED,
    &EGRESS_UP,
    &EGRESS_FLOATING,
    &EGRESS_PORTS_IN_USE,
    &EGRESS_PORTS_BUSIEST,
    &EGRESS_PORTS_MAX,
    &TUNNELS_MAX,
    &DESTINATION_RANGES_AGE,
    &DNS_LOOKUPS,
    &DNS_FILE_READS,
    &WARM_DIALS,
    &WARM_OPENED,
    &WARM_CLOSED,
    &WARM_OPEN,
    &AUDIT_FAILURES,
    &CLOCK_SYNCHRONISED,
    &ACCEPT_ERRORS,
    &HEALTH_CHECKS,
    &HANDOVER_TUNNELS,
    &HANDOVER_PAUSE,
    &CONFIG_RELOADS,
    &CONFIG_LAST_RELOAD,
    &CONFIG_LAST_RELOAD_SUCCESSFUL,
    &CONFIG_FILES_UNREADABLE,
    &OPERATOR_ACTS,
    &DRAINED,
    &BUILD_INFO,
];

pub(super) const TUNNELS_OPENED: Definition =
    Definition::counter("sealway_tunnels_opened_total", &[], "Tunnels that opened.");
pub(super) const TUNNELS_ACTIVE: Definition =
    Definition::gauge("sealway_tunnels_active", &[], "Tunnels that are open.");
pub(super) const TUNNELS_CLOSED: Definition = Definition::counter(
    "sealway_tunnels_closed_total",
    &[label("code", &[])],
    "Tunnels that ended, by code.",
);
pub(super) const TUNNELS_DENIED: Definition = Definition::counter(
    "sealway_tunnels_denied_total",
    &[label("code", &[])],
    "Attempts that were refused or failed, by code.",
);
pub(super) const WOULD_DENY: Definition = Definition::counter(
    "sealway_would_deny_total",
    &[label("code", &[])],
    "Attempts that report mode let pass, by the code that would have refused them.",
);
pub(super) const TUNNEL_BYTES: Definition = Definition::counter(
    "sealway_tunnel_bytes_total",
    &[label("direction", &["up", "down"])],
    "Bytes relayed, by direction; grows while a tunnel runs.",
);
pub(super) const RELAYED_BYTES: Definition = Definition::counter(
    "sealway_relayed_bytes_total",
    &[label("path", &["splice", "copy"])],
    "Bytes relayed, by path: spliced inside the kernel, or copied, as the handshake up to the ServerHello always is.",
);
pub(super) const USER_TUNNELS_ACTIVE: Definition = Definition::gauge(
    "sealway_user_tunnels_active",
    &[label("user", &[])],
    "Tunnels of the user, those in set-up included. Present from the start for each user of the file, and kept when the user is removed.",
);
pub(super) const USER_BYTES: Definition = Definition::counter(
    "sealway_user_bytes_total",
    &[label("user", &[])],
    "Bytes relayed for the user, both directions together; grows while a tunnel runs.",
);
pub(super) const FIRST_BYTE: Definition = Definition::new(
    "sealway_first_byte_seconds",
    Kind::Histogram(&[
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0,
    ]),
    &[],
    "From the client's first byte after the clear handshake to the upstream's first byte after that: first_byte_ms of the audit record, noted when that byte arrives.",
);
/// Set-up takes from less than a millisecond to the deadlines of 10 s.
pub(super) const SETUP_DURATION: Definition = Definition::new(
    "sealway_setup_duration_seconds",
    Kind::Histogram(&[
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0,
    ]),
    &[label(
        "phase",
        &[
            "request",
            "dns",
            "connect",
            "client_hello",
            "server_hello",
            "total",
        ],
    )],
    "The duration of each phase of the set-up.",
);
pub(super) const TLS_NEGOTIATED: Definition = Definition::counter(
    "sealway_tls_negotiated_total",
    &[label("version", &VERSIONS), label("group", &GROUPS)],
    "TLS sessions, by the version and the group that the server chose; below TLS 1.3 the group is none.",
);
/// A tunnel takes from a second to hours.
pub(super) const TUNNEL_DURATION: Definition = Definition::new(
    "sealway_tunnel_duration_seconds",
    Kind::Histogram(&[0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0]),
    &[],
    "The duration of a tunnel, from the accept to its end.",
);
pub(super) const READY: Definition = Definition::gauge(
    "sealway_ready",
    &[],
    "1 while new tunnels can be carried, as /readyz says.",
);
pub(super) const STANDBY: Definition = Definition::gauge(
    "sealway_standby",
    &[],
    "1 while only a floating egress address is missing for new tunnels to be carried, as /standbyz says.",
);
pub(super) const DEGRADED: Definition = Definition::gauge(
    "sealway_degraded",
    &[],
    "The number of faults that do not keep the daemon from carrying tunnels, which /readyz and /status name.",
);
pub(super) const EGRESS_UP: Definition = Definition::gauge(
    "sealway_egress_up",
    &[label("address", &[])],
    "1 while the egress address is on this host, checked every second; absent once a reload has removed the address.",
);
pub(super) const EGRESS_FLOATING: Definition = Definition::gauge(
    "sealway_egress_floating",
    &[label("address", &[])],
    "1 for each egress address in egress.floating, which another host may have instead.",
);
pub(super) const EGRESS_PORTS_IN_USE: Definition = Definition::gauge(
    "sealway_egress_ports_in_use",
    &[label("address", &[])],
    "Ports of the egress address that tunnels and warm upstream sockets hold or the kernel keeps after them (TIME_WAIT), to all upstreams. After a reload has removed the address: those of its tunnels, until there are none.",
);
pub(super) const EGRESS_PORTS_BUSIEST: Definition = Definition::gauge(
    "sealway_egress_ports_busiest",
    &[label("address", &[])],
    "The most ports of the egress address that are in use to one upstream.",
);
pub(super) const EGRESS_PORTS_MAX: Definition = Definition::gauge(
    "sealway_egress_ports_max",
    &[],
    "Ports that the kernel has for one egress address and one upstream.",
);
pub(super) const TUNNELS_MAX: Definition = Definition::gauge(
    "sealway_tunnels_max",
    &[],
    "The most tunnels at once: limits.tunnels, or fewer if the limit on open files carries fewer.",
);
pub(super) const DESTINATION_RANGES_AGE: Definition = Definition::gauge(
    "sealway_destination_ranges_age_seconds",
    &[],
    "The age of the older file of the destination ranges at the scrape; absent without ranges.",
);
pub(super) const DNS_LOOKUPS: Definition = Definition::counter(
    "sealway_dns_lookups_total",
    &[label(
        "result",
        &["ok", "fixed", "stale", "timeout", "no_address", "failed"],
    )],
    "Look-ups of names that came to a result, by result.",
);
pub(super) const DNS_FILE_READS: Definition = Definition::counter(
    "sealway_dns_file_reads_total",
    &[
        label("file", &DNS_FILES),
        label("result", &["changed", "kept"]),
    ],
    "Changes of /etc/resolv.conf and /etc/hosts: changed if the new file is in force, kept if it is unusable and the old one stays.",
);
pub(super) const AUDIT_FAILURES: Definition = Definition::counter(
    "sealway_audit_failures_total",
    &[],
    "Audit records that could not be written.",
);
pub(super) const CLOCK_SYNCHRONISED: Definition = Definition::gauge(
    "sealway_clock_synchronised",
    &[],
    "1 while the kernel reports a synchronised clock, 0 otherwise; NaN if it cannot be read.",
);
pub(super) const ACCEPT_ERRORS: Definition = Definition::counter(
    "sealway_accept_errors_total",
    &[],
    "Connections that could not be accepted, those of the admin listener included.",
);
pub(super) const HEALTH_CHECKS: Definition = Definition::counter(
    "sealway_health_checks_total",
    &[],
    "Connections from proxy_protocol.from that declare no client: LOCAL, UNKNOWN, or closed without a byte.",
);
pub(super) const CONFIG_RELOADS: Definition = Definition::counter(
    "sealway_config_reloads_total",
    &[label("result", &["ok", "failed"])],
    "Reloads of the configuration, by result.",
);
pub(super) const CONFIG_LAST_RELOAD: Definition = Definition::gauge(
    "sealway_config_last_reload_timestamp_seconds",
    &[],
    "When the configuration in force was read, in Unix time.",
);
pub(super) const CONFIG_LAST_RELOAD_SUCCESSFUL: Definition = Definition::gauge(
    "sealway_config_last_reload_successful",
    &[],
    "0 from a refused reload until one succeeds, otherwise 1.",
);
pub(super) const CONFIG_FILES_UNREADABLE: Definition = Definition::gauge(
    "sealway_config_files_unreadable",
    &[],
    "Files that the last reload could not read; their former content is in force.",
);
pub(super) const OPERATOR_ACTS: Definition = Definition::counter(
    "sealway_operator_acts_total",
    &[label("act", &ACTS)],
    "Acts of operators on the running daemon, by act.",
);
pub(super) const DRAINED: Definition = Definition::gauge(
    "sealway_drained",
    &[],
    "1 from sealway drain until sealway undrain: new tunnels are refused.",
);
pub(super) const BUILD_INFO: Definition = Definition::gauge(
    "sealway_build_info",
    &[label("version", &[]), label("revision", &[])],
    "1; the labels name the build.",
);

/// TLS versions that sessions are counted by.
pub(super) const VERSIONS: [&str; 3] = ["1.2", "1.3", "other"];
/// Key exchange groups that sessions are counted by.
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
/// The files of the resolver, as `resolve` labels them.
pub(super) const DNS_FILES: [&str; 2] = ["resolv.conf", "hosts"];
/// The acts of operators, as `admin` names them.
pub(super) const ACTS: [&str; 4] = ["end", "drain", "undrain", "reload"];

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
