//! The table: each change of a configuration, and its effect on new and live tunnels.

use std::net::SocketAddr;

use super::TIMEOUTS;
use support::HOST;
use support::config::Config;
use support::made_answer::MadeAnswer;
use support::made_hello::MadeHello;
use support::users::user;

/// One rule.
pub struct Row {
    pub rule: &'static str,
    pub before: Side,
    pub after: Side,
    /// Whether the client shows alice's credentials.
    pub has_credentials: bool,
    /// The messages of client and upstream in turn.
    pub words: Vec<(Vec<u8>, Vec<u8>)>,
    /// The code of a new attempt; None: the new configuration opens a tunnel, but not this one.
    pub front: Option<&'static str>,
    /// The `error` of the live tunnel's record.
    pub says: &'static str,
}

/// A configuration and its users file.
#[derive(Clone)]
pub struct Side {
    /// None: no credentials are required.
    pub users: Option<String>,
    auth: &'static str,
    policy: &'static str,
    sections: &'static str,
    egress: &'static [&'static str],
    host: &'static str,
    is_exempt: bool,
    has_port: bool,
}

/// The changes that end the live tunnel.
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
pub fn revoked() -> Vec<Row> {
    let alice = |keys: &str| with(&user("alice", "one", keys));
    let plain = || policy("");
    let report = || policy(REPORT);
    let (any, two) = (user("alice", "one", ""), user("bob", "two", ""));
    let tls12 = vec![(
        hello().versions(&[0x0303]).bytes(),
        MadeAnswer::below(0x0303).bytes(),
    )];
    let chose12 = vec![(
        MadeHello::naming(HOST).bytes(),
        MadeAnswer::below(0x0303).bytes(),
    )];
    let ech = vec![(
        MadeHello::naming(HOST)
            .extension(0xfe0d, &ech_outer())
            .bytes(),
        MadeAnswer::tls13().bytes(),
    )];
    let mismatch = vec![(
        MadeHello::naming("evil.example").bytes(),
        MadeAnswer::tls13().bytes(),
    )];
    let nameless = vec![(
        MadeHello::bare().versions(&[0x0304]).bytes(),
        MadeAnswer::tls13().bytes(),
    )];
    let second = vec![
        (MadeHello::naming(HOST).bytes(), MadeAnswer::retry().bytes()),
        (
            MadeHello::naming("evil.example").bytes(),
            MadeAnswer::tls13().bytes(),
        ),
    ];
    let second_ech = vec![
        (MadeHello::naming(HOST).bytes(), MadeAnswer::retry().bytes()),
        (
            MadeHello::naming(HOST)
                .extension(0xfe0d, &ech_outer())
                .bytes(),
            MadeAnswer::tls13().bytes(),
        ),
    ];
    let (disabled, past) = ("disabled = true", "expires = \"2020-01-01T00:00:00Z\"");
    vec![
        row(
            "auth.clients",
            plain(),
            auth(ELSEWHERE),
            "client_denied",
            "auth.clients",
        ),
        row(
            "auth.users_file",
            plain(),
            with(&any),
            "auth_required",
            "credentials",
        ),
        row(
            "a user is removed",
            with(&(any.clone() + &two)),
            with(&two),
            "auth_failed",
            "not in the users file",
        )
        .shown(),
        row(
            "disabled",
            alice(""),
            alice(disabled),
            "auth_failed",
            "disabled",
        )
        .shown(),
        row("expires", alice(""), alice(past), "auth_failed", "expired").shown(),
        row(
            "sources",
            alice(""),
            alice("sources = [\"192.0.2.0/24\"]"),
            "client_denied",
            "sources",
        )
        .shown(),
        row(
            "allow",
            alice(""),
            alice("allow = [\"other.example\"]"),
            "host_denied",
            "host",
        )
        .shown(),
        row(
            "allow, port",
            alice(""),
            alice(&format!("allow = [\"{HOST}:1\"]")),
            "port_denied",
            "port",
        )
        .shown(),
        row(
            "policy.allow",
            plain(),
            Side {
                host: "other.example",
                ..plain()
            },
            "host_denied",
            "host",
        ),
        row(
            "policy.allow, port",
            plain(),
            Side {
                has_port: false,
                ..plain()
            },
            "port_denied",
            "port",
        ),
        row(
            "mode, the user's host",
            reported(),
            Side {
                policy: "",
                ..reported()
            },
            "host_denied",
            "host",
        )
        .shown(),
        row(
            "mode, another SNI",
            report(),
            plain(),
            "sni_mismatch",
            "not the CONNECT host",
        )
        .said(mismatch),
        row(
            "mode, no SNI",
            report(),
            plain(),
            "sni_missing",
            "no server",
        )
        .said(nameless),
        row(
            "mode, a second hello",
            report(),
            plain(),
            "sni_mismatch",
            "not the CONNECT host",
        )
        .said(second),
        row(
            "min_tls, offered",
            plain(),
            policy(TLS13),
            "tls_version_denied",
            "min_tls",
        )
        .said(tls12),
        row(
            "min_tls, chosen",
            plain(),
            policy(TLS13),
            "server_tls_version_denied",
            "min_tls",
        )
        .said(chose12),
        row("ech", plain(), policy(NO_ECH), "ech_denied", "ech").said(ech),
        row(
            "ech, a second hello",
            plain(),
            policy(NO_ECH),
            "ech_denied",
            "ech",
        )
        .said(second_ech),
        row(
            "allow_destinations",
            plain(),
            Side {
                is_exempt: false,
                ..plain()
            },
            "destination_denied",
            "127.0.0.1",
        ),
        Row {
            front: None,
            ..row(
                "egress.addresses",
                plain(),
                Side {
                    egress: &["127.0.0.3"],
                    ..plain()
                },
                "",
                "127.0.0.2",
            )
        },
        Row {
            front: None,
            ..row(
                "egress",
                from("127.0.0.2"),
                from("127.0.0.3"),
                "",
                "127.0.0.2",
            )
            .shown()
        },
    ]
}

/// The changes that end no live tunnel.
pub fn kept() -> Vec<Row> {
    let alice = |secret: &str, keys: &str| with(&user("alice", secret, keys));
    let limits = "[limits]\ntunnels = 1\ntunnels_per_user = 1\ntunnels_per_client = 1\nhead_bytes = 1024\nclient_hello_bytes = 2048";
    let limited = Side {
        sections: limits,
        ..alice("one", "tunnels = 1\nbytes_per_second = 100000")
    };
    let narrowed =
        format!("sources = [\"127.0.0.0/8\"]\nallow = [\"{HOST}:PORT\"]\negress = [\"127.0.0.2\"]");
    let strict = policy("min_tls = \"1.3\"\nech = \"deny\"\nmode = \"enforce\"");
    vec![
        row(
            "a rotated secret",
            alice("one", ""),
            alice("two", ""),
            "",
            "",
        )
        .shown(),
        row("limits", alice("one", ""), limited, "", "").shown(),
        row(
            "no credentials any more",
            alice("one", ""),
            policy(""),
            "",
            "",
        )
        .shown(),
        row(
            "rules that it keeps",
            alice("one", ""),
            alice("one", &narrowed),
            "",
            "",
        )
        .shown(),
        row(
            "an expiry to come",
            alice("one", ""),
            alice("one", "expires = \"2120-01-01T00:00:00Z\""),
            "",
            "",
        )
        .shown(),
        row("a policy that it keeps", policy(REPORT), strict, "", ""),
        row(
            "one more egress address",
            policy(""),
            Side {
                egress: &["127.0.0.3", "127.0.0.2"],
                ..policy("")
            },
            "",
            "",
        ),
    ]
}

impl Row {
    /// The client shows alice's credentials.
    fn shown(self) -> Row {
        Row {
            has_credentials: true,
            ..self
        }
    }

    fn said(self, words: Vec<(Vec<u8>, Vec<u8>)>) -> Row {
        Row { words, ..self }
    }
}

impl Side {
    /// The configuration for this upstream.
    pub fn config(&self, upstream: SocketAddr) -> Config {
        let target = SocketAddr::new(
            upstream.ip(),
            if self.has_port { upstream.port() } else { 1 },
        );
        let config = Config::closed().host(self.host, target);
        let users = if self.users.is_some() {
            "users_file = \"users.toml\""
        } else {
            ""
        };
        let auth = format!("[auth]\n{users}\n{}", self.auth);
        config
            .egress(self.egress)
            .policy(self.policy)
            .section(TIMEOUTS)
            .section(self.sections)
            .section(&auth)
    }

    /// Its text.
    pub fn toml(&self, upstream: SocketAddr) -> String {
        let config = self.config(upstream);
        let toml = config.to_toml();
        if self.is_exempt {
            toml
        } else {
            toml.replace(&config.allow_destinations(), "")
        }
    }

    /// The users file for this upstream.
    pub fn users(&self, upstream: SocketAddr) -> String {
        self.users
            .as_deref()
            .unwrap_or_default()
            .replace("PORT", &upstream.port().to_string())
    }
}

fn row(
    rule: &'static str,
    before: Side,
    after: Side,
    front: &'static str,
    says: &'static str,
) -> Row {
    let words = vec![(MadeHello::naming(HOST).bytes(), MadeAnswer::tls13().bytes())];
    Row {
        rule,
        before,
        after,
        has_credentials: false,
        words,
        front: Some(front),
        says,
    }
}

fn policy(policy: &'static str) -> Side {
    let (users, auth, sections) = (None, "", "");
    Side {
        users,
        auth,
        policy,
        sections,
        egress: &["127.0.0.2"],
        host: HOST,
        is_exempt: true,
        has_port: true,
    }
}

fn auth(auth: &'static str) -> Side {
    Side { auth, ..policy("") }
}

fn with(users: &str) -> Side {
    Side {
        users: Some(users.into()),
        ..policy("")
    }
}

/// Alice's own rules do not name the host, which is only reported.
fn reported() -> Side {
    Side {
        policy: REPORT,
        ..with(&user("alice", "one", "allow = [\"other.example\"]"))
    }
}

/// Alice uses this egress address, one of two.
fn from(address: &str) -> Side {
    Side {
        egress: &["127.0.0.2", "127.0.0.3"],
        ..with(&user("alice", "one", &format!("egress = [{address:?}]")))
    }
}

fn hello() -> MadeHello {
    MadeHello::bare().server_names(&[(support::made_hello::HOST_NAME, HOST)])
}

/// `encrypted_client_hello` in its outer form (RFC 9849, section 5).
fn ech_outer() -> Vec<u8> {
    [
        [0, 0, 1, 0, 1, 7, 0, 32].as_slice(),
        &[9; 32],
        &[0, 16],
        &[8; 16],
    ]
    .concat()
}

const REPORT: &str = "mode = \"report\"";
const TLS13: &str = "min_tls = \"1.3\"";
const NO_ECH: &str = "ech = \"deny\"";
const ELSEWHERE: &str = "clients = [\"192.0.2.0/24\"]";
