//! Reads the application's environment: proxy variables, NO_PROXY, and what gRPC, Java and Node make of them (D01, D15).
//!
//! Variables in, findings out. Values of variables are shown only where they hold no credentials.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::finding::Finding;
use super::proxy_url::ProxyUrl;
use super::verdict::setup;
use sealway::commands::findings::values::Values;

/// Variables of a process. A proxy variable holds credentials.
pub type Variables = BTreeMap<String, Zeroizing<String>>;

/// The variables of this process that are read here, as far as they are UTF-8. Others, among them the key, are not copied.
#[must_use]
pub fn own() -> Variables {
    let named = PROXY_VARIABLES
        .iter()
        .chain(&JAVA_VARIABLES)
        .chain(&NODE_VARIABLES)
        .chain(&OTHERS);
    let found = named.filter_map(|name| {
        Some((
            (*name).to_owned(),
            Zeroizing::new(std::env::var(name).ok()?),
        ))
    });
    found.collect()
}

/// The first proxy variable that a client of https URLs reads, and its value.
#[must_use]
pub fn proxy(variables: &Variables) -> Option<(&'static str, &str)> {
    PROXY_VARIABLES
        .iter()
        .find_map(|name| set(variables, name).map(|value| (*name, value)))
}

/// The findings about the variables. `chosen` is the proxy of the run; `named` says that --proxy named it.
#[must_use]
pub fn findings(
    variables: &Variables,
    chosen: Option<&ProxyUrl>,
    named: bool,
    host: &str,
    port: u16,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    match (set(variables, "HTTPS_PROXY"), set(variables, "https_proxy")) {
        (Some(upper), Some(lower)) if upper != lower => {
            findings.push(setup::PROXY_CASES_DIFFER.into())
        }
        _ => {}
    }
    match (proxy(variables), chosen) {
        (None, None) => findings.push(setup::PROXY_NOT_SET.into()),
        (Some((variable, value)), Some(chosen)) if named && differs(value, chosen) => {
            let values = Values::default().with("variable", variable);
            findings.push(Finding::new(setup::PROXY_VARIABLE_DIFFERS, values));
        }
        _ => {}
    }
    for variable in ["NO_PROXY", "no_proxy"] {
        if let Some((entry, rest)) =
            set(variables, variable).and_then(|list| matching(list, host, port))
        {
            let values = excluded(&entry, &rest).with("variable", variable);
            findings.push(Finding::new(setup::NO_PROXY_MATCHES, values));
            break;
        }
    }
    findings.extend(of_grpc(variables, chosen, host, port));
    if let Some(chosen) = chosen {
        findings.extend(of_java(variables, chosen));
        findings.extend(of_node(variables));
    }
    findings
}

/// gRPC reads `grpc_proxy` before the others, and `no_grpc_proxy` before `no_proxy`. These variables are evidence of gRPC.
fn of_grpc(
    variables: &Variables,
    chosen: Option<&ProxyUrl>,
    host: &str,
    port: u16,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let (Some(value), Some(chosen)) = (set(variables, "grpc_proxy"), chosen) {
        if value.trim().to_ascii_lowercase().starts_with("https://") {
            let values = Values::default().with("variable", "grpc_proxy");
            findings.push(Finding::new(setup::GRPC_SCHEME, values));
        }
        if differs(value, chosen) {
            findings.push(setup::GRPC_DIFFERS.into());
        }
    }
    if let Some((entry, rest)) =
        set(variables, "no_grpc_proxy").and_then(|list| matching(list, host, port))
    {
        findings.push(Finding::new(setup::NO_GRPC_PROXY, excluded(&entry, &rest)));
    }
    findings
}

fn of_java(variables: &Variables, chosen: &ProxyUrl) -> Vec<Finding> {
    let options: Vec<_> = JAVA_VARIABLES
        .iter()
        .filter_map(|name| set(variables, name))
        .collect();
    if options.is_empty() {
        return Vec::new();
    }
    let options = options.join(" ");
    let mut findings = Vec::new();
    if !options.contains("-Dhttps.proxyHost=") {
        findings.push(setup::JAVA_PROXY.into());
    }
    // Empty, it allows every scheme.
    let allowed = options
        .split_whitespace()
        .any(|option| option == JAVA_BASIC || option == JAVA_BASIC_WITHOUT_VALUE);
    if chosen.credentials.is_some() && !allowed {
        findings.push(setup::JAVA_BASIC.into());
    }
    findings
}

fn of_node(variables: &Variables) -> Option<Finding> {
    let used = NODE_VARIABLES
        .iter()
        .any(|name| set(variables, name).is_some());
    let on = set(variables, "NODE_USE_ENV_PROXY").is_some_and(|value| value == "1");
    let flag =
        set(variables, "NODE_OPTIONS").is_some_and(|options| options.contains("--use-env-proxy"));
    (used && !on && !flag).then(|| setup::NODE_FETCH.into())
}

/// An empty variable counts as unset, as clients have it.
fn set<'a>(variables: &'a Variables, name: &str) -> Option<&'a str> {
    let value = variables.get(name)?.trim();
    (!value.is_empty()).then_some(value)
}

fn differs(value: &str, chosen: &ProxyUrl) -> bool {
    let (url, _) = ProxyUrl::parse(value);
    !url.is_some_and(|url| url.is_same(chosen))
}

fn excluded(entry: &str, rest: &str) -> Values {
    let mut values = Values::default().with("entry", entry);
    values.set_exactly("rest", rest);
    values
}

/// The first entry that matches, and the list without any that does. Entries are `*`, a name with everything below it, a
/// name with a leading dot or `*.`, each with or without a port.
fn matching(list: &str, host: &str, port: u16) -> Option<(String, String)> {
    let entries: Vec<_> = list
        .split([',', ' '])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .collect();
    let (hit, rest): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .partition(|entry| matches(entry, host, port));
    let first = hit.first()?;
    Some(((*first).to_owned(), rest.join(",")))
}

fn matches(entry: &str, host: &str, port: u16) -> bool {
    let (name, of_port) = match entry.rsplit_once(':') {
        Some((name, of_port)) => match of_port.parse() {
            Ok(of_port) => (name, Some(of_port)),
            Err(_) => (entry, None),
        },
        None => (entry, None),
    };
    if of_port.is_some_and(|of_port: u16| of_port != port) {
        return false;
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let name = name
        .strip_prefix("*.")
        .or_else(|| name.strip_prefix('.'))
        .unwrap_or(&name);
    let below = host
        .strip_suffix(name)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'));
    name == "*" || (!name.is_empty() && below)
}

const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const JAVA_VARIABLES: [&str; 2] = ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS"];
const NODE_VARIABLES: [&str; 3] = ["NODE_OPTIONS", "NODE_ENV", "NODE_VERSION"];
const OTHERS: [&str; 7] = [
    "NO_PROXY",
    "no_proxy",
    "grpc_proxy",
    "no_grpc_proxy",
    "NODE_USE_ENV_PROXY",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
];
const JAVA_BASIC: &str = "-Djdk.http.auth.tunneling.disabledSchemes=";
const JAVA_BASIC_WITHOUT_VALUE: &str = "-Djdk.http.auth.tunneling.disabledSchemes=\"\"";

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
