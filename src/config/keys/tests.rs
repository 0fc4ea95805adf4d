//! Each row is a key that the reader takes, with the default that is in force without it.

use std::collections::HashSet;
use std::path::Path;

use super::*;
use crate::config::{Config, Overrides};

#[test]
fn every_row_is_a_key_that_the_reader_takes() {
    for key in KEYS {
        let problems = parse(&file(key, "[[0]]")).unwrap_err();
        let wrong_type = format!("sealway.toml:2: {}: wrong type", key.name);
        assert!(
            problems.iter().any(|found| found.starts_with(&wrong_type)),
            "{}: {problems:?}",
            key.name
        );
    }
}

#[test]
fn the_default_of_a_row_is_in_force_without_the_key() {
    let default = parse("").unwrap();
    for key in KEYS {
        if let Some(value) = key.default_in_toml() {
            let is_same = parse(&file(key, &value)).unwrap() == default;
            assert!(is_same, "{} = {value} is not the default", key.name);
        }
    }
}

#[test]
fn the_choices_of_a_row_are_those_of_the_reader() {
    for key in KEYS {
        if let Kind::Choice(default, names) = key.kind {
            let problems = parse(&file(key, "\"?\"")).unwrap_err();
            let names: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
            let wanted = format!("{}: must be {}", key.name, names.join(" or "));
            assert!(problems[0].ends_with(&wanted), "{problems:?}");
            assert!(
                default.is_some() || key.name == "log.format",
                "{}",
                key.name
            );
        }
    }
}

#[test]
fn a_name_has_one_row() {
    let names: HashSet<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names.len(), KEYS.len());
}

/// A file with this key on its second line.
fn file(key: &Key, value: &str) -> String {
    let (section, name) = key.name.split_once('.').unwrap();
    let head = if section == "listener" {
        "[[listener]]".to_owned()
    } else {
        format!("[{section}]")
    };
    format!("{head}\n{name} = {value}\n")
}

/// The configuration as text, or its problems.
fn parse(text: &str) -> Result<String, Vec<String>> {
    let config = Config::parse(Path::new("sealway.toml"), text, &Overrides::default());
    config
        .map(|config| format!("{config:?}"))
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}
