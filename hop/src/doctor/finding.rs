//! What a run found: facts, findings and the checks that could not run. Holds no secret and no body.

use std::collections::BTreeMap;

use super::verdict::{Check, Verdict, meaning};
use sealway::commands::findings::values::{Values, harmless};

/// A verdict with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The verdict.
    pub verdict: &'static Verdict,
    /// What is filled into its texts.
    pub values: Values,
}

impl Finding {
    /// A finding with these values.
    #[must_use]
    pub fn new(verdict: &'static Verdict, values: Values) -> Self {
        Self { verdict, values }
    }

    /// Why it happens.
    #[must_use]
    pub fn cause(&self) -> String {
        self.values.fill(self.verdict.cause)
    }

    /// What to do.
    #[must_use]
    pub fn cure(&self) -> String {
        self.values.fill(self.verdict.cure)
    }

    /// The commands that do it.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        let commands = self.verdict.command.lines();
        commands.map(|one| self.values.fill_command(one)).collect()
    }
}

impl Finding {
    /// The words in its commands that stand for values which the doctor does not know, each with what to put there.
    #[must_use]
    pub fn placeholders(&self) -> Vec<(String, &'static str)> {
        let mut found: Vec<(String, &'static str)> = Vec::new();
        for command in self.commands() {
            let part_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            for word in command.split(|c| !part_of_word(c)) {
                let is_new = !found.iter().any(|(known, _)| known == word);
                if let Some(meaning) = meaning(word).filter(|_| is_new) {
                    found.push((word.to_owned(), meaning));
                }
            }
        }
        found
    }
}

impl From<&'static Verdict> for Finding {
    fn from(verdict: &'static Verdict) -> Self {
        Self::new(verdict, Values::default())
    }
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Values that every finding shares, such as the host.
    pub values: Values,
    findings: Vec<Finding>,
    facts: BTreeMap<Check, Vec<String>>,
    skipped: BTreeMap<Check, &'static str>,
}

impl Report {
    /// Adds a finding; the second of one verdict is dropped.
    pub fn found(&mut self, finding: impl Into<Finding>) {
        let finding = finding.into();
        if !self
            .findings
            .iter()
            .any(|known| known.verdict == finding.verdict)
        {
            let values = finding.values.or(&self.values);
            self.findings.push(Finding::new(finding.verdict, values));
        }
    }

    /// Adds what a check learned.
    pub fn fact(&mut self, check: Check, text: impl AsRef<str>) {
        self.facts
            .entry(check)
            .or_default()
            .push(harmless(text.as_ref()));
    }

    /// Notes that a check could not run, or was not wanted. The first reason counts.
    pub fn skip(&mut self, check: Check, reason: &'static str) {
        self.skipped.entry(check).or_insert(reason);
    }

    /// Notes that the checks of this list could not run.
    pub fn skip_all(&mut self, checks: &[Check], reason: &'static str) {
        checks.iter().for_each(|check| self.skip(*check, reason));
    }

    /// Removes the findings of checks that the user does not want.
    pub fn ignore(&mut self, checks: &[Check]) {
        self.findings
            .retain(|finding| !checks.contains(&finding.verdict.check));
        for check in checks {
            self.skipped.insert(*check, "ignored");
        }
    }

    /// The findings, by check.
    #[must_use]
    pub fn findings(&self) -> Vec<&Finding> {
        let mut findings: Vec<_> = self.findings.iter().collect();
        findings.sort_by_key(|finding| finding.verdict.check);
        findings
    }

    /// What the check learned.
    #[must_use]
    pub fn facts(&self, check: Check) -> &[String] {
        self.facts.get(&check).map_or(&[], Vec::as_slice)
    }

    /// Why the check did not run; None if it did.
    #[must_use]
    pub fn skipped(&self, check: Check) -> Option<&'static str> {
        let found = self
            .findings
            .iter()
            .any(|finding| finding.verdict.check == check);
        self.skipped.get(&check).copied().filter(|_| !found)
    }
}
