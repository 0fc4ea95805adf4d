//! The `sealway` binary as an operator runs it: to its end, or until it listens.

use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::soon;

/// A finished call.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A `sealway run` that listens; dropped, it is killed.
pub struct Running {
    /// Its `start` record.
    pub start: Value,
    /// Kept, because dropping it kills the process.
    _child: Child,
}

/// Runs `sealway` with these arguments and waits for its end.
pub async fn sealway(arguments: &[&str]) -> Ended {
    sealway_with(&[], arguments).await
}

/// The same with an environment.
pub async fn sealway_with(environment: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let output = soon(
        "the end of the command",
        command(environment, arguments).output(),
    )
    .await
    .expect("run sealway");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let status = output
        .status
        .code()
        .unwrap_or_else(|| panic!("{arguments:?}: {}", output.status));
    Ended {
        status,
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Starts `sealway` and waits until it listens.
pub async fn running(environment: &[(&str, &str)], arguments: &[&str]) -> Running {
    let mut child = command(environment, arguments)
        .spawn()
        .expect("spawn sealway");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    let mut said = Vec::new();
    let start = async {
        while let Some(line) = lines.next_line().await.expect("read the log") {
            match serde_json::from_str::<Value>(&line) {
                Ok(record) if record["event"] == "start" => return record,
                _ => said.push(line),
            }
        }
        panic!("{arguments:?} ended before it listened: {said:#?}")
    };
    let start = soon("the start record", start).await;
    // A reader that stops would make the daemon's audit fail.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Running {
        start,
        _child: child,
    }
}

impl Running {
    pub fn proxy_addr(&self) -> SocketAddr {
        self.start["listeners"][0]
            .as_str()
            .and_then(|address| address.parse().ok())
            .expect("a listener")
    }

    /// Where strace(1) writes, if the daemon is traced.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.start["admin"]
            .as_str()
            .and_then(|address| address.parse().ok())
    }
}

/// The same in a terminal of its own: script(1) of util-linux. Its input is typed; its output is
/// that of a terminal.
pub fn in_terminal(arguments: &[&str]) -> Child {
    let sealway = crate::sealway();
    let words: Vec<String> = [&[sealway.as_str()], arguments]
        .concat()
        .iter()
        .map(|word| format!("'{word}'"))
        .collect();
    let mut command = without_settings(Command::new("script"));
    // exec: a remaining shell would receive the Ctrl-C too, and return a status of its own (dash
    // does, bash does not).
    command.args([
        "--quiet",
        "--return",
        "--flush",
        "--command",
        &format!("exec {}", words.join(" ")),
        "/dev/null",
    ]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().expect("run script(1) of util-linux")
}

/// Without the variables of this process that could change the configuration.
fn command(environment: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = without_settings(Command::new(crate::sealway()));
    command.envs(environment.iter().copied()).args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn without_settings(mut command: Command) -> Command {
    for (key, _) in
        std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("SEALWAY_"))
    {
        command.env_remove(key);
    }
    command
}
