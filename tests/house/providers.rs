//! The part of `docs/providers.md` that is made from the presets is what the code says.

use std::fmt::Write as _;

use sealway::policy::presets::{NO_CHECK, Preset};

use super::generated;

#[test]
fn the_generated_part_is_current() {
    generated::check("docs/providers.md", &[("presets".to_owned(), made())]);
}

fn made() -> String {
    let mut text = String::from("| preset | hosts | checks source addresses |\n|---|---|---|\n");
    for preset in Preset::all() {
        let checks = if preset.check.is_some() {
            "yes"
        } else {
            "none known"
        };
        let (form, count) = (preset.form(), preset.example().len());
        writeln!(
            text,
            "| [`{form}`](#{}) | {count} | {checks} |",
            preset.name
        )
        .unwrap();
    }
    for preset in Preset::all() {
        write!(
            text,
            "\n### {}\n\n{}.\n\n",
            preset.name,
            capital(preset.serves)
        )
        .unwrap();
        let hosts = preset.example();
        let listed: Vec<_> = hosts
            .iter()
            .take(4)
            .map(|host| format!("`{host}`"))
            .collect();
        let rest = match hosts.len().saturating_sub(4) {
            0 => String::new(),
            _ => format!(
                " …; `sealway presets {}` prints all {}",
                preset.name,
                hosts.len()
            ),
        };
        writeln!(text, "- hosts: {}{rest}", listed.join(", ")).unwrap();
        match preset.check {
            Some(check) => {
                writeln!(text, "- enter the source addresses in: {}", check.enter).unwrap();
                if !check.command.is_empty() {
                    writeln!(text, "- command: `{}`", check.command).unwrap();
                }
                writeln!(text, "- a refusal: {}", check.refusal).unwrap();
                writeln!(text, "- documented in: {}", check.source).unwrap();
            }
            None => writeln!(text, "- a check of source addresses: {NO_CHECK}").unwrap(),
        }
        if !preset.note.is_empty() {
            writeln!(text, "- note: {}", preset.note).unwrap();
        }
        writeln!(text, "- source of the hosts: {}", preset.source).unwrap();
    }
    text
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}
