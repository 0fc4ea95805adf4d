//! T01 and T03: whether this host has the egress addresses, and what the world sees of them.

use std::net::IpAddr;

use crate::commands::check::kinds::{self, Check::T01, Check::T03};
use crate::commands::check::report::{Finding, Report};
use crate::config::Config;
use crate::policy::guard::not_global;
use crate::sys::presence::is_on_this_host;

/// Returns the addresses from which connections can be tried.
pub(super) fn examine(config: &Config, egress: &[IpAddr], report: &mut Report) -> Vec<IpAddr> {
    let is_here = |address: &&IpAddr| is_here(config, **address, report);
    let usable: Vec<IpAddr> = egress.iter().filter(is_here).copied().collect();
    if config.egress.is_empty() {
        for loopback in egress.iter().filter(|address| address.is_loopback()) {
            report.found(Finding::new(kinds::EGRESS_NONE).with("egress", loopback));
        }
    }
    egress
        .iter()
        .for_each(|address| as_seen(config, *address, report));
    for address in &config.public {
        match not_global(*address).filter(|class| !is_documentation(class)) {
            Some(class) => report.found(
                Finding::new(kinds::PUBLIC_NOT_GLOBAL)
                    .with("address", address)
                    .with("class", class),
            ),
            None => report.fact(T03, format!("the provider sees {address} by egress.public")),
        }
    }
    usable
}

fn is_here(config: &Config, address: IpAddr, report: &mut Report) -> bool {
    match is_on_this_host(address) {
        Ok(true) => {
            report.fact(T01, format!("{address} is on this host"));
            true
        }
        // Another host has it now, which is normal.
        Ok(false) if config.floating.contains(&address) => {
            report.fact(T01, format!("{address} floats and is not on this host now"));
            false
        }
        Ok(false) => {
            report.found(Finding::new(kinds::EGRESS_ABSENT).with("egress", address));
            false
        }
        Err(error) => {
            let finding = Finding::new(kinds::EGRESS_UNKNOWN).with("egress", address);
            report.found(finding.with("reason", error));
            false
        }
    }
}

/// Whether the provider can see this address.
fn as_seen(config: &Config, address: IpAddr, report: &mut Report) {
    let finding = match (standing(address), config.public.is_empty()) {
        (Seen::Translated, true) => Finding::new(kinds::EGRESS_PRIVATE),
        (Seen::Never(class), _) => Finding::new(kinds::EGRESS_NOT_ROUTED).with("class", class),
        (Seen::Translated, false) | (Seen::AsItIs, _) => return,
    };
    // Without any address T01 says so.
    if !(config.egress.is_empty() && address.is_loopback()) {
        report.found(finding.with("egress", address));
    }
}

/// What the world sees of a source address.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    AsItIs,
    /// A NAT puts its own address in place.
    Translated,
    /// No router forwards packets from this class.
    Never(&'static str),
}

fn standing(address: IpAddr) -> Seen {
    let (is_private, is_link_local) = match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let is_shared = a == 100 && b & 0xc0 == 64;
            (v4.is_private() || is_shared, v4.is_link_local())
        }
        IpAddr::V6(v6) => (v6.is_unique_local(), v6.is_unicast_link_local()),
    };
    match address {
        _ if address.is_loopback() => Seen::Never("a loopback address"),
        _ if is_link_local => Seen::Never("a link-local address"),
        _ if is_private => Seen::Translated,
        _ => Seen::AsItIs,
    }
}

/// Networks of documentation stand for public ones in tests and examples.
fn is_documentation(class: &str) -> bool {
    class.contains("documentation")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_source_is_told_apart_at_its_edges() {
        for (text, seen) in [
            ("10.255.255.255", Seen::Translated),
            ("11.0.0.0", Seen::AsItIs),
            ("100.63.255.255", Seen::AsItIs),
            ("100.64.0.0", Seen::Translated),
            ("100.127.255.255", Seen::Translated),
            ("100.128.0.0", Seen::AsItIs),
            ("172.31.255.255", Seen::Translated),
            ("172.32.0.0", Seen::AsItIs),
            ("192.168.0.1", Seen::Translated),
            ("169.254.1.1", Seen::Never("a link-local address")),
            ("127.9.9.9", Seen::Never("a loopback address")),
            ("203.0.113.7", Seen::AsItIs),
            ("::1", Seen::Never("a loopback address")),
            ("fdff::1", Seen::Translated),
            ("fe80::1", Seen::Never("a link-local address")),
            ("2001:db8::1", Seen::AsItIs),
        ] {
            assert_eq!(standing(text.parse().unwrap()), seen, "{text}");
        }
    }
}
