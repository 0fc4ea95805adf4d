//! Every key of the configuration, each written once: its type, default, range and meaning.
//!
//! The readers take defaults and ranges from here and reject every other key; the tables of
//! `docs/reference.md` are written from here. The users file has its own keys, see `users`. Reads no
//! file.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A key.
#[derive(Debug)]
pub struct Key {
    /// With its section, as in `limits.tunnels`.
    pub name: &'static str,
    /// The type of its values.
    pub kind: Kind,
    /// What puts a new value in force.
    pub change: Change,
    /// What it sets, in Markdown.
    pub meaning: &'static str,
}

/// The type of a key's values, and its default.
#[derive(Debug)]
pub enum Kind {
    /// True or false.
    Boolean(bool),
    /// A whole number in this range.
    Integer(usize, RangeInclusive<usize>),
    /// A duration, and the shortest one.
    Duration(Duration, Duration),
    /// One of these texts. Without a default the daemon chooses.
    Choice(Option<&'static str>, &'static [&'static str]),
    /// Any other type: its name, the default in TOML, and the range in Markdown.
    Other(&'static str, &'static str, &'static str),
}

/// What puts a new value of a key in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A reload, for new tunnels.
    Reload,
    /// A restart.
    Restart,
}

/// The key with this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    /// The default in TOML; None if the daemon chooses.
    #[must_use]
    pub fn default_in_toml(&self) -> Option<String> {
        match &self.kind {
            Kind::Boolean(default) => Some(default.to_string()),
            Kind::Integer(default, _) => Some(default.to_string()),
            Kind::Duration(default, _) => Some(format!("\"{}\"", words(*default))),
            Kind::Choice(default, _) => default.map(|default| format!("\"{default}\"")),
            Kind::Other(_, default, _) => Some((*default).to_owned()),
        }
    }

    /// The name of the type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match &self.kind {
            Kind::Boolean(_) => "boolean",
            Kind::Integer(..) => "integer",
            Kind::Duration(..) => "duration",
            Kind::Choice(..) => "text",
            Kind::Other(name, ..) => name,
        }
    }

    /// The values that it accepts, in Markdown; empty: all of its type.
    #[must_use]
    pub fn range(&self) -> String {
        match &self.kind {
            Kind::Boolean(_) => String::new(),
            Kind::Integer(_, range) => format!("{} to {}", range.start(), range.end()),
            Kind::Duration(_, least) => format!("from {}", words(*least)),
            Kind::Choice(_, names) => {
                let names: Vec<_> = names.iter().map(|name| format!("`\"{name}\"`")).collect();
                names.join(", ")
            }
            Kind::Other(_, _, range) => (*range).to_owned(),
        }
    }
}

/// A duration as operators write it.
fn words(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

macro_rules! keys {
    ($($name:literal, $kind:expr, $change:ident, $meaning:literal;)+) => {
        /// Every key, in the order of the reference.
        pub const KEYS: &[Key] = &[$(
            Key { name: $name, kind: $kind, change: Change::$change, meaning: $meaning },
        )+];
    };
}

use Kind::{Boolean, Choice, Integer, Other};

keys! {
    "listener.address", Other("address", r#""127.0.0.1:9293""#, ""), Restart,
        "where clients connect";
    "listener.socket", Other("text", r#""""#, "without `address`"), Restart,
        "the name of a socket that [systemd hands over](#under-systemd) (`FileDescriptorName=`): serves every socket of this name, whatever its address";
    "listener.allow_cleartext", Boolean(false), Restart,
        "required off loopback; confirms that this hop is plain HTTP";
    "listener.tls", Other("table", "{}", "[its keys](#tls)"), Restart,
        "`sealway-hop` serves this address with [TLS](#tls) and passes the clients on; the daemon does not open it. `{}`: the daemon serves it";
    "listener.proxy_protocol", Other("table", "{}", "`from`: at least one CIDR, none of length 0; `identity`: boolean; `token_file`: path"), Reload,
        "every connection begins with a [PROXY protocol](#the-proxy-protocol) header and comes from one of the peers in `from`; `{}`: clients connect themselves";

    "admin.address", Other("address", r#""127.0.0.1:9294""#, "loopback without a token"), Restart,
        r#"[admin listener](#admin-listener); `""`: none"#;
    "admin.token_file", Other("path", r#""""#, ""), Reload,
        r#"a file with the token that readers of the admin listener must send, relative to this file; `"$CREDENTIALS_DIRECTORY/NAME"`: a credential of the systemd unit; `""`: none"#;
    "admin.operator_token_file", Other("path", r#""""#, ""), Reload,
        r#"a file with another token, which [operators](#operators) must send; `""`: they send that of `admin.token_file`. Takes the same forms"#;
    "admin.clients", Other("list", "[]", "CIDRs or addresses"), Reload,
        "who may connect to the admin listener; empty: anyone who can reach it";

    "hop.address", Other("address", r#""127.0.0.1:9295""#, "loopback"), Restart,
        r#"[metrics](#metrics-of-the-hop) of `sealway-hop`; `""`: none"#;
    "hop.idle", Kind::Duration(seconds(60), TICK), Reload,
        "how long a connection may be without a request after its handshake; such a connection is no attempt and has no record";
    "hop.program", Other("path", r#""""#, "relative to this file"), Restart,
        r#"the program that `sealway run` [starts](#who-runs-the-hop) for the TLS listeners; `""`: the `sealway-hop` beside its own executable file"#;

    "egress.addresses", Other("list of IPs", "[]", "not link-local"), Reload,
        "source addresses; `[]`: the default route's";
    "egress.floating", Other("list of IPs", "[]", "some of `egress.addresses`"), Reload,
        "addresses that another host may have instead of this one ([standby](#floating-addresses))";
    "egress.public", Other("list of IPs", "[]", "at most 64, each once, not loopback, not link-local"), Reload,
        "the addresses by which upstreams see this host, where a NAT in front of it maps `egress.addresses` to others; `[]`: no NAT";
    "egress.nat64", Other("list of IPv6 networks", "[]", "/32, /40, /48, /56, /64 or /96"), Reload,
        "prefixes whose addresses a [NAT64](#nat64) translates to IPv4; `[]`: none, such addresses are refused";
    "egress.loss_grace", Kind::Duration(seconds(3), ZERO), Reload,
        "how long an egress address may be away from this host before the tunnels that use it are reset";

    "policy.presets", Other("list", r#"["gemini"]"#, "[presets](#presets)"), Reload,
        "built-in sets of names, port 443";
    "policy.allow", Other("list of rules", "[]", ""), Reload,
        "further destinations";
    "policy.allow_files", Other("list of paths", "[]", "1,024 files, 16 MiB in all"), Reload,
        "[files of rules](#files-of-rules), relative to this file; `*` and `?` in the last part";
    "policy.allow_destinations", Other("list of CIDRs", "[]", ""), Reload,
        "addresses that the address guard admits; [this host's own](#this-hosts-own-addresses) only if named one by one";
    "policy.destination_ranges", Other("path", r#""""#, ""), Reload,
        r#"a file of CIDRs that [must contain every dialled address](#destination-ranges), relative to this file; `""`: any address"#;
    "policy.destination_ranges_minus", Other("path", r#""""#, ""), Reload,
        r#"a file of CIDRs to subtract from it; `""`: none"#;
    "policy.min_tls", Choice(Some("1.2"), &["1.2", "1.3"]), Reload,
        "the minimum for the client's offer and for the server's choice";
    "policy.ech", Choice(Some("allow"), &["allow", "deny"]), Reload,
        r#"`"deny"` refuses encrypted_client_hello, including GREASE"#;
    "policy.mode", Choice(Some("enforce"), &["enforce", "report"]), Reload,
        r#"`"report"`: names that would be refused [pass and are recorded](#report-mode)"#;

    "dns.servers", Other("list of addresses", "[]", "`ip:port`, `[ip]:port`, `[ip%zone]:port`"), Reload,
        "name servers, UDP then TCP; `[]`: the system's";
    "dns.timeout", Kind::Duration(seconds(5), TICK), Reload,
        "one look-up, retries included";
    "dns.negative_ttl_max", Kind::Duration(seconds(30), ZERO), Reload,
        r#"the longest use of "no such name" or "no address"; `"0s"`: each tunnel asks again"#;

    "dial.warm", Integer(0, 0..=4), Reload,
        "the most [warm upstream sockets](#warm-upstream-sockets) for one egress address and one upstream; `0`: none";

    "auth.users_file", Other("path", r#""""#, ""), Reload,
        r#"the [users file](#users-file), relative to this file; `"$CREDENTIALS_DIRECTORY/NAME"`: a credential of the systemd unit (`LoadCredential=NAME:FILE`), which systemd reads at the start only; `""`: none"#;
    "auth.clients", Other("list of CIDRs", "[]", ""), Reload,
        "client addresses that may connect; `[]`: any";
    "auth.lockout_failures", Integer(10, 1..=1_000_000), Reload,
        "different wrong secrets for one name from one client that lock this name for this client";
    "auth.lockout_window", Kind::Duration(seconds(600), TICK), Reload,
        "lifetime of counted failures and of a lock";

    "limits.tunnels", Integer(20_000, 1..=1_000_000), Reload,
        "tunnels at once, counted from the moment at which the request is allowed";
    "limits.tunnels_per_user", Integer(5_000, 1..=1_000_000), Reload,
        "tunnels at once for each user without a number of its own";
    "limits.tunnels_per_client", Integer(5_000, 0..=1_000_000), Reload,
        "tunnels at once for each client, or for each user of a client where there are users; 0: no limit of its own";
    "limits.pending", Integer(5_000, 1..=60_000), Reload,
        "connections at once without a complete request and right credentials";
    "limits.accept_rate", Integer(1_000, 0..=1_000_000), Reload,
        "connections per second from one client; 0: no limit";
    "limits.connect_rate", Integer(1_000, 0..=1_000_000), Reload,
        "CONNECT requests per second from one client, or from one user of a client; 0: no limit";
    "limits.head_bytes", Integer(16_384, 1_024..=1_048_576), Reload,
        "the size of the CONNECT head; it has at most 64 fields";
    "limits.client_hello_bytes", Integer(65_536, 2_048..=1_048_576), Reload,
        "the size of the ClientHello, record headers included";
    "limits.socket_buffer_bytes", Integer(33_554_432, 0..=1_073_741_824), Reload,
        "the most for each [kernel buffer](#kernel-memory) of a socket of an open tunnel; 0: the kernel's own bounds";
    "limits.socket_buffer_rtt", Kind::Duration(Duration::from_micros(300), ZERO), Reload,
        "paths with a shorter round trip keep the kernel's own bounds, except that a receive buffer has at most 8 MiB";
    "limits.stalled_per_user", Integer(16, 1..=60_000), Reload,
        "tunnels of one user, or of one client where there are no users, that may be [stalled](#kernel-memory) for more than 5 s";

    "timeouts.request", Kind::Duration(seconds(10), TICK), Reload,
        "from the accept to the complete CONNECT head";
    "timeouts.connect", Kind::Duration(seconds(10), TICK), Reload,
        "DNS and TCP to the upstream, for all addresses together";
    "timeouts.client_hello", Kind::Duration(seconds(10), TICK), Reload,
        "from the 200 to the complete ClientHello";
    "timeouts.server_hello", Kind::Duration(seconds(15), TICK), Reload,
        "from the complete ClientHello to the upstream's complete ServerHello";
    "timeouts.idle", Kind::Duration(seconds(3_600), TICK), Reload,
        "no byte in either direction";
    "timeouts.half_close", Kind::Duration(seconds(300), TICK), Reload,
        "one side has ended and the other is silent";
    "timeouts.stalled", Kind::Duration(seconds(300), TICK), Reload,
        "bytes wait for a side that takes less than 256 KiB";
    "timeouts.max_age", Kind::Duration(ZERO, ZERO), Reload,
        r#"the age of a tunnel since the start of the relay; `"0s"`: no limit"#;
    "timeouts.drain", Kind::Duration(seconds(30), ZERO), Reload,
        "the grace period of live tunnels when the daemon stops, or when a reload or the user's `expires` withdraws a permission";
    "timeouts.drain_delay", Kind::Duration(ZERO, ZERO), Reload,
        "from the first 503 of `/readyz` to the closing of the listeners";

    "relay.mode", Choice(Some("splice"), &["splice", "adaptive"]), Reload,
        r#"after the ServerHello, bytes stay inside the kernel; with `"adaptive"`, up to 16 KiB at once are copied through a buffer that is then wiped, larger amounts are spliced"#;
    "relay.workers", Integer(0, 0..=1_024), Restart,
        "worker threads; `0`: one for each core, as long as each has at least 16 [pending connections](#limits)";

    "log.format", Choice(None, &["json", "text"]), Restart,
        "the format of log lines, not of audit records; unset: text on a terminal, otherwise JSON";
    "log.level", Choice(Some("info"), &["error", "warn", "info", "debug", "trace"]), Restart,
        "the lowest level that is written";

    "audit.file", Other("path", r#""""#, "a regular file"), Restart,
        r#"the [audit file](#audit-file), relative to this file; `""`: audit records go to the log stream"#;
    "audit.on_failure", Choice(Some("deny"), &["deny", "allow"]), Reload,
        "if records cannot be written: refuse tunnels, or count the lost records";

    "reload.watch", Boolean(false), Reload,
        "the daemon [reloads by itself](#reload-without-a-signal) when a file of its configuration changes";
}

const ZERO: Duration = Duration::ZERO;
/// The shortest deadline: zero would refuse everything.
const TICK: Duration = Duration::from_millis(1);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
