//! The findings and facts of `sealway check --deep`, and their text and JSON. Pure.
//!
//! Text has 80 columns, except commands, which stand whole on a line so that they can be copied. Holds no secret.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kinds::{Check, Kind, Severity};
use crate::commands::findings::paragraphs::{
    BOLD, GREEN, INDENT, RED, YELLOW, paint, sentence, wrapped,
};
use crate::commands::findings::values::Values;

/// A kind with its values.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What it is.
    pub kind: &'static Kind,
    values: Values,
}

impl Finding {
    /// A finding; values follow by [`Finding::with`].
    #[must_use]
    pub fn new(kind: &'static Kind) -> Self {
        Self {
            kind,
            values: Values::default(),
        }
    }

    /// With one more value.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.values.set_exactly(name, &value.to_string());
        self
    }

    /// Why it happens.
    #[must_use]
    pub fn cause(&self) -> String {
        self.values.fill(self.kind.cause)
    }

    /// What to do.
    #[must_use]
    pub fn cure(&self) -> String {
        self.values.fill(self.kind.cure)
    }

    /// The command, quoted for a shell.
    #[must_use]
    pub fn command(&self) -> String {
        self.values.fill_command(self.kind.command)
    }
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Values that every finding shares, such as the configuration file.
    pub values: Values,
    findings: Vec<Finding>,
    facts: BTreeMap<Check, Vec<String>>,
    skipped: BTreeMap<Check, &'static str>,
}

impl Report {
    /// Adds a finding.
    pub fn found(&mut self, mut finding: Finding) {
        finding.values = finding.values.or(&self.values);
        self.findings.push(finding);
    }

    /// Adds what a check learned.
    pub fn fact(&mut self, check: Check, text: impl Into<String>) {
        self.facts.entry(check).or_default().push(text.into());
    }

    /// Notes why a check did not run. The first reason counts.
    pub fn skip(&mut self, check: Check, reason: &'static str) {
        self.skipped.entry(check).or_insert(reason);
    }

    /// Removes the findings of these checks.
    pub fn ignore(&mut self, checks: &[Check]) {
        self.findings
            .retain(|finding| !checks.contains(&finding.kind.check));
        for check in checks {
            self.skipped.insert(*check, "ignored");
        }
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.findings.is_empty()
    }

    fn sorted(&self) -> Vec<&Finding> {
        let mut findings: Vec<_> = self.findings.iter().collect();
        findings.sort_by_key(|finding| finding.kind.check);
        findings
    }

    /// The text. `heading` says what was examined; `facts` adds what each check learned.
    #[must_use]
    pub fn text(&self, heading: &str, colour: bool, facts: bool) -> String {
        let mut out = String::new();
        if facts {
            for (check, facts) in &self.facts {
                for fact in facts {
                    out += &wrapped(&format!("{check} {fact}"), "");
                }
            }
            out.push('\n');
        }
        for finding in self.sorted() {
            out += &paragraph(finding, colour);
        }
        let skipped: String = self
            .skipped
            .iter()
            .map(|(check, reason)| format!("; {check} not checked ({reason})"))
            .collect();
        let verdict = match self.findings.len() {
            0 => paint("ok", GREEN, colour),
            1 => "1 finding".to_owned(),
            many => format!("{many} findings"),
        };
        out + &wrapped(&format!("{verdict}: {heading}{skipped}"), "")
    }

    /// One JSON object, in the form of the doctor's.
    #[must_use]
    pub fn json(&self, heading: &str) -> Value {
        let checks = Check::ALL.iter().map(|check| {
            let found = self.findings.iter().any(|one| one.kind.check == *check);
            let reason = self.skipped.get(check).filter(|_| !found);
            let result = match (found, reason) {
                (true, _) => "finding",
                (_, Some(_)) => "skipped",
                _ => "ok",
            };
            json!({"id": check.to_string(), "subject": check.subject(), "result": result, "reason": reason,
                "facts": self.facts.get(check).map_or(&[][..], Vec::as_slice)})
        });
        let findings = self.sorted().into_iter().map(|finding| {
            json!({"id": finding.kind.check.to_string(), "code": finding.kind.code,
                "severity": finding.kind.severity.to_string(), "cause": finding.cause(),
                "cure": finding.cure(), "commands": [finding.command()]})
        });
        json!({"version": 1, "examined": heading, "well": self.is_well(),
            "findings": findings.collect::<Vec<_>>(), "checks": checks.collect::<Vec<_>>()})
    }
}

fn paragraph(finding: &Finding, colour: bool) -> String {
    let kind = finding.kind;
    let hue = match kind.severity {
        Severity::Error => RED,
        Severity::Warning => YELLOW,
    };
    format!(
        "{} {} ({})\n{}{}\n{INDENT}{INDENT}{}\n\n",
        paint(&kind.check.to_string(), hue, colour),
        paint(kind.code, BOLD, colour),
        kind.severity,
        wrapped(&sentence(&finding.cause()), INDENT),
        wrapped(&sentence(&finding.cure()), INDENT),
        paint(&finding.command(), BOLD, colour)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use super::super::kinds::{ALL, EGRESS_ABSENT};
    use super::*;
    use crate::commands::findings::paragraphs::WIDTH;

    #[test]
    fn each_text_is_filled_fits_the_width_and_colours_change_nothing_else() {
        let mut codes = BTreeSet::new();
        for kind in ALL {
            assert!(codes.insert(kind.code), "{} twice", kind.code);
            let mut report = Report::default();
            report.found(Finding::new(kind));
            let plain = report.text("FILE", false, true);
            let is_long = |line: &&str| line.chars().count() > WIDTH && !line.starts_with("    ");
            assert_eq!(plain.lines().find(is_long), None, "{}", kind.code);
            assert!(!plain.contains(['{', '}', '\x1b']), "{plain}");
            let mut coloured = report.text("FILE", true, true);
            assert!(coloured.contains('\x1b'), "{coloured}");
            for code in [BOLD, RED, GREEN, YELLOW, "0"] {
                coloured = coloured.replace(&format!("\x1b[{code}m"), "");
            }
            assert_eq!(coloured, plain);
        }
        for check in Check::ALL {
            assert!(ALL.iter().any(|kind| kind.check == *check), "{check}");
            assert_eq!(check.to_string().to_lowercase().parse(), Ok(*check));
        }
    }

    #[test]
    fn a_finding_is_a_paragraph_with_its_command_and_nothing_wrong_one_line() {
        let mut report = Report::default();
        report.skip(Check::T13, "no listener has tls");
        let well = "ok: a.toml; T13 not checked (no listener has tls)\n";
        assert_eq!(report.text("a.toml", false, false), well);
        report.found(Finding::new(EGRESS_ABSENT).with("egress", "192.0.2.7"));
        assert_eq!(
            report.text("a.toml", false, false),
            "T01 egress_absent (error)\n  No network interface of this host has the egress address 192.0.2.7, so no\n  tunnel can leave from it.\n  Correct egress.addresses, or add the address to an interface; behind a cloud's\n  NAT, use the private address that the interface has.\n\n    ip -brief address\n\n1 finding: a.toml; T13 not checked (no listener has tls)\n"
        );
        let json = report.json("a.toml");
        assert_eq!(json["findings"][0]["code"], "egress_absent");
        assert_eq!(json["checks"][0]["result"], "finding");
        assert_eq!(json["checks"][12]["result"], "skipped");
        assert_eq!(json["well"], false);
        report.ignore(&[Check::T01]);
        assert!(report.is_well());
    }

    #[test]
    fn a_value_is_one_word_of_a_command_and_moves_no_cursor() {
        let kind = super::super::kinds::AUDIT_SPACE;
        let finding = Finding::new(kind).with("folder", "/a b'; reboot\x1b[2J");
        assert_eq!(finding.command(), r"df -h '/a b'\''; reboot?[2J'");
        assert!(!finding.cause().contains('\x1b'));
    }
}
