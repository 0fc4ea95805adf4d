//! Rules on names: `host`, `host:port`, `*.suffix`, `*.suffix:port`; no port means 443.
//!
//! A look-up costs one hash per label whatever the number of rules. Never matches by prefix, substring or pattern.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;

use crate::authority::{AuthorityError, Host, Port};
use crate::outcome::DenyReason;

/// A set of rules; empty, it allows nothing.
#[derive(Clone, Debug, Default)]
pub struct NameRules {
    exact: HashMap<String, BTreeSet<Port>>,
    suffix: HashMap<String, BTreeSet<Port>>,
}

/// One rule as an operator writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    wildcard: bool,
    host: Host,
    port: Port,
}

/// Why a rule was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The name, behind `*.` if that is there, or the port is not valid.
    #[error("{0}")]
    Name(#[from] AuthorityError),
    /// A `*` anywhere but at the start, or alone.
    #[error("a wildcard stands at the start only, as in *.example.com")]
    Wildcard,
    /// `*.com` would open a whole top-level domain.
    #[error("a wildcard needs at least two labels behind it, as in *.example.com")]
    TooWide,
}

impl Rule {
    /// Parses one rule.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Port::parse(port)?),
            None => (text, Port::HTTPS),
        };
        let (wildcard, name) = name.strip_prefix("*.").map_or((false, name), |suffix| (true, suffix));
        if name.contains('*') {
            return Err(RuleError::Wildcard);
        }
        let host = Host::parse(name)?;
        if wildcard && !host.as_str().contains('.') {
            return Err(RuleError::TooWide);
        }
        Ok(Self { wildcard, host, port })
    }
}

impl Rule {
    /// The port that it allows.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Whether a preset could hold it: presets are exact names on port 443.
    #[must_use]
    pub fn is_of_presets(&self) -> bool {
        !self.wildcard && self.port == Port::HTTPS
    }
}

impl fmt::Display for Rule {
    /// In full, with its port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.wildcard { "*." } else { "" };
        write!(f, "{mark}{}:{}", self.host, self.port.number())
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        Self::parse(text)
    }
}

impl NameRules {
    /// Parses a list.
    ///
    /// # Errors
    /// The first rule that is wrong.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, RuleError> {
        let mut rules = Self::default();
        for text in texts {
            rules.add(Rule::parse(text)?);
        }
        Ok(rules)
    }

    /// Adds a rule.
    pub fn add(&mut self, rule: Rule) {
        let names = if rule.wildcard { &mut self.suffix } else { &mut self.exact };
        names.entry(rule.host.as_str().to_owned()).or_default().insert(rule.port);
    }

    /// The rules that name this host, whatever their ports: the exact ones first, then those of the nearest suffix.
    /// For people who ask why; a tunnel is judged without it.
    #[must_use]
    pub fn naming(&self, host: &Host) -> Vec<Rule> {
        let name = host.as_str();
        let exact = self.exact.get(name).map(|ports| (false, host.clone(), ports));
        let parents = name.match_indices('.').filter_map(|(dot, _)| {
            let parent = name.get(dot + 1..)?;
            // A parent of a canonical name is one too.
            Some((true, Host::parse(parent).ok()?, self.suffix.get(parent)?))
        });
        let all = exact.into_iter().chain(parents);
        all.flat_map(|(wildcard, host, ports)| {
            ports.iter().map(move |port| Rule { wildcard, host: host.clone(), port: *port })
        })
        .collect()
    }

    pub(super) fn judge(&self, host: &Host, port: Port) -> Result<(), DenyReason> {
        let name = host.as_str();
        let parents = name.match_indices('.').filter_map(|(dot, _)| self.suffix.get(name.get(dot + 1..)?));
        let mut ports = self.exact.get(name).into_iter().chain(parents).peekable();
        if ports.peek().is_none() {
            return Err(DenyReason::HostDenied);
        }
        if ports.any(|allowed| allowed.contains(&port)) { Ok(()) } else { Err(DenyReason::PortDenied) }
    }
}

impl fmt::Display for NameRules {
    /// One rule a line in canonical order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (mark, names) in [("", &self.exact), ("*.", &self.suffix)] {
            for (name, ports) in names.iter().collect::<BTreeMap<_, _>>() {
                for port in ports {
                    writeln!(f, "allow {mark}{name}:{}", port.number())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn judge(rules: &[&str], host: &str, port: &str) -> Result<(), DenyReason> {
        let rules = NameRules::parse(rules.iter().copied()).unwrap();
        rules.judge(&Host::parse(host).unwrap(), Port::parse(port).unwrap())
    }

    #[test]
    fn exact_names_match_themselves_only() {
        assert_eq!(judge(&["a.example"], "a.example", "443"), Ok(()));
        for other in ["b.a.example", "example", "xa.example", "a.example.com"] {
            assert_eq!(judge(&["a.example"], other, "443"), Err(DenyReason::HostDenied), "{other}");
        }
    }

    #[test]
    fn a_suffix_covers_what_is_below_it_and_not_itself() {
        assert_eq!(judge(&["*.a.example"], "b.a.example", "443"), Ok(()));
        assert_eq!(judge(&["*.a.example"], "c.b.a.example", "443"), Ok(()));
        for other in ["a.example", "xa.example", "b.a.example.com"] {
            assert_eq!(judge(&["*.a.example"], other, "443"), Err(DenyReason::HostDenied), "{other}");
        }
    }

    #[test]
    fn a_known_host_on_another_port_is_told_so() {
        assert_eq!(judge(&["a.example"], "a.example", "8443"), Err(DenyReason::PortDenied));
        assert_eq!(judge(&["a.example", "a.example:8443"], "a.example", "8443"), Ok(()));
        assert_eq!(judge(&["a.example", "*.example.com", "*.b.example.com:8443"], "c.b.example.com", "8443"), Ok(()));
    }

    #[test]
    fn the_rules_that_name_a_host_are_those_that_judge_it() {
        let rules = NameRules::parse(["c.b.example:8443", "*.b.example", "c.b.example", "*.example.com", "b.example"]);
        let naming = |host: &str| -> Vec<String> {
            rules.clone().unwrap().naming(&Host::parse(host).unwrap()).iter().map(Rule::to_string).collect()
        };
        assert_eq!(naming("c.b.example"), ["c.b.example:443", "c.b.example:8443", "*.b.example:443"]);
        assert_eq!(naming("d.c.b.example"), ["*.b.example:443"]);
        assert_eq!(naming("b.example"), ["b.example:443"]);
        assert_eq!(naming("example.com"), Vec::<String>::new());
    }

    #[test]
    fn wrong_rules_are_refused() {
        for (rule, wanted) in [
            ("*", RuleError::Wildcard),
            ("a.*.example", RuleError::Wildcard),
            ("*a.example", RuleError::Wildcard),
            ("*.*.example", RuleError::Wildcard),
            ("*.com", RuleError::TooWide),
            ("a.example:0", RuleError::Name(AuthorityError::Port)),
            ("127.0.0.1", RuleError::Name(AuthorityError::AmbiguousAddress)),
            ("", RuleError::Name(AuthorityError::Host)),
        ] {
            assert_eq!(Rule::parse(rule), Err(wanted), "{rule:?}");
        }
    }
}
