//! The part of `docs/providers.md` that is made from the presets equals what the code says. With
//! `SEALWAY_WRITE_DOCS=1` the test writes the part instead of comparing it.

use std::fmt::Write as _;
use std::path::Path;

use sealway::policy::presets::Preset;

const PAGE: &str = "docs/providers.md";
const START: &str = "<!-- generated from src/policy/presets: start -->\n";
const END: &str = "<!-- generated from src/policy/presets: end -->\n";

#[test]
fn the_page_of_providers_says_what_the_presets_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(START).expect(START);
    let (part, after) = rest.split_once(END).expect(END);
    let made = made();
    if std::env::var_os("SEALWAY_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{START}{made}{END}{after}")).unwrap();
    } else {
        assert_eq!(
            part, made,
            "write the page with: SEALWAY_WRITE_DOCS=1 cargo test --test house providers"
        );
    }
}

fn made() -> String {
    let mut text = String::from("\n| preset | hosts | checks source addresses |\n|---|---|---|\n");
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
            }
            None => writeln!(text, "- no check of source addresses is known").unwrap(),
        }
        if !preset.note.is_empty() {
            writeln!(text, "- note: {}", preset.note).unwrap();
        }
        writeln!(text, "- source: {}", preset.source).unwrap();
    }
    text.push('\n');
    text
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}
