//! The settings of the agent, from variables and flags. Secrets come from a variable or a file, never from a flag, because
//! any user of the machine can read the flags of a process. Finds every problem, not only the first.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use sealway::config::read::{Secrecy, read};
use zeroize::Zeroizing;

use super::endpoint::Endpoint;

/// The flags and variables without a secret.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A file with the upstreams, one URL a line; SEALWAY_AGENT_UPSTREAMS has them itself.
    #[arg(long, value_name = "FILE", env = "SEALWAY_AGENT_UPSTREAMS_FILE")]
    pub upstreams_file: Option<PathBuf>,
    /// Where applications connect: a loopback ADDRESS:PORT, or unix:PATH. Default: 127.0.0.1:9293; with exec a free port.
    #[arg(long, value_name = "ADDRESS", env = "SEALWAY_AGENT_LISTEN")]
    pub listen: Option<String>,
    /// Where /readyz and /metrics are: a loopback ADDRESS:PORT; empty: nowhere. Default: 127.0.0.1:9292; with exec nowhere.
    #[arg(long, value_name = "ADDRESS", env = "SEALWAY_AGENT_ADMIN")]
    pub admin: Option<String>,
    /// The authorities that issue the upstreams' certificates, in PEM. Default: those of the system.
    #[arg(long, value_name = "FILE", env = "SEALWAY_AGENT_CA")]
    pub ca: Option<PathBuf>,
    /// A certificate chain that authenticates the agent, in PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "SEALWAY_AGENT_CERT",
        requires = "key"
    )]
    pub cert: Option<PathBuf>,
    /// The private key of that certificate, in PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "SEALWAY_AGENT_KEY",
        requires = "cert"
    )]
    pub key: Option<PathBuf>,
    /// standby: the first upstream that works, in their order; spread: the one with the fewest tunnels.
    #[arg(
        long,
        value_enum,
        default_value = "standby",
        env = "SEALWAY_AGENT_MODE"
    )]
    pub mode: Mode,
    /// Connections to each upstream that are kept past their handshake; 0: none.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=32), env = "SEALWAY_AGENT_WARM")]
    pub warm: u8,
    /// Whether to answer 200 at once for a destination that the same upstream has reached within the last minute.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, env = "SEALWAY_AGENT_OPTIMISTIC")]
    pub optimistic: bool,
    /// How long open tunnels may go on after SIGTERM, such as 30s.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration, env = "SEALWAY_AGENT_DRAIN")]
    pub drain: Duration,
    /// Allows http:// upstreams on other machines, which sends secrets and hosts in clear.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set, env = "SEALWAY_AGENT_ALLOW_CLEARTEXT")]
    pub allow_cleartext: bool,
}

/// How an upstream is chosen among those that work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The first one.
    Standby,
    /// The one with the fewest tunnels.
    Spread,
}

/// Where applications connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A loopback address.
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => path.display().fmt(out),
        }
    }
}

/// The checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The upstreams, at least one.
    pub endpoints: Vec<Endpoint>,
    /// Where applications connect.
    pub listen: Listen,
    /// Where probes and scrapers connect.
    pub admin: Option<SocketAddr>,
    /// The rest, which needs no check.
    pub options: Options,
}

/// Whether a command follows, which gets a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `sealway-agent`.
    Service,
    /// `sealway-agent exec`.
    Command,
}

impl Settings {
    /// Checks the settings; `variable` returns the value of an environment variable.
    ///
    /// # Errors
    /// One line for each problem; none shows a URL.
    pub fn new(
        options: Options,
        role: Role,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let endpoints = match upstreams(&options, variable) {
            Ok((origin, text)) => endpoints(&origin, &text, options.allow_cleartext, &mut problems),
            Err(problem) => {
                problems.push(problem);
                Vec::new()
            }
        };
        let (own_port, own_admin) = match role {
            Role::Service => (PORT, Some(ADMIN)),
            Role::Command => (0, None),
        };
        let mut checked = |given: Option<&str>, name, default| match given.map(loopback) {
            None => default,
            Some(Ok(address)) => Some(address),
            Some(Err(why)) => {
                problems.push(format!("{name}: {why}"));
                None
            }
        };
        let listen = match options
            .listen
            .as_deref()
            .and_then(|text| text.strip_prefix("unix:"))
        {
            Some(path) => Some(Listen::Unix(path.into())),
            None => {
                let default = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), own_port);
                checked(
                    options.listen.as_deref(),
                    "SEALWAY_AGENT_LISTEN",
                    Some(default),
                )
                .map(Listen::Tcp)
            }
        };
        let admin = match options.admin.as_deref() {
            Some("") => None,
            given => checked(given, "SEALWAY_AGENT_ADMIN", own_admin),
        };
        if role == Role::Command && matches!(listen, Some(Listen::Unix(_))) {
            problems.push(NO_UNIX.to_owned());
        }
        match listen {
            Some(listen) if problems.is_empty() => Ok(Self {
                endpoints,
                listen,
                admin,
                options,
            }),
            _ => Err(problems),
        }
    }

    /// The files that are read again when they change.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let Options { ca, cert, key, .. } = &self.options;
        [ca, cert, key].into_iter().flatten().cloned().collect()
    }
}

/// The text of the URLs, and where it comes from.
fn upstreams(
    options: &Options,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(String, Zeroizing<String>), String> {
    let given = variable(UPSTREAMS).filter(|text| !text.is_empty());
    let credential =
        variable("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(CREDENTIAL));
    let credential = credential.filter(|file| file.exists());
    let file = options.upstreams_file.clone().or(credential);
    match (given, file) {
        (Some(_), Some(file)) => Err(format!(
            "{UPSTREAMS} and {} both name the upstreams: leave one of them out",
            file.display()
        )),
        (Some(text), None) => match text.into_string() {
            Ok(text) => Ok((UPSTREAMS.to_owned(), Zeroizing::new(text))),
            Err(_) => Err(format!("{UPSTREAMS} is not text in UTF-8")),
        },
        (None, Some(file)) => match read(&file, Secrecy::Secret) {
            Ok(content) => Ok((file.display().to_string(), content.text)),
            Err(error) => Err(format!("{}: {error}", file.display())),
        },
        (None, None) => Err(NO_UPSTREAM.to_owned()),
    }
}

/// The upstreams in a text, by commas, spaces or lines; `#` begins a line of comment.
fn endpoints(
    origin: &str,
    text: &str,
    allows_cleartext: bool,
    problems: &mut Vec<String>,
) -> Vec<Endpoint> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let words = lines.flat_map(|line| line.split(|c: char| c == ',' || c.is_whitespace()));
    let mut found: Vec<Endpoint> = Vec::new();
    for (place, url) in words.filter(|word| !word.is_empty()).enumerate() {
        match Endpoint::parse(url, allows_cleartext) {
            Ok(endpoint) if found.iter().any(|other| other.name() == endpoint.name()) => {
                problems.push(format!("{origin}: {} is there twice", endpoint.name()));
            }
            Ok(endpoint) => found.push(endpoint),
            Err(error) => problems.push(format!("{origin}: URL {} {error}", place + 1)),
        }
    }
    if found.is_empty() && problems.is_empty() {
        problems.push(format!("{origin} names no upstream; {NO_UPSTREAM}"));
    }
    if found.len() > UPSTREAMS_MAX {
        problems.push(format!(
            "{origin} names more than {UPSTREAMS_MAX} upstreams"
        ));
    }
    found
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "is not ADDRESS:PORT, such as 127.0.0.1:9293".to_owned())?;
    match address.ip().to_canonical().is_loopback() {
        true => Ok(address),
        false => Err(format!(
            "{address} is not on loopback: any machine that reached it would use the agent's identity; use 127.0.0.1:{} or unix:PATH",
            address.port()
        )),
    }
}

/// Names the upstreams, secrets included.
pub const UPSTREAMS: &str = "SEALWAY_AGENT_UPSTREAMS";
/// The systemd credential with the upstreams.
pub const CREDENTIAL: &str = "sealway-agent-upstreams";
const UPSTREAMS_MAX: usize = 8;
const PORT: u16 = 9293;
/// The admin listener.
pub const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9292);
const NO_UPSTREAM: &str =
    "set SEALWAY_AGENT_UPSTREAMS=https://NAME:SECRET@HOST:9443, several separated by commas";
const NO_UNIX: &str = "SEALWAY_AGENT_LISTEN: exec needs a loopback address, because no proxy variable can name a UNIX socket";

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn settings(flags: &[&str], upstreams: &str) -> Result<Settings, Vec<String>> {
        let line = Line::parse_from([&["agent"], flags].concat());
        let variable = |name: &str| (name == UPSTREAMS).then(|| upstreams.into());
        Settings::new(line.options, Role::Service, variable)
    }

    #[test]
    fn one_variable_is_the_whole_set_up() {
        let found = settings(&[], "https://n:s@a.example:9443,https://n:s@b.example:9443").unwrap();
        assert_eq!(found.endpoints.len(), 2);
        assert_eq!(found.listen, Listen::Tcp("127.0.0.1:9293".parse().unwrap()));
        assert_eq!(found.admin, Some(ADMIN));
    }

    #[test]
    fn every_problem_is_found_and_no_secret_is_shown() {
        let flags = ["--listen", "0.0.0.0:9293", "--admin", "192.0.2.1:1"];
        let problems =
            settings(&flags, "https://n:hunter2@a.example, ftp://n:hunter2@b:1").unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert!(
            problems[0].contains("URL 1") && problems[1].contains("URL 2"),
            "{problems:#?}"
        );
        assert!(!problems.concat().contains("hunter2"));
        for (listen, is_good) in [
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("unix:/run/agent.sock", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("[::]:1", false),
            ("localhost:1", false),
            ("192.0.2.7:1", false),
        ] {
            let found = settings(&["--listen", listen], "https://a.example:1");
            assert_eq!(found.is_ok(), is_good, "{listen}");
        }
        for none in ["", " , ", "# https://a.example:1"] {
            assert_eq!(settings(&[], none).unwrap_err().len(), 1, "{none:?}");
        }
        let twice = "https://a.example:1 https://A.example:1";
        assert_eq!(settings(&[], twice).unwrap_err().len(), 1);
    }
}
