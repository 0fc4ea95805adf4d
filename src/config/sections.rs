//! Turns the sections of the file into a [`Config`], with every default. One function per section.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::Level;

use super::allow_files::Pattern;
use super::contents::{Contents, Text};
use super::fields::{Fields, ip_address, network, shown};
use super::file::{Given, Reader, Section};
use super::{
    Auth, Config, Limits, Log, Overrides, Timeouts, admin, egress, listeners, policy, tls, users,
};
use crate::authority::Host;
use crate::relay::{Buffers, IdleLimits, Mode};
use crate::resolve::{DnsConfig, Server};

pub(super) fn read<'t>(
    reader: &mut Reader<'t>,
    mut root: Section<'t>,
    path: &Path,
    overrides: &Overrides,
) -> Config {
    let (encrypted, listeners) = tls::split(reader, &mut root);
    let sections = Sections::take(reader, root);
    let egress = egress::read(Fields::new(reader, sections.egress), overrides);
    let sources = &egress.addresses;
    let auth = self::auth(Fields::new(reader, sections.auth), path, sources, overrides);
    let (admin, tokens, admin_clients) =
        admin::read(Fields::new(reader, sections.admin), path, overrides);
    let (mode, workers) = self::relay(Fields::new(reader, sections.relay));
    let names = policy::read(
        Fields::new(reader, sections.policy),
        path,
        overrides,
        &egress,
    );
    let (audit_required, audit_file) = self::audit(Fields::new(reader, sections.audit), path);
    let is_closed = auth.is_closed_to_strangers();
    let (mut listeners, awaited) = listeners::read(reader, listeners, overrides, &auth, admin);
    let tls = encrypted.read(
        reader,
        (path, overrides),
        &mut listeners,
        (admin, is_closed),
    );
    Config {
        listeners,
        tls,
        awaited,
        admin,
        admin_token: tokens.watcher,
        operator_token: tokens.operator,
        admin_clients,
        egress: egress.addresses,
        floating: egress.floating,
        public: egress.public,
        nat64: egress.nat64,
        loss_grace: egress.loss_grace,
        policy: names.policy,
        presets: names.presets,
        ranges: names.ranges,
        dns: self::dns(reader, sections.dns),
        warm: self::dial(Fields::new(reader, sections.dial)),
        auth,
        limits: self::limits(Fields::new(reader, sections.limits)),
        timeouts: self::timeouts(Fields::new(reader, sections.timeouts)),
        mode,
        workers,
        log: self::log(Fields::new(reader, sections.log)),
        audit_required,
        audit_file,
        watch: self::reload(Fields::new(reader, sections.reload)),
        files: files(reader, path),
        allow_files: names.files,
        unread: std::mem::take(&mut reader.unread),
        kept: std::mem::take(&mut reader.files.kept),
        contents: Arc::new(contents(reader)),
        warnings: reader.take_warnings(),
    }
}

/// The sections of the file, not read yet.
struct Sections<'t> {
    admin: Section<'t>,
    egress: Section<'t>,
    policy: Section<'t>,
    dns: Section<'t>,
    dial: Section<'t>,
    auth: Section<'t>,
    limits: Section<'t>,
    timeouts: Section<'t>,
    relay: Section<'t>,
    log: Section<'t>,
    audit: Section<'t>,
    reload: Section<'t>,
}

impl<'t> Sections<'t> {
    /// Takes each section from the file, and reports the others.
    fn take(reader: &mut Reader<'t>, mut root: Section<'t>) -> Self {
        let mut section = |key| root.section(reader, key);
        let sections = Self {
            admin: section("admin"),
            egress: section("egress"),
            policy: section("policy"),
            dns: section("dns"),
            dial: section("dial"),
            auth: section("auth"),
            limits: section("limits"),
            timeouts: section("timeouts"),
            relay: section("relay"),
            log: section("log"),
            audit: section("audit"),
            reload: section("reload"),
        };
        root.finish(reader);
        sections
    }
}

/// The contents of all files.
fn contents(reader: &mut Reader<'_>) -> Contents {
    let mut contents = std::mem::take(&mut reader.files.read);
    let rules = std::mem::take(&mut reader.allow_files.rules);
    contents.rules.extend(rules);
    contents.text = Some(Text::of(reader.text()));
    contents
}

/// All files of the configuration.
fn files(reader: &Reader<'_>, path: &Path) -> Vec<Pattern> {
    let itself = Some(path).filter(|path| !path.as_os_str().is_empty());
    let named = itself
        .into_iter()
        .chain(reader.named.iter().map(PathBuf::as_path));
    named
        .map(Pattern::of_file)
        .chain(reader.allow_files.patterns.iter().cloned())
        .collect()
}

/// Rejects an audit file that matches `allow_files`: it changes with each reload, so it would
/// trigger reloads for ever.
fn no_rules_in(reader: &mut Reader<'_>, audit: Option<&Path>) {
    let patterns = &reader.allow_files.patterns;
    let stands_for = |audit| patterns.iter().find(|pattern| pattern.stands_for(audit));
    if let Some((audit, pattern)) = audit.and_then(|audit| Some((audit, stands_for(audit)?))) {
        let message = format!(
            "{} is also a file of rules by {}: keep it in another folder",
            audit.display(),
            pattern.shown().display()
        );
        reader.add(None, "audit.file", message);
    }
}

fn dns<'t>(reader: &mut Reader<'t>, mut section: Section<'t>) -> DnsConfig {
    let hosts = section.section(reader, "hosts");
    let mut fields = Fields::new(reader, section);
    let servers = fields.list("servers", Server::parse).unwrap_or_default();
    let timeout = fields.duration("timeout");
    let negative_ttl_max = fields.duration("negative_ttl_max");
    fields.finish();
    let mut answers = HashMap::new();
    let names = hosts.keys(reader);
    let mut fields = Fields::without_rows(reader, hosts);
    for Given { value: name, line } in names {
        match Host::parse(name.trim()) {
            Ok(host) => {
                let address = |text: &str| ip_address(text).map(|address| address.to_canonical());
                let addresses = fields.list(&name, address).unwrap_or_default();
                if answers.insert(host, addresses).is_some() {
                    fields.reader.add(
                        Some(line),
                        format!("dns.hosts.\"{name}\""),
                        "this name occurs twice",
                    );
                }
            }
            Err(error) => fields.reader.add(
                Some(line),
                "dns.hosts",
                format!("{}: {error}", shown(&name)),
            ),
        }
    }
    DnsConfig {
        servers,
        timeout,
        negative_ttl_max,
        hosts: answers,
    }
}

fn dial(mut fields: Fields<'_, '_>) -> usize {
    let warm = fields.count("warm");
    fields.finish();
    warm
}

fn auth(mut fields: Fields<'_, '_>, path: &Path, egress: &[IpAddr], overrides: &Overrides) -> Auth {
    let offline = overrides.offline;
    let users_file = fields
        .text("users_file")
        .filter(|given| !given.value.is_empty());
    let folder = path.parent().unwrap_or(Path::new(""));
    let users_path = users_file.and_then(|given| match users::place(&given.value, folder) {
        Ok(file) => Some((file, given.line)),
        // Only the service knows the folder of its credentials.
        Err(_) if offline => Some((PathBuf::from(&given.value), given.line)),
        Err(message) => {
            fields.complain(given.line, "users_file", message);
            None
        }
    });
    let clients = fields.list("clients", network).unwrap_or_default();
    let lockout_failures = fields.count("lockout_failures");
    let lockout_window = fields.duration("lockout_window");
    let users = users_path.as_ref().map(|(file, line)| {
        fields.reader.named.push(file.clone());
        if overrides.for_hop || offline && !file.exists() {
            fields.reader.unread.push(file.clone());
            return Arc::new(users::none());
        }
        let loaded = users::load(file, egress, offline, &fields.reader.files.former);
        if loaded.problems.iter().any(|problem| problem.line.is_none()) {
            fields.complain(
                *line,
                "users_file",
                "the users file cannot be used; the line that names it says why",
            );
        }
        loaded.into_reader(file, fields.reader)
    });
    fields.finish();
    let lockout_failures = u32::try_from(lockout_failures).unwrap_or(u32::MAX);
    Auth {
        users_file: users_path.map(|(file, _)| file),
        users,
        clients,
        lockout_failures,
        lockout_window,
    }
}

fn limits(mut fields: Fields<'_, '_>) -> Limits {
    let rate =
        |key: &str, fields: &mut Fields<'_, '_>| u32::try_from(fields.count(key)).unwrap_or(0);
    let limits = Limits {
        tunnels: fields.count("tunnels"),
        tunnels_per_user: fields.count("tunnels_per_user"),
        tunnels_per_client: fields.count("tunnels_per_client"),
        pending: fields.count("pending"),
        accept_rate: rate("accept_rate", &mut fields),
        connect_rate: rate("connect_rate", &mut fields),
        head_bytes: fields.count("head_bytes"),
        client_hello_bytes: fields.count("client_hello_bytes"),
        socket_buffers: Buffers {
            bytes: fields.count("socket_buffer_bytes"),
            near: fields.duration("socket_buffer_rtt"),
        },
        stalled_per_user: fields.count("stalled_per_user"),
    };
    fields.finish();
    limits
}

fn timeouts(mut fields: Fields<'_, '_>) -> Timeouts {
    let max_age = fields.duration("max_age");
    let timeouts = Timeouts {
        request: fields.duration("request"),
        connect: fields.duration("connect"),
        client_hello: fields.duration("client_hello"),
        server_hello: fields.duration("server_hello"),
        idle_limits: IdleLimits {
            idle: fields.duration("idle"),
            half_close: fields.duration("half_close"),
            stalled: fields.duration("stalled"),
            max_age: (!max_age.is_zero()).then_some(max_age),
        },
        drain: fields.duration("drain"),
        drain_delay: fields.duration("drain_delay"),
    };
    fields.finish();
    timeouts
}

fn relay(mut fields: Fields<'_, '_>) -> (Mode, usize) {
    let mode = fields
        .choice(
            "mode",
            &[("splice", Mode::Splice), ("adaptive", Mode::Adaptive)],
        )
        .unwrap_or_default();
    let workers = fields.count("workers");
    fields.finish();
    (mode, workers)
}

fn reload(mut fields: Fields<'_, '_>) -> bool {
    let watch = fields.flag("watch");
    fields.finish();
    watch
}

fn log(mut fields: Fields<'_, '_>) -> Log {
    let json = fields.choice("format", &[("json", true), ("text", false)]);
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    let level = fields.choice("level", &levels).unwrap_or(Level::INFO);
    fields.finish();
    Log { json, level }
}

fn audit(mut fields: Fields<'_, '_>, path: &Path) -> (bool, Option<PathBuf>) {
    let folder = path.parent().unwrap_or(Path::new(""));
    let file = fields
        .text("file")
        .filter(|given| !given.value.is_empty())
        .map(|given| folder.join(given.value));
    let required = fields
        .choice("on_failure", &[("deny", true), ("allow", false)])
        .unwrap_or(true);
    no_rules_in(fields.reader, file.as_deref());
    fields.finish();
    (required, file)
}
