//! Counts the ports of the egress addresses that the kernel holds for ended connections. Neither a
//! descriptor nor a tunnel represents them, and a new connection to the same upstream cannot use
//! them.
//!
//! The service thread counts once a second, and uses at most a four-hundredth of its time. It does
//! not ask about addresses whose ports the kernel reuses: these hold up no connection. Never closes
//! a connection.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tracing::{info, warn};

use crate::shared::Shared;
use crate::sys::closing;
use crate::sys::ports::{self, Reuse};

/// The time of the next count, and whether the last one failed.
#[derive(Debug, Default)]
pub(super) struct ClosingPorts {
    next: Option<Instant>,
    is_failing: bool,
}

impl ClosingPorts {
    /// Counts the ports of each egress address in force.
    pub(super) fn look(&mut self, shared: &Shared, now: Instant) {
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        let snapshot = shared.snapshot.load();
        let addresses: Vec<IpAddr> = snapshot.egress.addresses().collect();
        let counted = count(&addresses);
        self.next = Some(now + now.elapsed() * TIME_FOR_OTHERS);
        match counted {
            Ok(mut held) => {
                for source in snapshot.egress.sources() {
                    source.set_closing(held.remove(&source.address()).unwrap_or_default());
                }
                if std::mem::take(&mut self.is_failing) {
                    info!("the kernel reports its ports in TIME_WAIT again");
                }
            }
            // connect(2) still reports when no port is left.
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                warn!(%error, "the kernel does not report its ports in TIME_WAIT; only ports of tunnels are counted");
            }
            Err(_) => {}
        }
    }
}

/// Counts by egress address and upstream.
fn count(egress: &[IpAddr]) -> std::io::Result<HashMap<IpAddr, HashMap<SocketAddr, usize>>> {
    let reuse = ports::reuse();
    let mut held: HashMap<IpAddr, HashMap<SocketAddr, usize>> = HashMap::new();
    for is_ipv4 in [true, false] {
        if !has_ports_to_count(egress, is_ipv4, reuse) {
            continue;
        }
        closing::abandoned(is_ipv4, |one| {
            if egress.contains(&one.local.ip()) && !reuse.covers(one.local.ip(), one.remote.ip()) {
                *held
                    .entry(one.local.ip())
                    .or_default()
                    .entry(one.remote)
                    .or_default() += 1;
            }
        })?;
    }
    Ok(held)
}

/// Whether a closed connection can hold a port of an egress address of this family. The kernel's
/// list has every connection of the host, so reading it may take milliseconds.
fn has_ports_to_count(egress: &[IpAddr], is_ipv4: bool, reuse: Reuse) -> bool {
    let mut of_family = egress.iter().filter(|address| address.is_ipv4() == is_ipv4);
    of_family.any(|address| !reuse.covers_all_of(*address))
}

/// The pause after a count, in multiples of its duration: after 10 ms, four seconds.
const TIME_FOR_OTHERS: u32 = 400;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_only_about_families_with_ports_that_it_does_not_reuse() {
        let egress = |addresses: &[&str]| -> Vec<IpAddr> {
            let parsed = addresses.iter().map(|address| address.parse().unwrap());
            parsed.collect()
        };
        let asked = |addresses: &[&str], reuse| {
            let egress = egress(addresses);
            [true, false].map(|is_ipv4| has_ports_to_count(&egress, is_ipv4, reuse))
        };
        let both = ["192.0.2.1", "2001:db8::1"];
        assert_eq!(asked(&both, Reuse::Never), [true, true]);
        assert_eq!(asked(&both, Reuse::OnLoopback), [true, true]);
        assert_eq!(asked(&both, Reuse::Everywhere), [false, false]);
        let near = ["127.0.0.2", "2001:db8::1"];
        assert_eq!(asked(&near, Reuse::Never), [true, true]);
        assert_eq!(asked(&near, Reuse::OnLoopback), [false, true]);
        let mixed = ["127.0.0.2", "192.0.2.1"];
        assert_eq!(asked(&mixed, Reuse::OnLoopback), [true, false]);
        assert_eq!(asked(&[], Reuse::Never), [false, false]);
    }
}
