//! What the program means by its configuration: checked values only, made once from the file, the flags and the users
//! file.
//!
//! [`Config::load`] is the only way to one and names every problem with file, line and key. Never opens a socket and
//! never looks at this machine's addresses; what depends on the machine is checked by the daemon and by `sealway
//! check`.

pub mod admin;
pub mod allow_files;
pub mod destinations;
pub mod fields;
pub mod file;
mod listeners;
mod policy;
pub mod read;
mod sections;
pub mod users;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::auth::Users;
use crate::policy::translation::Nat64Prefix;
use crate::policy::{Policy, Rule};
use crate::relay::{Buffers, IdleLimits, Mode};
use crate::resolve::DnsConfig;
use admin::Token;
use allow_files::Pattern;
use destinations::Source;
use file::{Problem, Reader};

/// Everything an operator can set.
#[derive(Debug)]
pub struct Config {
    /// Where clients connect; at least one, unless some are [awaited](Self::awaited).
    pub listeners: Vec<SocketAddr>,
    /// Names of sockets that systemd hands over to the daemon, and to nobody else: where they are bound is not known
    /// here. Always empty in the daemon.
    pub awaited: Vec<String>,
    /// Where the daemon is watched; None: nowhere.
    pub admin: Option<SocketAddr>,
    /// What whoever watches it has to show; None: nothing.
    pub admin_token: Option<Token>,
    /// What operators have to show in its place; None: the same.
    pub operator_token: Option<Token>,
    /// Addresses that may connect to the admin listener; empty: any.
    pub admin_clients: Vec<IpNet>,
    /// Static source addresses; empty: the default route's.
    pub egress: Vec<IpAddr>,
    /// Addresses that a NAT in front of this host shows to upstreams in their place; empty: there is none.
    pub public: Vec<IpAddr>,
    /// Prefixes whose addresses a NAT64 translates to IPv4, each once and in order.
    pub nat64: Vec<Nat64Prefix>,
    /// Verdicts.
    pub policy: Policy,
    /// The presets that `policy` was made from, by name.
    pub presets: Vec<&'static str>,
    /// Where the ranges of `policy.destination_ranges` were read from; empty: there are none.
    pub ranges: Vec<Source>,
    /// Look-ups.
    pub dns: DnsConfig,
    /// Who may connect.
    pub auth: Auth,
    /// Bounds.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// How a tunnel's bytes go.
    pub mode: Mode,
    /// Worker threads; 0: one for each core.
    pub workers: usize,
    /// The log stream.
    pub log: Log,
    /// Whether a tunnel is refused when its audit record cannot be written.
    pub audit_required: bool,
    /// Where audit records go; None: to the log stream.
    pub audit_file: Option<PathBuf>,
    /// Files that are named and were left out, see [`Overrides::offline`].
    pub unread: Vec<PathBuf>,
    /// Whether the daemon reads its files again by itself when they have changed.
    pub watch: bool,
    /// All files that it is read from, itself included, there or not.
    pub files: Vec<Pattern>,
    /// Those of them that `policy.allow_files` names.
    pub allow_files: Vec<Pattern>,
    /// What is no problem but should not stay as it is.
    pub warnings: Vec<Problem>,
}

/// What is to say of an egress address that only a NAT makes public.
pub const UNNAMED_NAT: &str = "is private, so a NAT in front of this host shows another: name that in egress.public, or a name that \
     resolves to it leads back to this host";

/// What is to say of two NAT64 prefixes that overlap.
pub const OVERLAPPING_NAT64: &str = "overlap: an address beneath both is refused unless both IPv4 addresses that it can hold are allowed; \
     name only the prefix that the translator has";

/// Who may connect.
#[derive(Debug)]
pub struct Auth {
    /// Where the users were read from.
    pub users_file: Option<PathBuf>,
    /// The users; None: no credentials are asked for.
    pub users: Option<Users>,
    /// Addresses that may connect; empty: any.
    pub clients: Vec<IpNet>,
    /// Failures from one address that lock it.
    pub lockout_failures: u32,
    /// For how long, and within what time the failures count.
    pub lockout_window: Duration,
}

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tunnels at once.
    pub tunnels: usize,
    /// Of one user.
    pub tunnels_per_user: usize,
    /// From one client, and of one user where there are users; 0: no bound beside the others.
    pub tunnels_per_client: usize,
    /// Connections at once that have not asked for a tunnel with right credentials yet.
    pub pending: usize,
    /// Connections a second from one client; 0: any number.
    pub accept_rate: u32,
    /// CONNECT requests a second from one client; 0: any number.
    pub connect_rate: u32,
    /// The CONNECT head in bytes.
    pub head_bytes: usize,
    /// The ClientHello in bytes, with its records.
    pub client_hello_bytes: usize,
    /// What the kernel may buffer for the sockets of an open tunnel.
    pub socket_buffers: Buffers,
    /// Tunnels of one user, or of one client where there are no users, that are stalled for a while.
    pub stalled_per_user: usize,
}

/// Deadlines.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// The whole CONNECT head.
    pub request: Duration,
    /// DNS and TCP to the upstream, all addresses together.
    pub connect: Duration,
    /// The whole ClientHello after the 200.
    pub client_hello: Duration,
    /// From there to the upstream's whole ServerHello.
    pub server_hello: Duration,
    /// While relaying.
    pub idle_limits: IdleLimits,
    /// What live tunnels get when the daemon stops.
    pub drain: Duration,
    /// Between `/readyz` turning 503 and the listeners closing.
    pub drain_delay: Duration,
}

/// The log stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// JSON lines or text; None: text on a terminal, else JSON.
    pub json: Option<bool>,
    /// The least level that is written.
    pub level: tracing::Level,
}

/// What flags and environment replace.
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
    /// What the operator set, for the messages about it.
    pub named: Named,
    /// Whether this is another machine than the one that the configuration is for: files that it names and that are not
    /// here are left out, and who may read those that are is not judged.
    pub offline: bool,
    /// The sockets that systemd has handed over, by name, and where they are bound; None in commands to which it hands
    /// nothing over.
    pub handed_over: Option<Vec<(String, SocketAddr)>>,
}

/// The names of overrides: the flag, or the variable where that was set.
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
    /// Tunnels of one client when `tunnels_max` are carried in all: never more than six eighths of those, so that one
    /// client leaves room for others however few there are.
    #[must_use]
    pub fn of_one_client(&self, tunnels_max: usize) -> usize {
        match self.tunnels_per_client {
            0 => tunnels_max,
            configured => configured.min(eighths(6, tunnels_max)),
        }
    }

    /// Tunnels of all clients of one IPv6 site, likewise: never more than seven eighths.
    #[must_use]
    pub fn of_one_site(&self, tunnels_max: usize) -> usize {
        if self.tunnels_per_client == 0 {
            tunnels_max
        } else {
            eighths(7, tunnels_max)
        }
    }

    /// Tunnels of one user that has no number of its own: where there are others, never more than six eighths.
    #[must_use]
    pub fn of_one_user(&self, tunnels_max: usize, users: usize) -> usize {
        if users > 1 {
            self.tunnels_per_user.min(eighths(6, tunnels_max))
        } else {
            self.tunnels_per_user
        }
    }
}

/// So many eighths of a number, rounded up: of one there is one.
fn eighths(part: usize, of: usize) -> usize {
    of.saturating_mul(part).div_ceil(8)
}

impl Auth {
    /// Whether a stranger is kept out. A listener that others can reach needs it, or it is an open relay.
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
    /// The egress addresses that only a NAT makes public, while `egress.public` names no address.
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

    /// The pairs of NAT64 prefixes that overlap, each once.
    pub fn overlapping_nat64(&self) -> impl Iterator<Item = (Nat64Prefix, Nat64Prefix)> {
        let pairs = self.nat64.iter().enumerate();
        let pairs =
            pairs.flat_map(|(at, one)| self.nat64.iter().skip(at + 1).map(|other| (*one, *other)));
        pairs.filter(|(one, other)| one.overlaps(*other))
    }

    /// Reads the file, or nothing, and puts the overrides on top.
    ///
    /// # Errors
    /// Every problem there is, in the order of the file.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, Vec<Problem>> {
        let text = path.map_or_else(|| Ok(Zeroizing::default()), file::text)?;
        Self::parse(path.unwrap_or(Path::new("")), &text, overrides)
    }

    /// The same from text; relative paths in it are relative to the folder of `path`.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Self, Vec<Problem>> {
        let (config, problems) = Self::read(path, text, overrides);
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(problems)
        }
    }

    /// The same, with what could be understood beside the problems: for `sealway check`, never to be run.
    #[must_use]
    pub fn read(path: &Path, text: &str, overrides: &Overrides) -> (Self, Vec<Problem>) {
        let (mut reader, root) = Reader::open(path, text);
        let config = sections::read(&mut reader, root, path, overrides);
        reader
            .problems
            .sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        (config, reader.problems)
    }

    /// Whether a peer at this address may connect to the admin listener.
    #[must_use]
    pub fn admin_lets_in(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.admin_clients.is_empty() || self.admin_clients.iter().any(|net| net.contains(&peer))
    }

    /// How old the older file of the destination ranges is; None where there are none.
    #[must_use]
    pub fn ranges_age(&self, now: SystemTime) -> Option<Duration> {
        self.ranges.iter().map(|source| source.age(now)).max()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
