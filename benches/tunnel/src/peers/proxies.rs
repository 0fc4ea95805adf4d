//! A proxy as a running process. It is ready once a whole tunnel was set up through it, and stops
//! when dropped.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::agents::Agents;
use crate::host::process::Process;
use crate::peers::catalogue::{self, Kind, Peer};
use crate::peers::configurations;
use crate::peers::setting::{Ground, Setting};
use crate::protocol::hello::HOST;
use crate::protocol::load::Route;

/// A proxy that carries tunnels.
pub(crate) struct Proxy {
    pub(crate) route: Route,
    pub(crate) family: Vec<Pid>,
    process: Process,
}

impl Proxy {
    /// Starts a proxy and waits until it carries a tunnel.
    pub(crate) fn start(
        peer: &Peer,
        ground: &Ground,
        upstream: SocketAddr,
        agents: &mut Agents,
        names: u64,
    ) -> io::Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            // Another process can take the port between the search for it and the start.
            match Self::try_start(peer, ground, upstream, agents, names) {
                Ok(proxy) => return Ok(proxy),
                Err(error) if !error.to_string().contains("in use") => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("not tried")))
    }

    fn try_start(
        peer: &Peer,
        ground: &Ground,
        upstream: SocketAddr,
        agents: &mut Agents,
        names: u64,
    ) -> io::Result<Self> {
        let setting = Setting {
            listen: SocketAddr::new(ground.listen, free_port(ground)?),
            source: ground.source,
            upstream,
            directory: directory(&ground.scratch, &peer.name)?,
            names,
            descriptors: crate::host::process::raise_descriptor_limit()?,
        };
        let command = command(peer, ground, &setting)?;
        let log = setting.directory.join("stderr");
        let process = ground.place.start(command, Some(log))?;
        let mut proxy = Self {
            route: route(peer.kind, &setting),
            family: Vec::new(),
            process,
        };
        proxy.wait_until_ready(agents)?;
        proxy.family = proxy.process.family();
        Ok(proxy)
    }

    fn wait_until_ready(&mut self, agents: &mut Agents) -> io::Result<()> {
        let started = Instant::now();
        loop {
            let tried = agents.hold(&self.route, 1);
            agents.release()?;
            let Err(error) = tried else { return Ok(()) };
            if let Some(end) = self.process.ended() {
                return Err(io::Error::other(format!("did not start: {end}")));
            }
            if started.elapsed() > PATIENCE {
                let words = self.process.last_words();
                return Err(io::Error::other(format!(
                    "carries no tunnel after {PATIENCE:?}: {error}: {words}"
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Writes the configuration and returns the program with its arguments.
fn command(peer: &Peer, ground: &Ground, setting: &Setting) -> io::Result<Command> {
    let mut command = ground.place.command(&peer.program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let file = setting.directory.join("configuration");
    let text = match peer.kind {
        Kind::Bare | Kind::TokioCopy => {
            let role = if peer.kind == Kind::Bare {
                "bare-loop"
            } else {
                "tokio-copy"
            };
            command.args(["--role", role, "--listen", &setting.listen.to_string()]);
            command.args([
                "--upstream",
                &setting.upstream.to_string(),
                "--source",
                &setting.source.to_string(),
            ]);
            // It ends when the harness does.
            command.stdin(Stdio::piped());
            return Ok(command);
        }
        Kind::Sealway => configurations::sealway(setting, ""),
        Kind::SealwayAdaptive => configurations::sealway(setting, "mode = \"adaptive\""),
        Kind::Haproxy => configurations::haproxy(setting),
        Kind::HaproxyFull => configurations::haproxy_full(setting),
        Kind::HaproxySni => configurations::haproxy_sni(setting),
        Kind::Nginx => nginx(peer, setting)?,
        Kind::Squid => configurations::squid(setting),
        Kind::Tinyproxy => configurations::tinyproxy(setting),
    };
    fs::write(&file, text)?;
    fs::write(
        setting.directory.join("hosts"),
        format!("{} {HOST}\n", setting.upstream.ip()),
    )?;
    for (key, _) in
        std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("SEALWAY_"))
    {
        command.env_remove(key);
    }
    match peer.kind {
        Kind::Haproxy | Kind::HaproxyFull | Kind::HaproxySni => {
            command.arg("-db").arg("-f").arg(file)
        }
        Kind::Nginx => command
            .args(["-e", "stderr", "-p"])
            .arg(&setting.directory)
            .arg("-c")
            .arg(file),
        Kind::Squid => {
            // Squid names its shared memory after its service; two with one name would collide.
            let service = format!("tunnel{}x{}", std::process::id(), setting.listen.port());
            command
                .args(["-N", "-d", "0", "-n", &service, "-f"])
                .arg(file)
        }
        Kind::Tinyproxy => command.arg("-d").arg("-c").arg(file),
        _ => command.args(["run", "--config"]).arg(file),
    };
    Ok(command)
}

fn nginx(peer: &Peer, setting: &Setting) -> io::Result<String> {
    let module =
        catalogue::ask(&peer.program, "-V").and_then(|said| catalogue::stream_module(&said));
    Ok(configurations::nginx(
        setting,
        &module.map_err(io::Error::other)?,
    ))
}

/// How clients reach the upstream through this proxy.
fn route(kind: Kind, setting: &Setting) -> Route {
    let authority = match kind {
        Kind::HaproxySni | Kind::Nginx => {
            return Route {
                proxy: setting.listen,
                connect: None,
            };
        }
        // Tinyproxy reads no hosts file except the machine's, which the harness does not change.
        Kind::Tinyproxy => setting.upstream.to_string(),
        _ => format!("{HOST}:{}", setting.upstream.port()),
    };
    let head = format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: curl/7.88.1\r\nProxy-Connection: Keep-Alive\r\n\r\n"
    );
    Route {
        proxy: setting.listen,
        connect: Some(head),
    }
}

/// In a namespace of the harness every port is free.
fn free_port(ground: &Ground) -> io::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    match ground.place.namespace {
        Some(_) => Ok(NEXT.fetch_add(1, Ordering::Relaxed)),
        None => Ok(TcpListener::bind((ground.listen, 0))?.local_addr()?.port()),
    }
}

/// Makes a directory that a daemon can write to after it gives up root; it goes with the harness's
/// own.
fn directory(scratch: &Path, name: &str) -> io::Result<PathBuf> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let directory = scratch.join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
    Ok(directory)
}

const ATTEMPTS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(10);
