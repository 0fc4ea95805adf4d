//! Values of flags. clap's own message would print a wrong value, which may be a misplaced secret; these say only what is
//! expected. Reads no file and no variable.

use std::net::IpAddr;
use std::time::Duration;

use super::super::path::Target;
use super::super::provider::Provider;
use super::super::proxy_url::host_and_port;
use super::super::verdict::Check;

/// One value of a flag.
pub(super) fn one<T>(
    flag: &str,
    text: &str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, String> {
    parse(text.trim()).map_err(|expected| format!("{flag}: {expected}; see --help"))
}

/// All values of a flag.
pub(super) fn each<T>(
    flag: &str,
    texts: &[String],
    parse: fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    texts.iter().map(|text| one(flag, text, parse)).collect()
}

pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let parsed = text.parse::<IpAddr>();
    parsed
        .map(|address| address.to_canonical())
        .map_err(|_| "expected an IP address".to_owned())
}

/// The host and the port of an admin listener.
pub(super) fn admin(text: &str) -> Result<(String, u16), String> {
    let (host, port) = host_and_port(text).ok_or("expected HOST or HOST:PORT")?;
    Ok((host, port.unwrap_or(ADMIN_PORT)))
}

pub(super) fn limit(text: &str) -> Result<Duration, String> {
    let parsed = text
        .parse()
        .ok()
        .filter(|seconds| (1..=60).contains(seconds));
    parsed
        .map(Duration::from_secs)
        .ok_or_else(|| "expected seconds, 1 to 60".to_owned())
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text.parse().ok().filter(|seconds| *seconds <= 3600);
    parsed
        .map(Duration::from_secs)
        .ok_or_else(|| "expected seconds, 0 to 3600".to_owned())
}

pub(super) fn provider(name: &str) -> Result<Provider, String> {
    let found = Provider::ALL
        .into_iter()
        .find(|provider| provider.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        "expected gemini, vertex, openai, anthropic, azure, bedrock or openrouter".to_owned()
    })
}

pub(super) fn target(text: &str) -> Result<Target, String> {
    let (host, port) = host_and_port(text).ok_or("expected HOST or HOST:PORT")?;
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    Ok(Target {
        host,
        port: port.unwrap_or(443),
    })
}

pub(super) fn check(name: &str) -> Result<Check, String> {
    Check::parse(name).ok_or_else(|| "expected D01 to D16".to_owned())
}

pub(super) fn word(text: &str) -> Result<String, String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "._:-/".contains(c);
    match !text.is_empty() && text.len() <= 200 && text.chars().all(known) {
        true => Ok(text.to_owned()),
        false => Err("expected letters, digits and . _ : - /".to_owned()),
    }
}

/// `admin.address` by default.
const ADMIN_PORT: u16 = 9294;
