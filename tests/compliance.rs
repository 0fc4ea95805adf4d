//! `docs/compliance.md` points at what exists: each test, command, configuration key, metric, alert, record and file that it names.
//! It cannot hold that a requirement is met.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

#[path = "support/monitoring.rs"]
mod monitoring;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use monitoring::{alerts, file, read};
use sealway::authority::UserId;
use sealway::metrics::Metrics;

const PAGE: &str = "docs/compliance.md";

#[test]
fn every_test_that_is_named_exists() {
    let named: Vec<_> = words().into_iter().filter(|word| word.contains("::")).collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        let (place, test) = name.split_once("::").unwrap();
        let text = read(&format!("tests/{place}.rs"));
        let starts = [format!("fn {test}()"), format!("fn {test}() ")];
        let at = text.lines().position(|line| starts.iter().any(|start| line.contains(start.as_str())));
        let at = at.unwrap_or_else(|| panic!("{PAGE} names {name}"));
        let attributes = text.lines().take(at).collect::<Vec<_>>();
        let attribute = attributes.iter().rev().find(|line| line.starts_with("#[")).unwrap();
        assert!(attribute.contains("test"), "{name} is no test");
    }
}

#[test]
fn every_command_that_is_named_exists() {
    let commands: Vec<_> = words().into_iter().filter(|word| word.starts_with("sealway ")).collect();
    assert!(commands.len() > 4, "{commands:?}");
    for command in &commands {
        let words: Vec<_> = command.split(' ').skip(1).collect();
        let names = words.iter().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()));
        let names: Vec<_> = names.copied().collect();
        let help = help(&names);
        let help = help.unwrap_or_else(|| panic!("{PAGE} names {command}"));
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "{command}: no {flag}");
        }
    }
}

#[test]
fn every_metric_and_alert_that_is_named_exists() {
    let metrics = Metrics::new("v", "r");
    let _registered = metrics.user(&UserId::parse("alice").unwrap());
    let page = metrics.render();
    for name in words().into_iter().filter(|word| word.starts_with("sealway_")) {
        assert!(page.contains(&format!("# TYPE {name} ")), "{PAGE} names {name}");
    }
    let alerts = alerts();
    for name in words().into_iter().filter(|word| word.starts_with("Sealway")) {
        assert!(alerts.contains_key(&name), "{name}");
    }
}

#[test]
fn every_configuration_key_that_is_named_exists() {
    let mut known = BTreeSet::new();
    let mut section = String::new();
    for line in read("deploy/sealway.toml").lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(|c| c == '[' || c == ']').to_owned();
        } else if let Some((key, _)) = line.split_once(" = ") {
            known.insert(format!("{section}.{key}"));
        }
    }
    let sections: BTreeSet<_> = known.iter().map(|key| key.split('.').next().unwrap().to_owned()).collect();
    let keys =
        words().into_iter().filter(|word| word.split_once('.').is_some_and(|(first, _)| sections.contains(first)));
    let keys: Vec<_> = keys.collect();
    assert!(keys.len() > 10, "{keys:?}");
    for key in keys {
        assert!(known.contains(&key), "{key}");
    }
}

#[test]
fn every_file_that_is_linked_exists() {
    let page = read(PAGE);
    let links = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    for link in links.filter(|link| !link.starts_with("https://")) {
        let path = link.split('#').next().unwrap();
        assert!(file("docs").join(path).exists(), "{link}");
    }
}

/// Every requirement of the issue has its row; one that is added is a row more.
#[test]
fn every_requirement_has_a_row() {
    let page = read(PAGE);
    let rows: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("| ")).collect();
    let wanted = ["(a)(1)", "(a)(2)(i)", "(a)(2)(ii)", "(a)(2)(iii)", "(a)(2)(iv)", "(b)", "(c)(1)", "(d)", "(e)(1)"]
        .into_iter()
        .chain(["(e)(2)(i)", "(e)(2)(ii)", "4.2.1 ", "8.3.1 ", "8.3.2 ", "8.3.4 ", "8.3.9 ", "10.2.1 ", "10.2.2 "])
        .chain(["10.3.1", "10.3.3", "10.3.4", "10.4.1", "10.5.1", "10.6.1"]);
    for requirement in wanted {
        let row = rows.iter().find(|row| row.starts_with(requirement));
        let cells = row.unwrap_or_else(|| panic!("{requirement} has no row")).split(" |").count();
        assert!(cells >= 5, "{requirement}: {row:?}");
    }
}

/// What stands between backticks on the page, in its tables and its text.
fn words() -> BTreeSet<String> {
    read(PAGE).split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What `--help` of a command says, if there is the command.
fn help(names: &[&str]) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealway"));
    let output = command.args(names).arg("--help").stdin(Stdio::null()).output().expect("run sealway");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
