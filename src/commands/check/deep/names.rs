//! T04: looks up every host that the policy names, as the daemon does, and judges the answers as the address guard does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{at_once, listed};
use crate::authority::{Host, Port};
use crate::commands::check::kinds::{self, Check::T04, Kind};
use crate::commands::check::report::{Finding, Report};
use crate::commands::look_up::LookUps;
use crate::config::Config;
use crate::policy::guard::OwnAddresses;
use crate::resolve::{Families, ResolveError, Resolved};
use crate::sys;

/// The addresses of a host to try.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) host: Host,
    pub(super) addresses: Vec<SocketAddr>,
}

/// Findings of one kind are one paragraph, however many hosts have it.
#[derive(Default)]
struct Found(BTreeMap<&'static str, (&'static Kind, Vec<Host>, Filled)>);

/// Values by name.
type Filled = Vec<(&'static str, String)>;

impl Found {
    /// The values of the first host are shown.
    fn add(&mut self, kind: &'static Kind, host: &Host, values: Filled) {
        let new = (kind, Vec::new(), values);
        self.0.entry(kind.code).or_insert(new).1.push(host.clone());
    }

    fn report(self, report: &mut Report) {
        for (kind, hosts, values) in self.0.into_values() {
            let names: Vec<_> = hosts.iter().map(ToString::to_string).collect();
            let finding = Finding::new(kind).with("hosts", listed(&names));
            let finding = finding.with("host", names.first().cloned().unwrap_or_default());
            let filled = values
                .into_iter()
                .fold(finding, |finding, (name, value)| finding.with(name, value));
            report.found(filled);
        }
    }
}

pub(super) fn examine(config: &Config, egress: &[IpAddr], report: &mut Report) -> Vec<Target> {
    let rules = config.policy.names();
    let mut exact: Vec<(Host, Port)> = rules.exact().collect();
    exact.sort_by(|one, other| {
        (one.0.as_str(), one.1.number()).cmp(&(other.0.as_str(), other.1.number()))
    });
    if rules.has_wide_rules() {
        report.fact(T04, "names below a wildcard are not known and not checked");
    }
    if exact.len() > HOSTS_MAX {
        report.fact(T04, format!("only the first {HOSTS_MAX} hosts are checked"));
        exact.truncate(HOSTS_MAX);
    }
    let mut hosts: Vec<Host> = exact.iter().map(|(host, _)| host.clone()).collect();
    hosts.dedup();
    let found = resolved(config, &hosts, egress, report);
    let targets = exact.iter().filter_map(|(host, port)| {
        let addresses = found.get(host.as_str())?.iter();
        let at = |address: &IpAddr| SocketAddr::new(*address, port.number());
        let (host, addresses) = (host.clone(), addresses.map(at).collect());
        Some(Target { host, addresses })
    });
    targets.collect()
}

/// The addresses of each host that tunnels could use.
fn resolved(
    config: &Config,
    hosts: &[Host],
    egress: &[IpAddr],
    report: &mut Report,
) -> BTreeMap<String, Vec<IpAddr>> {
    let mut usable = BTreeMap::new();
    let look_ups = match LookUps::of_many(&config.dns, LOOK_UPS) {
        Ok(look_ups) => look_ups,
        Err(_) => {
            report.skip(T04, "no thread could be started");
            return usable;
        }
    };
    // Reads the machine's files.
    let _notices = look_ups.notices();
    let families = Families::of(egress.iter().copied());
    let limit = config.dns.timeout.min(LIMIT);
    let answers = look_ups.ask_all(hosts, families, at_once(AT_ONCE, FILES_EACH), limit);
    let slow = slow_twice(config, hosts, families, &answers);
    let own = OwnAddresses::new(sys::interface_addresses().unwrap_or_default());
    let (mut found, mut nameless) = (Found::default(), Vec::new());
    for (host, (answer, took)) in hosts.iter().zip(answers) {
        let late = |found: &mut Found| {
            found.add(
                kinds::DNS_TIMEOUT,
                host,
                vec![("limit", format!("{limit:?}"))],
            );
        };
        match answer {
            None | Some(Err(ResolveError::Timeout(_) | ResolveError::Busy(_))) => late(&mut found),
            Some(Err(ResolveError::NoAddress)) => nameless.push(host.clone()),
            Some(Err(error)) => {
                found.add(kinds::DNS_FAILED, host, vec![("reason", error.to_string())]);
            }
            Some(Ok(answer)) => {
                if slow.contains(host) {
                    let time = format!("{:.1} s", took.as_secs_f32());
                    found.add(kinds::DNS_SLOW, host, vec![("time", time)]);
                }
                match config.policy.guard.judge(&answer.addresses, &own) {
                    Ok(_) => {
                        let all: Vec<_> = answer.addresses.iter().map(IpAddr::to_string).collect();
                        report.fact(T04, format!("{host}: {} ({took:.0?})", all.join(" ")));
                        usable.insert(host.as_str().to_owned(), answer.addresses);
                    }
                    Err(denied) => {
                        let address = denied.address.to_string();
                        let values = vec![("address", address), ("class", denied.class.to_owned())];
                        found.add(kinds::DNS_DENIED, host, values);
                    }
                }
            }
        }
    }
    other_family(&look_ups, &nameless, families, &mut found);
    look_ups.end();
    found.report(report);
    usable
}

/// The hosts whose look-up takes long twice: a name server may be slow only with a name that it has not cached yet.
fn slow_twice(
    config: &Config,
    hosts: &[Host],
    families: Families,
    answers: &[(Option<Result<Resolved, ResolveError>>, Duration)],
) -> Vec<Host> {
    let is_slow = |(answer, took): &(Option<Result<Resolved, ResolveError>>, Duration)| {
        *took > SLOW && matches!(answer, Some(Ok(_)))
    };
    let slow = hosts.iter().zip(answers).filter(|(_, one)| is_slow(one));
    let slow: Vec<Host> = slow.map(|(host, _)| host.clone()).collect();
    if slow.is_empty() {
        return slow;
    }
    // Another resolver, because the first one has the answers now.
    let Ok(again) = LookUps::of_many(&config.dns, LOOK_UPS) else {
        return slow;
    };
    let second = again.ask_all(
        &slow,
        families,
        at_once(AT_ONCE, FILES_EACH),
        LIMIT_OF_SECOND,
    );
    again.end();
    let both = slow.into_iter().zip(second);
    both.filter(|(_, (_, took))| *took > SLOW)
        .map(|(host, _)| host)
        .collect()
}

/// Names without an address of the families that were asked for may have one of the other.
fn other_family(look_ups: &LookUps, nameless: &[Host], asked: Families, found: &mut Found) {
    let other = Families {
        v4: !asked.v4,
        v6: !asked.v6,
    };
    let family = if other.v4 { "IPv4" } else { "IPv6" };
    let answers = match other.v4 || other.v6 {
        true => {
            let at_once = at_once(AT_ONCE, FILES_EACH);
            look_ups.ask_all(nameless, other, at_once, LIMIT_OF_OTHER)
        }
        false => nameless.iter().map(|_| (None, Duration::ZERO)).collect(),
    };
    for (host, (answer, _)) in nameless.iter().zip(answers) {
        match answer {
            Some(Ok(_)) => {
                let values = vec![("family", family.to_owned())];
                found.add(kinds::DNS_WRONG_FAMILY, host, values);
            }
            _ => found.add(kinds::DNS_NO_ADDRESS, host, Vec::new()),
        }
    }
}

/// All regions of all presets are fewer.
const HOSTS_MAX: usize = 256;
/// The resolver gives one client a quarter of them.
const LOOK_UPS: usize = 4 * 64;
/// Part of the limit for all checks.
const LIMIT: Duration = Duration::from_secs(3);
const LIMIT_OF_OTHER: Duration = Duration::from_secs(1);
const LIMIT_OF_SECOND: Duration = Duration::from_secs(2);
/// As many as the daemon has for one client.
const AT_ONCE: usize = 64;
/// The questions for two families.
const FILES_EACH: usize = 2;
/// A cold name takes some 100 ms.
const SLOW: Duration = Duration::from_millis(1_500);
