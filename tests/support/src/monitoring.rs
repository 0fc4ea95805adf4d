//! Reads the files in `deploy/` for Prometheus and Grafana, without a YAML library: the files keep
//! to one form, and `promtool` checks that they are YAML.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

pub const ALERTS: &str = "deploy/prometheus/alerts.rules.yml";
pub const RECORDING: &str = "deploy/prometheus/recording.rules.yml";
pub const CONFIG: &str = "deploy/prometheus/prometheus.yml";
pub const TESTS: &str = "tests/prometheus/alerts.test.yml";
pub const DASHBOARD: &str = "deploy/grafana/sealway.json";

/// Each alert's name with its lines.
pub fn alerts() -> BTreeMap<String, Vec<String>> {
    let alerts = rules(ALERTS, "- alert: ");
    assert!(alerts.len() > 10, "not the alerts: {alerts:?}");
    alerts
}

/// Each recorded name with its expression.
pub fn records() -> BTreeMap<String, String> {
    let expression = |lines: Vec<String>| {
        let behind = lines
            .iter()
            .skip_while(|line| !line.trim().starts_with("expr:"));
        let text: Vec<_> = behind
            .map(|line| line.trim().trim_start_matches("expr:").trim())
            .collect();
        text.join(" ").trim_start_matches(">-").trim().to_owned()
    };
    rules(RECORDING, "- record: ")
        .into_iter()
        .map(|(name, lines)| (name, expression(lines)))
        .collect()
}

/// The panels of the dashboard that are not rows.
pub fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("a dashboard in JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    panels
        .iter()
        .filter(|panel| panel["type"] != "row")
        .cloned()
        .collect()
}

/// A file of the repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Its path.
pub fn file(path: &str) -> PathBuf {
    crate::root().join(path)
}

/// The rules of a file: the text after `mark`, and the lines up to the next rule, without comments
/// and groups.
fn rules(path: &str, mark: &str) -> BTreeMap<String, Vec<String>> {
    let mut rules: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in read(path)
        .lines()
        .filter(|line| !line.trim().starts_with('#'))
    {
        if let Some(name) = line.trim().strip_prefix(mark) {
            assert!(
                rules.insert(name.to_owned(), Vec::new()).is_none(),
                "{name} twice in {path}"
            );
            current = Some(name.to_owned());
        } else if line.trim().starts_with("- name: ") {
            current = None;
        } else if let Some(rule) = &current {
            rules
                .get_mut(rule)
                .expect("it was put there")
                .push(line.to_owned());
        }
    }
    rules
}
