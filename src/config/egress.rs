//! `[egress]`: the static source addresses, those that float between hosts, the public addresses of a
//! NAT, and the prefixes of a NAT64. Never asks the kernel which addresses this host has.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use super::Overrides;
use super::fields::{Fields, entries, ip_address, shown_of};
use super::file::{Given, Problem};
use crate::policy::translation::Nat64Prefix;

/// The settings of the section.
pub(super) struct Section {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) floating: Vec<IpAddr>,
    pub(super) public: Vec<IpAddr>,
    pub(super) nat64: Vec<Nat64Prefix>,
    pub(super) loss_grace: Duration,
}

/// Reads the section.
pub(super) fn read(mut fields: Fields<'_, '_>, overrides: &Overrides) -> Section {
    let parse = |text: &str| {
        let address = ip_address(text)?;
        no_source(address).map_or(Ok(address), Err)
    };
    let mut addresses = fields.list("addresses", parse).unwrap_or_default();
    if !overrides.egress.is_empty() {
        addresses.clone_from(&overrides.egress);
        for (address, why) in addresses
            .iter()
            .filter_map(|address| Some((address, no_source(*address)?)))
        {
            let message = format!("{address}: {why}");
            let problem = Problem::of_flag(overrides.named.egress, message);
            fields.reader.problems.push(problem);
        }
    }
    let floating = floating(&mut fields, &addresses, overrides);
    let public = public(&mut fields);
    let mut nat64 = fields
        .list("nat64", Nat64Prefix::from_str)
        .unwrap_or_default();
    nat64.sort();
    nat64.dedup();
    let loss_grace = fields.duration("loss_grace");
    fields.finish();
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    Section {
        addresses,
        floating,
        public,
        nat64,
        loss_grace,
    }
}

/// Reads the addresses that another host may have instead. If a flag replaces the addresses, only
/// those of the flag count.
fn floating(
    fields: &mut Fields<'_, '_>,
    addresses: &[IpAddr],
    overrides: &Overrides,
) -> Vec<IpAddr> {
    let is_replaced = !overrides.egress.is_empty();
    let parse = |text: &str| match ip_address(text)? {
        address if is_replaced || addresses.contains(&address) => Ok(address),
        _ => Err("not one of egress.addresses"),
    };
    let mut floating = fields.list("floating", parse).unwrap_or_default();
    floating.retain(|address| addresses.contains(address));
    floating.sort_unstable();
    floating.dedup();
    floating
}

/// Reads the public addresses of the NAT in front of this host. `sealway check` judges whether they
/// are globally reachable, because there may be a second NAT.
fn public(fields: &mut Fields<'_, '_>) -> Vec<IpAddr> {
    let Some(Given { value: texts, line }) = fields.texts("public") else {
        return Vec::new();
    };
    let mut addresses = Vec::new();
    for (place, text) in entries(&texts) {
        let wrong = match ip_address(text) {
            Err(error) => error.to_owned(),
            Ok(address) if address.is_loopback() => {
                "no other host sees this host under a loopback address".to_owned()
            }
            Ok(IpAddr::V4(address)) if address.is_link_local() => {
                "a link-local address cannot be used beyond its link".to_owned()
            }
            Ok(address) if no_source(address).is_some() => {
                no_source(address).unwrap_or_default().to_owned()
            }
            Ok(address) if addresses.contains(&address) => "this address occurs twice".to_owned(),
            Ok(_) if addresses.len() >= PUBLIC_MAX => format!("more than {PUBLIC_MAX} addresses"),
            Ok(address) => {
                addresses.push(address);
                continue;
            }
        };
        fields.complain(
            line,
            "public",
            format!("{}: {wrong}", shown_of(text, place, texts.len())),
        );
    }
    addresses
}

/// Why this address cannot be the source of connections beyond the link; None if it can.
fn no_source(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() || address.is_multicast() => {
            Some("no single host has this address")
        }
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            Some("a link-local address cannot be used beyond its link")
        }
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => {
            Some("this is an IPv4 address: write it as one")
        }
        _ => None,
    }
}

/// A NAT with more addresses is not a one-to-one NAT, and `/status` lists all of them.
const PUBLIC_MAX: usize = 64;
