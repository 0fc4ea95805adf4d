//! The help text of every metric, and the buckets of the histograms. Registers no series.

use metrics::{KeyName, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

/// Sets the buckets of each histogram: set-up takes from less than a millisecond to the deadlines of
/// 10 s, a tunnel from a second to hours.
pub(super) fn buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
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
        // This fails only for an empty list.
        .unwrap_or_else(|_| PrometheusBuilder::new())
}

/// Registers the help text of every metric.
pub(super) fn describe(recorder: &PrometheusRecorder) {
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

const COUNTERS: [(&str, &str); 14] = [
    ("sealway_tunnels_opened_total", "Tunnels that opened."),
    (
        "sealway_tunnels_closed_total",
        "Tunnels that ended, by code.",
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
        "Bytes relayed for the user, both directions together; grows while a tunnel runs.",
    ),
    (
        "sealway_relayed_bytes_total",
        "Bytes relayed, by path: spliced inside the kernel, or copied.",
    ),
    (
        "sealway_tls_negotiated_total",
        "TLS sessions, by the version and the group that the server chose.",
    ),
    ("sealway_dns_lookups_total", "Look-ups of names, by result."),
    (
        "sealway_dns_file_reads_total",
        "Changes of /etc/resolv.conf and /etc/hosts: changed if the new file is in force, kept if it is unusable and the old one stays.",
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
        "Acts of operators on the running daemon, by act.",
    ),
];

const GAUGES: [(&str, &str); 15] = [
    ("sealway_tunnels_active", "Tunnels that are open."),
    (
        "sealway_user_tunnels_active",
        "Tunnels of the user, those in set-up included.",
    ),
    (
        "sealway_ready",
        "1 while new tunnels can be carried, as /readyz says.",
    ),
    (
        "sealway_degraded",
        "Faults that do not keep the daemon from carrying tunnels, as /readyz and /status name them.",
    ),
    (
        "sealway_egress_up",
        "1 while the egress address is on this host.",
    ),
    (
        "sealway_egress_ports_in_use",
        "Ports of the egress address that tunnels hold or the kernel keeps after them (TIME_WAIT), to all upstreams.",
    ),
    (
        "sealway_egress_ports_busiest",
        "The most ports of the egress address that are in use to one upstream.",
    ),
    (
        "sealway_egress_ports_max",
        "Ports that the kernel has for one egress address and one upstream.",
    ),
    (
        "sealway_destination_ranges_age_seconds",
        "The age of the older file of the destination ranges.",
    ),
    ("sealway_tunnels_max", "The most tunnels at once."),
    (
        "sealway_clock_synchronised",
        "1 while the kernel reports a synchronised clock, 0 otherwise; NaN if it cannot be read.",
    ),
    (
        "sealway_config_last_reload_timestamp_seconds",
        "When the configuration in force was read, in Unix time.",
    ),
    (
        "sealway_config_last_reload_successful",
        "0 from a refused reload until one succeeds, otherwise 1.",
    ),
    (
        "sealway_drained",
        "1 from sealway drain until sealway undrain: new tunnels are refused.",
    ),
    ("sealway_build_info", "1; the labels name the build."),
];

const HISTOGRAMS: [(&str, &str); 3] = [
    (
        "sealway_setup_duration_seconds",
        "The duration of each phase of the set-up.",
    ),
    (
        "sealway_first_byte_seconds",
        "From the client's first byte after the clear handshake to the upstream's first byte after that.",
    ),
    (
        "sealway_tunnel_duration_seconds",
        "The duration of a tunnel, from the accept to its end.",
    ),
];
