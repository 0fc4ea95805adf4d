//! `tls = { … }` of a `[[listener]]`, and `[hop]`: what `sealway-hop` serves, and the daemon's listener that takes its clients.
//! Of these files the daemon reads only the token, and only for a `core` that the file does not list. Checks what can be
//! checked without a TLS library; never reads a certificate or a key.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::admin::{self, Token};
use super::fields::{Fields, entries, socket_address};
use super::file::{Given, Reader, Section};
use super::listeners::{Listener, addresses, clash, strangers};
use super::proxy_protocol::ProxyProtocol;
use super::{Overrides, users};

/// A listener whose TLS the hop terminates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsListener {
    /// The address that the hop listens on.
    pub address: SocketAddr,
    /// The certificate chain, leaf first, in PEM.
    pub certificate: PathBuf,
    /// The private key of the leaf, in PEM. Only the hop reads it.
    pub key: PathBuf,
    /// The certificates of the authorities that issue client certificates, in PEM.
    pub client_ca: Option<PathBuf>,
    /// Whether clients present certificates.
    pub client_certificate: ClientCertificate,
    /// The revocation lists of those authorities, in PEM; empty: revocation is not checked.
    pub crl: Vec<PathBuf>,
    /// Which certificates of a chain the lists must cover.
    pub revocation: Revocation,
    /// The protocol settings.
    pub profile: Profile,
    /// The address of the daemon's listener that takes clients from the hop.
    pub core: SocketAddr,
    /// The token by which that listener knows the hop.
    pub token_file: PathBuf,
}

/// Whether clients present certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// The hop asks for none.
    #[default]
    Off,
    /// The hop asks for one and accepts a client without one.
    Optional,
    /// The hop refuses a client without one.
    Required,
}

/// Which certificates of a client's chain the revocation lists must cover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revocation {
    /// Every certificate below the root.
    #[default]
    Chain,
    /// The client's own certificate only.
    Leaf,
}

/// The protocol settings of a TLS listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// AES-GCM and ChaCha20-Poly1305, and groups with X25519.
    #[default]
    Default,
    /// AES-GCM and NIST curves only (SP 800-52 revision 2), alone or with ML-KEM.
    Nist,
}

/// What the hop serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The listeners for clients.
    pub listeners: Vec<TlsListener>,
    /// The address of the hop's admin listener; None: it is off.
    pub admin: Option<SocketAddr>,
    /// How long a connection may be without a request after its handshake.
    pub idle: Duration,
    /// The program that `sealway run` starts; None: the `sealway-hop` beside its own executable file.
    pub program: Option<PathBuf>,
}

/// The sections of the hop, not read yet.
pub(super) struct Sections<'t> {
    listeners: Vec<Unread<'t>>,
    hop: Section<'t>,
}

/// A listener with `tls`.
struct Unread<'t> {
    /// Without `tls`.
    rest: Section<'t>,
    tls: Given<Section<'t>>,
}

/// Takes `[hop]` and the listeners with `tls`. The other listeners are None if the file has no listener at all.
pub(super) fn split<'t>(
    reader: &mut Reader<'t>,
    root: &mut Section<'t>,
) -> (Sections<'t>, Option<Vec<Given<Section<'t>>>>) {
    let hop = root.section(reader, "hop");
    let (mut listeners, mut plain) = (Vec::new(), None);
    for mut section in root.sections(reader, "listener").unwrap_or_default() {
        let plain = plain.get_or_insert_with(Vec::new);
        match section.value.inline(reader, "tls") {
            Some(tls) if !tls.value.is_empty() => listeners.push(Unread {
                rest: section.value,
                tls,
            }),
            _ => plain.push(section),
        }
    }
    (Sections { listeners, hop }, plain)
}

impl<'t> Sections<'t> {
    /// Reads the sections. Adds a listener to the daemon's `own` for each `core` that the file leaves out. `--listen` replaces
    /// every listener.
    pub(super) fn read(
        self,
        reader: &mut Reader<'t>,
        (path, overrides): (&Path, &Overrides),
        own: &mut Vec<Listener>,
        (admin, is_closed): (Option<SocketAddr>, bool),
    ) -> Tls {
        let mut taken = addresses(own);
        let mut listeners = Vec::new();
        for unread in self.listeners {
            let line = unread.tls.line;
            let read = listener(reader, unread, (path, overrides), own);
            let Some((listener, core)) = read.filter(|_| overrides.listen.is_empty()) else {
                continue;
            };
            let clashes = core
                .as_ref()
                .and_then(|core| clash(core.address, &taken, admin));
            taken.extend(core.as_ref().map(|core| core.address));
            own.extend(core);
            let at = listener.address;
            let open = (!at.ip().is_loopback() && !is_closed).then(|| strangers(at));
            let unfit = clashes.or_else(|| unfit_core(&listener, own).map(str::to_owned));
            let problems = [
                ("listener.address", open),
                ("listener.address", clash(at, &taken, admin)),
                ("listener.tls.core", unfit),
                ("listener.tls.token_file", two_tokens(&listener, &listeners)),
            ];
            for (key, message) in problems {
                message
                    .into_iter()
                    .for_each(|message| reader.add(Some(line), key, message));
            }
            taken.push(at);
            listeners.push(listener);
        }
        let hop = hop(Fields::new(reader, self.hop), path);
        // Without a TLS listener no hop runs.
        let opened = hop.admin.filter(|_| !listeners.is_empty());
        if let Some(message) = opened.and_then(|hop| clash(hop, &taken, admin)) {
            reader.add(None, "hop.address", message);
        }
        Tls {
            listeners,
            admin: hop.admin,
            idle: hop.idle,
            program: hop.program,
        }
    }
}

/// Why the daemon's listener cannot take the hop's clients; None if it can.
fn unfit_core(listener: &TlsListener, own: &[Listener]) -> Option<&'static str> {
    let core = own.iter().find(|other| other.address == listener.core);
    match core.and_then(|core| core.proxy_protocol.as_ref()) {
        Some(protocol) if !protocol.trusts(listener.core.ip()) => Some(NO_CORE),
        Some(protocol) if listener.client_ca.is_some() && !protocol.identity => Some(NO_IDENTITY),
        Some(_) => None,
        None => Some(NO_CORE),
    }
}

/// Why the token cannot be that of the daemon's listener, which has one; None if it can.
fn two_tokens(listener: &TlsListener, others: &[TlsListener]) -> Option<String> {
    let mut others = others.iter().filter(|other| other.core == listener.core);
    let other = others.find(|other| other.token_file != listener.token_file)?;
    Some(format!(
        "another listener with tls and the same core names {}, and the daemon takes one token there: name the same file",
        other.token_file.display()
    ))
}

/// Reads a listener with `tls`, and makes the daemon's listener that takes its clients unless `own` has it.
fn listener<'t>(
    reader: &mut Reader<'t>,
    unread: Unread<'t>,
    (path, overrides): (&Path, &Overrides),
    own: &[Listener],
) -> Option<(TlsListener, Option<Listener>)> {
    let Unread { rest, tls } = unread;
    let line = tls.line;
    let address = address(Fields::new(reader, rest), line);
    let mut fields = Fields::without_rows(reader, tls.value);
    let certificate = needed(&mut fields, "certificate", (line, path));
    let key = needed(&mut fields, "key", (line, path));
    let (client_ca, client_certificate) = clients(&mut fields, (line, path));
    let crl = files(&mut fields, "crl", path);
    if client_ca.is_none() && !crl.is_empty() {
        fields.complain(line, "crl", "lists need tls.client_ca, which signs them");
    }
    let revocation = [("chain", Revocation::Chain), ("leaf", Revocation::Leaf)];
    let revocation = fields.choice("revocation", &revocation).unwrap_or_default();
    let profiles = [("default", Profile::Default), ("nist", Profile::Nist)];
    let profile = fields.choice("profile", &profiles).unwrap_or_default();
    let core = match fields.has("core") {
        true => fields.parsed("core", loopback).map(|given| given.value),
        false => Some(CORE),
    };
    let is_added = core.is_some_and(|core| own.iter().all(|other| other.address != core));
    let (token_file, token) = token(&mut fields, line, is_added, (path, overrides));
    fields.finish();
    let listener = TlsListener {
        address: address?,
        certificate: certificate?,
        key: key?,
        client_ca,
        client_certificate,
        crl,
        revocation,
        profile,
        core: core?,
        token_file: token_file?,
    };
    let core = listener.core;
    let added = is_added.then(|| Listener {
        address: core,
        proxy_protocol: Some(Arc::new(ProxyProtocol::of_hop(token))),
    });
    Some((listener, added))
}

/// The keys beside `tls`.
fn address(mut fields: Fields<'_, '_>, line: usize) -> Option<SocketAddr> {
    if !fields.has("address") {
        fields.complain(line, "address", "a listener with tls needs an address");
    }
    let address = fields.parsed("address", socket_address);
    if fields.flag("allow_cleartext") {
        fields.complain(line, "allow_cleartext", NO_CLEARTEXT);
    }
    fields.finish();
    Some(address?.value)
}

/// The file of the token by which the daemon knows the hop, and the token itself if the daemon needs it here.
fn token(
    fields: &mut Fields<'_, '_>,
    line: usize,
    is_needed: bool,
    (path, overrides): (&Path, &Overrides),
) -> (Option<PathBuf>, Option<Token>) {
    let given = fields.text("token_file");
    let given = given.filter(|given| !given.value.is_empty());
    let given = given.unwrap_or_else(|| Given {
        value: TOKEN_FILE.to_owned(),
        line,
    });
    let file = place(fields, "token_file", given.line, &given.value, path);
    // A path that cannot be is reported once.
    let is_needed = is_needed && file.is_some() && overrides.listen.is_empty();
    let token =
        is_needed.then(|| admin::token_named(fields, "token_file", &given, path, overrides));
    (file, token.flatten())
}

/// The authority of client certificates, and whether clients present them.
fn clients(
    fields: &mut Fields<'_, '_>,
    (line, path): (usize, &Path),
) -> (Option<PathBuf>, ClientCertificate) {
    let client_ca = file(fields, "client_ca", path);
    let asked = fields.choice(
        "client_certificate",
        &[
            ("off", ClientCertificate::Off),
            ("optional", ClientCertificate::Optional),
            ("required", ClientCertificate::Required),
        ],
    );
    let client_certificate = asked.unwrap_or(match client_ca {
        Some(_) => ClientCertificate::Required,
        None => ClientCertificate::Off,
    });
    if (client_certificate == ClientCertificate::Off) != client_ca.is_none() {
        fields.complain(line, "client_certificate", UNFIT);
    }
    (client_ca, client_certificate)
}

/// A file that must be named.
fn needed(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    (line, path): (usize, &Path),
) -> Option<PathBuf> {
    let named = file(fields, key, path);
    if named.is_none() {
        fields.complain(line, key, "a PEM file is needed here");
    }
    named
}

/// `[hop]`.
struct Own {
    /// The address of the hop's admin listener; None: it is off.
    admin: Option<SocketAddr>,
    idle: Duration,
    program: Option<PathBuf>,
}

fn hop(mut fields: Fields<'_, '_>, path: &Path) -> Own {
    let given = fields.parsed("address", |text| match text {
        "" => Ok(None),
        _ => loopback(text).map(Some),
    });
    let program = file(&mut fields, "program", path);
    let idle = fields.duration("idle");
    fields.finish();
    Own {
        admin: given.map_or(Some(DEFAULT), |given| given.value),
        idle,
        program,
    }
}

fn loopback(text: &str) -> Result<SocketAddr, &'static str> {
    match socket_address(text)? {
        address if address.ip().is_loopback() => Ok(address),
        _ => Err("this must be a loopback address, such as 127.0.0.1:9295"),
    }
}

fn file(fields: &mut Fields<'_, '_>, key: &'static str, path: &Path) -> Option<PathBuf> {
    let given = fields.text(key).filter(|given| !given.value.is_empty())?;
    place(fields, key, given.line, &given.value, path)
}

fn files(fields: &mut Fields<'_, '_>, key: &'static str, path: &Path) -> Vec<PathBuf> {
    let Some(given) = fields.texts(key) else {
        return Vec::new();
    };
    entries(&given.value)
        .filter_map(|(_, text)| place(fields, key, given.line, text, path))
        .collect()
}

fn place(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    line: usize,
    text: &str,
    path: &Path,
) -> Option<PathBuf> {
    match users::place(text, path.parent().unwrap_or(Path::new(""))) {
        Ok(file) => Some(file),
        Err(message) => {
            fields.complain(line, key, message);
            None
        }
    }
}

const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9295);
/// Where the hop passes clients on unless `core` names another address.
const CORE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9296);
const TOKEN_FILE: &str = "hop.token";
const NO_CLEARTEXT: &str = "a listener with tls takes no cleartext: leave allow_cleartext out";
const NO_CORE: &str = "sealway-hop passes clients on to this listener of the daemon, which needs proxy_protocol = { from = \
     [\"127.0.0.1\"], identity = true, token_file = … }: add it, or remove the [[listener]] and the daemon opens one for the hop";
const NO_IDENTITY: &str = "client certificates authenticate users only if proxy_protocol of that listener has identity = true and the \
     same token_file";
const UNFIT: &str = "client_ca and client_certificate belong together: \"optional\" or \"required\" needs the authority in \
     client_ca, and client_ca needs one of them";

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
