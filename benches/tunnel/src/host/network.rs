//! Three network namespaces in a row: client, proxy, upstream. veth pairs without offloads join
//! them and carry segments of 1,448 bytes one by one. Deleted when dropped. Needs root, ip(8) and
//! ethtool(8).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

/// The namespaces; their names contain the process id.
pub(crate) struct Network {
    pub(crate) client: String,
    pub(crate) proxy: String,
    pub(crate) upstream: String,
}

impl Network {
    /// Makes the namespaces; if a step fails, it deletes those that exist.
    pub(crate) fn make() -> io::Result<Self> {
        Self::try_make()
            .map_err(|error| io::Error::other(format!("{error}; this needs root, ip and ethtool")))
    }

    fn try_make() -> io::Result<Self> {
        let name = |end: &str| format!("tunnel-{}-{end}", std::process::id());
        let network = Self {
            client: name("client"),
            proxy: name("proxy"),
            upstream: name("upstream"),
        };
        for namespace in [&network.client, &network.proxy, &network.upstream] {
            run("ip", &format!("netns add {namespace}"))?;
            run("ip", &format!("-n {namespace} link set lo up"))?;
        }
        join(
            (&network.client, "veth0", CLIENT),
            (&network.proxy, "veth0", PROXY),
        )?;
        join(
            (&network.proxy, "veth1", SOURCE),
            (&network.upstream, "veth0", UPSTREAM),
        )?;
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.client, &self.proxy, &self.upstream] {
            // Deleting a namespace that was never made fails, which is fine.
            let _none_left = run("ip", &format!("netns delete {namespace}"));
        }
    }
}

/// A veth pair: namespace, device and address at either end.
fn join(one: (&str, &str, IpAddr), other: (&str, &str, IpAddr)) -> io::Result<()> {
    run(
        "ip",
        &format!(
            "link add {} netns {} type veth peer name {} netns {}",
            one.1, one.0, other.1, other.0
        ),
    )?;
    for (namespace, device, address) in [one, other] {
        run(
            "ip",
            &format!("-n {namespace} address add {address}/24 dev {device}"),
        )?;
        run(
            "ip",
            &format!("-n {namespace} link set {device} mtu 1500 up"),
        )?;
        run(
            "ip",
            &format!("netns exec {namespace} ethtool -K {device} tso off gso off gro off"),
        )?;
    }
    Ok(())
}

fn run(program: &str, arguments: &str) -> io::Result<()> {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.map_err(|error| io::Error::other(format!("{program}: {error}")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "{program} {arguments}: {}",
            said.trim()
        )))
    }
}

/// Documentation addresses (RFC 5737), which exist in these namespaces only.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Where the proxy listens.
pub(crate) const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// Where the proxy connects from.
pub(crate) const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// Where the upstream is.
pub(crate) const UPSTREAM: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
