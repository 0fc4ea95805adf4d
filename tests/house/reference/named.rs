//! The tables of configuration keys name what exists.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_configuration_key_stands_there_with_its_default() {
    let rows = rows("## Configuration");
    for key in keys() {
        let cells = row(&rows, &key.name);
        if key.is_in_force {
            assert_eq!(quoted(&cells[2]), [key.value], "{}", key.name);
        }
    }
    assert!(section("## Configuration").contains("`[dns.hosts]`"));
}

#[test]
fn the_configuration_tables_name_no_key_that_does_not_exist() {
    let known: BTreeSet<_> = keys().into_iter().map(|key| key.name).collect();
    for cells in rows("## Configuration") {
        let name = &quoted(&cells[0])[0];
        assert!(!name.contains('.') || known.contains(name), "{name}");
    }
}

/// A key of the example file.
struct Key {
    /// With its section, as in `limits.tunnels`.
    name: String,
    /// As it is written.
    value: String,
    /// Not behind a comment sign, where a key without a single default stands.
    is_in_force: bool,
}

fn keys() -> Vec<Key> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in read("deploy/sealway.toml").lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(|c| c == '[' || c == ']').to_owned();
            continue;
        }
        let plain = line.strip_prefix("# ").unwrap_or(line);
        if let Some((key, value)) = plain.split_once(" = ").filter(|(key, _)| is_word(key)) {
            let name = format!("{section}.{key}");
            keys.push(Key {
                name,
                value: value.to_owned(),
                is_in_force: plain == line,
            });
        }
    }
    assert!(keys.len() > 30, "the example file has all keys");
    keys
}

/// The row whose first cell names `name`.
fn row<'r>(rows: &'r [Vec<String>], name: &str) -> &'r [String] {
    let found = rows
        .iter()
        .find(|cells| quoted(&cells[0]).iter().any(|word| word == name));
    found.unwrap_or_else(|| panic!("docs/reference.md has no row for {name}"))
}

/// The rows of all tables in a section, without their heads.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        line.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    let rows: Vec<_> = section(heading)
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(cells)
        .collect();
    assert!(!rows.is_empty(), "no table under {heading}");
    rows
}

/// The text behind a heading, up to the next one of its level or a higher one.
fn section(heading: &str) -> String {
    let level = |line: &str| line.chars().take_while(|c| *c == '#').count();
    let page = read("docs/reference.md");
    let behind = page.lines().skip_while(|line| *line != heading).skip(1);
    let body: Vec<_> = behind
        .take_while(|line| !(1..=level(heading)).contains(&level(line)))
        .collect();
    assert!(!body.is_empty(), "docs/reference.md has no {heading}");
    body.join("\n")
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn is_word(text: &str) -> bool {
    let is_of_keys = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    text.starts_with(|first: char| first.is_ascii_lowercase()) && text.bytes().all(is_of_keys)
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
