//! `sealway-agent` as a child process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::client::http_get;
use support::soon;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::node::Node;
use crate::zoo::{Authority, write};

/// A running agent. Dropped, it is killed.
pub(crate) struct Agent {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) folder: TempDir,
    log: UnboundedReceiver<Value>,
}

impl Agent {
    /// Starts an agent before these nodes and waits until it listens.
    pub(crate) async fn start(
        authority: &Authority,
        nodes: &[&Node],
        more: &[(&str, &str)],
    ) -> Agent {
        let urls: Vec<_> = nodes.iter().map(|node| node.url()).collect();
        Agent::start_before(authority, &urls.join(","), more).await
    }

    pub(crate) async fn start_before(
        authority: &Authority,
        upstreams: &str,
        more: &[(&str, &str)],
    ) -> Agent {
        let folder = tempfile::tempdir().unwrap();
        write(&folder, "ca.pem", &authority.pem());
        let mut command = command(&folder);
        command
            .env("SEALWAY_AGENT_UPSTREAMS", upstreams)
            .env("SEALWAY_AGENT_LISTEN", "127.0.0.1:0")
            .env("SEALWAY_AGENT_ADMIN", "127.0.0.1:0")
            .envs(more.iter().copied());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (line, mut log) = unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(text)) = lines.next_line().await {
                // Shown by a test that fails.
                println!("agent: {text}");
                let _test_over =
                    line.send(serde_json::from_str(&text).unwrap_or(Value::String(text)));
            }
        });
        let listening = find(&mut log, "listening").await;
        let at = |key: &str| listening[key].as_str().unwrap().parse();
        Agent {
            child,
            address: at("listen").unwrap_or(([0, 0, 0, 0], 0).into()),
            admin: at("admin").unwrap(),
            folder,
            log,
        }
    }

    /// The same, and waits until it has its warm connections to these upstreams.
    pub(crate) async fn start_warm(
        authority: &Authority,
        nodes: &[&Node],
        more: &[(&str, &str)],
    ) -> Agent {
        let agent = Agent::start(authority, nodes, more).await;
        for node in nodes {
            agent.has("upstream_warm", node, 2.0).await;
        }
        agent
    }

    /// Waits until a gauge of a node has this value.
    pub(crate) async fn has(&self, gauge: &str, node: &Node, wanted: f64) {
        let sample = format!("sealway_agent_{gauge}{{upstream=\"{}\"}}", node.address);
        let what = format!("{sample} {wanted}");
        support::wait_until(&what, async || self.metrics().await[&sample] == wanted).await;
    }

    /// Waits for a line of the log with this message.
    pub(crate) async fn logged(&mut self, message: &str) -> Value {
        find(&mut self.log, message).await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        let pid = self.child.id().expect("a running agent");
        Pid::from_raw(i32::try_from(pid).unwrap())
    }

    /// The samples of `/metrics`.
    pub(crate) async fn metrics(&self) -> HashMap<String, f64> {
        let (status, text) = http_get(self.admin, "/metrics").await;
        assert_eq!(status, 200);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| line.rsplit_once(' ').unwrap());
        samples
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect()
    }

    /// Asks for a tunnel and returns the reply.
    pub(crate) async fn ask(&self, authority: &str) -> support::client::Reply {
        support::client::connect(self.address, authority, &[]).await
    }

    /// The same, and the reply must be the 200 of the node.
    pub(crate) async fn open(&self, authority: &str) -> TcpStream {
        self.ask(authority).await.established()
    }
}

/// The program, which trusts the authority in this folder.
pub(crate) fn command(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealway-agent"));
    command
        .env("SEALWAY_AGENT_CA", folder.path().join("ca.pem"))
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The node at the end of this tunnel sends back what it gets.
pub(crate) async fn echoes(mut client: TcpStream) {
    client.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    soon("the echo", client.read_exact(&mut bytes))
        .await
        .unwrap();
    assert_eq!(&bytes, b"ping");
}

async fn find(log: &mut UnboundedReceiver<Value>, message: &str) -> Value {
    let found = async {
        loop {
            let line = log.recv().await.expect("a running agent");
            if line["message"] == message {
                return line;
            }
        }
    };
    soon(&format!("the line {message:?}"), found).await
}
