//! The addresses that a name has now, what the guard says of each, and the addresses that a tunnel would leave from.

use std::net::IpAddr;

use super::finding::Finding;
use crate::auth::User;
use crate::authority::Host;
use crate::commands::look_up::{LookUpError, look_up};
use crate::config::Config;
use crate::dial::Egress;
use crate::outcome::{DenyReason, Failure, Lookup};
use crate::policy::guard::{self, AddressGuard, Standing};
use crate::resolve::{Families, ResolveError};
use crate::sys;

/// In the order of a tunnel: the name's addresses, the guard, the source.
pub(super) fn find(config: &Config, host: &Host, user: Option<&User>, own: &[IpAddr]) -> Vec<Finding> {
    let all = Egress::new(&Egress::wanted(&config.egress));
    let left = user.filter(|user| !user.egress.is_empty()).map(|user| all.only(&user.egress));
    let egress: Vec<_> = left.as_ref().unwrap_or(&all).addresses().collect();
    if egress.is_empty() {
        let none = "the user's egress leaves none of the addresses that there are";
        return vec![Finding::new("egress", "-", none).refusing(Failure::EgressUnavailable)];
    }
    let (mut findings, addresses) = addresses(config, host, Families::of(&egress));
    findings.extend(addresses.iter().map(|address| judged(&config.policy.guard, *address, own)));
    findings.extend(sources(&egress, &addresses, own));
    findings
}

fn addresses(config: &Config, host: &Host, families: Families) -> (Vec<Finding>, Vec<IpAddr>) {
    let (text, end) = match look_up(&config.dns, host, families) {
        Ok(answer) => {
            let from = if answer.lookup == Lookup::Fixed { "fixed in dns.hosts" } else { "from DNS" };
            return (vec![Finding::new("dns", host, from)], answer.addresses);
        }
        Err(LookUpError::Resolve(error @ ResolveError::Timeout(_))) => (error.to_string(), Failure::DnsTimeout),
        Err(LookUpError::Resolve(error)) => (error.to_string(), Failure::DnsFailed),
        Err(LookUpError::Setup(error)) => (format!("cannot be asked: {error}"), Failure::DnsFailed),
        Err(LookUpError::Thread(error)) => (format!("no thread to ask from: {error}"), Failure::DnsFailed),
    };
    (vec![Finding::new("dns", host, text).refusing(end)], Vec::new())
}

fn judged(guard: &AddressGuard, address: IpAddr, own: &[IpAddr]) -> Finding {
    let ranges =
        |text: &str| if guard.has_ranges() { format!("{text}policy.destination_ranges") } else { String::new() };
    let text = match guard.standing(address, own) {
        Standing::Exempt(net) => {
            format!("allowed: exempt by {net} of policy.allow_destinations{}", ranges(", also from "))
        }
        Standing::Own => "denied: an address of this host".to_owned(),
        Standing::NotGlobal(class) => match guard::block(address) {
            Some(block) => format!("denied: {class}, in {block}"),
            None => format!("denied: {class}"),
        },
        Standing::Outside => "denied: outside of policy.destination_ranges".to_owned(),
        Standing::Reachable => format!("allowed: globally reachable{}", ranges(", inside ")),
    };
    let finding = Finding::new("address", address, text);
    match guard.judge(&[address], own) {
        Ok(_) => finding,
        Err(_) => finding.refusing(DenyReason::DestinationDenied),
    }
}

/// One line for each source, and for a family without one. Without a source that is here for any of the addresses no
/// tunnel can be.
fn sources(egress: &[IpAddr], addresses: &[IpAddr], own: &[IpAddr]) -> Vec<Finding> {
    let is_here = |source: &IpAddr| sys::is_on_this_host(*source, own);
    let usable =
        |address: &IpAddr| egress.iter().any(|source| source.is_ipv4() == address.is_ipv4() && is_here(source));
    let none_usable = !addresses.is_empty() && !addresses.iter().any(usable);
    let mut findings = Vec::new();
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let sources: Vec<_> = egress.iter().filter(|source| source.is_ipv4() == is_v4).collect();
        if sources.is_empty() {
            findings.push(Finding::new(
                "egress",
                "-",
                format!("{family}: none, so it is neither asked for nor dialled"),
            ));
        }
        for source in sources {
            let place = if is_here(source) { "on this host" } else { "missing: not an address of this host" };
            let finding = Finding::new("egress", source, format!("{family}: {place}"));
            let is_at_fault = none_usable && !is_here(source);
            findings.push(if is_at_fault { finding.refusing(Failure::EgressUnavailable) } else { finding });
        }
    }
    findings
}
