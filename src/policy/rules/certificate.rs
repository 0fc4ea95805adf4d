//! Names of certificates (RFC 6125) against rules: whether a certificate could stand for a host that a rule allows. Pure.

use super::NameRules;
use crate::authority::Host;

impl NameRules {
    /// Whether a DNS name of a certificate matches a host that some rule names, on any port. A leading `*.` stands for one
    /// label. A name with another `*`, or a wildcard that is no name, counts as a match, because clients differ in what they
    /// take it for.
    #[must_use]
    pub fn meets_certificate_name(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        match name.strip_prefix("*.") {
            None if name.contains('*') => true,
            // A name that is no host can be in no rule.
            None => Host::parse(name).is_ok_and(|host| !self.naming(&host).is_empty()),
            Some(parent) => Host::parse(parent)
                .map_or(true, |parent| self.names_one_label_below(parent.as_str())),
        }
    }

    fn names_one_label_below(&self, parent: &str) -> bool {
        let is_below = |name: &str| {
            name.split_once('.')
                .is_some_and(|(_, below)| below == parent)
        };
        // `*.a.b` of a rule names everything below a.b, so also one label below x.a.b.
        let reaches = |suffix: &str| {
            parent
                .strip_suffix(suffix)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.exact.keys().any(|name| is_below(name))
            || self.suffix.keys().any(|suffix| reaches(suffix))
            || self
                .patterns
                .values()
                .flat_map(|patterns| patterns.keys())
                .any(|pattern| pattern.meets_one_label_below(parent))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_conflicts_with_the_rules_of_its_hosts() {
        let rules = [
            "generativelanguage.googleapis.com",
            "*.internal.example.com:8443",
            "*-aiplatform.example.org",
            "bedrock.*.example.net",
            "*.deep.*.example.edu",
        ];
        let rules = NameRules::parse(rules).unwrap();
        for (name, meets) in [
            ("generativelanguage.googleapis.com", true),
            ("GenerativeLanguage.googleapis.com.", true),
            ("*.googleapis.com", true),
            ("*.com", false),
            ("googleapis.com", false),
            ("*.generativelanguage.googleapis.com", false),
            ("proxy.internal.example.com", true),
            ("*.internal.example.com", true),
            ("*.a.internal.example.com", true),
            ("internal.example.com", false),
            ("*.example.com", false),
            ("*.xinternal.example.com", false),
            ("eu-aiplatform.example.org", true),
            ("*.example.org", true),
            ("*.eu.example.org", false),
            ("*.eu.example.net", true),
            ("*.eu.x.example.net", false),
            ("bedrock.eu.example.net", true),
            ("*.deep.eu.example.edu", true),
            ("*.a.deep.eu.example.edu", true),
            ("*.eu.example.edu", false),
            ("proxy.example.com", false),
            ("localhost", false),
            ("*", true),
            ("*.", true),
            ("g*.googleapis.com", true),
            ("a.*.example.com", true),
        ] {
            assert_eq!(rules.meets_certificate_name(name), meets, "{name}");
        }
        assert!(!NameRules::default().meets_certificate_name("*.googleapis.com"));
    }
}
