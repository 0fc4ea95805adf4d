//! The proxies that can be compared: their names, their programs on this machine, and the reason
//! why one is missing. Installs nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arguments::Options;
use crate::not_run::NotRun;
use crate::peers::daemon;

/// A kind of proxy; it decides the configuration and the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sealway,
    SealwayAdaptive,
    Bare,
    TokioCopy,
    Haproxy,
    HaproxyFull,
    HaproxySni,
    Nginx,
    Squid,
    Tinyproxy,
}

/// One proxy that is on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

/// Finds the proxies to compare: those that the options name, or all that are installed. Sealway
/// and the bare loop are always among them. Missing proxies go to `not_run`.
pub(crate) fn find(options: &Options, not_run: &mut NotRun) -> io::Result<Vec<Peer>> {
    if let Some(unknown) = options.peers.iter().find(|name| !is_known(name)) {
        return Err(io::Error::other(format!(
            "--peers: no proxy is known as {unknown}; see --help"
        )));
    }
    let mut peers = Vec::new();
    for (name, kind) in KNOWN {
        let always =
            matches!(name, "sealway" | "bare") || (name == BEFORE && options.baseline.is_some());
        let wanted = always
            || if options.peers.is_empty() {
                is_default(name)
            } else {
                options.names_peer(name)
            };
        if !wanted {
            continue;
        }
        match locate(name, kind, options) {
            Ok(peer) => {
                println!("found {}: {}", peer.name, peer.version);
                peers.push(peer);
            }
            Err(missing) if always || options.names_peer(name) => {
                return Err(io::Error::other(format!("--peers: {name}: {missing}")));
            }
            Err(missing) => not_run.say(format!("NOT FOUND: {name}: {missing}")),
        }
    }
    Ok(peers)
}

fn locate(name: &str, kind: Kind, options: &Options) -> Result<Peer, String> {
    let own = || std::env::current_exe().map_err(|error| error.to_string());
    let (program, flag) = match kind {
        _ if name == BEFORE => (
            options.baseline.clone().ok_or("it needs --baseline PATH")?,
            "--version",
        ),
        Kind::Sealway | Kind::SealwayAdaptive => {
            let given = options.sealway.clone();
            (given.map_or_else(daemon::build, Ok)?, "--version")
        }
        Kind::Bare => {
            return Ok(Peer {
                name: name.into(),
                kind,
                program: own()?,
                version: "of this harness".into(),
            });
        }
        Kind::TokioCopy => {
            return Ok(Peer {
                name: name.into(),
                kind,
                program: own()?,
                version: "of this harness".into(),
            });
        }
        Kind::Haproxy | Kind::HaproxyFull | Kind::HaproxySni => (installed("haproxy")?, "-v"),
        Kind::Nginx => (installed("nginx")?, "-V"),
        Kind::Squid => (installed("squid")?, "-v"),
        Kind::Tinyproxy => (installed("tinyproxy")?, "-v"),
    };
    let said = ask(&program, flag)?;
    if kind == Kind::Nginx {
        stream_module(&said)?;
    }
    let version = said.lines().next().unwrap_or_default().trim().to_string();
    Ok(Peer {
        name: name.into(),
        kind,
        program,
        version,
    })
}

/// Returns the line that nginx needs in its configuration for stream and `ssl_preread`; empty if
/// they are built in.
pub(crate) fn stream_module(said: &str) -> Result<String, String> {
    let flag = |name: &str| {
        said.split_whitespace()
            .find_map(|word| word.strip_prefix(name))
    };
    let hint = "nginx has no stream module; apt-get install libnginx-mod-stream";
    flag("--with-stream_ssl_preread_module").ok_or(hint)?;
    if flag("--with-stream") == Some("=dynamic") || said.contains("--with-stream=dynamic") {
        let module =
            Path::new(flag("--modules-path=").unwrap_or_default()).join("ngx_stream_module.so");
        return if module.exists() {
            Ok(format!("load_module {};", module.display()))
        } else {
            Err(hint.into())
        };
    }
    Ok(String::new())
}

/// Runs the program with one flag and returns what it prints to either stream.
pub(crate) fn ask(program: &Path, flag: &str) -> Result<String, String> {
    let output = Command::new(program)
        .arg(flag)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Finds a program on the path, or in the directories of daemons, which an ordinary user's path
/// omits.
pub(crate) fn installed(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path)
        .chain(daemons)
        .map(|place| place.join(program));
    places
        .find(|place| place.is_file())
        .ok_or_else(|| format!("apt-get install {program}, or put it on the path"))
}

fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|(known, _)| *known == name)
}

/// tokio-copy runs only if it is named; sealway-before exists only with a baseline.
fn is_default(name: &str) -> bool {
    !matches!(name, "tokio-copy" | BEFORE)
}

const BEFORE: &str = "sealway-before";

const KNOWN: [(&str, Kind); 11] = [
    ("sealway", Kind::Sealway),
    (BEFORE, Kind::Sealway),
    ("sealway-adaptive", Kind::SealwayAdaptive),
    ("bare", Kind::Bare),
    ("tokio-copy", Kind::TokioCopy),
    ("haproxy", Kind::Haproxy),
    ("haproxy-full", Kind::HaproxyFull),
    ("haproxy-sni", Kind::HaproxySni),
    ("nginx", Kind::Nginx),
    ("squid", Kind::Squid),
    ("tinyproxy", Kind::Tinyproxy),
];
