//! The part of systemd that a service needs: sockets that are open before it starts and stay open
//! after it, and a receiver of its notifications (sd_listen_fds(3), sd_notify(3)).

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::process::Command;

use crate::daemon::injecting;
use crate::soon;

/// A service's sockets, at most two, and the receiver of its notifications.
pub struct Service {
    sockets: Vec<(String, TcpListener)>,
    told: UnixDatagram,
    directory: TempDir,
    environment: Vec<(String, String)>,
    /// The program that executes the daemon.
    tracer: Vec<String>,
}

impl Service {
    pub fn new(sockets: Vec<(&str, TcpListener)>) -> Service {
        assert!(sockets.len() <= 2, "standard input and output carry them");
        let directory = tempfile::tempdir().expect("tempdir");
        let told =
            UnixDatagram::bind(directory.path().join("notify")).expect("bind the notify socket");
        let sockets = sockets
            .into_iter()
            .map(|(name, socket)| (name.to_string(), socket))
            .collect();
        Service {
            sockets,
            told,
            directory,
            environment: Vec::new(),
            tracer: Vec::new(),
        }
    }

    /// Sets the watchdog's time-out, in microseconds.
    pub fn watchdog(mut self, microseconds: u32) -> Service {
        self.environment
            .push(("WATCHDOG_USEC".into(), microseconds.to_string()));
        self
    }

    /// Runs it under strace(1), which injects this.
    pub fn injecting(mut self, inject: &str) -> Service {
        self.tracer = injecting(inject, &self.directory.path().join("injected"));
        self
    }

    /// The program that passes the sockets: standard input and output become descriptors 3 and 4.
    pub fn prefix(&self) -> Vec<String> {
        let handing_over = match self.sockets.len() {
            0 => "exec \"$@\"",
            1 => "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$@\"",
            _ => "exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ exec \"$@\"",
        };
        let shell = ["sh", "-c", handing_over, "sh"].map(String::from);
        shell.into_iter().chain(self.tracer.clone()).collect()
    }

    pub fn prepare(&self, command: &mut Command) {
        let shared =
            |socket: &TcpListener| Stdio::from(OwnedFd::from(socket.try_clone().expect("dup")));
        let names: Vec<&str> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
        let mut sockets = self.sockets.iter();
        if let Some((_, socket)) = sockets.next() {
            command.stdin(shared(socket));
            command
                .env("LISTEN_FDS", names.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
        }
        if let Some((_, socket)) = sockets.next() {
            command.stdout(shared(socket));
        }
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
        command.envs(self.environment.iter().cloned());
    }

    /// Whether one more message could be sent without waiting.
    pub fn has_room(&self) -> bool {
        let other = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
        other.set_nonblocking(true).expect("non-blocking");
        other
            .send_to(b"", self.directory.path().join("notify"))
            .is_ok()
    }

    /// The next message, line by line.
    pub async fn message(&self) -> Vec<String> {
        let mut buffer = [0; 4_096];
        let len = soon("a word to systemd", self.told.recv(&mut buffer))
            .await
            .expect("recv");
        String::from_utf8_lossy(&buffer[..len])
            .lines()
            .map(String::from)
            .collect()
    }

    /// The messages up to the first that has a line that satisfies `wanted`; that line last.
    pub async fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut seen = Vec::new();
        let found = async {
            loop {
                let lines = self.message().await;
                let found = lines.iter().position(|line| wanted(line));
                seen.extend(
                    lines
                        .into_iter()
                        .take(found.map_or(usize::MAX, |at| at + 1)),
                );
                if found.is_some() {
                    return;
                }
            }
        };
        soon(what, found).await;
        seen
    }
}
