//! Names with a `*` inside, as `*-aiplatform.googleapis.com` and `bedrock-runtime.*.amazonaws.com`.
//!
//! A `*` stands for at least one character within one label: the whole label, or the rest of it
//! next to literal text. It never matches a dot, and never appears in the last two labels. A
//! leading `*.` keeps its usual meaning, one label or more, even if another `*` follows. Each label
//! has at most one `*`, so matching is one pass without backtracking. Pure.

use std::fmt;

use super::RuleError;
use crate::authority::Host;

/// A canonical pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pattern(String);

impl Pattern {
    /// Parses a name that contains a `*`, except a name whose only `*` is a leading `*.`.
    pub(super) fn parse(text: &str) -> Result<Self, RuleError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let labels: Vec<&str> = text.split('.').collect();
        let fixed = labels.len().saturating_sub(FIXED_LABELS);
        if labels.iter().skip(fixed).any(|label| label.contains('*'))
            || labels.len() <= FIXED_LABELS
        {
            return Err(RuleError::TooWide);
        }
        if labels
            .iter()
            .any(|label| label.contains('*') && !is_sound(label))
        {
            return Err(RuleError::Wildcard);
        }
        // With a letter for each mark, the text must be a valid canonical name.
        let host = Host::parse(&text.replace('*', MARK))?;
        let canonical =
            host.as_str()
                .split('.')
                .zip(&labels)
                .map(|(label, given)| match given.contains('*') {
                    true => given.to_ascii_lowercase(),
                    false => label.to_owned(),
                });
        Ok(Self(canonical.collect::<Vec<_>>().join(".")))
    }

    /// The last two labels, which contain no mark.
    pub(super) fn domain(&self) -> &str {
        domain(&self.0)
    }

    pub(super) fn matches(&self, host: &Host) -> bool {
        let deep = self.0.strip_prefix("*.");
        let mut given = host.as_str().rsplit('.');
        let mut wanted = deep.unwrap_or(&self.0).rsplit('.');
        wanted.all(|wanted| given.next().is_some_and(|given| stands_for(wanted, given)))
            && given.next().is_some() == deep.is_some()
    }
}

impl Pattern {
    /// Whether the pattern matches some name one label below `parent`.
    pub(super) fn meets_one_label_below(&self, parent: &str) -> bool {
        let deep = self.0.strip_prefix("*.");
        // The label below may be any, so it fits whatever the pattern wants there.
        let mut given = parent.rsplit('.').map(Some).chain([None]);
        let mut wanted = deep.unwrap_or(&self.0).rsplit('.');
        wanted.all(|wanted| match given.next() {
            Some(Some(label)) => stands_for(wanted, label),
            Some(None) => true,
            None => false,
        }) && given.next().is_some() == deep.is_some()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The last two labels of a name, or the whole name if it has fewer.
pub(super) fn domain(name: &str) -> &str {
    let dot = name.rmatch_indices('.').nth(FIXED_LABELS - 1);
    dot.and_then(|(dot, _)| name.get(dot + 1..)).unwrap_or(name)
}

/// Whether a label has exactly one mark and is plain ASCII: part of an A-label is not part of the
/// name that it encodes.
fn is_sound(label: &str) -> bool {
    label.is_ascii() && label.matches('*').count() == 1 && !is_encoded(label)
}

fn stands_for(wanted: &str, given: &str) -> bool {
    match wanted.split_once('*') {
        None => wanted == given,
        Some(("", "")) => true,
        Some((before, after)) => {
            given.len() > before.len() + after.len()
                && given.starts_with(before)
                && given.ends_with(after)
                && !is_encoded(given)
        }
    }
}

/// Whether a label is an A-label (RFC 5890), which is encoded text.
fn is_encoded(label: &str) -> bool {
    label
        .get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case("xn--"))
}

/// Trailing labels without wildcards: a wildcard there would open a whole top-level domain.
const FIXED_LABELS: usize = 2;
/// Replaces a mark while the rest is checked: a letter, so that no label changes its kind.
const MARK: &str = "x";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn matches(pattern: &str, host: &str) -> bool {
        Pattern::parse(pattern)
            .unwrap()
            .matches(&Host::parse(host).unwrap())
    }

    #[test]
    fn a_wildcard_matches_part_of_one_label_and_no_dot() {
        let regional = "*-aiplatform.googleapis.com";
        assert!(matches(regional, "europe-west4-aiplatform.googleapis.com"));
        assert!(matches(regional, "x-aiplatform.googleapis.com"));
        for other in [
            "aiplatform.googleapis.com",
            "europe-west4-aiplatform.example.googleapis.com",
            "a.europe-west4-aiplatform.googleapis.com",
            "a.b-aiplatform.googleapis.com",
            "europe-west4-aiplatformx.googleapis.com",
            "europe-west4-aiplatform.googleapis.com.example.com",
            "googleapis.com",
        ] {
            assert!(!matches(regional, other), "{other}");
        }
        assert!(
            !matches("*-kva.example.com", "xn--bcher-kva.example.com"),
            "that is bücher and ends in no -kva"
        );
        assert!(matches("API-*-v2.Example.com.", "api-eu-v2.example.com"));
        assert!(
            !matches("api*.example.com", "api.example.com"),
            "at least one character"
        );
        assert!(
            !matches("ab*ba.example.com", "aba.example.com"),
            "none of them counted twice"
        );
        assert!(!matches("ab*ba.example.com", "abba.example.com"));
        assert!(matches("ab*ba.example.com", "abxba.example.com"));
    }

    #[test]
    fn a_wildcard_matches_a_whole_label() {
        let regional = "bedrock-runtime.*.amazonaws.com";
        assert!(matches(
            regional,
            "bedrock-runtime.eu-central-1.amazonaws.com"
        ));
        assert!(matches(
            regional,
            "bedrock-runtime.xn--bcher-kva.amazonaws.com"
        ));
        for other in [
            "bedrock-runtime.amazonaws.com",
            "bedrock-runtime.a.b.amazonaws.com",
            "bedrock.eu-central-1.amazonaws.com",
            "x.bedrock-runtime.eu-central-1.amazonaws.com",
        ] {
            assert!(!matches(regional, other), "{other}");
        }
    }

    #[test]
    fn a_leading_double_wildcard_matches_any_depth() {
        assert!(matches(
            "*.s3.*.amazonaws.com",
            "bucket.s3.eu-west-1.amazonaws.com"
        ));
        assert!(matches(
            "*.s3.*.amazonaws.com",
            "my.bucket.s3.eu-west-1.amazonaws.com"
        ));
        assert!(!matches(
            "*.s3.*.amazonaws.com",
            "s3.eu-west-1.amazonaws.com"
        ));
        assert!(matches("*.*.example.com", "a.b.example.com"));
        assert!(!matches("*.*.example.com", "b.example.com"));
    }

    #[test]
    fn a_pattern_is_canonical() {
        for (given, wanted) in [
            ("*-A.Example.COM.", "*-a.example.com"),
            ("*-a.bücher.example.com", "*-a.xn--bcher-kva.example.com"),
            ("a_*.example.com", "a_*.example.com"),
        ] {
            assert_eq!(Pattern::parse(given).unwrap().to_string(), wanted);
        }
    }

    #[test]
    fn a_misplaced_wildcard_is_refused() {
        for wide in [
            "*",
            "*-a",
            "*.com",
            "*-a.com",
            "*a.example",
            "a.*.com",
            "a.example.*",
            "a.b.c*m",
            "a.*",
            "**",
            "*a.com.",
        ] {
            assert_eq!(Pattern::parse(wide), Err(RuleError::TooWide), "{wide}");
        }
        for wrong in [
            "a*b*c.example.com",
            "**.example.com",
            "bü*.example.com",
            "xn--*.example.com",
            "XN--*a.example.com",
        ] {
            assert_eq!(Pattern::parse(wrong), Err(RuleError::Wildcard), "{wrong}");
        }
        for name in [
            "-*.example.com",
            "*-.example.com",
            "*..example.com",
            "a*%.example.com",
            "*-a.exa mple.com",
        ] {
            assert!(
                matches!(Pattern::parse(name), Err(RuleError::Name(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn the_domain_is_the_last_two_labels() {
        for (name, wanted) in [
            ("a.b.c.d", "c.d"),
            ("b.c", "b.c"),
            ("c", "c"),
            ("a.b.c", "b.c"),
        ] {
            assert_eq!(domain(name), wanted);
        }
    }
}
