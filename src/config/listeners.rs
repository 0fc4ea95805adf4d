//! `[[listener]]`: where clients connect, by address or by the name of a socket that systemd hands over. Refuses what would be
//! an open relay, or would carry credentials in clear unasked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Overrides;
use super::fields::{Fields, socket_address};
use super::file::{Given, Problem, Reader, Section};

/// Where clients connect, and the names of sockets of which this process cannot know where they are bound.
pub(super) fn read<'t>(
    reader: &mut Reader<'t>,
    sections: Option<Vec<Given<Section<'t>>>>,
    overrides: &Overrides,
    closed_to_strangers: bool,
) -> (Vec<SocketAddr>, Vec<String>) {
    let (mut listeners, mut awaited) = (Vec::new(), Vec::new());
    if sections.as_ref().is_none_or(Vec::is_empty) && overrides.listen.is_empty() {
        return (vec![DEFAULT], awaited);
    }
    for section in sections.unwrap_or_default() {
        let line = section.line;
        let mut fields = Fields::new(reader, section.value);
        let place = place(&mut fields, line, overrides);
        let allow_cleartext = fields.flag("allow_cleartext", false);
        // What flags replace is not judged: it will not be opened.
        match place.filter(|_| overrides.listen.is_empty()) {
            Some((
                key,
                Given {
                    value: Place::At(addresses),
                    line,
                },
            )) => {
                let found = addresses
                    .iter()
                    .flat_map(|at| dangers(*at, allow_cleartext, closed_to_strangers));
                found.for_each(|message| fields.complain(line, key, message));
                listeners.extend(addresses);
            }
            Some((
                _,
                Given {
                    value: Place::Awaited(name),
                    ..
                },
            )) => awaited.push(name),
            None => {}
        }
        fields.finish();
    }
    for address in &overrides.listen {
        for message in dangers(*address, false, closed_to_strangers) {
            let key = overrides.named.listen.to_owned();
            reader.problems.push(Problem {
                file: None,
                line: None,
                key,
                message,
            });
        }
        listeners.push(*address);
    }
    (listeners, awaited)
}

/// Where one listener is.
enum Place {
    /// One address, or all those of the sockets of one name.
    At(Vec<SocketAddr>),
    /// Where systemd has bound the sockets of this name.
    Awaited(String),
}

/// What the section says of it, and the key that says so; None: nothing that can be used, which is noted.
fn place(
    fields: &mut Fields<'_, '_>,
    line: usize,
    overrides: &Overrides,
) -> Option<(&'static str, Given<Place>)> {
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
                value: Place::At(vec![address.value]),
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
                value: Place::Awaited(name),
                line: at,
            },
        ));
    };
    let mut addresses: Vec<_> = handed_over
        .iter()
        .filter(|(known, _)| *known == name)
        .map(|(_, address)| *address)
        .collect();
    // With ReusePort= there are several of one address.
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
            value: Place::At(addresses),
            line: at,
        },
    ))
}

/// What makes a listener that others can reach unsafe to open.
fn dangers(address: SocketAddr, allow_cleartext: bool, closed_to_strangers: bool) -> Vec<String> {
    let mut dangers = Vec::new();
    if address.ip().is_loopback() {
        return dangers;
    }
    if !closed_to_strangers {
        dangers.push(format!(
            "{address} can be reached from off this machine and would be an open relay: set auth.users_file or auth.clients"
        ));
    }
    if !allow_cleartext {
        dangers.push(format!(
            "{address} can be reached from off this machine and carries credentials in clear: \
             put allow_cleartext = true into its [[listener]] if the network in between is trusted"
        ));
    }
    dangers
}

const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9293);
