//! The daemon of this benchmark: one worker on core 0, one listener, one upstream that it may reach.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::flood::{DAEMON, NETWORK};
use crate::hello;

/// The daemon; dropped, it is killed.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) proxy: SocketAddr,
    admin: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn start(sealway: &str, upstream: SocketAddr) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("sealway.toml");
        let config = format!(
            "[[listener]]\naddress = \"{DAEMON}:0\"\nallow_cleartext = true\n[admin]\naddress = \"127.0.0.1:0\"\n[egress]\naddresses = [\"127.0.0.2\"]\n\
             [policy]\npresets = []\nallow = [\"{}:{}\"]\nallow_destinations = [\"127.0.0.1/32\"]\n\
             [dns.hosts]\n\"{}\" = [\"127.0.0.1\"]\n[auth]\nclients = [\"{NETWORK}\"]\n[limits]\naccept_rate = {ACCEPT_RATE}\n[relay]\nworkers = 1\n",
            hello::HOST,
            upstream.port(),
            hello::HOST
        );
        fs::write(&file, config)?;
        let command = [
            "--fifo", "5", "taskset", "-c", "0", sealway, "run", "--config",
        ];
        let mut child = Command::new("chrt")
            .args(command)
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child
            .stderr
            .take()
            .ok_or_else(|| io::Error::other("no standard error"))?;
        let mut lines = BufReader::new(log).lines();
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
        // Somebody must read the records.
        std::thread::spawn(move || lines.for_each(drop));
        let address = |at| {
            start
                .pointer(at)
                .and_then(|address| address.as_str()?.parse().ok())
        };
        let (proxy, admin) = (address("/listeners/0"), address("/admin"));
        let (Some(proxy), Some(admin)) = (proxy, admin) else {
            return Err(io::Error::other("no address"));
        };
        Ok(Self {
            child,
            proxy,
            admin,
            _directory: directory,
        })
    }

    pub(crate) fn open(&self, upstream: SocketAddr) -> io::Result<TcpStream> {
        let mut tunnel = TcpStream::connect(self.proxy)?;
        tunnel.set_nodelay(true)?;
        tunnel.set_read_timeout(Some(PATIENCE))?;
        tunnel.write_all(
            format!(
                "CONNECT {}:{} HTTP/1.1\r\n\r\n",
                hello::HOST,
                upstream.port()
            )
            .as_bytes(),
        )?;
        tunnel.read_exact(&mut [0; "HTTP/1.1 200 Connection established\r\n\r\n".len()])?;
        tunnel.write_all(hello::CLIENT_HELLO)?;
        tunnel.read_exact(&mut vec![0; hello::answer().len()])?;
        Ok(tunnel)
    }

    /// What its worker has used; the writer of records and the admin listener are threads of their own.
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

    pub(crate) fn refused(&self) -> io::Result<u64> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let series = "sealway_tunnels_denied_total{code=\"client_limit\"} ";
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(series)?.parse().ok());
        value.ok_or_else(|| io::Error::other("no count of refusals"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _it_has_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
/// Connections a second that each address may have.
const ACCEPT_RATE: u32 = 5;
