//! The two agents as the harness sees them: child processes that answer each line with a line
//! before a deadline.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::host::process::{Placement, Process};
use crate::protocol::load::{Command as Told, Reply, Report, Route, Task};

/// The client agent and the upstream agent of one network.
pub(crate) struct Agents {
    client: Agent,
    _upstream: Agent,
    /// One upstream port for each proxy, so that the closed connections of one proxy do not occupy
    /// the ports of the next.
    pub(crate) upstreams: Vec<SocketAddr>,
}

/// One agent.
struct Agent {
    process: Process,
    orders: ChildStdin,
    lines: Receiver<String>,
}

impl Agents {
    /// Starts both; the upstream agent listens on `ports` ports of `address`.
    pub(crate) fn start(
        client: &Placement,
        upstream: &Placement,
        address: IpAddr,
        ports: usize,
    ) -> io::Result<Self> {
        let listen = SocketAddr::new(address, 0).to_string();
        let upstream = Agent::start(
            upstream,
            &[
                "--role",
                "upstream",
                "--listen",
                &listen,
                "--ports",
                &ports.to_string(),
            ],
        )?;
        let upstreams = serde_json::from_str(&upstream.line(PATIENCE)?)?;
        Ok(Self {
            client: Agent::start(client, &["--role", "client"])?,
            _upstream: upstream,
            upstreams,
        })
    }

    /// Opens idle tunnels.
    pub(crate) fn hold(&mut self, route: &Route, tunnels: u64) -> io::Result<()> {
        self.client.ready(&Told::Hold {
            route: route.clone(),
            tunnels,
        })
    }

    /// Closes them.
    pub(crate) fn release(&mut self) -> io::Result<()> {
        self.client.ready(&Told::Release)
    }

    /// Opens the tunnels of a task.
    pub(crate) fn prepare(&mut self, route: &Route, task: Task) -> io::Result<()> {
        self.client.ready(&Told::Prepare {
            route: route.clone(),
            task,
        })
    }

    /// Runs the task.
    pub(crate) fn go(&mut self) -> io::Result<Report> {
        match self.client.ask(&Told::Go)? {
            Reply::Done(report) => Ok(report),
            other => Err(io::Error::other(format!("the client agent says {other:?}"))),
        }
    }
}

impl Agent {
    fn start(place: &Placement, arguments: &[&str]) -> io::Result<Self> {
        let mut command: Command = place.command(&std::env::current_exe()?);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = place.start(command, None)?;
        let (Some(orders), Some(output)) =
            (process.child.stdin.take(), process.child.stdout.take())
        else {
            return Err(io::Error::other("an agent without pipes"));
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Ends with the agent, or with the harness.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            process,
            orders,
            lines,
        })
    }

    fn ready(&mut self, told: &Told) -> io::Result<()> {
        match self.ask(told)? {
            Reply::Ready => Ok(()),
            other => Err(io::Error::other(format!("the client agent says {other:?}"))),
        }
    }

    fn ask(&mut self, told: &Told) -> io::Result<Reply> {
        writeln!(self.orders, "{}", serde_json::to_string(told)?)?;
        match serde_json::from_str(&self.line(PATIENCE)?)? {
            Reply::Failed(reason) => Err(io::Error::other(reason)),
            reply => Ok(reply),
        }
    }

    fn line(&self, patience: Duration) -> io::Result<String> {
        let process = self.process.child.id();
        self.lines.recv_timeout(patience).map_err(|error| {
            io::Error::other(format!(
                "agent {process} did not answer within {patience:?}: {error}"
            ))
        })
    }
}

/// Longer than any task, and than an agent waits for a byte.
const PATIENCE: Duration = Duration::from_secs(60);
