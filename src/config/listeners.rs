//! `[[listener]]`: the addresses for clients, or the names of sockets that systemd passes. Rejects
//! a listener that would be an open relay, or that would carry credentials in cleartext without
//! consent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Overrides;
use super::fields::{Fields, socket_address};
use super::file::{Given, Problem, Reader, Section};

/// The listening addresses, and the names of sockets whose address this process does not know.
pub(super) fn read<'t>(
    reader: &mut Reader<'t>,
    sections: Option<Vec<Given<Section<'t>>>>,
    overrides: &Overrides,
    closed_to_strangers: bool,
    admin: Option<SocketAddr>,
) -> (Vec<SocketAddr>, Vec<String>) {
    let (mut listeners, mut awaited) = (Vec::new(), Vec::new());
    if sections.as_ref().is_none_or(Vec::is_empty) && overrides.listen.is_empty() {
        return (vec![DEFAULT], awaited);
    }
    for section in sections.unwrap_or_default() {
        let line = section.line;
        let mut fields = Fields::new(reader, section.value);
        let address = listen_address(&mut fields, line, overrides);
        let allow_cleartext = fields.flag("allow_cleartext");
        // Replaced listeners are not checked, because they are never opened.
        match address.filter(|_| overrides.listen.is_empty()) {
            Some((
                key,
                Given {
                    value: ListenAddress::At(addresses),
                    line,
                },
            )) => {
                let found = addresses
                    .iter()
                    .flat_map(|at| dangers(*at, allow_cleartext, closed_to_strangers));
                // Sockets of systemd are bound already.
                let opened = addresses.first().filter(|_| key == "address");
                let found = found.chain(opened.and_then(|at| clash(*at, &listeners, admin)));
                found.for_each(|message| fields.complain(line, key, message));
                listeners.extend(addresses);
            }
            Some((
                _,
                Given {
                    value: ListenAddress::Awaited(name),
                    ..
                },
            )) => awaited.push(name),
            None => {}
        }
        fields.finish();
    }
    for address in &overrides.listen {
        let found = dangers(*address, false, closed_to_strangers).into_iter();
        for message in found.chain(clash(*address, &listeners, admin)) {
            let key = overrides.named.listen.to_owned();
            reader.problems.push(Problem {
                file: None,
                line: None,
                key,
                message,
                cause: None,
            });
        }
        listeners.push(*address);
    }
    (listeners, awaited)
}

/// Why an address cannot be opened beside those of other listeners, if it cannot. The kernel gives each port 0 its own.
pub(super) fn clash(
    at: SocketAddr,
    others: &[SocketAddr],
    admin: Option<SocketAddr>,
) -> Option<String> {
    let is_same = |other: &SocketAddr| {
        let (one, other_ip) = (at.ip(), other.ip());
        let is_any = one.is_unspecified() || other_ip.is_unspecified();
        at.port() != 0
            && at.port() == other.port()
            && (one == other_ip || is_any && one.is_ipv4() == other_ip.is_ipv4())
    };
    let other = match (others.iter().find(|other| is_same(other)), admin) {
        (Some(other), _) => format!("another listener, {other}"),
        (None, Some(admin)) if is_same(&admin) => format!("the admin listener, {admin}"),
        _ => return None,
    };
    Some(format!(
        "{at} is in use by {other}: give each listener an address or port of its own"
    ))
}

/// The address of one listener.
enum ListenAddress {
    /// One address, or the addresses of all sockets with one name.
    At(Vec<SocketAddr>),
    /// The address of the socket that systemd will pass under this name.
    Awaited(String),
}

/// The address of a section and its key; None after reporting that it is unusable.
fn listen_address(
    fields: &mut Fields<'_, '_>,
    line: usize,
    overrides: &Overrides,
) -> Option<(&'static str, Given<ListenAddress>)> {
    let is_given = fields.has("address");
    let address = fields.parsed("address", socket_address);
    let Some(Given {
        value: name,
        line: at,
    }) = fields.text("socket").filter(|name| !name.value.is_empty())
    else {
        let address = address.or((!is_given).then_some(Given {
            value: DEFAULT,
            line,
        }))?;
        return Some((
            "address",
            Given {
                value: ListenAddress::At(vec![address.value]),
                line: address.line,
            },
        ));
    };
    if is_given {
        fields.complain(
            at,
            "socket",
            "the socket says where it is bound: leave address out".to_owned(),
        );
        return None;
    }
    let Some(handed_over) = &overrides.handed_over else {
        return Some((
            "socket",
            Given {
                value: ListenAddress::Awaited(name),
                line: at,
            },
        ));
    };
    let mut addresses: Vec<_> = handed_over
        .iter()
        .filter(|(known, _)| *known == name)
        .map(|(_, address)| *address)
        .collect();
    // With ReusePort= several sockets have the same address.
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() && overrides.listen.is_empty() {
        let message = format!(
            "systemd has handed over no socket \"{name}\": FileDescriptorName= of an active socket unit has to say so \
             (systemctl status sealway.socket)"
        );
        fields.complain(at, "socket", message);
        return None;
    }
    Some((
        "socket",
        Given {
            value: ListenAddress::At(addresses),
            line: at,
        },
    ))
}

/// Why a listener that other hosts can reach is unsafe.
fn dangers(address: SocketAddr, allow_cleartext: bool, closed_to_strangers: bool) -> Vec<String> {
    let mut dangers = Vec::new();
    if address.ip().is_loopback() {
        return dangers;
    }
    if !closed_to_strangers {
        dangers.push(strangers(address));
    }
    if !allow_cleartext {
        dangers.push(format!(
            "{address} can be reached from off this machine and carries credentials in clear: \
             put allow_cleartext = true into its [[listener]] if the network in between is trusted"
        ));
    }
    dangers
}

/// Why a listener that other hosts can reach needs users or a list of clients.
pub(super) fn strangers(address: SocketAddr) -> String {
    format!(
        "{address} can be reached from off this machine and would be an open relay: set auth.users_file or auth.clients"
    )
}

const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9293);
