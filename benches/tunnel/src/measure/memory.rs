//! The resident memory of an idle tunnel in the proxy. Each measurement takes a fresh process,
//! because an allocator keeps memory that it once had, and warms it up, because the first tunnels
//! load code and pools. Kernel memory does not count; it is the same two sockets for all.

use std::io;
use std::time::Duration;

use crate::agents::Agents;
use crate::host::process;
use crate::peers::proxies::Proxy;

/// Returns KiB per idle tunnel, in a proxy that has carried no other load.
pub(crate) fn per_tunnel_kib(agents: &mut Agents, proxy: &Proxy, tunnels: u64) -> io::Result<f64> {
    agents.hold(&proxy.route, WARM_UP)?;
    agents.release()?;
    process::used_at_rest(&proxy.family, REST)?;
    let before = process::resident_bytes(&proxy.family)?;
    agents.hold(&proxy.route, tunnels)?;
    process::used_at_rest(&proxy.family, REST)?;
    let after = process::resident_bytes(&proxy.family)?;
    agents.release()?;
    Ok((after as f64 - before as f64) / tunnels as f64 / 1024.0)
}

const WARM_UP: u64 = 50;
/// Thousands of tunnels may be closing.
const REST: Duration = Duration::from_secs(5);
