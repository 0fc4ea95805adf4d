//! `sealway presets`: prints the presets, or all that is known of one: its hosts, its source, and how
//! its provider checks source addresses. Reads no file and opens no connection.

use std::io::{self, Write};

use serde::Serialize;

use super::Trouble;
use crate::policy::presets::{ChosenPreset, NO_CHECK, Preset};

/// One preset, as printed.
#[derive(Serialize)]
struct Shown {
    preset: String,
    serves: &'static str,
    hosts: Vec<String>,
    source: &'static str,
    /// None if no check of source addresses is known.
    source_addresses: Option<Check>,
    #[serde(skip_serializing_if = "str::is_empty")]
    note: &'static str,
}

#[derive(Serialize)]
struct Check {
    enter: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    command: &'static str,
    refusal: &'static str,
    source: &'static str,
}

/// Prints the chosen presets in full, or a table of all.
///
/// # Errors
/// When standard output cannot be written.
pub fn presets(chosen: &[ChosenPreset], is_json: bool) -> Result<(), Trouble> {
    let shown: Vec<Shown> = if chosen.is_empty() {
        Preset::all()
            .map(|preset| show(preset, preset.form(), preset.example()))
            .collect()
    } else {
        let show = |one: &ChosenPreset| show(one.preset(), one.to_string(), one.hosts().to_vec());
        chosen.iter().map(show).collect()
    };
    let text = if is_json {
        let json = serde_json::to_string(&shown);
        json.map_err(|error| Trouble::Other(error.to_string()))? + "\n"
    } else if chosen.is_empty() {
        table(&shown)
    } else {
        let pages: Vec<_> = shown.iter().map(page).collect();
        pages.join("\n")
    };
    match io::stdout().write_all(text.as_bytes()) {
        // The reader, such as head(1), has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Trouble::Other(error.to_string())),
    }
}

fn show(preset: &'static Preset, name: String, hosts: Vec<String>) -> Shown {
    Shown {
        preset: name,
        serves: preset.serves,
        hosts,
        source: preset.source,
        source_addresses: preset.check.map(|check| Check {
            enter: check.enter,
            command: check.command,
            refusal: check.refusal,
            source: check.source,
        }),
        note: preset.note,
    }
}

fn table(presets: &[Shown]) -> String {
    let width = presets.iter().map(|shown| shown.preset.len()).max();
    let width = width.unwrap_or_default();
    let serves = presets.iter().map(|shown| shown.serves.len()).max();
    let serves = serves.unwrap_or_default();
    let head = format!(
        "{:width$}  HOSTS  CHECKS SOURCES  {:serves$}  SOURCE\n",
        "PRESET", "SERVES"
    );
    let row = |shown: &Shown| {
        let checks = if shown.source_addresses.is_some() {
            "yes"
        } else {
            "none known"
        };
        let count = shown.hosts.len();
        format!(
            "{:width$}  {count:>5}  {checks:14}  {:serves$}  {}\n",
            shown.preset, shown.serves, shown.source
        )
    };
    head + &presets.iter().map(row).collect::<String>()
}

fn page(shown: &Shown) -> String {
    let mut lines = vec![
        ("preset", shown.preset.as_str()),
        ("serves", shown.serves),
        ("source", shown.source),
    ];
    match &shown.source_addresses {
        Some(check) => {
            lines.push(("checks source addresses", "yes"));
            lines.push(("enter them in", check.enter));
            lines.push(("command", check.command));
            lines.push(("refusal", check.refusal));
            lines.push(("documented in", check.source));
        }
        None => lines.push(("checks source addresses", NO_CHECK)),
    }
    lines.push(("note", shown.note));
    lines.push(("hosts, port 443", ""));
    let is_said = |(name, value): &&(&str, &str)| !value.is_empty() || name.starts_with("hosts");
    let facts = lines.iter().filter(is_said).map(|(name, value)| {
        let line = format!("{name}: {value}");
        format!("{}\n", line.trim_end())
    });
    let hosts = shown.hosts.iter().map(|host| format!("  {host}\n"));
    facts.chain(hosts).collect()
}
