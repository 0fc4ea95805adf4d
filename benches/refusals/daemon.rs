//! The daemon of this benchmark: one worker on core 0, one listener, two upstreams that it may reach.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sealway::auth::SecretHash;
use socket2::{Domain, Socket, Type};

use crate::attempt::{Attempt, GOOD_HOST, GOOD_PORT, REFUSED_PORT, base64, connect, longest_host};
use crate::flood::{DAEMON, FAR_NETWORK, NETWORK};
use crate::hello;

/// The settings that differ between the measurements.
pub(crate) struct Setup<'a> {
    /// How its threads share core 0: an option of chrt(1).
    pub(crate) scheduling: &'a str,
    /// The attempts of the flood.
    pub(crate) attempt: Attempt,
    /// `limits.accept_rate`.
    pub(crate) accept_rate: u32,
    /// The audit file; None: standard error.
    pub(crate) audit_file: Option<&'a Path>,
}

/// The daemon; dropped, it is killed.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) proxy: SocketAddr,
    admin: SocketAddr,
    /// The header field of a good client's request.
    credentials: String,
    _directory: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn start(sealway: &str, setup: &Setup<'_>) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("sealway.toml");
        let mut credentials = String::new();
        let mut users = String::new();
        if setup.attempt.asks_for_credentials() {
            let path = directory.path().join("users.toml");
            fs::write(&path, user(SECRET))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            users = "users_file = \"users.toml\"\n".to_owned();
            let login = base64(&format!("good:{SECRET}"));
            credentials = format!("Proxy-Authorization: Basic {login}\r\n");
        }
        fs::write(&file, config(setup, &users))?;
        let command = [
            setup.scheduling,
            "5",
            "taskset",
            "-c",
            "0",
            sealway,
            "run",
            "--config",
        ];
        let mut child = Command::new("chrt")
            .args(command)
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child.stderr.take();
        let log = log.ok_or_else(|| io::Error::other("no standard error"))?;
        let start = match setup.audit_file {
            None => first_record(BufReader::new(log))?,
            Some(records) => {
                // Log lines must be read, or the daemon drops them.
                std::thread::spawn(move || io::copy(&mut BufReader::new(log), &mut io::sink()));
                first_record_in(records)?
            }
        };
        let address = |at| start.pointer(at)?.as_str()?.parse().ok();
        let (proxy, admin) = (address("/listeners/0"), address("/admin"));
        let (Some(proxy), Some(admin)) = (proxy, admin) else {
            return Err(io::Error::other("no address"));
        };
        Ok(Self {
            child,
            proxy,
            admin,
            credentials,
            _directory: directory,
        })
    }

    /// Opens a tunnel to the upstream that echoes, from `source` or from an address that the kernel
    /// chooses.
    ///
    /// # Errors
    /// When the reply is not 200, with its status line.
    pub(crate) fn open(&self, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect_timeout(&self.proxy.into(), PATIENCE)?;
        let mut tunnel = TcpStream::from(socket);
        tunnel.set_nodelay(true)?;
        tunnel.write_all(&connect(GOOD_HOST, GOOD_PORT, &self.credentials))?;
        let mut status = [0; "HTTP/1.1 200".len()];
        tunnel.read_exact(&mut status)?;
        if status != *b"HTTP/1.1 200" {
            return Err(io::Error::other(String::from_utf8_lossy(&status)));
        }
        tunnel.read_exact(&mut [0; " Connection established\r\n\r\n".len()])?;
        tunnel.write_all(&hello::CURL.bytes)?;
        tunnel.read_exact(&mut vec![0; hello::CURL.server_hello().len()])?;
        Ok(tunnel)
    }

    /// The CPU time of all its threads.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let mut used = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            used += text
                .split(' ')
                .next()
                .and_then(|ns| ns.parse::<u64>().ok())
                .unwrap_or(0);
        }
        Ok(Duration::from_nanos(used))
    }

    /// Refusals so far, by code.
    pub(crate) fn refused(&self) -> io::Result<Vec<(String, u64)>> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let value = |line: &str| {
            let series = line.strip_prefix("sealway_tunnels_denied_total{code=\"")?;
            let (code, count) = series.split_once("\"} ")?;
            Some((code.to_owned(), count.parse().ok()?))
        };
        Ok(page.lines().filter_map(value).collect())
    }

    /// Kills the daemon and waits for its end.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _it_has_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn config(setup: &Setup<'_>, users: &str) -> String {
    let audit = setup.audit_file.map_or(String::new(), |file| {
        format!("[audit]\nfile = \"{}\"\n", file.display())
    });
    let (long, rate) = (longest_host("allowed"), setup.accept_rate);
    format!(
        "[[listener]]\naddress = \"{DAEMON}:0\"\nallow_cleartext = true\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [egress]\naddresses = [\"127.0.0.2\"]\n[policy]\npresets = []\n\
         allow = [\"{GOOD_HOST}:{GOOD_PORT}\", \"{long}:{REFUSED_PORT}\"]\nallow_destinations = [\"127.0.0.1/32\"]\n\
         [dns.hosts]\n\"{GOOD_HOST}\" = [\"127.0.0.1\"]\n\"{long}\" = [\"127.0.0.1\"]\n\
         [auth]\nclients = [\"{NETWORK}\", \"{FAR_NETWORK}\", \"127.0.0.0/8\"]\n{users}[limits]\naccept_rate = {rate}\n\
         [relay]\nworkers = 1\n{audit}"
    )
}

fn user(secret: &str) -> String {
    format!("[users.good]\nsecrets = [\"{}\"]\n", SecretHash::of(secret))
}

/// The record of the start among the lines of the log; the rest of them is read and dropped.
fn first_record(log: impl BufRead + Send + 'static) -> io::Result<serde_json::Value> {
    let mut lines = log.lines();
    let start = loop {
        let line = lines
            .next()
            .ok_or_else(|| io::Error::other("the daemon did not start"))??;
        let line: serde_json::Value =
            serde_json::from_str(&line).map_err(|_| io::Error::other(line))?;
        if line.pointer("/event").is_some_and(|event| event == "start") {
            break line;
        }
    };
    std::thread::spawn(move || lines.for_each(drop));
    Ok(start)
}

/// The record of the start in the audit file.
fn first_record_in(file: &Path) -> io::Result<serde_json::Value> {
    for _ in 0..PATIENCE.as_millis() / 10 {
        let text = fs::read_to_string(file).unwrap_or_default();
        if let Some((line, _)) = text.split_once('\n') {
            return Ok(serde_json::from_str(line)?);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::other("the daemon did not start"))
}

const PATIENCE: Duration = Duration::from_secs(10);
const SECRET: &str = "the-secret-of-the-good-client-of-this-benchmark";
