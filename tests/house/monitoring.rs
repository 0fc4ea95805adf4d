//! The files for Prometheus and Grafana are consistent: each alert has its labels, its tests both
//! ways and its paragraph in the runbook, each code is in one kind of refusal, and the dashboard is
//! complete. Needs no Prometheus: `tests/tools/prometheus.rs` runs one.

use std::collections::{BTreeMap, BTreeSet};

use sealway::metrics::definitions::{ALL, Kind};
use sealway::outcome::{DenyReason, Failure};
use serde_json::Value;
use support::monitoring::{ALERTS, DASHBOARD, RECORDING, TESTS, alerts, panels, read, records};

#[test]
fn every_alert_has_a_severity_a_text_and_a_place_in_the_runbook() {
    for (name, lines) in alerts() {
        let field = |key: &str| {
            let found = lines
                .iter()
                .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
            found
                .unwrap_or_else(|| panic!("{name} has no {key}"))
                .trim_matches('"')
                .to_owned()
        };
        assert!(
            ["critical", "warning", "info"].contains(&field("severity").as_str()),
            "{name}: {}",
            field("severity")
        );
        // A floating address is a fault of several machines.
        let label = if name.starts_with("SealwayFloating") {
            "$labels.address"
        } else {
            "$labels.instance"
        };
        let says_where = name == "SealwayAbsent" || field("summary").contains(label);
        assert!(
            says_where && !field("description").is_empty(),
            "{name} does not say on which machine what is wrong"
        );
        assert_eq!(
            field("runbook_url"),
            format!("docs/runbook.md#{}", name.to_lowercase()),
            "{name}"
        );
        assert!(
            lines
                .iter()
                .any(|line| line.contains("job=\"sealway") || line.contains("sealway_")),
            "{name}"
        );
    }
}

#[test]
fn the_runbook_has_a_paragraph_for_every_alert_and_no_other() {
    let page = read("docs/runbook.md");
    let headings: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter(|name| name.starts_with("Sealway"))
        .collect();
    let alerts = alerts();
    assert_eq!(
        headings,
        alerts.keys().map(String::as_str).collect::<BTreeSet<_>>()
    );
}

/// In the test file `exp_alerts: []` means silence and a list means an alert.
#[test]
fn every_alert_is_tested_both_silent_and_firing() {
    let page = read(TESTS);
    let mut seen: BTreeMap<&str, BTreeSet<bool>> = BTreeMap::new();
    let mut current = None;
    // The last group is the good day, on which every alert is silent anyway.
    let groups = page.split("nothing fires on a good day").next().unwrap();
    for line in groups.lines() {
        if let Some(name) = line.trim().strip_prefix("alertname: ") {
            current = Some(name);
        } else if let Some(expected) = line.trim().strip_prefix("exp_alerts:") {
            seen.entry(current.take().unwrap())
                .or_default()
                .insert(expected.trim() != "[]");
        }
    }
    for name in alerts().keys() {
        assert_eq!(
            seen.get(name.as_str()),
            Some(&BTreeSet::from([false, true])),
            "{name} in {TESTS}"
        );
        let on_the_good_day = page.split("nothing fires on a good day").nth(1).unwrap();
        assert!(
            on_the_good_day.contains(&format!("alertname: {name}\n")),
            "{name} on the good day"
        );
    }
}

#[test]
fn every_metric_that_a_rule_or_a_panel_names_exists() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for metric in ALL {
        let suffixes: &[&str] = match metric.kind {
            Kind::Histogram(_) => &["_bucket", "_sum", "_count"],
            Kind::Counter | Kind::Gauge => &[""],
        };
        known.extend(
            suffixes
                .iter()
                .map(|suffix| metric.name.to_owned() + suffix),
        );
    }
    let is_of_names = |c: char| c.is_ascii_alphanumeric() || [':', '_'].contains(&c);
    // This package cannot import the hop's definitions.
    let of_hop = read("hop/src/metrics.rs");
    let of_hop = of_hop.split(|c| !is_of_names(c));
    known.extend(
        of_hop
            .filter(|word| word.starts_with("sealway_hop_"))
            .map(str::to_owned),
    );
    for file in [ALERTS, RECORDING, TESTS, DASHBOARD] {
        let text = read(file);
        // A recorded name has colons.
        let named: BTreeSet<_> = text
            .split(|c| !is_of_names(c))
            .filter(|word| word.starts_with("sealway_") && !word.contains(':'))
            .collect();
        let wrong: Vec<_> = named
            .iter()
            .filter(|name| !known.contains(**name))
            .collect();
        assert!(
            wrong.is_empty() && !named.is_empty(),
            "{file} names {wrong:?}"
        );
    }
}

#[test]
fn every_code_is_of_one_kind() {
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (record, expression) in records() {
        if !record.ends_with(":rate5m")
            || !expression.contains("instance_code:sealway_tunnels_denied:rate5m{code=~")
        {
            continue;
        }
        for code in expression.split('"').nth(1).unwrap().split('|') {
            kinds
                .entry(code.to_owned())
                .or_default()
                .push(record.clone());
        }
    }
    let denied = DenyReason::ALL.iter().map(|reason| reason.code());
    for code in denied.chain(Failure::ALL.iter().map(|failure| failure.code())) {
        let found = kinds.remove(code).unwrap_or_default();
        let wanted = usize::from(!["auth_required", "auth_failed", "auth_locked"].contains(&code));
        assert_eq!(found.len(), wanted, "{code} is in {found:?} of {RECORDING}");
    }
    assert!(kinds.is_empty(), "no such codes: {kinds:?}");
}

#[test]
fn the_alert_on_failing_tunnels_counts_the_failed_codes() {
    let records = records();
    let failed = records["instance:sealway_tunnels_failed:rate5m"]
        .split('"')
        .nth(1)
        .unwrap();
    let alert = &alerts()["SealwayNothingGetsThrough"];
    assert!(
        alert
            .iter()
            .any(|line| line.contains(&format!("code=~\"{failed}\""))),
        "{alert:?} in {ALERTS}"
    );
}

/// `tests/grafana/check` checks Grafana's own types; this checks the rest.
#[test]
fn the_dashboard_is_whole() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    assert!(
        dashboard["schemaVersion"].as_u64() >= Some(42) && dashboard["uid"] == "sealway",
        "not of today"
    );
    let variable = &dashboard["templating"]["list"][0];
    assert_eq!(
        (&variable["name"], &variable["type"]),
        (&"datasource".into(), &"datasource".into())
    );
    let mut ids = BTreeSet::new();
    let mut places = BTreeMap::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(
            !title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()),
            "{title}"
        );
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(
            w > 0 && h > 0 && x + w <= 24,
            "{title} is wider than the page"
        );
        for cell in (x..x + w).flat_map(|column| (y..y + h).map(move |line| (column, line))) {
            let taken = places.insert(cell, title);
            assert_eq!(taken, None, "{title} lies on it at {cell:?}");
        }
    }
    let columns = places
        .keys()
        .map(|(_, line)| line)
        .max()
        .map(|last| 24 * (last + 1));
    assert_eq!(Some(places.len() as u64), columns, "a hole in the page");
    for panel in panels() {
        whole_panel(&panel);
    }
}

fn whole_panel(panel: &Value) {
    let title = panel["title"].as_str().unwrap();
    let datasource = serde_json::json!({ "type": "prometheus", "uid": "${datasource}" });
    assert!(
        ["stat", "timeseries"].contains(&panel["type"].as_str().unwrap()),
        "{title}"
    );
    assert!(
        !panel["description"].as_str().unwrap().is_empty(),
        "{title} has no description"
    );
    let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap();
    let known = ["none", "short", "ops", "s", "Bps", "bytes", "percentunit"];
    assert!(known.contains(&unit), "{title}: {unit}");
    assert_eq!(panel["datasource"], datasource, "{title}");
    let targets = panel["targets"].as_array().unwrap();
    let mut names = BTreeSet::new();
    for target in targets {
        assert!(
            names.insert(target["refId"].as_str().unwrap()),
            "{title}: a refId twice"
        );
        assert_eq!(target["datasource"], datasource, "{title}");
        let expression = target["expr"].as_str().unwrap();
        assert!(
            expression.contains("job=\"sealway\", instance=~\"$instance\""),
            "{title}: {expression}"
        );
        assert!(
            !target["legendFormat"].as_str().unwrap().is_empty(),
            "{title}"
        );
    }
    assert!(!targets.is_empty(), "{title} shows nothing");
}
