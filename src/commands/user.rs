//! `sealway user add|import|list|remove|rotate`: edits the users file and keeps its comments and
//! order.
//!
//! Prints a secret once and never stores it; the file holds its SHA-256. Replaces the whole file
//! (write, fsync, rename) under a lock, so a reader never sees half of it and two editors never
//! lose a change. A running daemon loads it at its next reload.

mod file;
mod import;

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::format_description::well_known::Rfc3339;
use toml_edit::{Array, Item, Table, value};

use super::{Trouble, load};
use crate::auth::{SecretHash, User};
use crate::authority::UserId;
use crate::config::fields::shown;
use crate::config::{Config, Listener, Overrides};
use crate::sys;
use file::{Edit, edit};
pub use import::import;

/// Adds a user and prints the proxy URL.
///
/// # Errors
/// A name that exists or is not allowed; a users file that is not configured or not writable.
pub fn add(name: &str, config: Option<&Path>) -> Result<(), Trouble> {
    let user = user_id(name).map_err(Trouble::Other)?;
    let (config, file) = target(config)?;
    let secret = new_secret()?;
    edit(&file, |users| {
        if users.contains_key(name) {
            return Err(Trouble::Other(format!(
                "user {name} exists already; sealway user rotate {name} makes a new secret"
            )));
        }
        insert(users, &user, &secret);
        Ok(Edit::Changed)
    })?;
    print_url(&config, &user, &secret)
}

fn insert(users: &mut Table, user: &UserId, secret: &str) {
    let mut table = Table::new();
    table.insert(
        "secrets",
        value(Array::from_iter([SecretHash::of(secret).to_string()])),
    );
    users.insert(user.as_str(), Item::Table(table));
}

/// Removes a user.
///
/// # Errors
/// A name that does not exist; otherwise as [`add`].
pub fn remove(name: &str, config: Option<&Path>) -> Result<(), Trouble> {
    user_id(name).map_err(Trouble::Other)?;
    let (_, file) = target(config)?;
    edit(&file, |users| {
        users
            .remove(name)
            .map(|_| Edit::Changed)
            .ok_or_else(|| unknown(name))
    })?;
    eprintln!("removed {name}; reload the daemon (SIGHUP) to put it in force");
    Ok(())
}

/// Adds a second live secret, drops the oldest of two, and prints the proxy URL.
///
/// # Errors
/// A name that does not exist; otherwise as [`add`].
pub fn rotate(name: &str, config: Option<&Path>) -> Result<(), Trouble> {
    let user = user_id(name).map_err(Trouble::Other)?;
    let (config, file) = target(config)?;
    let secret = new_secret()?;
    edit(&file, |users| {
        let entry = users
            .get_mut(name)
            .and_then(Item::as_table_like_mut)
            .ok_or_else(|| unknown(name))?;
        let mut secrets: Vec<String> = entry
            .get("secrets")
            .and_then(Item::as_array)
            .into_iter()
            .flatten()
            .filter_map(|hash| hash.as_str().map(str::to_owned))
            .collect();
        secrets.push(SecretHash::of(&secret).to_string());
        let newest_two = secrets.split_off(secrets.len().saturating_sub(2));
        // The key keeps the comments before it.
        match entry.get_mut("secrets") {
            Some(secrets) => *secrets = value(Array::from_iter(newest_two)),
            None => drop(entry.insert("secrets", value(Array::from_iter(newest_two)))),
        }
        Ok(Edit::Changed)
    })?;
    print_url(&config, &user, &secret)
}

/// Lists the users: name, live secrets, restrictions.
///
/// # Errors
/// A users file that is not configured or not valid.
pub fn list(config: Option<&Path>) -> Result<(), Trouble> {
    let config = load(config, &Overrides::default())?;
    let Some(users) = &config.auth.users else {
        return Err(not_configured());
    };
    let mut users: Vec<_> = users.iter().collect();
    users.sort_by(|a, b| a.id.cmp(&b.id));
    for user in users {
        println!("{}", summary(user));
    }
    Ok(())
}

fn summary(user: &User) -> String {
    let live = user
        .secrets
        .iter()
        .filter(|secret| **secret != SecretHash::default())
        .count();
    let mut line = format!("{}  secrets {live}", user.id);
    if user.disabled {
        line += "  disabled";
    }
    if let Some(expires) = user
        .expires
        .and_then(|expires| expires.format(&Rfc3339).ok())
    {
        line += &format!("  expires {expires}");
    }
    if !user.sources.is_empty() {
        line += &format!("  sources {}", joined(&user.sources));
    }
    if !user.egress.is_empty() {
        line += &format!("  egress {}", joined(&user.egress));
    }
    if let Some(allow) = &user.allow {
        line += &format!("  {}", allow.to_string().trim_end().replace('\n', "  "));
    }
    if let Some(tunnels) = user.tunnels {
        line += &format!("  tunnels {tunnels}");
    }
    if let Some(bytes) = user.bytes_per_second {
        line += &format!("  bytes/s {bytes}");
    }
    line
}

fn joined(items: &[impl ToString]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Checks the typed name.
fn user_id(name: &str) -> Result<UserId, String> {
    UserId::parse(name).ok_or_else(|| format!("{} is no user name: {}", shown(name), UserId::FORM))
}

/// Loads the configuration, and creates the users file if it is missing. Does not read the users:
/// before the first one there is no file.
fn target(path: Option<&Path>) -> Result<(Config, PathBuf), Trouble> {
    if let Some(config) = path
        && let Some(file) = file::configured(config)?
    {
        file::create_if_missing(&file, config)?;
    }
    let config = load(path, &Overrides::default())?;
    let file = config.auth.users_file.clone().ok_or_else(not_configured)?;
    Ok((config, file))
}

fn not_configured() -> Trouble {
    Trouble::Config(vec![
        "auth.users_file is not set: set it in the file that --config names, as in users_file = \"users.toml\"".into(),
    ])
}

fn unknown(name: &str) -> Trouble {
    Trouble::Other(format!(
        "there is no user {name}; sealway user list shows all users"
    ))
}

/// 256 random bits of the kernel in letters that need no escape in a URL, because some clients do
/// not decode the password.
fn new_secret() -> Result<String, Trouble> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Trouble::Other(format!("the kernel gives no random bytes: {error}")))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn print_url(config: &Config, user: &UserId, secret: &str) -> Result<(), Trouble> {
    let url = proxy_url(config, user, secret) + "\n";
    let mut stdout = io::stdout();
    stdout.write_all(url.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| {
        Trouble::Other(format!(
            "the secret could not be printed ({error}) and is lost; sealway user rotate {user} makes another"
        ))
    })?;
    eprintln!("This is shown once. Reload the daemon (SIGHUP) to put it in force.");
    if !config.tls.listeners.is_empty() {
        eprintln!("Put the name in the listener's certificate into it instead of the address.");
    } else if config.listeners.is_empty() {
        eprintln!(
            "Put the address of systemd's socket into it (systemctl status sealway.socket): it is not known here."
        );
    }
    Ok(())
}

/// The URL of the listener that clients use: one with TLS, or else one that no balancer or hop is in
/// front of. Percent-encodes the name, so that no `@` or `/` ends it (RFC 3986, section 3.2.1).
fn proxy_url(config: &Config, user: &UserId, secret: &str) -> String {
    let name: String = user.as_str().bytes().map(encoded).collect();
    let is_for_clients = |listener: &&Listener| listener.proxy_protocol.is_none();
    let (scheme, listener) = match config.tls.listeners.first() {
        Some(tls) => ("https", Some(tls.address)),
        None => {
            let listeners = &config.listeners;
            let direct = listeners.iter().find(is_for_clients);
            let any = direct.or(listeners.first());
            ("http", any.map(|listener| listener.address))
        }
    };
    format!("{scheme}://{name}:{secret}@{}", reachable(listener))
}

fn encoded(byte: u8) -> String {
    let is_unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if is_unreserved {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// The address of the first listener for clients; replaces a wildcard by the address of this
/// machine.
fn reachable(listener: Option<SocketAddr>) -> SocketAddr {
    let listener = listener.unwrap_or(SocketAddr::new(
        IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        9293,
    ));
    let known_by = sys::default_route_sources()
        .into_iter()
        .find(|address| address.is_ipv4() == listener.is_ipv4());
    match known_by {
        Some(address) if listener.ip().is_unspecified() => {
            SocketAddr::new(address, listener.port())
        }
        _ => listener,
    }
}
