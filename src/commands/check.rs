//! `sealway check`: checks the configuration and this machine, and prints every problem. Changes
//! nothing and opens no tunnel.

pub mod deep;
pub mod kinds;
pub mod report;

use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::Trouble;
use super::look_up::LookUps;
use crate::audit::file;
use crate::authority::Host;
use crate::config::destinations::AGE_MAX;
use crate::config::file::{self as config_file, Problem};
use crate::config::read::shown_path;
use crate::config::{Config, OVERLAPPING_NAT64, Overrides, UNNAMED_NAT};
use crate::dial::Egress;
use crate::policy::Enforcement;
use crate::policy::guard::not_global;
use crate::resolve::{Families, Notice, NoticeKind, ResolveError};
use crate::sys;
use crate::sys::ports::{self, Reuse};
use crate::sys::presence::is_on_this_host;

/// Checks.
///
/// # Errors
/// Every problem, those of the configuration first. The valid part of the configuration is compared
/// with the machine, unless the check is for another machine.
pub fn check(path: Option<&Path>, overrides: &Overrides) -> Result<(), Trouble> {
    let text = path
        .map_or_else(|| Ok(Zeroizing::default()), config_file::text)
        .map_err(|problems| Trouble::of(&problems))?;
    let (config, problems) = Config::read(path.unwrap_or(Path::new("")), &text, overrides);
    warn(&config);
    let mut problems: Vec<_> = problems.iter().map(Problem::to_string).collect();
    if !overrides.offline {
        warn_of_floating(&config);
        problems.extend(addresses(&config));
        problems.extend(ports(&config));
        problems.extend(config.audit_file.as_deref().and_then(audit_file));
        problems.extend(resolver(&config));
    }
    if !problems.is_empty() {
        return Err(Trouble::Config(problems));
    }
    if !overrides.offline {
        warn_of_ports(&config);
    }
    let users = config
        .auth
        .users
        .as_ref()
        .map_or("no credentials required".to_owned(), |users| {
            format!("{} users", users.count())
        });
    println!(
        "ok: {} listener(s), {users}, {}policy {}",
        config.listeners.len() + config.awaited.len(),
        allowlist(&config.public),
        config.policy.hash()
    );
    Ok(())
}

/// A kernel setting that limits the tunnels of an address.
fn warn_of_ports(config: &Config) {
    let beyond = |address: &IpAddr| !address.is_loopback();
    if ports::reuse() != Reuse::Everywhere && Egress::wanted(&config.egress).iter().any(beyond) {
        eprintln!(
            "sealway: warning: net.ipv4.tcp_tw_reuse is not 1 (or tcp_timestamps is 0): a port stays taken for a minute after each tunnel that the client ends first; see deploy/sysctl.d/90-sealway.conf"
        );
    }
}

fn allowlist(public: &[IpAddr]) -> String {
    let public: Vec<_> = public.iter().map(IpAddr::to_string).collect();
    if public.is_empty() {
        String::new()
    } else {
        format!("for the key's allowlist {}, ", public.join(" "))
    }
}

/// Warnings; printed beside the problems, if there are any.
fn warn(config: &Config) {
    if config.policy.enforcement() == Enforcement::Report {
        eprintln!(
            "sealway: warning: policy.mode is \"report\": hosts and SNI that the policy would refuse pass"
        );
    }
    for name in &config.awaited {
        eprintln!(
            "sealway: warning: [[listener]] socket = \"{name}\": only the daemon that systemd starts learns its address and checks it"
        );
    }
    for path in &config.unread {
        eprintln!(
            "sealway: warning: {}: does not exist on this machine and is not checked",
            shown_path(path).display()
        );
    }
    for address in config.behind_unnamed_nat() {
        eprintln!("sealway: warning: egress.addresses: {address} {UNNAMED_NAT}");
    }
    for warning in &config.warnings {
        eprintln!("sealway: warning: {warning}");
    }
    for (one, other) in config.overlapping_nat64() {
        eprintln!("sealway: warning: egress.nat64: {one} and {other} {OVERLAPPING_NAT64}");
    }
    for (address, class) in config
        .public
        .iter()
        .filter_map(|address| Some((address, not_global(*address)?)))
    {
        eprintln!(
            "sealway: warning: egress.public: {address} is {class}: name the address that upstreams see"
        );
    }
    let now = SystemTime::now();
    for source in config
        .ranges
        .iter()
        .filter(|source| source.age(now) > AGE_MAX)
    {
        let (file, days) = (source.path.display(), source.age(now).as_secs() / 86_400);
        eprintln!(
            "sealway: warning: {file}: the destination ranges are {days} days old: download the file again"
        );
    }
}

/// An address that is not here is a problem, although `run` starts without it and waits: it may be misspelt.
fn addresses(config: &Config) -> Vec<String> {
    let problem = |address: &IpAddr| match is_on_this_host(*address) {
        Ok(true) => None,
        Ok(false) => Some(format!(
            "egress.addresses: {address} is not an address of this host: use one that ip -brief address shows (behind a cloud's NAT the private one), or add it to an interface; without it run starts, but does not use it and may not be ready"
        )),
        Err(error) => Some(format!(
            "egress.addresses: the kernel does not say whether {address} is an address of this host: {error}"
        )),
    };
    let is_fixed = |address: &&IpAddr| !config.floating.contains(address);
    let fixed = config.egress.iter().filter(is_fixed);
    fixed.filter_map(problem).collect()
}

/// A floating address that another host has is normal, but it may also be misspelt.
fn warn_of_floating(config: &Config) {
    let is_away = |address: &&IpAddr| !is_on_this_host(**address).unwrap_or(true);
    for address in config.floating.iter().filter(is_away) {
        eprintln!(
            "sealway: warning: egress.floating: {address} is not on this host now: run starts on standby for it"
        );
    }
}

/// Binds all of them at once, so that two on one address are found too. Reports a port that a
/// running daemon holds as well, because check cannot know the owner.
fn ports(config: &Config) -> Vec<String> {
    let (mut open, mut problems) = (Vec::new(), Vec::new());
    let listeners = config.listeners.iter().map(|listener| listener.address);
    for address in listeners.chain(config.admin) {
        match sys::listen(address) {
            Ok(socket) => open.push(socket),
            Err(error) => problems.push(format!(
                "{address}: cannot listen: {error}; another process holds it (a running sealway does), it is listed twice, or the address is not on this host"
            )),
        }
    }
    problems
}

/// Whether the daemon could use the file, as far as check can tell without creating or locking it.
fn audit_file(path: &Path) -> Option<String> {
    let problem = file::usable(path).err()?;
    Some(format!("audit.file: {}: {problem}", path.display()))
}

/// Asks for a name that the policy leaves to DNS; any answer will do. If every name is fixed, no name server is needed:
/// then only those in `dns.servers` are asked.
fn resolver(config: &Config) -> Option<String> {
    let look_ups = match LookUps::new(&config.dns) {
        Ok(look_ups) => look_ups,
        Err(error) => return Some(format!("dns: no thread could be started: {error}")),
    };
    let rules = config.policy.names();
    let is_left = |host: &Host| look_ups.fixed_in(host).is_none();
    let default = Host::parse(PROBE).ok().filter(is_left);
    let may_be_asked =
        |host: &Host| config.policy.enforcement() == Enforcement::Report || rules.has(host);
    let probe = default
        .clone()
        .filter(may_be_asked)
        .or_else(|| rules.exact_hosts().filter(is_left).min())
        .or_else(|| default.filter(|_| rules.has_wide_rules() || !config.dns.servers.is_empty()));
    // Where nothing is asked for, nothing is missed.
    let is_of_use = |notice: &Notice| notice.kind == NoticeKind::Skipped || probe.is_some();
    for notice in look_ups.notices().into_iter().filter(is_of_use) {
        let (file, text) = (notice.file.path(), notice.text);
        let line = notice.line.map(|line| format!(":{line}"));
        let line = line.unwrap_or_default();
        eprintln!("sealway: warning: {file}{line}: {text}");
    }
    let probe = probe?;
    let asked = look_ups.ask(&probe, Families { v4: true, v6: true });
    look_ups.end();
    match asked {
        Ok(_) | Err(ResolveError::NoAddress) => None,
        Err(error) => Some(format!(
            "dns: {probe} cannot be looked up: {error}; check dns.servers or /etc/resolv.conf"
        )),
    }
}

/// The destination of the default policy.
const PROBE: &str = "generativelanguage.googleapis.com";
