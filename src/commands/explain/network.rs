//! The present addresses of a name, the guard's verdict on each, and the source addresses of a
//! tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::finding::Finding;
use crate::auth::User;
use crate::authority::{Authority, Host, UserId};
use crate::commands::look_up::LookUps;
use crate::config::Config;
use crate::dial::{self, Egress, Routing};
use crate::outcome::{DenyReason, Failure};
use crate::policy::guard::{self, AddressGuard, OwnAddresses, Standing};
use crate::resolve::{Families, ResolveError};
use crate::sys;
use crate::sys::presence::is_on_this_host;

/// In the order of a set-up: the name's addresses, the guard, the source.
pub(super) fn find(
    config: &Config,
    authority: &Authority,
    host: &Host,
    user: Option<&User>,
    own: &OwnAddresses,
) -> Vec<Finding> {
    let all = Egress::new(
        &Egress::wanted(&config.egress),
        None,
        sys::ports::ephemeral(),
    );
    let left = user
        .filter(|user| !user.egress.is_empty())
        .map(|user| all.only(&user.egress));
    let left = left.as_ref().unwrap_or(&all);
    let families = Families::of(left.addresses());
    if families.is_empty() {
        let none = "the user's egress contains none of the configured addresses";
        return vec![Finding::new("egress", "-", none).refusing(Failure::EgressUnavailable)];
    }
    let (mut findings, addresses) = addresses(config, host, families);
    findings.extend(addresses.iter().map(|address| {
        judged(
            &config.policy.guard,
            SocketAddr::new(*address, authority.port.number()),
            own,
            left,
        )
    }));
    findings.extend(sources(left, user.map(|user| &user.id), &addresses));
    let public = |address| {
        Finding::new(
            "public",
            address,
            "upstreams see it through a NAT: put it on the key's allowlist",
        )
    };
    findings.extend(config.public.iter().map(public));
    findings
}

fn addresses(config: &Config, host: &Host, families: Families) -> (Vec<Finding>, Vec<IpAddr>) {
    let refused = |text: String, end| {
        let finding = Finding::new("dns", host, text).refusing(end);
        (vec![finding], Vec::new())
    };
    let look_ups = match LookUps::new(&config.dns) {
        Ok(look_ups) => look_ups,
        Err(error) => {
            let text = format!("no thread could be started: {error}");
            return refused(text, Failure::DnsFailed);
        }
    };
    let fixed = look_ups
        .fixed_in(host)
        .map(|place| format!("fixed in {place}"));
    let asked = look_ups.ask(host, families);
    look_ups.end();
    match (asked, fixed) {
        (Ok(answer), fixed) => {
            let from = fixed.unwrap_or_else(|| "from DNS".to_owned());
            (vec![Finding::new("dns", host, from)], answer.addresses)
        }
        (Err(error), Some(fixed)) => refused(format!("{fixed}: {error}"), Failure::DnsFailed),
        (Err(error @ ResolveError::Timeout(_)), None) => {
            refused(error.to_string(), Failure::DnsTimeout)
        }
        (Err(error), None) => refused(error.to_string(), Failure::DnsFailed),
    }
}

fn judged(
    guard: &AddressGuard,
    destination: SocketAddr,
    own: &OwnAddresses,
    egress: &Egress,
) -> Finding {
    let address = destination.ip();
    let ranges = |text: &str| {
        if guard.has_ranges() {
            format!("{text}policy.destination_ranges")
        } else {
            String::new()
        }
    };
    let text = match guard.standing(address, own) {
        Standing::Exempt(net) => {
            format!(
                "allowed: exempt by {net} of policy.allow_destinations{}",
                ranges(", also from ")
            )
        }
        Standing::Own => "denied: an address of this host".to_owned(),
        Standing::Public => "denied: this host's own public address, by egress.public".to_owned(),
        Standing::Floating => {
            "denied: an address that floats to this host, by egress.floating".to_owned()
        }
        Standing::NotGlobal(class) => match guard::block(address) {
            Some(block) => format!("denied: {class}, in {block}"),
            None => format!("denied: {class}"),
        },
        Standing::Outside => "denied: outside of policy.destination_ranges".to_owned(),
        Standing::Reachable => format!("allowed: globally reachable{}", ranges(", inside ")),
        Standing::Translated(prefix, inner) => format!(
            "allowed: NAT64 by {prefix} of egress.nat64, holds {inner}: {}",
            allowed_inside(guard.standing(inner.into(), own))
        ),
        Standing::Holds(inner, class) => format!("denied: holds {inner}, which is {class}"),
    };
    let finding = Finding::new("address", address, text);
    let Ok(judged) = guard.judge(&[address], own) else {
        return finding.refusing(DenyReason::DestinationDenied);
    };
    let of_itself = judged.iter().filter(|judged| !judged.may_be_own());
    let inside = judged.iter().flat_map(|judged| judged.holds());
    let denied = inside
        .filter_map(|inner| Some((inner, translated_back(inner, destination.port())?)))
        .map(|(inner, class)| format!("denied: holds {inner}, which is {class}"))
        .chain(
            of_itself
                .filter_map(|_| led_back(egress, destination))
                .map(|class| format!("denied: {class}")),
        )
        .next();
    match denied {
        Some(text) => {
            Finding::new("address", address, text).refusing(DenyReason::DestinationDenied)
        }
        None => finding,
    }
}

/// Why the guard lets an IPv4 address through that a NAT64 address holds.
fn allowed_inside(standing: Standing) -> String {
    match standing {
        Standing::Exempt(net) => format!("exempt by {net} of policy.allow_destinations"),
        _ => "globally reachable".to_owned(),
    }
}

/// What the kernel's routes make of an IPv4 address that a translator may take out of an IPv6 address.
fn translated_back(inner: Ipv4Addr, port: u16) -> Option<&'static str> {
    let from = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let kind = Routing::default().kind(from, SocketAddr::new(inner.into(), port), Instant::now());
    kind.ok().and_then(dial::forbidden)
}

/// What the kernel's routes say about an address from any of the sources, if that forbids the dial.
fn led_back(egress: &Egress, destination: SocketAddr) -> Option<&'static str> {
    let routing = Routing::default();
    let sources = egress
        .addresses()
        .filter(|source| source.is_ipv4() == destination.is_ipv4());
    sources
        .filter_map(|source| routing.kind(source, destination, Instant::now()).ok())
        .find_map(dial::forbidden)
}

/// One line for each source, and for a family without one. No tunnel is possible if no present
/// source has the family of any address.
/// tunnel can be.
fn sources(egress: &Egress, user: Option<&UserId>, addresses: &[IpAddr]) -> Vec<Finding> {
    // Where the kernel does not say, a dial would find out.
    let is_here = |source: &IpAddr| is_on_this_host(*source).unwrap_or(true);
    let usable = |address: &IpAddr| {
        egress
            .addresses()
            .any(|source| source.is_ipv4() == address.is_ipv4() && is_here(&source))
    };
    let none_usable = !addresses.is_empty() && !addresses.iter().any(usable);
    let mut findings = Vec::new();
    for (family, any) in [
        ("IPv4", IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        ("IPv6", IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    ] {
        let sources = egress.in_order((any, 443).into(), user);
        if sources.is_empty() {
            findings.push(Finding::new(
                "egress",
                "-",
                format!("{family}: none, so it is neither looked up nor dialled"),
            ));
        }
        let is_one_of_many = sources.len() > 1;
        for (number, source) in sources.iter().map(|source| source.address()).enumerate() {
            let place = if is_here(&source) {
                "on this host"
            } else {
                "missing: not an address of this host"
            };
            let choice = match (is_one_of_many, user, number) {
                (false, _, _) => "",
                (true, None, _) => "; the one with the fewest ports in use is used",
                (true, Some(_), 0) => "; this user always uses it",
                (true, Some(_), _) => "; used where those before it are missing",
            };
            let finding = Finding::new("egress", source, format!("{family}: {place}{choice}"));
            let is_at_fault = none_usable && !is_here(&source);
            findings.push(if is_at_fault {
                finding.refusing(Failure::EgressUnavailable)
            } else {
                finding
            });
        }
    }
    findings
}
