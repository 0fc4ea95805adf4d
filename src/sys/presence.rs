//! Whether this host has an address as bind(2) sees it. Opens sockets that send nothing, and keeps none of them.

use std::io;
use std::net::{IpAddr, UdpSocket};

use super::routes::Routes;

/// Whether a connection can use this source address and its answers return here.
///
/// bind(2) decides: it takes an address of an interface that is up, one that a route of type local covers, and no
/// IPv6 address that is still tentative or a duplicate (ip(7), RFC 4862). `net.ipv4.ip_nonlocal_bind` and its IPv6
/// twin make bind(2) take any address. Where one of them is set, or cannot be read, the kernel also has to deliver
/// packets for the address to this host (`RTN_LOCAL`). No socket of this program sets `IP_FREEBIND` or
/// `IP_TRANSPARENT` to leave from an address.
///
/// # Errors
/// The kernel did not say, for example because no descriptor is left: the address may be here or not.
pub fn is_on_this_host(address: IpAddr) -> io::Result<bool> {
    match UdpSocket::bind((address, 0)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(false),
        // IPv6 is disabled on this host, or is not built into its kernel.
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => Ok(false),
        Err(error) => Err(error),
        Ok(_) if !binds_to_any(address) => Ok(true),
        Ok(_) => Routes::open()?.is_own(address),
    }
}

/// Whether bind(2) may take addresses of this family that the host does not have.
fn binds_to_any(address: IpAddr) -> bool {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let setting = std::fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    setting.map_or(true, |value| value.trim() != "0")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_net_is_here_and_a_documentation_address_is_not() {
        for (address, here) in [
            ("127.0.0.1", true),
            ("127.9.8.7", true),
            ("192.0.2.77", false),
            ("2001:db8::77", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(is_on_this_host(address).unwrap(), here, "{address}");
            assert_eq!(Routes::open().unwrap().is_own(address).unwrap(), here);
        }
    }
}
