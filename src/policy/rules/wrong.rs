//! Recognises rules in wrong forms that people paste, and suggests the right form. Pure; never
//! applies a guess.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Rule;
use crate::authority::AuthorityError;

/// Why a rule was rejected. The message suggests the right form if that is clear.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The name or the port is not valid.
    #[error("{0}; {FORMS}")]
    Name(#[from] AuthorityError),
    /// More than one `*` in a label, or one in a label that is or encodes Unicode.
    #[error("a label may have one *, and only among ASCII letters, as in *-api.example.com")]
    Wildcard,
    /// `*.com` would open a whole top-level domain.
    #[error(
        "a * is not allowed in the last two labels, because it would open a whole domain of strangers; {FORMS}"
    )]
    TooWide,
    /// Only spaces.
    #[error("an empty rule; {FORMS}")]
    Empty,
    /// A URL, or part of one.
    #[error("a rule is a host without scheme, path and user, because TLS hides all but the host: write {}", shown(.0.as_deref()))]
    Url(Option<Box<Rule>>),
    /// A leading dot, which other proxies use for a suffix.
    #[error(
        "a rule does not begin with a dot: write *.{0} for every name below {0}, and {0} for itself"
    )]
    LeadingDot(String),
    /// `*example.com`, which other proxies treat as a suffix.
    #[error(
        "write *.{0} for every name below {0}, and {0} for itself: a * within the last two labels would open names of strangers"
    )]
    GluedWildcard(String),
    /// An address or a network.
    #[error(
        "a rule names a host, because SNI is a name: write the host; an address that it may resolve to belongs in policy.allow_destinations"
    )]
    Address,
    /// Several rules in one string.
    #[error(
        "these are several rules: write each separately, in quotes in a file, after a comma in a flag or variable"
    )]
    Several,
    /// Quotes within the string.
    #[error("the quotes are part of the text here: write {}", shown(.0.as_deref()))]
    Quoted(Option<Box<Rule>>),
    /// A dash that is not a hyphen, as word processors insert it.
    #[error("it has a dash that is not a hyphen: write {}", shown(.0.as_deref()))]
    Dash(Option<Box<Rule>>),
    /// A colon followed by nothing, or by something other than one number.
    #[error("a rule has one port, a number from 1 to 65535, or none, which means 443: write {}", shown(.0.as_deref()))]
    Port(Option<Box<Rule>>),
}

/// The rule that the operator meant, or an example.
fn shown(meant: Option<&Rule>) -> String {
    meant.map_or_else(
        || "api.example.com or api.example.com:8443".to_owned(),
        Rule::short,
    )
}

/// The mistake in a text that cannot be a rule; None if it may be a rule.
pub(super) fn form(text: &str) -> Option<RuleError> {
    if text.is_empty() {
        return Some(RuleError::Empty);
    }
    if text.contains([',', ';']) || text.split_whitespace().nth(1).is_some() {
        return Some(RuleError::Several);
    }
    if text.contains(QUOTES) {
        return Some(RuleError::Quoted(meant(&text.replace(QUOTES, ""))));
    }
    if is_address(text) {
        return Some(RuleError::Address);
    }
    if text.contains(OF_URLS) || text.contains("://") {
        return Some(RuleError::Url(of_url(text)));
    }
    if text.contains(DASHES) {
        return Some(RuleError::Dash(meant(&text.replace(DASHES, "-"))));
    }
    if let Some(suffix) = text.strip_prefix('.') {
        return Some(
            meant(suffix).map_or(RuleError::Name(AuthorityError::Host), |rule| {
                RuleError::LeadingDot(rule.short())
            }),
        );
    }
    if let Some(rest) = text
        .strip_prefix('*')
        .filter(|rest| !rest.starts_with(['.', '*', '-']))
        && let Some(rule) = meant(rest)
        && rest.matches('.').count() == 1
    {
        return Some(RuleError::GluedWildcard(rule.short()));
    }
    port(text)
}

/// An invalid port after a valid host.
fn port(text: &str) -> Option<RuleError> {
    let (host, port) = text.split_once(':')?;
    let is_port = crate::authority::Port::parse(port).is_ok();
    // With several ports, the first valid one is as good a guess as any.
    (!is_port).then(|| RuleError::Port(meant(host)))
}

/// `10.0.0.1`, `10.0.0.0/8`, `::1`, `[::1]`, and each with a port.
fn is_address(text: &str) -> bool {
    let bare = |text: &str| {
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        inner.parse::<IpAddr>().is_ok() || inner.parse::<IpNet>().is_ok()
    };
    let without_scheme = text
        .split_once("://")
        .map_or(text, |(_, rest)| rest)
        .trim_end_matches('/');
    bare(without_scheme)
        || without_scheme
            .rsplit_once(':')
            .is_some_and(|(host, _)| bare(host))
}

/// The host and port of a URL, or of a text that looks like part of one.
fn of_url(text: &str) -> Option<Box<Rule>> {
    let scheme = text
        .split_once(":/")
        .filter(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphabetic()));
    let rest = scheme
        .map_or(text, |(_, rest)| rest)
        .trim_start_matches('/');
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    // After a path such as /v1:generate a colon does not start a port. After a scheme comes the
    // host, in any case of letters.
    if text.contains("://") {
        meant(&host.to_ascii_lowercase())
    } else {
        meant(host)
    }
}

/// The rule in a part of the text, if that looks like a host. Anything else may be a misplaced
/// secret, such as a password or a token, and a message must not repeat it.
fn meant(text: &str) -> Option<Box<Rule>> {
    let text = text.trim_end_matches(':');
    let is_like_a_host = text.contains('.') && !text.bytes().any(|byte| byte.is_ascii_uppercase());
    Rule::parse(text)
        .ok()
        .filter(|_| is_like_a_host)
        .map(Box::new)
}

const FORMS: &str =
    "a rule is api.example.com, api.example.com:8443, *.example.com or *-api.example.com";
const OF_URLS: [char; 5] = ['/', '?', '#', '@', '\\'];
const QUOTES: [char; 9] = ['"', '\'', '`', '“', '”', '‘', '’', '«', '»'];
const DASHES: [char; 6] = ['‐', '‑', '‒', '–', '—', '−'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_form_is_answered_with_the_right_one() {
        for (given, wanted) in WRONG_FORMS {
            let message = Rule::parse(given)
                .map_or_else(|error| error.to_string(), |rule| format!("{rule} is taken"));
            assert!(message.contains(wanted), "{given:?}: {message}");
        }
    }

    const WRONG_FORMS: [(&str, &str); 54] = [
        ("https://api.openai.com/v1", "write api.openai.com"),
        ("https://api.openai.com", "write api.openai.com"),
        (
            "http://api.openai.com:8443/v1?x=y#z",
            "write api.openai.com:8443",
        ),
        ("https://api.openai.com:443/v1", "write api.openai.com"),
        ("HTTPS://API.OpenAI.com/", "write api.openai.com"),
        (
            "https://user:secret@api.openai.com/v1",
            "write api.openai.com",
        ),
        ("user@api.openai.com", "write api.openai.com"),
        (
            "https://generativelanguage.googleapis.com/v1beta/models/gemini:generateContent",
            "write generativelanguage.googleapis.com",
        ),
        ("//api.openai.com/v1", "write api.openai.com"),
        ("api.openai.com/", "write api.openai.com"),
        ("api.openai.com/v1", "write api.openai.com"),
        ("api.openai.com:443/path", "write api.openai.com"),
        ("api.openai.com?x", "write api.openai.com"),
        ("https://*.openai.com/*", "write *.openai.com"),
        ("https://", "write api.example.com"),
        ("https:/api.openai.com", "write api.openai.com"),
        (
            ".example.com",
            "write *.example.com for every name below example.com",
        ),
        (".example.com:8443", "write *.example.com:8443"),
        ("*example.com", "write *.example.com"),
        ("*.com", "is not allowed in the last two labels"),
        ("*", "is not allowed in the last two labels"),
        ("*:443", "is not allowed in the last two labels"),
        ("api.*.com", "is not allowed in the last two labels"),
        ("203.0.113.9", "names a host"),
        ("203.0.113.9:443", "names a host"),
        ("https://203.0.113.9/", "policy.allow_destinations"),
        ("10.0.0.0/8", "policy.allow_destinations"),
        ("::1", "names a host"),
        ("[::1]", "names a host"),
        ("[::1]:443", "names a host"),
        ("2001:db8::/32", "policy.allow_destinations"),
        ("api.openai.com:", "write api.openai.com"),
        ("api.openai.com:https", "write api.openai.com"),
        ("api.openai.com:0", "write api.openai.com"),
        ("api.openai.com:65536", "write api.openai.com"),
        ("api.openai.com:443:8443", "write api.openai.com"),
        ("api.openai.com:*", "write api.openai.com"),
        ("api.openai.com:443-445", "write api.openai.com"),
        ("\"api.openai.com\"", "write api.openai.com"),
        ("'api.openai.com:8443'", "write api.openai.com:8443"),
        ("“api.openai.com”", "write api.openai.com"),
        ("a.example.com, b.example.com", "several rules"),
        ("a.example.com,b.example.com", "several rules"),
        ("a.example.com b.example.com", "several rules"),
        ("a.example.com;b.example.com", "several rules"),
        ("a.example.com\nb.example.com", "several rules"),
        ("europe–west4.example.com", "write europe-west4.example.com"),
        ("", "an empty rule"),
        ("a..example.com", "not a valid name"),
        ("-a.example.com", "not a valid name"),
        ("^.+\\.example\\.com$", "without scheme"),
        ("(a|b).example.com", "not a valid name"),
        ("127.1", "four decimal numbers"),
        ("a*b*c.example.com", "may have one *"),
    ];
}
