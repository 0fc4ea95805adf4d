//! `sealway-agent` as a child process.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use support::soon;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::node::Node;
use crate::process::{self, Process, address};
use crate::zoo::{Authority, write};

/// A running agent. Dropped, it is killed.
pub(crate) struct Agent {
    process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
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
        let (process, listening) = Process::start(command).await;
        Agent {
            process,
            address: address(&listening, "listen").unwrap_or(([0, 0, 0, 0], 0).into()),
            folder,
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

    /// Asks for a tunnel and returns the reply.
    pub(crate) async fn ask(&self, authority: &str) -> support::client::Reply {
        support::client::connect(self.address, authority, &[]).await
    }

    /// The same, and the reply must be the 200 of the node.
    pub(crate) async fn open(&self, authority: &str) -> TcpStream {
        self.ask(authority).await.established()
    }
}

impl Deref for Agent {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The program, which trusts the authority in this folder.
pub(crate) fn command(folder: &TempDir) -> Command {
    let mut command = process::command(env!("CARGO_BIN_EXE_sealway-agent"));
    command.env("SEALWAY_AGENT_CA", folder.path().join("ca.pem"));
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
