//! The checked configuration, built from the file, the flags and the users file.
//!
//! [`Config::load`] builds it and reports every problem with file, line and key. Never opens a
//! socket and never inspects this machine's addresses; the daemon and `sealway check` check
//! everything that depends on the machine.

pub mod admin;
pub mod allow_files;
pub mod contents;
pub mod destinations;
mod egress;
pub mod fields;
pub mod file;
pub mod keys;
mod listeners;
mod policy;
pub mod proxy_protocol;
pub mod read;
mod sections;
pub mod tls;
pub mod users;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::auth::Users;
use crate::policy::presets::ChosenPreset;
use crate::policy::translation::Nat64Prefix;
use crate::policy::{Policy, Rule};
use crate::relay::{Buffers, IdleLimits, Mode};
use crate::resolve::DnsConfig;
use admin::Token;
use allow_files::Pattern;
use contents::{Contents, Files, Kept};
use destinations::RangesFile;
use file::{Problem, Reader};
pub use listeners::Listener;
use tls::Tls;

/// All settings of the operator.
#[derive(Debug)]
pub struct Config {
    /// The listeners for clients; at least one, unless some are [awaited](Self::awaited).
    pub listeners: Vec<Listener>,
    /// Names of sockets that systemd passes to the daemon only, so this process does not know their
    /// addresses. Always empty in the daemon.
    pub awaited: Vec<String>,
    /// What `sealway-hop` serves; the daemon opens none of it.
    pub tls: Tls,
    /// The address of the admin listener; None: it is off.
    pub admin: Option<SocketAddr>,
    /// The token of the admin listener; None: it needs no token.
    pub admin_token: Option<Token>,
    /// The token of operators, in place of `admin_token`; None: the same token.
    pub operator_token: Option<Token>,
    /// Networks that may connect to the admin listener; empty: any.
    pub admin_clients: Vec<IpNet>,
    /// Static source addresses; empty: the source address of the default route.
    pub egress: Vec<IpAddr>,
    /// Those of them that another host may have instead, sorted and without duplicates.
    pub floating: Vec<IpAddr>,
    /// The public addresses of a NAT in front of this host; empty: no NAT.
    pub public: Vec<IpAddr>,
    /// Prefixes whose addresses a NAT64 translates to IPv4, sorted and without duplicates.
    pub nat64: Vec<Nat64Prefix>,
    /// How long an egress address may be away from this host before its tunnels are reset.
    pub loss_grace: Duration,
    /// The rules for names, ClientHellos and addresses.
    pub policy: Policy,
    /// The presets in `policy`.
    pub presets: Vec<ChosenPreset>,
    /// The files of `policy.destination_ranges`; empty: no ranges.
    pub ranges: Vec<RangesFile>,
    /// Name resolution.
    pub dns: DnsConfig,
    /// The most warm sockets for a source and an upstream; 0: off.
    pub warm: usize,
    /// The clients and users that may connect.
    pub auth: Auth,
    /// Limits on numbers, rates and sizes.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// How the relay moves bytes.
    pub mode: Mode,
    /// Worker threads; 0: one per core.
    pub workers: usize,
    /// The format and level of the log.
    pub log: Log,
    /// Whether tunnels are refused while audit records cannot be written.
    pub audit_required: bool,
    /// The audit file; None: the log stream.
    pub audit_file: Option<PathBuf>,
    /// Named files that were skipped, see [`Overrides::offline`].
    pub unread: Vec<PathBuf>,
    /// Files that cannot be read at the moment, so their former content stays in force.
    pub kept: Vec<Kept>,
    /// The contents of the files, for the next reload.
    pub contents: Arc<Contents>,
    /// Whether the daemon reloads by itself when one of its files has changed.
    pub watch: bool,
    /// All files of the configuration, itself included, whether they exist or not.
    pub files: Vec<Pattern>,
    /// The files of `policy.allow_files`, also part of `files`.
    pub allow_files: Vec<Pattern>,
    /// Issues that do not prevent a start.
    pub warnings: Vec<Problem>,
}

/// The warning about a private egress address without `egress.public`.
pub const UNNAMED_NAT: &str = "is private, so a NAT in front of this host shows another address: add that to egress.public, otherwise a \
     name that resolves to it leads back to this host";

/// The warning about two overlapping NAT64 prefixes.
pub const OVERLAPPING_NAT64: &str = "overlap: an address under both is refused unless both IPv4 addresses that it can embed are allowed; \
     name only the prefix that the translator has";

/// The clients and users that may connect.
#[derive(Debug)]
pub struct Auth {
    /// The users file.
    pub users_file: Option<PathBuf>,
    /// The users; None: no credentials are required.
    pub users: Option<Arc<Users>>,
    /// Networks that may connect; empty: any.
    pub clients: Vec<IpNet>,
    /// The failures from one address after which it is locked.
    pub lockout_failures: u32,
    /// How long a lock lasts, and the period in which failures count.
    pub lockout_window: Duration,
}

/// Limits on numbers, rates and sizes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most tunnels at once.
    pub tunnels: usize,
    /// The most tunnels of one user.
    pub tunnels_per_user: usize,
    /// The most tunnels of one client or, where there are users, of each user of a client; 0: no
    /// limit of its own.
    pub tunnels_per_client: usize,
    /// The most connections that have not sent a CONNECT with valid credentials yet.
    pub pending: usize,
    /// Connections per second from one client; 0: no limit.
    pub accept_rate: u32,
    /// CONNECT requests per second from one client; 0: no limit.
    pub connect_rate: u32,
    /// The longest CONNECT head, in bytes.
    pub head_bytes: usize,
    /// The longest ClientHello, in bytes, including record headers.
    pub client_hello_bytes: usize,
    /// The kernel buffers of an open tunnel's sockets.
    pub socket_buffers: Buffers,
    /// The most tunnels of one user (without users, of one client) that stall for a while.
    pub stalled_per_user: usize,
}

/// Deadlines, and pauses at the stop.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the whole CONNECT head.
    pub request: Duration,
    /// For DNS and TCP to the upstream, all addresses together.
    pub connect: Duration,
    /// For the whole ClientHello, after the 200.
    pub client_hello: Duration,
    /// From the ClientHello to the whole ServerHello of the upstream.
    pub server_hello: Duration,
    /// While bytes are relayed.
    pub idle_limits: IdleLimits,
    /// For open tunnels when the daemon stops.
    pub drain: Duration,
    /// Between `/readyz` changing to 503 and the closing of the listeners.
    pub drain_delay: Duration,
}

/// The format and level of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// JSON lines or text; None: text on a terminal, otherwise JSON.
    pub json: Option<bool>,
    /// The lowest level that is written.
    pub level: tracing::Level,
}

/// Values from flags and variables that replace values of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Replaces all listeners.
    pub listen: Vec<SocketAddr>,
    /// Replaces `egress.addresses`.
    pub egress: Vec<IpAddr>,
    /// Replaces `policy.allow` and `policy.allow_files`.
    pub allow: Vec<Rule>,
    /// Replaces `admin.address`; empty turns it off.
    pub admin: Option<String>,
    /// The names of the flags or variables, for messages.
    pub named: Named,
    /// Whether the configuration is for another machine: missing files are skipped, and file
    /// permissions are not checked.
    pub offline: bool,
    /// Whether the hop reads the configuration: it never opens the users file and the tokens of the admin listener.
    pub for_hop: bool,
    /// The sockets passed by systemd, by name, with their addresses; None in commands that systemd
    /// passes no sockets to.
    pub handed_over: Option<Vec<(String, SocketAddr)>>,
}

/// The names of overrides: the flag, or the variable if that was set.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Of [`Overrides::listen`].
    pub listen: &'static str,
    /// Of [`Overrides::egress`].
    pub egress: &'static str,
    /// Of [`Overrides::admin`].
    pub admin: &'static str,
}

impl Default for Named {
    fn default() -> Self {
        Self {
            listen: "--listen",
            egress: "--egress",
            admin: "--admin",
        }
    }
}

impl Limits {
    /// The most tunnels of one client, out of `tunnels_max`: at most six eighths, so that a client
    /// leaves room for others.
    #[must_use]
    pub fn of_one_client(&self, tunnels_max: usize) -> usize {
        match self.tunnels_per_client {
            0 => tunnels_max,
            configured => configured.min(eighths(6, tunnels_max)),
        }
    }

    /// The most tunnels of all clients of one IPv6 site: at most seven eighths.
    #[must_use]
    pub fn of_one_site(&self, tunnels_max: usize) -> usize {
        if self.tunnels_per_client == 0 {
            tunnels_max
        } else {
            eighths(7, tunnels_max)
        }
    }

    /// The most tunnels of a user without a limit of its own: at most six eighths if there are
    /// other users.
    #[must_use]
    pub fn of_one_user(&self, tunnels_max: usize, users: usize) -> usize {
        if users > 1 {
            self.tunnels_per_user.min(eighths(6, tunnels_max))
        } else {
            self.tunnels_per_user
        }
    }
}

/// `part` eighths of `of`, rounded up, so that one eighth of 1 is 1.
fn eighths(part: usize, of: usize) -> usize {
    of.saturating_mul(part).div_ceil(8)
}

impl Auth {
    /// Whether strangers are kept out by credentials or addresses. A listener that other hosts can
    /// reach needs one of them; otherwise it is an open relay.
    #[must_use]
    pub fn is_closed_to_strangers(&self) -> bool {
        self.users_file.is_some() || !self.clients.is_empty()
    }

    /// Whether a client at this address may connect at all.
    #[must_use]
    pub fn lets_in(&self, client: IpAddr) -> bool {
        self.clients.is_empty() || self.clients.iter().any(|net| net.contains(&client))
    }
}

impl Config {
    /// The private egress addresses, if `egress.public` names no address of the NAT that they need.
    pub fn behind_unnamed_nat(&self) -> impl Iterator<Item = IpAddr> {
        let is_private = |address: &IpAddr| match address {
            IpAddr::V4(v4) => {
                v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
            }
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        self.egress
            .iter()
            .copied()
            .filter(move |address| self.public.is_empty() && is_private(address))
    }

    /// The pairs of overlapping NAT64 prefixes, each once.
    pub fn overlapping_nat64(&self) -> impl Iterator<Item = (Nat64Prefix, Nat64Prefix)> {
        let pairs = self.nat64.iter().enumerate();
        let pairs =
            pairs.flat_map(|(at, one)| self.nat64.iter().skip(at + 1).map(|other| (*one, *other)));
        pairs.filter(|(one, other)| one.overlaps(*other))
    }

    /// Loads the file, if there is one, and applies the overrides.
    ///
    /// # Errors
    /// Every problem, in the order of the file.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, Vec<Problem>> {
        let text = path.map_or_else(|| Ok(Zeroizing::default()), file::text)?;
        Self::parse(path.unwrap_or(Path::new("")), &text, overrides)
    }

    /// Parses the text of a file. Relative paths in it are relative to the folder of `path`.
    ///
    /// # Errors
    /// Every problem, in the order of the file.
    pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Self, Vec<Problem>> {
        let (config, problems) = Self::read(path, text, overrides);
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(problems)
        }
    }

    /// Parses the text and returns the valid settings together with the problems. For `sealway
    /// check`; the daemon never runs such a configuration.
    #[must_use]
    pub fn read(path: &Path, text: &str, overrides: &Overrides) -> (Self, Vec<Problem>) {
        Self::read_after(path, text, overrides, &Arc::default())
    }

    /// The same for a reload: a file that cannot be read keeps its content in `former`, and
    /// [`Config::kept`] names it.
    #[must_use]
    pub fn read_after(
        path: &Path,
        text: &str,
        overrides: &Overrides,
        former: &Arc<Contents>,
    ) -> (Self, Vec<Problem>) {
        let (mut reader, root) = Reader::open(path, text);
        reader.files = Files::after(former);
        let config = sections::read(&mut reader, root, path, overrides);
        reader
            .problems
            .sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        (config, reader.problems)
    }

    /// Whether a client at this address may connect to the admin listener.
    #[must_use]
    pub fn admin_lets_in(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.admin_clients.is_empty() || self.admin_clients.iter().any(|net| net.contains(&peer))
    }

    /// The age of the oldest file of the destination ranges; None without ranges.
    #[must_use]
    pub fn ranges_age(&self, now: SystemTime) -> Option<Duration> {
        self.ranges.iter().map(|source| source.age(now)).max()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
