//! The findings in `docs/doctor.md` are those of the doctor's table.

use std::fmt::Write;

use super::doctor::verdict::{Check, Verdict};
use super::generated;
use sealway::commands::findings::values::Values;

#[test]
fn the_generated_page_of_the_doctor_is_current() {
    let mut checks = String::from("| check | examines |\n|---|---|\n");
    for check in Check::ALL {
        writeln!(
            checks,
            "| [{check}](#{}) | {} |",
            anchor(check),
            check.subject()
        )
        .unwrap();
    }
    let mut findings = String::new();
    for check in Check::ALL {
        writeln!(findings, "### {check}: {}\n", check.subject()).unwrap();
        for verdict in Verdict::all().filter(|verdict| verdict.check == check) {
            findings += &paragraph(verdict);
        }
    }
    let parts = [
        ("checks", checks),
        ("findings", findings.trim_end().to_owned() + "\n"),
    ];
    generated::check(
        "docs/doctor.md",
        &parts.map(|(name, part)| (name.to_owned(), part)),
    );
}

/// A value that the doctor fills in stands in capitals, as in its own output where it knows none.
fn paragraph(verdict: &Verdict) -> String {
    let text = |text: &str| {
        Values::default()
            .fill(text)
            .replace('<', "&lt;")
            .replace('*', "\\*")
    };
    let mut paragraph = format!(
        "- **`{}`**: {}.\n  Cure: {}.\n",
        verdict.code,
        text(verdict.cause),
        text(verdict.cure)
    );
    if !verdict.command.is_empty() {
        paragraph += "\n  ```sh\n";
        for line in verdict.command.lines() {
            writeln!(paragraph, "  {}", Values::default().fill_command(line)).unwrap();
        }
        paragraph += "  ```\n";
    }
    paragraph + "\n"
}

/// As GitHub makes it of the heading.
fn anchor(check: Check) -> String {
    let heading = format!("{check}: {}", check.subject()).to_lowercase();
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
