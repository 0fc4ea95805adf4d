//! Starts `sealway-hop` for the daemon and restarts it after a crash, from a process of its own: the daemon, once Landlock
//! is in force, could start nothing that reads the private key.
//!
//! The daemon holds one end of two pipes: `Order`s go down, `Report`s come up. The supervisor reads nothing else, so
//! that no client can reach it. When the daemon ends in whatever way, the kernel kills the supervisor, and then the hop.
//! Never logs; the daemon logs the reports.

mod backoff;
mod check;
mod process;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;

pub use check::{check, check_within};
pub use process::run;

/// What the daemon orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Start the hop: the daemon listens.
    Start,
    /// Read all files again; also tries a start at once.
    Reload,
    /// Drain and stop.
    Stop,
    /// Stop without a drain.
    StopAtOnce,
}

/// What the supervisor and the hop report, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The hop was started.
    Started {
        /// Its process.
        pid: u32,
    },
    /// The hop has ended, or could not be started.
    Ended {
        /// How, such as `signal: 9 (SIGKILL)`.
        reason: String,
        /// When it is started again; None: it was ordered to stop.
        retry: Option<Duration>,
    },
    /// The hop stops: it accepts no more clients, and the daemon has its events.
    Drains,
}

/// The daemon's side of a supervisor. Dropped, the supervisor ends the hop and itself.
#[derive(Debug)]
pub struct Supervisor {
    child: Child,
    orders: Option<ChildStdin>,
    reports: Option<std::process::ChildStdout>,
}

/// The reports of a supervisor, in order.
#[derive(Debug)]
pub struct Reports(BufReader<tokio::io::Take<pipe::Receiver>>);

/// Why the hop's program cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is not there.
    #[error(
        "a [[listener]] has tls, and sealway-hop, which serves it, is not at {}: install it there, name it in hop.program, or, if a service of its own runs it, start sealway with --no-hop", .0.display()
    )]
    Missing(PathBuf),
    /// It cannot be started.
    #[error("cannot start {}: {}", .0.display(), .1)]
    Start(PathBuf, #[source] io::Error),
    /// It does not accept the files of the listeners.
    #[error("sealway-hop refuses the TLS listeners; its lines above say why")]
    Refuses,
    /// It ended otherwise.
    #[error("sealway-hop --check failed ({0}); its lines above may say why")]
    Failed(std::process::ExitStatus),
    /// It does not end.
    #[error("sealway-hop --check does not end within {0:?}")]
    Late(Duration),
}

impl ProgramError {
    /// Whether the operator has to change something before another start can succeed.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Refuses)
    }
}

/// The hop's program: the configured one, or the one beside this executable file.
///
/// # Errors
/// There is no such file.
pub fn program(configured: Option<&Path>) -> Result<PathBuf, ProgramError> {
    let beside = || {
        let own = std::env::current_exe().unwrap_or_default();
        own.with_file_name(NAME)
    };
    let program = configured.map_or_else(beside, Path::to_owned);
    match program.is_file() {
        true => Ok(program),
        false => Err(ProgramError::Missing(program)),
    }
}

impl Supervisor {
    /// Starts the supervisor, which waits for [`Self::start_hop`]. Call it before Landlock, on the thread that lives as
    /// long as the process: when this thread ends, the kernel kills the supervisor.
    ///
    /// # Errors
    /// No process or pipe can be had.
    pub fn launch(program: &Path, config: &Path) -> io::Result<Self> {
        let mut command = clean(&std::env::current_exe()?);
        command
            .arg(COMMAND)
            .env(PROGRAM, program)
            .env(CONFIG, config)
            .env(PARENT, std::process::id().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        Ok(Self {
            orders: child.stdin.take(),
            reports: child.stdout.take(),
            child,
        })
    }

    /// The reports. Call it once, within a runtime.
    ///
    /// # Errors
    /// It was called before, or the runtime refuses the pipe.
    pub fn reports(&mut self) -> io::Result<Reports> {
        let pipe = self.reports.take().ok_or(io::ErrorKind::NotFound)?;
        let pipe = pipe::Receiver::from_owned_fd(pipe.into())?;
        Ok(Reports(BufReader::new(pipe.take(LINE_MAX))))
    }

    /// Lets the hop start.
    pub fn start_hop(&mut self) {
        self.order(Order::Start);
    }

    /// Lets the hop read its files again.
    pub fn reload(&mut self) {
        self.order(Order::Reload);
    }

    /// Lets the hop drain and stop; the supervisor ends after it.
    pub fn stop(&mut self) {
        self.order(Order::Stop);
    }

    /// Ends the hop at once.
    pub fn stop_at_once(&mut self) {
        self.order(Order::StopAtOnce);
    }

    /// Waits for the supervisor's end, which follows that of the hop, and kills it after `patience`. Returns whether it
    /// ended by itself.
    pub fn wait(mut self, patience: Duration) -> bool {
        let mut left = patience;
        while !left.is_zero() {
            if let Ok(Some(_ended)) = self.child.try_wait() {
                return true;
            }
            std::thread::sleep(TICK.min(left));
            left = left.saturating_sub(TICK);
        }
        false
    }

    fn order(&mut self, order: Order) {
        // Fails only if the supervisor has ended, and the end of its reports says that.
        if let Some(orders) = &mut self.orders {
            let _ended = orders.write_all(&[order.byte()]);
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // The kernel kills the hop with it.
            let _killed = self.child.kill();
            let _ended = self.child.wait();
        }
    }
}

impl Reports {
    /// The next report; None: the supervisor has ended.
    pub async fn next(&mut self) -> Option<Report> {
        loop {
            self.0.get_mut().set_limit(LINE_MAX);
            let mut line = Vec::new();
            match self.0.read_until(b'\n', &mut line).await {
                Ok(1..) => {}
                _ => return None,
            }
            if let Some(report) = Report::parse(&String::from_utf8_lossy(&line)) {
                return Some(report);
            }
        }
    }
}

impl Order {
    const ALL: [Self; 4] = [Self::Start, Self::Reload, Self::Stop, Self::StopAtOnce];

    fn byte(self) -> u8 {
        match self {
            Self::Start => b'g',
            Self::Reload => b'r',
            Self::Stop => b's',
            Self::StopAtOnce => b'k',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|order| order.byte() == byte)
    }
}

impl Report {
    /// The line, with its line feed.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Started { pid } => format!("started {pid}\n"),
            Self::Ended { reason, retry } => {
                let retry = retry.map_or(-1, |retry| {
                    i64::try_from(retry.as_millis()).unwrap_or(i64::MAX)
                });
                let reason: String = reason
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(REASON_MAX)
                    .collect();
                format!("ended {retry} {reason}\n")
            }
            Self::Drains => "drains\n".to_owned(),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let line = line.strip_suffix('\n')?;
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "started" => Some(Self::Started {
                pid: rest.parse().ok()?,
            }),
            "ended" => {
                let (retry, reason) = rest.split_once(' ')?;
                let retry: i64 = retry.parse().ok()?;
                Some(Self::Ended {
                    reason: reason.to_owned(),
                    retry: u64::try_from(retry).ok().map(Duration::from_millis),
                })
            }
            "drains" => Some(Self::Drains),
            _ => None,
        }
    }
}

/// A command with nothing of this process's environment but what log lines and credentials need.
fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command.envs(KEPT.iter().filter_map(|name| {
        let value = std::env::var_os(name)?;
        Some((OsStr::new(name).to_owned(), value))
    }));
    command
}

/// The first argument that makes `sealway` a supervisor. Not for operators.
pub const COMMAND: &str = "supervise-hop";
/// The hop's program, beside that of sealway.
const NAME: &str = "sealway-hop";
/// Where the journal is, and where systemd puts credentials.
const KEPT: [&str; 2] = ["JOURNAL_STREAM", "CREDENTIALS_DIRECTORY"];
/// Variables of the supervisor: the program, the configuration file, and the daemon's process. Not arguments, so that a
/// search for the hop's processes by name does not find the supervisor.
const PROGRAM: &str = "SEALWAY_SUPERVISED_PROGRAM";
const CONFIG: &str = "SEALWAY_SUPERVISED_CONFIG";
const PARENT: &str = "SEALWAY_SUPERVISED_PARENT";
/// Wrong configuration (sysexits.h).
const EX_CONFIG: i32 = 78;
const REASON_MAX: usize = 300;
/// Bytes of a report; longer ones are cut.
const LINE_MAX: u64 = 4_096;
const TICK: Duration = Duration::from_millis(10);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reports_and_orders_survive_the_pipe() {
        for report in [
            Report::Started { pid: 7 },
            Report::Ended {
                reason: "signal: 9 (SIGKILL)".into(),
                retry: Some(Duration::from_millis(100)),
            },
            Report::Ended {
                reason: String::new(),
                retry: None,
            },
            Report::Drains,
        ] {
            assert_eq!(Report::parse(&report.line()), Some(report));
        }
        let forged = Report::Ended {
            reason: "a\nstarted 9".repeat(1_000),
            retry: None,
        };
        let line = forged.line();
        assert!(line.lines().count() == 1 && line.len() < 4_096, "{line}");
        for wrong in [
            "",
            "\n",
            "started x\n",
            "ended\n",
            "ended x y\n",
            "started 7",
        ] {
            assert_eq!(Report::parse(wrong), None, "{wrong:?}");
        }
        for order in Order::ALL {
            assert_eq!(Order::of(order.byte()), Some(order));
        }
        assert_eq!(Order::of(b'x'), None);
    }

    #[test]
    fn a_program_that_is_not_there_says_what_to_do() {
        let missing = program(Some(Path::new("/nowhere/sealway-hop"))).unwrap_err();
        assert!(missing.is_lasting());
        let text = missing.to_string();
        assert!(
            text.contains("/nowhere/sealway-hop") && text.contains("--no-hop"),
            "{text}"
        );
    }
}
