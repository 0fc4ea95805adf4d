//! The real `sealway run` as a child process: its log as events, its metrics, its signals, its end.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;

use crate::client::{http_get, try_http_get};
use crate::config::Config;
use crate::manager::Manager;
use crate::service::Service;
use crate::{raise_descriptor_limit, soon};

/// A running daemon. Dropped, it is killed; dropped by a failing test, it shows its log first.
pub struct Daemon {
    child: Child,
    pid: u32,
    log: watch::Receiver<Vec<Value>>,
    consumed: HashMap<String, usize>,
    proxy: SocketAddr,
    admin: SocketAddr,
    directory: TempDir,
}

impl Daemon {
    /// Starts the daemon and returns once it reports that its sockets are bound.
    pub async fn start(config: &Config) -> Daemon {
        Daemon::start_in(tempfile::tempdir().expect("tempdir"), config).await
    }

    /// The same, with files that the test has put beside the configuration.
    pub async fn start_in(directory: TempDir, config: &Config) -> Daemon {
        Daemon::start_under(&[], directory, config).await
    }

    /// The same with at most this many descriptors: prlimit(1) of util-linux.
    pub async fn start_with_descriptors(config: &Config, descriptors: usize) -> Daemon {
        Daemon::start_limited_in(tempfile::tempdir().expect("tempdir"), config, descriptors).await
    }

    /// The same, with files that the test has put beside the configuration.
    pub async fn start_limited_in(
        directory: TempDir,
        config: &Config,
        descriptors: usize,
    ) -> Daemon {
        let limited = [
            "prlimit".to_string(),
            format!("--nofile={descriptors}:{descriptors}"),
        ];
        Daemon::start_under(&limited, directory, config).await
    }

    /// The same without the capabilities that lift the kernel's quota of pipes: setpriv(1) of
    /// util-linux, if there are any to drop.
    pub async fn start_unprivileged(config: &Config) -> Daemon {
        let words = ["setpriv", "--bounding-set=-sys_admin,-sys_resource"].map(str::to_string);
        let is_root = std::fs::metadata("/proc/self").expect("this process").uid() == 0;
        let prefix = if is_root { &words[..] } else { &[] };
        Daemon::start_under(prefix, tempfile::tempdir().expect("tempdir"), config).await
    }

    /// The same under strace(1), which makes system calls fail: `inject` as it takes it, such as
    /// `connect:error=ENETUNREACH:when=3..30+2`.
    pub async fn start_with_failing(config: &Config, inject: &str) -> Daemon {
        let directory = tempfile::tempdir().expect("tempdir");
        let prefix = injecting(inject, &directory.path().join(INJECTED));
        Daemon::start_under(&prefix, directory, config).await
    }

    /// How many calls strace(1) has made fail or wait so far, by its own output. A test that
    /// injects must see one: otherwise it would pass when nothing fails.
    pub fn injected(&self) -> usize {
        let trace = std::fs::read_to_string(self.path(INJECTED)).expect("strace's file");
        trace
            .lines()
            .filter(|line| line.ends_with("(INJECTED)") || line.ends_with("(DELAYED)"))
            .count()
    }

    /// The same under strace(1), which writes these calls into a file, each after its Unix time.
    /// The tracer is the daemon's child, so signals reach the daemon.
    pub async fn start_tracing(config: &Config, calls: &str, into: &std::path::Path) -> Daemon {
        let into = into.to_str().expect("UTF-8");
        let words = [
            "strace",
            "-D",
            "-f",
            "-ttt",
            "-e",
            "signal=none",
            "-e",
            calls,
            "-o",
            into,
        ];
        let words = words.map(str::to_string);
        Daemon::start_under(&words, tempfile::tempdir().expect("tempdir"), config).await
    }

    /// The same in a user namespace that maps unknown users, as a container may have one:
    /// unshare(1).
    pub async fn start_among_strangers(config: &Config) -> Daemon {
        let words = ["unshare", "--user", "--"].map(str::to_string);
        Daemon::start_under(&words, tempfile::tempdir().expect("tempdir"), config).await
    }

    /// The same under a systemd: its listening sockets are open already, and it has a socket for
    /// notifications.
    pub async fn start_as_service(
        directory: TempDir,
        config: &Config,
        service: &Service,
    ) -> Daemon {
        let prefix = service.prefix();
        Daemon::start_with(&prefix, directory, config, |command| {
            service.prepare(command)
        })
        .await
    }

    /// The same with more flags of `sealway run`.
    pub async fn start_with_flags(directory: TempDir, config: &Config, flags: &[&str]) -> Daemon {
        Daemon::start_with(&[], directory, config, |command| {
            command.args(flags);
        })
        .await
    }

    /// The same under a service manager that keeps descriptors.
    pub async fn start_managed(directory: TempDir, config: &Config, manager: &Manager) -> Daemon {
        Daemon::start_with(&[], directory, config, |command| manager.prepare(command)).await
    }

    /// The same as the child of a main process, which it may outlive.
    pub async fn start_outliving(directory: TempDir, config: &Config, manager: &Manager) -> Daemon {
        Daemon::start_with(&[], directory, config, |command| {
            manager.prepare(command);
            command.arg("--outlive");
        })
        .await
    }

    /// The same with at most this many descriptors; returns the exit code of a daemon that does not
    /// start.
    pub async fn fail_managed(
        directory: &TempDir,
        config: &str,
        manager: &Manager,
        descriptors: Option<usize>,
    ) -> (Option<i32>, String) {
        let file = directory.path().join("sealway.toml");
        std::fs::write(&file, config).expect("write the config");
        let limited = descriptors.map(|most| format!("--nofile={most}:{most}"));
        let prefix: Vec<String> = limited
            .into_iter()
            .flat_map(|limit| ["prlimit".into(), limit])
            .collect();
        failed(command(&prefix, &file), manager).await
    }

    /// The same as the child of a main process; returns the exit code of that.
    pub async fn fail_outliving(
        directory: &TempDir,
        config: &str,
        manager: &Manager,
    ) -> (Option<i32>, String) {
        let file = directory.path().join("sealway.toml");
        std::fs::write(&file, config).expect("write the config");
        let mut command = command(&[], &file);
        command.arg("--outlive");
        failed(command, manager).await
    }

    /// The same, started by another program.
    async fn start_under(prefix: &[String], directory: TempDir, config: &Config) -> Daemon {
        Daemon::start_with(prefix, directory, config, |_| ()).await
    }

    async fn start_with(
        prefix: &[String],
        directory: TempDir,
        config: &Config,
        prepare: impl FnOnce(&mut Command),
    ) -> Daemon {
        raise_descriptor_limit();
        let file = directory.path().join("sealway.toml");
        std::fs::write(&file, config.to_toml()).expect("write the config");
        let mut command = command(prefix, &file);
        prepare(&mut command);
        let mut child = command.spawn().expect("spawn sealway");
        let pid = child.id().expect("a child that was not awaited has an id");
        let log = follow(child.stderr.take().expect("stderr is piped"));
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let (consumed, proxy, admin) = (HashMap::new(), unknown, unknown);
        let mut daemon = Daemon {
            child,
            pid,
            log,
            consumed,
            proxy,
            admin,
            directory,
        };
        if config.has_audit_file() {
            let listening = daemon
                .line("listening", |line| line["message"] == "listening")
                .await;
            daemon.proxy = address(&listening["listeners"]);
            daemon.admin = address(&listening["admin"]);
        } else {
            let start = daemon.event("start").await;
            daemon.proxy = address(&start["listeners"][0]);
            daemon.admin = address(&start["admin"]);
        }
        daemon
    }

    /// The address for clients.
    pub fn proxy_addr(&self) -> SocketAddr {
        self.proxy
    }

    /// The address of `/metrics` and the other pages.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// A file beside the configuration.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The next audit record of a CONNECT attempt that this test has not seen yet.
    pub async fn tunnel_record(&mut self) -> Value {
        self.event("tunnel").await
    }

    /// The next line of this event that this test has not seen yet.
    pub async fn event(&mut self, name: &str) -> Value {
        let nth = *self.consumed.get(name).unwrap_or(&0);
        self.consumed.insert(name.into(), nth + 1);
        self.find(name, nth, |line| line["event"] == name).await
    }

    /// Waits for any line, old or new, that satisfies `wanted`.
    pub async fn line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.find(what, 0, wanted).await
    }

    async fn find(&self, what: &str, nth: usize, wanted: impl Fn(&Value) -> bool) -> Value {
        let find = |lines: &[Value]| lines.iter().filter(|line| wanted(line)).nth(nth).cloned();
        let mut log = self.log.clone();
        match soon(what, log.wait_for(|lines| find(lines).is_some())).await {
            Ok(lines) => find(&lines).expect("the line was there a moment ago"),
            Err(_) => panic!("the daemon ended its log without {what:?}"),
        }
    }

    /// Every line so far, to search for content that must not be there.
    pub fn log_text(&self) -> String {
        self.log
            .borrow()
            .iter()
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// Sends a signal by its short name: `TERM`, `HUP`, `INT`.
    pub fn signal(&self, name: &str) {
        crate::signal(self.pid, name);
    }

    /// Stops the daemon meanwhile, so that it finds all of it at once when it continues (signal(7),
    /// `SIGSTOP`).
    pub fn at_once(&self, done: impl FnOnce()) {
        self.signal("STOP");
        let stopped = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        // The state says so when the last of its threads has stopped.
        waitid(Id::Pid(Pid::from_raw(self.pid as i32)), stopped).expect("the daemon stops");
        done();
        self.signal("CONT");
    }

    /// Returns the files, for the next daemon that uses them.
    pub fn into_directory(mut self) -> TempDir {
        std::mem::replace(&mut self.directory, tempfile::tempdir().expect("tempdir"))
    }

    /// Writes a new configuration, sends SIGHUP and returns the record of the reload.
    pub async fn reload(&mut self, config: &str) -> Value {
        std::fs::write(self.path("sealway.toml"), config).expect("write the config");
        self.signal("HUP");
        self.event("reload").await
    }

    /// Waits until the process has ended.
    pub async fn exit_status(&mut self) -> ExitStatus {
        soon("the daemon's exit", self.child.wait())
            .await
            .expect("wait for the daemon")
    }

    /// The status and the body of an admin page.
    pub async fn admin_get(&self, path: &str) -> (u16, String) {
        soon(path, http_get(self.admin, path)).await
    }

    /// The value of one series, written as in the exposition: `name` or `name{label="value"}`.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let (status, page) = self.admin_get("/metrics").await;
        assert_eq!(status, 200, "/metrics");
        value_of(series, &page)
    }

    /// Waits until a series has a value that satisfies `wanted`, and returns that value.
    pub async fn metric_until(&self, series: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let reached = async {
            loop {
                // With injected faults an answer may be truncated.
                let page = soon("/metrics", try_http_get(self.admin, "/metrics")).await;
                match page.ok().and_then(|(_, page)| value_of(series, &page)) {
                    Some(value) if wanted(value) => return value,
                    _ => tokio::time::sleep(TICK).await,
                }
            }
        };
        soon(series, reached).await
    }

    /// The daemon's resident memory in KiB (proc_pid_status, `VmRSS`).
    pub fn resident_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))
            .expect("the daemon lives");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("VmRSS");
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number")
    }

    /// Milliseconds of CPU that the daemon's threads have used (proc_pid_schedstat: nanoseconds of
    /// each thread). A thread that ends removes its own.
    pub fn cpu_ms(&self) -> u64 {
        let tasks =
            std::fs::read_dir(format!("/proc/{}/task", self.pid)).expect("the daemon lives");
        let spent = |task: std::fs::DirEntry| -> u64 {
            let text = match std::fs::read_to_string(task.path().join("schedstat")) {
                // The thread has ended since the folder was read.
                Err(_) if !task.path().exists() => return 0,
                text => text.expect("schedstat"),
            };
            text.split(' ')
                .next()
                .and_then(|ns| ns.parse().ok())
                .expect("nanoseconds")
        };
        tasks.map(|task| spent(task.expect("a task"))).sum::<u64>() / 1_000_000
    }

    /// How many descriptors the daemon holds now, by its own count, because no other process may
    /// look.
    pub async fn open_descriptors(&self) -> usize {
        self.metric("process_open_fds")
            .await
            .expect("process_open_fds") as usize
    }

    /// Its process; with [`Daemon::start_outliving`] the main process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The process that its main process has started.
    pub fn child(&self) -> u32 {
        let pid = self.pid;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.expect("the kernel lists children");
        children.trim().parse().expect("one child")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log_text());
        }
    }
}

async fn failed(mut command: Command, manager: &Manager) -> (Option<i32>, String) {
    manager.prepare(&mut command);
    let output = soon("the end of a daemon that cannot start", command.output()).await;
    let output = output.expect("spawn sealway");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// A series' value on a page of metrics.
fn value_of(series: &str, page: &str) -> Option<f64> {
    let value = |line: &str| {
        line.strip_prefix(series)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    };
    page.lines().find_map(value)
}

/// The time between two reads of the metrics.
const TICK: std::time::Duration = std::time::Duration::from_millis(5);

/// The file of strace(1) with the calls that it makes fail, in the daemon's folder.
const INJECTED: &str = "injected";

/// The strace(1) that makes system calls of its child fail or wait, and writes the calls of that
/// name into a file.
pub fn injecting(inject: &str, into: &Path) -> Vec<String> {
    let call = inject.split(':').next().expect("a call");
    // With -D the child is the daemon, not the tracer. With a seccomp filter other calls run at
    // full speed.
    let traced = [
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        into.to_str().expect("UTF-8"),
        "-e",
    ];
    let options = [
        format!("trace={call}"),
        "-e".into(),
        format!("inject={inject}"),
    ];
    traced
        .map(String::from)
        .into_iter()
        .chain(options)
        .collect()
}

/// `sealway run --config FILE`, without the variables of this process that could change its
/// configuration.
fn command(prefix: &[String], config: &std::path::Path) -> Command {
    let sealway = crate::sealway();
    let mut words = prefix.iter().chain([&sealway]);
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words);
    for (key, _) in
        std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("SEALWAY_"))
    {
        command.env_remove(key);
    }
    command.arg("run").arg("--config").arg(config);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Collects standard error line by line, until the daemon closes it. A line that is not JSON is
/// kept as a string.
fn follow(stderr: ChildStderr) -> watch::Receiver<Vec<Value>> {
    let (lines, log) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut stderr = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = stderr.next_line().await {
            let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
            lines.send_modify(|lines| lines.push(line));
        }
    });
    log
}

fn address(value: &Value) -> SocketAddr {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("{value} is no ip:port"))
}
