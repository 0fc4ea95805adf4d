//! The exported page has exactly the defined metrics, with their types, labels and help texts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::authority::UserId;
use crate::metrics::{Configured, Metrics, Phase};

/// Every series, with one sample for each histogram, because an empty histogram is not exported.
fn page() -> String {
    let metrics = Metrics::new("1", "r");
    let (configured, address) = (Configured::default(), "2001:db8::1".parse().unwrap());
    configured.egress_up(address, true);
    configured.egress_floating(address);
    configured.egress_ports(address, 1, 1);
    configured.ranges_age(Duration::from_secs(1));
    metrics.bounds(1, 1);
    metrics.readiness(true, false, 0);
    metrics.unreadable(0);
    for (phase, _) in Phase::ALL {
        metrics.phase(phase, 0.1);
    }
    metrics.tunnel_duration.record(0.1);
    metrics.first_byte.record(0.1);
    let _registered = metrics.user(&UserId::parse("alice").unwrap());
    metrics.render(&configured)
}

/// The comment lines of one kind, by metric. The `process_` metrics are left out.
fn comments<'p>(page: &'p str, kind: &str) -> BTreeMap<&'p str, &'p str> {
    page.lines()
        .filter_map(|line| line.strip_prefix(kind)?.split_once(' '))
        .filter(|(name, _)| !name.starts_with("process_"))
        .collect()
}

/// The labels of one sample line, and the values of each.
fn labels(line: &str) -> Vec<(&str, &str)> {
    let pairs = line
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    let pairs = pairs.map_or("", |(pairs, _)| pairs).split(',');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .map(|(label, value)| (label, value.trim_matches('"')))
        .filter(|(label, _)| *label != "le")
        .collect()
}

#[test]
fn exactly_the_defined_metrics_are_exported_with_their_types_and_help() {
    let page = page();
    let kinds: BTreeMap<_, _> = ALL.iter().map(|m| (m.name, m.kind.name())).collect();
    assert_eq!(comments(&page, "# TYPE "), kinds);
    let help: BTreeMap<_, _> = ALL.iter().map(|m| (m.name, m.help)).collect();
    assert_eq!(comments(&page, "# HELP "), help);
    assert_eq!(kinds.len(), ALL.len(), "a name is defined twice");
}

#[test]
fn each_series_has_the_defined_labels_and_each_defined_value_a_series() {
    let page = page();
    for metric in ALL {
        let samples: Vec<_> = page
            .lines()
            .filter(|line| {
                let name = line.split(['{', ' ']).next().unwrap();
                let suffix = name.strip_prefix(metric.name);
                suffix.is_some_and(|s| ["", "_bucket", "_sum", "_count"].contains(&s))
            })
            .map(labels)
            .collect();
        assert!(!samples.is_empty(), "{}", metric.name);
        let names: Vec<_> = metric.labels.iter().map(|label| label.name).collect();
        for sample in &samples {
            let found: Vec<_> = sample.iter().map(|(name, _)| *name).collect();
            assert_eq!(found, names, "{}", metric.name);
        }
        for (at, label) in metric.labels.iter().enumerate() {
            let found: BTreeSet<_> = samples.iter().map(|sample| sample[at].1).collect();
            let defined: BTreeSet<_> = label.values.iter().copied().collect();
            assert!(
                defined.is_empty() || found == defined,
                "{} {}: {found:?}, but defined {defined:?}",
                metric.name,
                label.name
            );
        }
    }
}
