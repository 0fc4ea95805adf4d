//! The daemon under strace(1): every call in which a process reads bytes from a descriptor or
//! writes bytes to one.
//!
//! splice(2) is traced only on request, and with a seccomp filter the kernel stops the daemon at
//! traced calls only: bytes that stay in the kernel move at full speed. Without strace, or if it
//! may not trace, the test fails.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};

use crate::config::Config;
use crate::soon;

/// A traced `sealway run` that listens; dropped, it is killed, and its tracer ends with it.
pub struct Traced {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    said: Vec<String>,
    proxy: SocketAddr,
    directory: TempDir,
}

/// All calls of a daemon.
pub struct Trace {
    calls: Vec<Call>,
}

/// One traced call.
#[derive(Debug)]
pub struct Call {
    /// In strace's form.
    line: String,
    /// The bytes it moved: none if it failed.
    bytes: u64,
}

impl Traced {
    /// Starts the daemon. The calls in `failing` fail as if no descriptor were free.
    pub async fn start(config: &Config, failing: &[&str]) -> Traced {
        Traced::start_with(config, &[], failing).await
    }

    /// Starts the daemon and traces these calls too.
    pub async fn start_watching(config: &Config, watched: &[&str]) -> Traced {
        Traced::start_with(config, watched, &[]).await
    }

    async fn start_with(config: &Config, watched: &[&str], failing: &[&str]) -> Traced {
        let directory = tempfile::tempdir().expect("tempdir");
        std::fs::write(directory.path().join("sealway.toml"), config.to_toml())
            .expect("write the config");
        let mut child = command(directory.path(), watched, failing)
            .spawn()
            .unwrap_or_else(|error| panic!("{error}: {NEEDED}"));
        let log = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let (said, unknown) = (Vec::new(), SocketAddr::from(([0, 0, 0, 0], 0)));
        let mut traced = Traced {
            child,
            log,
            said,
            proxy: unknown,
            directory,
        };
        let start = traced.record("start").await;
        traced.proxy = start["listeners"][0]
            .as_str()
            .and_then(|address| address.parse().ok())
            .expect("a listener");
        traced
    }

    /// The address for clients.
    pub fn proxy_addr(&self) -> SocketAddr {
        self.proxy
    }

    /// The next audit record of this event.
    pub async fn record(&mut self, event: &str) -> Value {
        while let Some(line) = soon(event, self.log.next_line())
            .await
            .expect("read the log")
        {
            match serde_json::from_str::<Value>(&line) {
                Ok(record) if record["event"] == event => return record,
                _ => self.said.push(line),
            }
        }
        panic!(
            "daemon and tracer ended before {event:?} and said {:#?}: {NEEDED}",
            self.said
        )
    }

    /// Stops the daemon and reads the trace.
    pub async fn stop(mut self) -> Trace {
        let pid = self
            .child
            .id()
            .expect("a child that was not awaited has an id")
            .to_string();
        assert!(
            std::process::Command::new("kill")
                .arg(&pid)
                .status()
                .expect("run kill")
                .success(),
            "kill {pid}"
        );
        // The tracer holds standard error too, so the trace is complete when that closes.
        while soon("the end of daemon and tracer", self.log.next_line())
            .await
            .expect("read the log")
            .is_some()
        {}
        assert!(
            self.child
                .wait()
                .await
                .expect("wait for the daemon")
                .success(),
            "the daemon did not stop in order"
        );
        let trace = Trace::read(&self.directory.path().join(TRACES));
        assert!(
            !trace.calls.is_empty(),
            "nothing was traced; daemon and tracer said {:#?}: {NEEDED}",
            self.said
        );
        trace
    }
}

impl Trace {
    fn read(directory: &Path) -> Trace {
        let files = std::fs::read_dir(directory).expect("the traces");
        let texts = files
            .map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("a trace"));
        Trace {
            calls: texts
                .flat_map(|text| text.lines().filter_map(Call::parse).collect::<Vec<_>>())
                .collect(),
        }
    }

    /// All bytes that entered or left user space, on any descriptor.
    pub fn bytes(&self) -> u64 {
        self.calls.iter().map(|call| call.bytes).sum()
    }

    /// Bytes read from descriptors that strace annotates with `annotation`. A read with `MSG_PEEK`
    /// counts as well, because it copies them.
    pub fn taken(&self, annotation: &str) -> u64 {
        self.calls
            .iter()
            .filter(|call| call.is_on(annotation) && call.takes())
            .map(|call| call.bytes)
            .sum()
    }

    /// Bytes written to descriptors that strace annotates with `annotation`.
    pub fn given(&self, annotation: &str) -> u64 {
        self.calls
            .iter()
            .filter(|call| call.is_on(annotation) && !call.takes())
            .map(|call| call.bytes)
            .sum()
    }

    /// Every call with a descriptor that strace annotates with one of `annotations`; those of one thread in order.
    pub fn calls_with(&self, annotations: &[&str]) -> Vec<&Call> {
        self.calls
            .iter()
            .filter(|call| {
                annotations
                    .iter()
                    .any(|annotation| call.line.contains(annotation))
            })
            .collect()
    }

    /// Calls whose result does not say how many bytes they moved.
    pub fn unmeasured(&self) -> Vec<&Call> {
        self.calls
            .iter()
            .filter(|call| UNMEASURED.contains(&call.name()))
            .collect()
    }
}

impl Call {
    /// A line of a trace: `read(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, ""..., 2048) = 517`. Signals and
    /// ends are not calls.
    fn parse(line: &str) -> Option<Call> {
        if line.starts_with("---") || line.starts_with("+++") {
            return None;
        }
        // A failed call has the result -1; one in which the process ended has a question mark or
        // nothing.
        let (_, result) = line.rsplit_once(" = ").unwrap_or_default();
        let digits = result
            .split(|character: char| !character.is_ascii_digit())
            .next();
        let bytes = digits.and_then(|digits| digits.parse().ok()).unwrap_or(0);
        Some(Call {
            line: line.to_string(),
            bytes,
        })
    }

    /// The bytes it moved: none if it failed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its kind, whatever its name, and its descriptor.
    pub fn shown(&self, annotations: &[(&str, &'static str)]) -> String {
        let act = match self.name() {
            measured if MEASURED.contains(&measured) => {
                if self.takes() {
                    "read"
                } else {
                    "write"
                }
            }
            other => other,
        };
        let of = annotations
            .iter()
            .find(|(annotation, _)| self.line.contains(annotation));
        format!("{act} {}", of.map_or("?", |(_, shown)| shown))
    }

    fn name(&self) -> &str {
        self.line.split('(').next().unwrap_or_default()
    }

    fn takes(&self) -> bool {
        ["read", "pread", "recv"]
            .iter()
            .any(|prefix| self.name().starts_with(prefix))
    }

    /// The descriptor is the first argument of every measured call.
    fn is_on(&self, annotation: &str) -> bool {
        self.line
            .split(',')
            .next()
            .is_some_and(|first| first.contains(annotation))
    }
}

/// The name of the daemon's end of a connection in strace's output.
pub fn peer_of(stream: &TcpStream) -> String {
    let (daemons, own) = (
        stream.peer_addr().expect("a peer"),
        stream.local_addr().expect("an address"),
    );
    format!("<TCP:[{daemons}->{own}]>")
}

/// `strace … sealway run`, without the variables of this process that could change the daemon's
/// configuration.
fn command(directory: &Path, watched: &[&str], failing: &[&str]) -> Command {
    std::fs::create_dir(directory.join(TRACES)).expect("mkdir");
    let mut command = Command::new("strace");
    for (key, _) in
        std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("SEALWAY_"))
    {
        command.env_remove(key);
    }
    // With -D the child is the daemon, not the tracer, so that killing the child leaves nothing
    // behind. With -ff each thread has a trace of its own, so that no line is interrupted by
    // another.
    command.args(["-D", "-ff", "--seccomp-bpf", "-yy", "-s", "0"]);
    command.arg("-e").arg(format!(
        "trace={}",
        list(&[MEASURED.as_slice(), &UNMEASURED, watched, failing].concat())
    ));
    if !failing.is_empty() {
        command
            .arg("-e")
            .arg(format!("inject={}:error=EMFILE", list(failing)));
    }
    command.arg("-o").arg(directory.join(TRACES).join("thread"));
    command
        .args([crate::sealway().as_str(), "run", "--config"])
        .arg(directory.join("sealway.toml"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// System calls in strace's syntax: not every architecture has all.
fn list(calls: &[&str]) -> String {
    calls
        .iter()
        .map(|call| format!("?{call}"))
        .collect::<Vec<_>>()
        .join(",")
}

/// Calls that result in the number of bytes they moved.
const MEASURED: [&str; 16] = [
    "read", "readv", "pread64", "preadv", "preadv2", "recv", "recvfrom", "recvmsg", "write",
    "writev", "pwrite64", "pwritev", "pwritev2", "send", "sendto", "sendmsg",
];
/// Further ways into user space and out of it.
const UNMEASURED: [&str; 7] = [
    "recvmmsg",
    "sendmmsg",
    "vmsplice",
    "io_submit",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
];
const TRACES: &str = "traces";
const NEEDED: &str = "this test runs the daemon under strace(1): install the package strace (apt-get install strace) \
                      and let it trace (not inside another tracer, nor where kernel.yama.ptrace_scope is 2 or more)";
