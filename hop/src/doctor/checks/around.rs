//! The way around the tunnel: whether the provider answers a direct connection (D10), and by IPv6 (D13). Sends nothing.

use std::net::IpAddr;
use std::time::Duration;

use crate::doctor::finding::Finding;
use crate::doctor::path::{Target, dial_each, resolve};
use crate::doctor::verdict::path as verdict;
use sealway::commands::findings::values::Values;

/// What direct connections met.
pub(super) struct Around {
    pub(super) findings: Vec<Finding>,
    pub(super) fact: String,
}

pub(super) async fn direct(target: &Target, egress: &[IpAddr], limit: Duration) -> Around {
    let mut addresses = resolve(&target.host, target.port, limit)
        .await
        .unwrap_or_default();
    // One of each family tells enough.
    let v6 = addresses.iter().copied().find(|address| address.is_ipv6());
    let v4 = addresses.iter().copied().find(|address| address.is_ipv4());
    addresses = v4.into_iter().chain(v6).collect();
    if addresses.is_empty() {
        let fact = format!(
            "{} has no address here, so no client can bypass the tunnel by name",
            target.host
        );
        return Around {
            findings: Vec::new(),
            fact,
        };
    }
    let attempts = dial_each(&addresses, limit).await;
    let reached: Vec<_> = attempts
        .iter()
        .filter(|(_, result)| result.is_ok())
        .map(|(address, _)| *address)
        .collect();
    let mut findings = Vec::new();
    if let Some(address) = reached.first() {
        let values = Values::default().with("address", address.to_string());
        findings.push(Finding::new(verdict::DIRECT, values));
    }
    let only_v4 = !egress.is_empty() && egress.iter().all(IpAddr::is_ipv4);
    if let Some(address) = reached.iter().find(|address| address.is_ipv6() && only_v4) {
        let values = Values::default().with("address", address.to_string());
        findings.push(Finding::new(verdict::IPV6_DIRECT, values));
    }
    let fact = match reached.is_empty() {
        true => format!("{} cannot be reached without the tunnel", target.host),
        false => format!("{} can be reached without the tunnel", target.host),
    };
    Around { findings, fact }
}
