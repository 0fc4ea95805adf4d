//! Counts the ports of the egress addresses that the kernel holds for ended connections. Neither a
//! descriptor nor a tunnel represents them, and a new connection to the same upstream cannot use
//! them.
//!
//! The service thread counts once a second, and uses at most a four-hundredth of its time. Never
//! closes a connection.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tracing::{info, warn};

use crate::shared::Shared;
use crate::sys::closing;
use crate::sys::ports;

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
        if !egress.iter().any(|address| address.is_ipv4() == is_ipv4) {
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

/// The pause after a count, in multiples of its duration: after 10 ms, four seconds.
const TIME_FOR_OTHERS: u32 = 400;
