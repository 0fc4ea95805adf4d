//! A program of this package as a child process: its log, its signals and its metrics. The tests of the hop and of the
//! agent share this file.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::client::http_get;
use support::soon;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A running program. Dropped, it is killed.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) admin: SocketAddr,
    log: UnboundedReceiver<Value>,
}

impl Process {
    /// Starts a program whose log is JSON, and waits until it listens. Also returns that line of the log.
    pub(crate) async fn start(mut command: Command) -> (Process, Value) {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (line, mut log) = unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(text)) = lines.next_line().await {
                // Shown by a test that fails.
                println!("log: {text}");
                let _test_over =
                    line.send(serde_json::from_str(&text).unwrap_or(Value::String(text)));
            }
        });
        let listening = find(&mut log, "listening").await;
        let admin = address(&listening, "admin").unwrap();
        (Process { child, admin, log }, listening)
    }

    /// Waits for a line of the log with this message.
    pub(crate) async fn logged(&mut self, message: &str) -> Value {
        find(&mut self.log, message).await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        let pid = self.child.id().expect("a running program");
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
}

/// A program of this package, whose output the test reads.
pub(crate) fn command(path: &str) -> Command {
    let mut command = Command::new(path);
    command
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// An address in a line of the log; None if the key holds none, or several.
pub(crate) fn address(line: &Value, key: &str) -> Option<SocketAddr> {
    line[key].as_str()?.parse().ok()
}

async fn find(log: &mut UnboundedReceiver<Value>, message: &str) -> Value {
    let found = async {
        loop {
            let line = log.recv().await.expect("a running program");
            if line["message"] == message {
                return line;
            }
        }
    };
    soon(&format!("the line {message:?}"), found).await
}
