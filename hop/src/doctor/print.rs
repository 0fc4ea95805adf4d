//! Prints a report: paragraphs for people, one JSON object for programs. Pure.
//!
//! Text has 80 columns, except commands, which stand whole on a line so that they can be copied.

use serde_json::{Value, json};

use sealway::commands::findings::paragraphs::{
    BOLD, GREEN, INDENT, YELLOW, paint, sentence, wrapped,
};

use super::finding::{Finding, Report};
use super::verdict::Check;

/// The report as text. `heading` says what was examined; `colour` adds ANSI sequences; `facts` adds what each check learned.
#[must_use]
pub fn text(report: &Report, heading: &str, colour: bool, facts: bool) -> String {
    let findings = report.findings();
    let mut out = String::new();
    if facts {
        out += &fact_lines(report);
    }
    for finding in &findings {
        out += &paragraph(finding, colour);
    }
    let not_run = not_run(report);
    if findings.is_empty() {
        out += &wrapped(
            &format!("{}: {heading}{not_run}", paint("ok", GREEN, colour)),
            "",
        );
    } else {
        let count = match findings.len() {
            1 => "1 finding".to_owned(),
            many => format!("{many} findings"),
        };
        out += &wrapped(&format!("{count}: {heading}{not_run}"), "");
    }
    out
}

fn paragraph(finding: &Finding, colour: bool) -> String {
    let verdict = finding.verdict;
    let mut out = format!(
        "{} {}\n",
        paint(&verdict.check.to_string(), YELLOW, colour),
        paint(verdict.code, BOLD, colour)
    );
    out += &wrapped(&sentence(&finding.cause()), INDENT);
    out += &wrapped(&sentence(&finding.cure()), INDENT);
    let commands = finding.commands();
    if !commands.is_empty() {
        out.push('\n');
    }
    for command in commands {
        out += &format!("{INDENT}{INDENT}{}\n", paint(&command, BOLD, colour));
    }
    let placeholders = finding.placeholders();
    if !placeholders.is_empty() {
        out.push('\n');
    }
    for (word, meaning) in placeholders {
        out += &wrapped(&format!("Replace {word}: {meaning}."), INDENT);
    }
    out + "\n"
}

fn fact_lines(report: &Report) -> String {
    let mut out = String::new();
    for check in Check::ALL {
        let skipped = report
            .skipped(check)
            .map(|reason| format!("not checked: {reason}"));
        for fact in report.facts(check).iter().chain(&skipped) {
            out += &wrapped(&format!("{check} {fact}"), "");
        }
    }
    out + "\n"
}

/// The checks that did not run, grouped by reason.
fn not_run(report: &Report) -> String {
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for check in Check::ALL {
        let Some(reason) = report.skipped(check) else {
            continue;
        };
        match groups.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, checks)) => checks.push(check.to_string()),
            None => groups.push((reason, vec![check.to_string()])),
        }
    }
    let texts = groups
        .iter()
        .map(|(reason, checks)| format!("; {} not checked ({reason})", checks.join(" ")));
    texts.collect()
}

/// The report as one JSON object.
#[must_use]
pub fn json(report: &Report, heading: &str) -> Value {
    let checks = Check::ALL.map(|check| {
        let found = report
            .findings()
            .iter()
            .any(|finding| finding.verdict.check == check);
        let result = match (found, report.skipped(check)) {
            (true, _) => "finding",
            (_, Some(_)) => "skipped",
            _ => "ok",
        };
        json!({
            "id": check.to_string(),
            "subject": check.subject(),
            "result": result,
            "reason": report.skipped(check),
            "facts": report.facts(check),
        })
    });
    let findings = report.findings().into_iter().map(|finding| {
        json!({
            "id": finding.verdict.check.to_string(),
            "code": finding.verdict.code,
            "cause": finding.cause(),
            "cure": finding.cure(),
            "commands": finding.commands(),
            "placeholders": placeholders(finding),
        })
    });
    let findings: Vec<_> = findings.collect();
    json!({"version": 1, "examined": heading, "well": findings.is_empty(), "findings": findings, "checks": checks})
}

/// The words of the commands to replace, and by what.
fn placeholders(finding: &Finding) -> Value {
    let words = finding.placeholders().into_iter();
    words
        .map(|(word, meaning)| (word, Value::from(meaning)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use sealway::commands::findings::paragraphs::WIDTH;

    use super::*;
    use crate::doctor::verdict::{Verdict, google};
    use sealway::commands::findings::values::Values;

    fn report() -> Report {
        let mut report = Report::default();
        let values = Values::default()
            .with("seen", "203.0.113.7")
            .with("project", "123");
        report.found(Finding::new(
            google::IP_NOT_LISTED,
            values.with("egress", "203.0.113.7"),
        ));
        report.skip(Check::D14, "--quick");
        report
    }

    #[test]
    fn a_finding_is_a_paragraph_with_its_command() {
        assert_eq!(
            text(
                &report(),
                "gemini through http://127.0.0.1:9293",
                false,
                false
            ),
            "D12 address_not_on_key\n  Google saw the request come from 203.0.113.7, which is the tunnel's address,\n  and the key does not accept requests from it.\n  Add the tunnel's addresses to the key; the second command replaces the key's\n  whole list, so add the addresses to it that the first command shows and that\n  you still need; it takes some minutes to act.\n\n    gcloud services api-keys list --project=123\n    gcloud services api-keys update KEY_ID --project=123 --allowed-ips=203.0.113.7\n\n  Replace KEY_ID: the key's ID: the last part of \"name\" in the output of gcloud\n  services api-keys list.\n\n1 finding: gemini through http://127.0.0.1:9293; D14 not checked (--quick)\n"
        );
    }

    #[test]
    fn nothing_wrong_is_one_line() {
        assert_eq!(
            text(&Report::default(), "gemini", false, false),
            "ok: gemini\n"
        );
        assert_eq!(
            text(&Report::default(), "gemini", true, false),
            "\x1b[32mok\x1b[0m: gemini\n"
        );
    }

    #[test]
    fn no_line_but_a_command_is_wider_than_80_and_colours_change_nothing_else() {
        for verdict in Verdict::all() {
            let mut report = Report::default();
            report.found(verdict);
            let plain = text(&report, "gemini through http://127.0.0.1:9293", false, true);
            let long = |line: &&str| line.chars().count() > WIDTH && !line.starts_with("    ");
            assert_eq!(plain.lines().find(long), None, "{}", verdict.code);
            let mut coloured = text(&report, "gemini through http://127.0.0.1:9293", true, true);
            for code in [BOLD, GREEN, YELLOW, "0"] {
                coloured = coloured.replace(&format!("\x1b[{code}m"), "");
            }
            assert_eq!(coloured, plain);
        }
    }

    #[test]
    fn json_has_every_check_and_the_texts_of_the_paragraph() {
        let value = json(&report(), "gemini");
        assert_eq!(
            value.pointer("/findings/0/code"),
            Some(&json!("address_not_on_key"))
        );
        assert_eq!(
            value.pointer("/findings/0/commands/0"),
            Some(&json!("gcloud services api-keys list --project=123"))
        );
        assert_eq!(value.pointer("/checks/15/id"), Some(&json!("D16")));
        assert_eq!(value.pointer("/checks/11/result"), Some(&json!("finding")));
        assert_eq!(value.pointer("/checks/13/result"), Some(&json!("skipped")));
        assert_eq!(value.pointer("/checks/0/result"), Some(&json!("ok")));
        assert_eq!(value.pointer("/well"), Some(&json!(false)));
    }
}
