//! The firewall rules for an application's machine, with the tunnel's addresses filled in. Prints; changes nothing.

use std::net::SocketAddr;

/// The rules that let this machine's applications reach only the tunnel, from `deploy/nftables/application-host.nft`.
#[must_use]
pub fn with_tunnel(addresses: &[SocketAddr]) -> String {
    let of_family = |is_v4: bool| -> String {
        let these = addresses.iter().filter(|at| at.is_ipv4() == is_v4);
        let elements: Vec<_> = these
            .map(|at| format!("{} . {}", at.ip(), at.port()))
            .collect();
        match elements.is_empty() {
            true => "# none".to_owned(),
            false => format!("elements = {{ {} }}", elements.join(", ")),
        }
    };
    TEMPLATE
        .replace(EXAMPLE_V4, &of_family(true))
        .replace(EXAMPLE_V6, &of_family(false))
}

const TEMPLATE: &str = include_str!("../../../deploy/nftables/application-host.nft");
const EXAMPLE_V4: &str = "elements = { 192.0.2.1 . 9293 }";
const EXAMPLE_V6: &str = "elements = { 2001:db8:1::1 . 9293 }";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tunnels_addresses_take_the_place_of_the_examples() {
        let addresses = [
            SocketAddr::from(([198, 51, 100, 7], 9293)),
            SocketAddr::from(([198, 51, 100, 8], 8080)),
        ];
        let rules = with_tunnel(&addresses);
        let elements = "elements = { 198.51.100.7 . 9293, 198.51.100.8 . 8080 }";
        assert_eq!(rules.matches(elements).count(), 1, "{rules}");
        assert!(
            !rules.contains(EXAMPLE_V4) && !rules.contains(EXAMPLE_V6),
            "{rules}"
        );
        assert_eq!(rules.matches("# none").count(), 1, "{rules}");
        let v6 = with_tunnel(&[SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 443))]);
        assert!(v6.contains("elements = { 2001:db8::1 . 443 }"), "{v6}");
    }
}
