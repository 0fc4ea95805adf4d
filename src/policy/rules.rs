//! Rules on names: `host`, `host:port`, `*.suffix`, `*.suffix:port`, and [patterns](pattern); no port means 443.
//!
//! A look-up costs one hash per label, however many exact names and suffixes there are, and one
//! comparison per pattern with the same last two labels. Never uses regular expressions, and never
//! matches across a dot.

mod certificate;
mod pattern;
mod wrong;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;

use crate::authority::{Host, Port};
use crate::outcome::DenyReason;
use pattern::{Pattern, domain};
pub use wrong::RuleError;

/// A set of rules. An empty set allows nothing.
#[derive(Clone, Debug, Default)]
pub struct NameRules {
    exact: HashMap<String, BTreeSet<Port>>,
    suffix: HashMap<String, BTreeSet<Port>>,
    /// By the last two labels, which every pattern spells out.
    patterns: HashMap<String, BTreeMap<Pattern, BTreeSet<Port>>>,
}

/// One rule as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    names: Names,
    port: Port,
}

/// The names that a rule covers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    /// This name.
    Exactly(Host),
    /// Every name below this one, but not the name itself.
    Below(Host),
    /// The names that match the pattern.
    Like(Pattern),
}

impl Rule {
    /// Parses one rule; ignores surrounding spaces.
    ///
    /// # Errors
    /// What is wrong, and the right form.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let text = text.trim();
        if let Some(wrong) = wrong::form(text) {
            return Err(wrong);
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Port::parse(port)?),
            None => (text, Port::HTTPS),
        };
        let names = match name.strip_prefix("*.") {
            Some(suffix) if !suffix.contains('*') => {
                let host = Host::parse(suffix)?;
                if !host.as_str().contains('.') {
                    return Err(RuleError::TooWide);
                }
                Names::Below(host)
            }
            _ if name.contains('*') => Names::Like(Pattern::parse(name)?),
            _ => Names::Exactly(Host::parse(name)?),
        };
        Ok(Self { names, port })
    }

    /// The port that it allows.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Whether a preset could hold the rule: presets are exact names on port 443.
    #[must_use]
    pub fn is_of_presets(&self) -> bool {
        matches!(self.names, Names::Exactly(_)) && self.port == Port::HTTPS
    }

    /// Writes the rule without port 443, which is the default.
    fn short(&self) -> String {
        if self.port == Port::HTTPS {
            self.names.to_string()
        } else {
            self.to_string()
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(host) => host.fmt(f),
            Self::Below(host) => write!(f, "*.{host}"),
            Self::Like(pattern) => pattern.fmt(f),
        }
    }
}

impl fmt::Display for Rule {
    /// Writes the rule in full, with its port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.names, self.port.number())
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
        let ports = match rule.names {
            Names::Exactly(host) => self.exact.entry(host.as_str().to_owned()).or_default(),
            Names::Below(host) => self.suffix.entry(host.as_str().to_owned()).or_default(),
            Names::Like(pattern) => self
                .patterns
                .entry(pattern.domain().to_owned())
                .or_default()
                .entry(pattern)
                .or_default(),
        };
        ports.insert(rule.port);
    }

    /// Whether an exact rule names this host, on any port. Peers choose all other allowed names.
    #[must_use]
    pub fn has(&self, host: &Host) -> bool {
        self.exact.contains_key(host.as_str())
    }

    /// The names of the exact rules, in no order.
    pub fn exact_hosts(&self) -> impl Iterator<Item = Host> {
        // The keys are canonical names, so parsing never fails.
        self.exact.keys().filter_map(|name| Host::parse(name).ok())
    }

    /// The exact rules, each name with each of its ports, in no order.
    pub fn exact(&self) -> impl Iterator<Item = (Host, Port)> {
        let rules = self.exact.iter();
        rules.flat_map(|(name, ports)| {
            let host = Host::parse(name).ok();
            ports
                .iter()
                .filter_map(move |port| Some((host.clone()?, *port)))
        })
    }

    /// Whether a suffix or pattern leaves the choice of names to peers.
    #[must_use]
    pub fn has_wide_rules(&self) -> bool {
        !(self.suffix.is_empty() && self.patterns.is_empty())
    }

    /// The rules that name this host on any port: exact rules first, then patterns, then those of
    /// the nearest suffix. For explanations only; judging a tunnel does not use it.
    #[must_use]
    pub fn naming(&self, host: &Host) -> Vec<Rule> {
        let name = host.as_str();
        let exact = self
            .exact
            .get(name)
            .map(|ports| (Names::Exactly(host.clone()), ports));
        let patterns = self
            .matching(host)
            .map(|(pattern, ports)| (Names::Like(pattern.clone()), ports));
        let parents = name.match_indices('.').filter_map(|(dot, _)| {
            let parent = name.get(dot + 1..)?;
            // A parent of a canonical name is canonical.
            Some((
                Names::Below(Host::parse(parent).ok()?),
                self.suffix.get(parent)?,
            ))
        });
        let all = exact.into_iter().chain(patterns).chain(parents);
        all.flat_map(|(names, ports)| {
            ports.iter().map(move |port| Rule {
                names: names.clone(),
                port: *port,
            })
        })
        .collect()
    }

    fn matching(&self, host: &Host) -> impl Iterator<Item = (&Pattern, &BTreeSet<Port>)> {
        let near = if self.patterns.is_empty() {
            None
        } else {
            self.patterns.get(domain(host.as_str()))
        };
        near.into_iter()
            .flatten()
            .filter(|(pattern, _)| pattern.matches(host))
    }

    pub(super) fn judge(&self, host: &Host, port: Port) -> Result<(), DenyReason> {
        let name = host.as_str();
        let parents = name
            .match_indices('.')
            .filter_map(|(dot, _)| self.suffix.get(name.get(dot + 1..)?));
        let patterns = self.matching(host).map(|(_, ports)| ports);
        let mut ports = self
            .exact
            .get(name)
            .into_iter()
            .chain(parents)
            .chain(patterns)
            .peekable();
        if ports.peek().is_none() {
            return Err(DenyReason::HostDenied);
        }
        if ports.any(|allowed| allowed.contains(&port)) {
            Ok(())
        } else {
            Err(DenyReason::PortDenied)
        }
    }
}

impl fmt::Display for NameRules {
    /// Writes one rule per line, in canonical order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (mark, names) in [("", &self.exact), ("*.", &self.suffix)] {
            for (name, ports) in names.iter().collect::<BTreeMap<_, _>>() {
                for port in ports {
                    writeln!(f, "allow {mark}{name}:{}", port.number())?;
                }
            }
        }
        for (pattern, ports) in self.patterns.values().flatten().collect::<BTreeMap<_, _>>() {
            for port in ports {
                writeln!(f, "allow {pattern}:{}", port.number())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
