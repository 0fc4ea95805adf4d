//! `[[listener]]`: the addresses for clients, or the names of sockets that systemd passes. Rejects
//! a listener that would be an open relay, or that would carry credentials in cleartext without
//! consent; with consent it warns.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::fields::{Fields, is_loopback, socket_address};
use super::file::{Given, Problem, Reader, Section};
use super::proxy_protocol::{self, ProxyProtocol};
use super::{Auth, Overrides};

/// A listener for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where clients connect.
    pub address: SocketAddr,
    /// The PROXY protocol; None: clients connect themselves.
    pub proxy_protocol: Option<Arc<ProxyProtocol>>,
}

impl Listener {
    /// A listener with the defaults of every key but the address.
    fn at(address: SocketAddr) -> Self {
        Self {
            address,
            proxy_protocol: None,
        }
    }
}

/// What other sections say of all listeners.
#[derive(Clone, Copy, Debug)]
struct Surroundings<'o> {
    overrides: &'o Overrides,
    auth: &'o Auth,
    /// The address of the admin listener.
    admin: Option<SocketAddr>,
}

/// The listeners, and the names of sockets whose address this process does not know.
pub(super) fn read<'t>(
    reader: &mut Reader<'t>,
    sections: Option<Vec<Given<Section<'t>>>>,
    overrides: &Overrides,
    auth: &Auth,
    admin: Option<SocketAddr>,
) -> (Vec<Listener>, Vec<String>) {
    let around = Surroundings {
        overrides,
        auth,
        admin,
    };
    let (mut listeners, mut awaited) = (Vec::new(), Vec::new());
    if sections.is_none() && overrides.listen.is_empty() {
        return (vec![Listener::at(DEFAULT)], awaited);
    }
    for section in sections.unwrap_or_default() {
        match section_of_one(reader, section, around, &addresses(&listeners)) {
            Some(ListenAddress::At(opened)) => listeners.extend(opened),
            Some(ListenAddress::Awaited(name)) => awaited.push(name),
            None => {}
        }
    }
    for address in &overrides.listen {
        let listener = Listener::at(*address);
        let found = dangers(&listener, false, auth).into_iter();
        for message in found.chain(clash(*address, &addresses(&listeners), admin)) {
            let problem = Problem::of_flag(overrides.named.listen, message);
            reader.problems.push(problem);
        }
        listeners.push(listener);
    }
    (listeners, awaited)
}

/// Reads one section. None: its address is unusable, or overrides replace it.
fn section_of_one<'t>(
    reader: &mut Reader<'t>,
    section: Given<Section<'t>>,
    around: Surroundings<'_>,
    others: &[SocketAddr],
) -> Option<ListenAddress<Listener>> {
    let Given { mut value, line } = section;
    let table = value.inline(reader, "proxy_protocol");
    let table = table.filter(|table| !table.value.is_empty());
    let proxy_protocol = table.and_then(|Given { value, line }| {
        proxy_protocol::read(Fields::without_rows(reader, value), line, around.overrides)
            .map(Arc::new)
    });
    let mut fields = Fields::new(reader, value);
    let address = listen_address(&mut fields, line, around.overrides);
    let allow_cleartext = fields.flag("allow_cleartext");
    // Replaced listeners are not checked, because they are never opened.
    let address = address.filter(|_| around.overrides.listen.is_empty());
    let address = address.map(|(key, Given { value, line })| match value {
        ListenAddress::At(addresses) => {
            // Sockets of systemd are bound already.
            let opened = addresses.first().filter(|_| key == "address");
            let clash = opened.and_then(|at| clash(*at, others, around.admin));
            let of_each = addresses.into_iter().map(|address| Listener {
                address,
                proxy_protocol: proxy_protocol.clone(),
            });
            let listeners: Vec<_> = of_each.collect();
            let found = listeners
                .iter()
                .flat_map(|at| dangers(at, allow_cleartext, around.auth));
            for message in found.chain(clash) {
                fields.complain(line, key, message);
            }
            for exposed in listeners.iter().filter_map(|at| exposed(at, around.auth)) {
                fields.warn(line, key, exposed);
            }
            ListenAddress::At(listeners)
        }
        ListenAddress::Awaited(name) => {
            let at = format!("unless it is on loopback, the socket \"{name}\"");
            let exposed = exposure(&at, proxy_protocol.as_deref(), around.auth);
            if let Some(message) = exposed.filter(|_| allow_cleartext) {
                fields.warn(line, key, message);
            }
            ListenAddress::Awaited(name)
        }
    });
    fields.finish();
    address
}

/// The addresses of listeners.
pub(super) fn addresses(listeners: &[Listener]) -> Vec<SocketAddr> {
    listeners.iter().map(|listener| listener.address).collect()
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

/// The address of one section.
enum ListenAddress<T> {
    /// One address, or the addresses of all sockets with one name.
    At(Vec<T>),
    /// The address of the socket that systemd will pass under this name.
    Awaited(String),
}

/// The address of a section and its key; None after reporting that it is unusable.
fn listen_address(
    fields: &mut Fields<'_, '_>,
    line: usize,
    overrides: &Overrides,
) -> Option<(&'static str, Given<ListenAddress<SocketAddr>>)> {
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
            "systemd's socket has the address: remove this or address".to_owned(),
        );
        return None;
    }
    let value = of_systemd(fields, &name, at, overrides)?;
    Some(("socket", Given { value, line: at }))
}

/// The addresses of systemd's sockets of this name; None after reporting that there is none.
fn of_systemd(
    fields: &mut Fields<'_, '_>,
    name: &str,
    line: usize,
    overrides: &Overrides,
) -> Option<ListenAddress<SocketAddr>> {
    let Some(handed_over) = &overrides.handed_over else {
        return Some(ListenAddress::Awaited(name.to_owned()));
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
            "systemd has passed no socket \"{name}\": set FileDescriptorName= to this name in an active socket unit \
             (systemctl status sealway.socket)"
        );
        fields.complain(line, "socket", message);
        return None;
    }
    Some(ListenAddress::At(addresses))
}

/// Why a listener that other hosts can reach is unsafe.
fn dangers(listener: &Listener, allow_cleartext: bool, auth: &Auth) -> Vec<String> {
    let closed_to_strangers = auth.is_closed_to_strangers();
    let (address, mut dangers) = (listener.address, Vec::new());
    let is_loopback = address.ip().is_loopback();
    match &listener.proxy_protocol {
        Some(_) if !closed_to_strangers => dangers.push(format!(
            "{address} serves the clients of a balancer, which can be on any machine, and would be an open relay: set \
             auth.users_file or auth.clients"
        )),
        None if !closed_to_strangers && !is_loopback => dangers.push(strangers(address)),
        _ => {}
    }
    if !allow_cleartext && !is_loopback {
        dangers.push(format!(
            "{address} can be reached from off this machine and carries credentials in clear: \
             put allow_cleartext = true into its [[listener]] if the network in between is trusted"
        ));
    }
    dangers
}

/// Why credentials of a listener can be read by others, if they can.
fn exposed(listener: &Listener, auth: &Auth) -> Option<String> {
    let is_loopback = listener.address.ip().to_canonical().is_loopback();
    let protocol = listener.proxy_protocol.as_deref();
    let exposure = || exposure(&listener.address.to_string(), protocol, auth);
    (!is_loopback).then(exposure).flatten()
}

/// The warning about a listener in clear off loopback. None: nobody sends it credentials, or this machine alone does.
fn exposure(at: &str, protocol: Option<&ProxyProtocol>, auth: &Auth) -> Option<String> {
    let senders = protocol.map_or(&auth.clients, |protocol| &protocol.from);
    let is_local = !senders.is_empty() && senders.iter().all(is_loopback);
    if auth.users_file.is_none() || is_local {
        return None;
    }
    Some(match protocol {
        None => format!("{at} {CLEAR_OF_CLIENTS}"),
        Some(_) => format!("{at} {CLEAR_OF_BALANCERS}"),
    })
}

/// Why a listener that other hosts can reach needs users or a list of clients.
pub(super) fn strangers(address: SocketAddr) -> String {
    format!(
        "{address} can be reached from off this machine and would be an open relay: set auth.users_file or auth.clients"
    )
}

const CLEAR_OF_CLIENTS: &str = "receives the users' credentials without TLS, and anybody on the network between can read and use them: \
     serve this address with tls = { … } instead of allow_cleartext (docs/install.md, step 7), or listen on loopback";
const CLEAR_OF_BALANCERS: &str = "receives the users' credentials without TLS from the balancers in \
     proxy_protocol.from, and anybody on the network between can read and use them: end TLS on this machine (tls = { … } of a \
     [[listener]]) and pass the connections on over loopback, or encrypt the network to the balancers";
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9293);
