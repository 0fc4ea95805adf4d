//! `sealway explain`: shows what the configuration decides for one destination, by which rule, and
//! what would refuse a tunnel, in the order of a set-up. Opens no connection and sends only DNS
//! queries; its verdicts come from the functions that judge tunnels.

mod finding;
mod network;
mod user;

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use super::{Trouble, load};
use crate::authority::{Authority, AuthorityError, Destination, Host, Port};
use crate::config::{Config, Overrides, allow_files};
use crate::outcome::DenyReason;
use crate::policy::guard::OwnAddresses;
use crate::policy::presets::ChosenPreset;
use crate::policy::{Enforcement, NameRules, Rule, RuleError, Verdict};
use crate::sys;
use finding::{Explanation, Finding};

/// The question.
#[derive(Debug)]
pub struct Question {
    /// The destination.
    pub target: Authority,
    /// The user.
    pub user: Option<String>,
    /// The SNI; empty: none.
    pub sni: Option<String>,
    /// Whether to print JSON.
    pub json: bool,
}

/// Prints the answer on standard output.
///
/// # Errors
/// [`Trouble::Refused`] if a tunnel would be refused; otherwise why no answer was possible.
pub fn explain(
    question: &Question,
    path: Option<&Path>,
    overrides: &Overrides,
) -> Result<(), Trouble> {
    let config = load(path, overrides)?;
    let own = sys::interface_addresses().map_err(|error| {
        Trouble::Other(format!("this host's addresses cannot be listed: {error}"))
    })?;
    let explanation = answer(&config, question, &OwnAddresses::new(own));
    let text = if question.json {
        explanation.to_json() + "\n"
    } else {
        explanation.to_string()
    };
    let mut stdout = io::stdout();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| Trouble::Other(format!("the answer could not be printed: {error}")))?;
    if explanation.code.is_some() {
        Err(Trouble::Refused)
    } else {
        Ok(())
    }
}

/// Parses `HOST`, `HOST:PORT`, or an address with or without brackets; no port means 443.
///
/// # Errors
/// What is wrong with it: in the words for rules if they know the right form, otherwise in those
/// for CONNECT.
pub fn target(text: &str) -> Result<Authority, String> {
    let text = text.trim();
    authority(text).map_err(|error| match Rule::parse(text) {
        Err(RuleError::Name(_)) | Ok(_) => error.to_string(),
        Err(wrong) => wrong.to_string(),
    })
}

fn authority(text: &str) -> Result<Authority, AuthorityError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Authority {
            destination: Destination::Address(address),
            port: Port::HTTPS,
        });
    }
    let has_port = !text.ends_with(']') && text.contains(':');
    if has_port {
        Authority::parse(text)
    } else {
        Authority::parse(&format!("{text}:{}", Port::HTTPS.number()))
    }
}

fn answer(config: &Config, question: &Question, own: &OwnAddresses) -> Explanation {
    let (authority, mode) = (&question.target, config.policy.enforcement());
    let (user, mut findings) = user::find(config, question.user.as_deref());
    match &authority.destination {
        Destination::Address(address) => findings.push(
            Finding::new(
                "name",
                address,
                "an address has no name to compare with SNI",
            )
            .refusing(DenyReason::IpLiteralDenied),
        ),
        Destination::Name(host) => {
            findings.extend(names(
                config,
                authority,
                host,
                user.and_then(|user| user.allow.as_ref()),
            ));
            findings.extend(network::find(config, authority, host, user, own));
            findings.push(server_name(config, host, question.sni.as_deref()));
        }
    }
    Explanation::new(authority, mode, findings)
}

/// The deciding rule, the user's own rule, and the port.
fn names(
    config: &Config,
    authority: &Authority,
    host: &Host,
    narrowed: Option<&NameRules>,
) -> Vec<Finding> {
    let port = authority.port;
    let (denied, reported) = match config.policy.judge(authority.clone(), narrowed) {
        Verdict::Allow(authorised) => (None, authorised.would_deny()),
        Verdict::Deny(reason) => (Some(reason), None),
    };
    let by_policy = config.policy.names().naming(host);
    let by_user = narrowed.map(|rules| rules.naming(host));
    let mut name = match deciding(&by_policy, port) {
        Some(rule) => Finding::new(
            "name",
            rule,
            format!("named by {}", source(config, host, rule)),
        ),
        None => Finding::new("name", host, "no rule names it, so it is refused"),
    };
    let mut own = by_user.as_deref().map(|rules| match deciding(rules, port) {
        Some(rule) => Finding::new("allow", rule, "named by the user's own allow"),
        None => Finding::new("allow", host, "the user's own allow does not name it"),
    });
    let mut at_port = Finding::new(
        "port",
        port.number(),
        ports(denied, &by_policy, by_user.as_deref()),
    );
    // The policy names the host, so the user's own rules refuse it.
    let unnamed = own
        .as_mut()
        .filter(|_| !by_policy.is_empty())
        .unwrap_or(&mut name);
    match denied {
        Some(reason @ DenyReason::PortDenied) => at_port = at_port.refusing(reason),
        Some(reason) => unnamed.code = Some(reason.code()),
        None => unnamed.would_deny = reported.map(DenyReason::code),
    }
    [Some(name), own, Some(at_port)]
        .into_iter()
        .flatten()
        .collect()
}

/// Among the rules that name a host, the one that allows the port; otherwise the first.
fn deciding(rules: &[Rule], port: Port) -> Option<&Rule> {
    rules
        .iter()
        .find(|rule| rule.port() == port)
        .or(rules.first())
}

fn ports(denied: Option<DenyReason>, by_policy: &[Rule], by_user: Option<&[Rule]>) -> String {
    let listed = |rules: &[Rule]| {
        rules
            .iter()
            .map(|rule| rule.port().number().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match denied {
        None => "allowed".to_owned(),
        Some(DenyReason::PortDenied) if by_policy.is_empty() => {
            "a host that no rule names has port 443 only".to_owned()
        }
        Some(DenyReason::PortDenied) => {
            let own = by_user.filter(|rules| !rules.is_empty());
            let own = own.map_or(String::new(), |own| {
                format!("; those of the user's own allow: {}", listed(own))
            });
            format!(
                "the ports of the rules that name the host: {}{own}",
                listed(by_policy)
            )
        }
        Some(_) => "not checked: the host is refused".to_owned(),
    }
}

/// The source of a rule that names a host.
fn source(config: &Config, host: &Host, rule: &Rule) -> String {
    let holds = |preset: &&ChosenPreset| preset.hosts().iter().any(|name| name == host.as_str());
    match config
        .presets
        .iter()
        .find(holds)
        .filter(|_| rule.is_of_presets())
    {
        Some(preset) => format!("preset {preset}"),
        None => match allow_files::find(&config.allow_files, rule) {
            Some((file, line)) => format!("policy.allow_files, {}:{line}", file.display()),
            None => "policy.allow".to_owned(),
        },
    }
}

fn server_name(config: &Config, host: &Host, sni: Option<&str>) -> Finding {
    let Some(sni) = sni else {
        return Finding::new("sni", host, "what the ClientHello must name");
    };
    let named = Some(sni).filter(|sni| !sni.is_empty());
    let shown = named.unwrap_or("-");
    match config.policy.judge_server_name(host, named) {
        Ok(None) => Finding::new("sni", shown, "the name of the host"),
        Ok(Some(reason)) => Finding::new("sni", shown, format!("not {host}")).reporting(reason),
        Err(reason) => Finding::new("sni", shown, format!("not {host}")).refusing(reason),
    }
}

fn mode_in_words(mode: Enforcement) -> &'static str {
    match mode {
        Enforcement::Enforce => "names are enforced",
        Enforcement::Report => "names that would be refused pass and are recorded",
    }
}
