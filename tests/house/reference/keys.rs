//! The tables of configuration keys, one for each section, and of what puts a key in force.

use std::collections::BTreeSet;

use sealway::config::keys::{Change, KEYS, Key};
use support::monitoring::read;

use super::markdown::{code, table};

pub fn tables() -> Vec<(String, String)> {
    let mut tables = vec![("changes".to_owned(), changes())];
    let sections = sections().into_iter();
    tables.extend(sections.map(|(name, keys)| (format!("keys of {name}"), section(&keys))));
    tables
}

#[test]
fn the_example_file_has_every_key_with_its_default_and_no_other() {
    let text = read("deploy/sealway.toml").replace("# format = \"json\"", "format = \"json\"");
    let file: toml::Table = text.parse().unwrap();
    let mut found = BTreeSet::new();
    for (section, keys) in &file {
        let keys = keys.as_array().map_or(keys, |listeners| &listeners[0]);
        for (key, value) in keys.as_table().unwrap() {
            found.insert(format!("{section}.{key} = {value}"));
        }
    }
    assert!(found.remove("dns.hosts = {}"));
    let known = KEYS.iter().map(|key| {
        let default = key.default_in_toml().unwrap_or("\"json\"".to_owned());
        format!("{} = {default}", key.name)
    });
    let differing: Vec<_> = found
        .symmetric_difference(&known.collect())
        .cloned()
        .collect();
    assert!(differing.is_empty(), "in one of the two: {differing:?}");
}

fn section(keys: &[&Key]) -> String {
    let rows = keys.iter().map(|key| {
        let default = key.default_in_toml();
        vec![
            code(key.name),
            key.type_name().to_owned(),
            default.as_deref().map(code).unwrap_or_default(),
            key.range(),
            key.meaning.to_owned(),
        ]
    });
    table(&["key", "type", "default", "range", "meaning"], rows)
}

/// A section whose keys all change alike stands for them.
fn changes() -> String {
    let with = |change: Change| {
        let sections = sections().into_iter().map(|(name, keys)| {
            let alike: Vec<_> = keys.iter().filter(|key| key.change == change).collect();
            if alike.len() == keys.len() {
                return vec![code(&head(name))];
            }
            alike.iter().map(|key| code(key.name)).collect()
        });
        sections.collect::<Vec<_>>().concat().join(", ")
    };
    let rows = [
        (Change::Reload, "a reload, for new tunnels"),
        (Change::Restart, "a restart"),
    ];
    table(
        &["keys", "change with"],
        rows.map(|(change, how)| vec![with(change), how.to_owned()]),
    )
}

/// The head of a section in the file.
fn head(name: &str) -> String {
    if name == "listener" {
        "[[listener]]".to_owned()
    } else {
        format!("[{name}]")
    }
}

/// The keys of each section, both in the order of the program.
fn sections() -> Vec<(&'static str, Vec<&'static Key>)> {
    let mut sections: Vec<(&str, Vec<&Key>)> = Vec::new();
    for key in KEYS {
        let (name, _) = key.name.split_once('.').unwrap();
        match sections.last_mut() {
            Some((last, keys)) if *last == name => keys.push(key),
            _ => sections.push((name, vec![key])),
        }
    }
    let names: BTreeSet<_> = sections.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), sections.len(), "a section is in two parts");
    sections
}
