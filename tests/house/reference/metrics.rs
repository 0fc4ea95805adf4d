//! The tables of metrics: those of Sealway from their definitions, those of the process from a rendered page.

use sealway::metrics::definitions::{ALL, LabelName};
use sealway::metrics::{Configured, Metrics};

use super::markdown::{code, prose, table};

pub fn tables() -> Vec<(String, String)> {
    vec![
        ("metrics".to_owned(), metrics()),
        ("metrics of the process".to_owned(), process()),
    ]
}

fn metrics() -> String {
    let rows = ALL.iter().map(|metric| {
        let labels: Vec<_> = metric.labels.iter().map(label).collect();
        vec![
            code(metric.name),
            metric.kind.name().to_owned(),
            labels.join("; "),
            prose(metric.help),
        ]
    });
    table(&["name", "type", "labels", "meaning"], rows)
}

fn label(label: &LabelName) -> String {
    if label.values.is_empty() {
        code(label.name)
    } else {
        format!("{}: {}", code(label.name), label.values.join(", "))
    }
}

fn process() -> String {
    let page = Metrics::new("v", "r").render(&Configured::default());
    let comments = |kind: &str| -> Vec<(String, String)> {
        let lines = page.lines().filter_map(|line| line.strip_prefix(kind));
        let mut found: Vec<_> = lines
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| name.starts_with("process_"))
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .collect();
        found.sort();
        found
    };
    let (types, helps) = (comments("# TYPE "), comments("# HELP "));
    assert_eq!(types.len(), helps.len(), "{page}");
    let rows = types.into_iter().zip(helps);
    table(
        &["name", "type", "meaning"],
        rows.map(|((name, kind), (_, help))| vec![code(&name), kind, help]),
    )
}
