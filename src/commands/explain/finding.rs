//! The findings of `sealway explain`, printed as aligned text or as one JSON object.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::mode_in_words;
use crate::authority::Authority;
use crate::outcome::{DenyReason, End};
use crate::policy::Enforcement;

/// One step of a set-up.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    topic: &'static str,
    value: String,
    text: String,
    /// The code with which it refuses a tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<&'static str>,
    /// The code that report mode records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) would_deny: Option<&'static str>,
}

/// All findings.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    host: String,
    port: u16,
    mode: &'static str,
    #[serde(skip)]
    mode_in_words: &'static str,
    verdict: &'static str,
    /// Why a tunnel would be refused: the first reason in the order of a set-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    would_deny: Option<&'static str>,
    findings: Vec<Finding>,
}

impl Finding {
    pub(super) fn new(topic: &'static str, value: impl Display, text: impl Into<String>) -> Self {
        Self {
            topic,
            value: value.to_string(),
            text: text.into(),
            code: None,
            would_deny: None,
        }
    }

    pub(super) fn refusing(self, end: impl Into<End>) -> Self {
        Self {
            code: Some(end.into().code()),
            ..self
        }
    }

    pub(super) fn reporting(self, reason: DenyReason) -> Self {
        Self {
            would_deny: Some(reason.code()),
            ..self
        }
    }
}

impl Explanation {
    /// Builds the answer from `findings`, which are in the order of a set-up.
    pub(super) fn new(asked: &Authority, mode: Enforcement, findings: Vec<Finding>) -> Self {
        let code = findings.iter().find_map(|finding| finding.code);
        Self {
            host: asked.destination.to_string(),
            port: asked.port.number(),
            mode: mode.as_str(),
            mode_in_words: mode_in_words(mode),
            verdict: if code.is_some() { "refused" } else { "allowed" },
            code,
            would_deny: findings.iter().find_map(|finding| finding.would_deny),
            findings,
        }
    }

    pub(super) fn to_json(&self) -> String {
        // Fails only for maps whose keys are not strings; there are none.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let values = self
            .findings
            .iter()
            .map(|finding| finding.value.chars().count());
        let width = values.chain([self.mode.len()]).max().unwrap_or_default();
        let mut line = |topic: &str, value: &str, text: &str, mark: String| {
            let topic = format!("{topic}:");
            writeln!(
                f,
                "{}",
                format!("{topic:<9}{value:<width$}  {text}{mark}").trim_end()
            )
        };
        line(
            "target",
            &format!("{}:{}", self.host, self.port),
            "",
            String::new(),
        )?;
        line("mode", self.mode, self.mode_in_words, String::new())?;
        for finding in &self.findings {
            let mark = match (finding.code, finding.would_deny) {
                (Some(code), _) => format!(" ({code})"),
                (None, Some(code)) => format!(" (reported: {code})"),
                (None, None) => String::new(),
            };
            line(finding.topic, &finding.value, &finding.text, mark)?;
        }
        match (self.code, self.would_deny) {
            (Some(code), _) => writeln!(f, "verdict: refused ({code})"),
            (None, Some(code)) => writeln!(f, "verdict: allowed, but reported ({code})"),
            (None, None) => writeln!(f, "verdict: allowed"),
        }
    }
}
