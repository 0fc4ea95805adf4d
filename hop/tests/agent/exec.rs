//! `sealway-agent exec`: what the command inherits, and what comes back.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::soon;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::node::{Manner, Node};
use crate::program::command;
use crate::zoo::{Authority, write};

async fn world() -> (TempDir, Node) {
    let authority = Authority::new("CA");
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "ca.pem", &authority.pem());
    (folder, Node::start(&authority, Manner::Echo).await)
}

fn exec(folder: &TempDir, node: &Node, script: &str) -> Command {
    let mut agent = command(folder);
    agent
        .env("SEALWAY_AGENT_UPSTREAMS", node.url())
        .args(["exec", "--", "bash", "-c", script])
        .stdin(Stdio::null());
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_gets_the_proxy_variables_and_not_the_secrets() {
    let (folder, node) = world().await;
    let mut agent = exec(&folder, &node, "env");
    agent
        .env("NO_PROXY", "localhost,.googleapis.com,db.internal")
        .env("no_proxy", "*")
        .env("JAVA_TOOL_OPTIONS", "-Xmx1g");
    let ended = soon("the command", agent.output()).await.unwrap();
    let text = String::from_utf8(ended.stdout).unwrap();
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("{name} in {text}"))
            .to_owned()
    };
    let url = value("HTTPS_PROXY");
    let port = url.strip_prefix("http://127.0.0.1:").unwrap();
    assert_ne!(port.parse::<u16>().unwrap(), 0);
    for name in ["https_proxy", "grpc_proxy", "GRPC_PROXY"] {
        assert_eq!(value(name), url);
    }
    assert_eq!(value("NO_PROXY"), "localhost,127.0.0.1,::1,db.internal");
    assert_eq!(value("no_proxy"), "localhost,127.0.0.1,::1");
    assert_eq!(value("NODE_USE_ENV_PROXY"), "1");
    let java = format!("-Xmx1g -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort={port}");
    assert_eq!(value("JAVA_TOOL_OPTIONS"), java);
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_reaches_the_upstream_and_its_status_comes_back() {
    let (folder, mut node) = world().await;
    let ask = "exec 3<>/dev/tcp/127.0.0.1/${HTTPS_PROXY##*:}; printf 'CONNECT a.example:443 HTTP/1.1\\r\\n\\r\\n' >&3; read -r line <&3; echo \"$line\"; exit 7";
    let ended = soon("the command", exec(&folder, &node, ask).output())
        .await
        .unwrap();
    assert_eq!(ended.stdout, b"HTTP/1.1 200 Connection established\r\n");
    assert_eq!(ended.status.code(), Some(7));
    assert!(
        node.request()
            .await
            .head
            .starts_with("CONNECT a.example:443 ")
    );
    let killed = soon(
        "the command",
        exec(&folder, &node, "kill -KILL $$").output(),
    );
    assert_eq!(killed.await.unwrap().status.code(), Some(128 + 9));
    let mut nothing = command(&folder);
    nothing
        .env("SEALWAY_AGENT_UPSTREAMS", node.url())
        .args(["exec", "--", "/nowhere/command"]);
    let ended = soon("the end", nothing.output()).await.unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("/nowhere/command: No such file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_command() {
    let (folder, node) = world().await;
    for signal in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGINT,
    ] {
        let name = signal.as_str().trim_start_matches("SIG");
        let script = format!(
            "trap 'echo got; exit 9' {name}; echo ready; while :; do read -t 0.05 <> <(:); done"
        );
        let mut agent = exec(&folder, &node, &script).spawn().unwrap();
        let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
        let ready = soon("the command", lines.next_line()).await.unwrap();
        assert_eq!(ready.as_deref(), Some("ready"));
        let pid = i32::try_from(agent.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
        let got = soon("the signal", lines.next_line()).await.unwrap();
        assert_eq!(got.as_deref(), Some("got"), "{name}");
        let status = soon("the end", agent.wait()).await.unwrap();
        assert_eq!(status.code(), Some(9), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_starts_without_an_upstream_after_the_wait() {
    let (folder, node) = world().await;
    let url = node.url();
    node.kill().await;
    let mut agent = command(&folder);
    agent
        .env("SEALWAY_AGENT_UPSTREAMS", url)
        .args(["exec", "--max", "100ms", "--", "echo", "started"]);
    let mut agent = agent.spawn().unwrap();
    let mut said = String::new();
    let mut stdout = agent.stdout.take().unwrap();
    soon("the output", stdout.read_to_string(&mut said))
        .await
        .unwrap();
    assert_eq!(said, "started\n");
    assert!(soon("the end", agent.wait()).await.unwrap().success());
}

/// The sample's lines as a platform runs them, with stand-ins for the application.
#[tokio::test(flavor = "multi_thread")]
async fn the_procfile_runs_each_command_with_an_agent() {
    let (folder, node) = world().await;
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let agent = env!("CARGO_BIN_EXE_sealway-agent");
    std::os::unix::fs::symlink(agent, bin.join("sealway-agent")).unwrap();
    for name in ["gunicorn", "python"] {
        let script = "#!/bin/sh\necho \"${0##*/} $* $HTTPS_PROXY\"\n";
        let file = write(&folder, &format!("bin/{name}"), script);
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let lines = include_str!("../../../deploy/agent/Procfile").lines();
    let lines: Vec<_> = lines.filter_map(|line| line.split_once(": ")).collect();
    let wanted = [
        ("web", "gunicorn --bind 0.0.0.0:8000 app:app"),
        ("worker", "python worker.py"),
    ];
    assert_eq!(lines.len(), wanted.len());
    for ((kind, line), (wanted_kind, wanted)) in lines.into_iter().zip(wanted) {
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell
            .args(["-c", line])
            .current_dir(folder.path())
            .env("PATH", path)
            .env("PORT", "8000")
            .env("SEALWAY_AGENT_UPSTREAMS", node.url())
            .env("SEALWAY_AGENT_CA", folder.path().join("ca.pem"))
            .kill_on_drop(true);
        let ended = soon("the command", shell.output()).await.unwrap();
        assert!(ended.status.success(), "{ended:?}");
        let said = String::from_utf8(ended.stdout).unwrap();
        let url = said.trim_end().strip_prefix(wanted);
        let url = url.unwrap_or_else(|| panic!("{said}"));
        assert!(url.starts_with(" http://127.0.0.1:"), "{said}");
        assert_eq!(kind, wanted_kind);
    }
}
