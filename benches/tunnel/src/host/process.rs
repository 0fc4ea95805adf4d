//! Child processes that never outlive the harness, where they run, and what they have used: CPU time and resident memory
//! of the whole family, read from the kernel. Ends processes by their own id only.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;

/// Where a process runs: in a network namespace or not, on some cores or on any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placement {
    pub(crate) namespace: Option<String>,
    /// Empty: any core.
    pub(crate) cores: Vec<usize>,
}

/// A child and its descendants; dropping it kills them.
pub(crate) struct Process {
    pub(crate) child: Child,
    /// What it writes to standard error, where that goes to a file.
    log: Option<PathBuf>,
}

/// What a family of processes used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// From the processes' own clocks, which include threads that have ended.
    pub(crate) cpu: Duration,
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Used {
    /// What was used since `before`.
    pub(crate) fn since(self, before: Used) -> Used {
        Used {
            cpu: self.cpu.saturating_sub(before.cpu),
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

impl Placement {
    /// Returns a command that starts this program here as a batch job (sched(7)): a woken process
    /// does not preempt its waker, just as a peer on another machine could not. ip(8) and chrt(1)
    /// become the program, so the process id stays the same.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = match &self.namespace {
            None => Command::new("chrt"),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, "chrt"]);
                command
            }
        };
        command.args(["--batch", "0"]).arg(program);
        command
    }

    /// Starts the command; standard error goes to `log`, or where the harness's own goes.
    pub(crate) fn start(&self, mut command: Command, log: Option<PathBuf>) -> io::Result<Process> {
        if let Some(log) = &log {
            command.stderr(Stdio::from(File::create(log)?));
        }
        // A child inherits the cores of the thread that starts it.
        let before = sched_getaffinity(Pid::from_raw(0))?;
        if !self.cores.is_empty() {
            sched_setaffinity(Pid::from_raw(0), &set_of(&self.cores)?)?;
        }
        let child = command.spawn();
        sched_setaffinity(Pid::from_raw(0), &before)?;
        let child = child.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{:?}: {error}", command.get_program()),
            )
        })?;
        Ok(Process { child, log })
    }
}

impl Process {
    /// Why the process ended; None while it runs.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("{status}: {}", self.last_words()))
    }

    /// The last lines of its standard error.
    pub(crate) fn last_words(&self) -> String {
        let text = self
            .log
            .as_ref()
            .and_then(|log| fs::read_to_string(log).ok())
            .unwrap_or_default();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        lines
            .get(lines.len().saturating_sub(3)..)
            .unwrap_or_default()
            .join(" | ")
    }

    /// Its id and those of its descendants.
    pub(crate) fn family(&self) -> Vec<Pid> {
        let mut family = vec![pid_of(self.child.id())];
        let parents = parents();
        let mut seen = 0;
        while let Some(parent) = family.get(seen).copied() {
            family.extend(
                parents
                    .iter()
                    .filter(|(_, of)| *of == parent)
                    .map(|(pid, _)| *pid),
            );
            seen += 1;
        }
        family
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = self.family();
        // On SIGTERM a master stops its workers, and Squid removes its shared memory.
        let _asked = kill(pid_of(self.child.id()), Signal::SIGTERM);
        let asked = Instant::now();
        while asked.elapsed() < GRACE && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(2));
        }
        for pid in family {
            // A process that has already ended is fine.
            let _ended = kill(pid, Signal::SIGKILL);
        }
        let _reaped = self.child.wait();
    }
}

/// What these processes have used.
pub(crate) fn used(family: &[Pid]) -> io::Result<Used> {
    let mut total = Used::default();
    for pid in family {
        total.cpu += Duration::from(ClockId::pid_cpu_clock_id(*pid)?.now()?);
        let fields = stat_fields(*pid)?;
        let ticks = |at: usize| {
            fields
                .get(at)
                .and_then(|field| field.parse::<u64>().ok())
                .unwrap_or_default()
        };
        total.user += Duration::from_millis(ticks(11) * TICK_MS);
        total.system += Duration::from_millis(ticks(12) * TICK_MS);
    }
    Ok(total)
}

/// Returns what these processes used once they are at rest, so that the work of the last event
/// counts too; or after `patience`, for a process that is never at rest.
pub(crate) fn used_at_rest(family: &[Pid], patience: Duration) -> io::Result<Used> {
    let started = Instant::now();
    let mut before = used(family)?;
    loop {
        std::thread::sleep(Duration::from_millis(3));
        let now = used(family)?;
        if now.cpu - before.cpu < Duration::from_micros(30) || started.elapsed() > patience {
            return Ok(now);
        }
        before = now;
    }
}

/// Resident bytes of these processes.
pub(crate) fn resident_bytes(family: &[Pid]) -> io::Result<u64> {
    let mut total = 0;
    for pid in family {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = rollup
            .lines()
            .find_map(|line| line.strip_prefix("Rss:"))
            .unwrap_or_default();
        let kib = line
            .split_whitespace()
            .next()
            .and_then(|number| number.parse::<u64>().ok());
        total += kib.ok_or_else(|| io::Error::other("no Rss in smaps_rollup"))? * 1024;
    }
    Ok(total)
}

/// The cores this process may use.
pub(crate) fn cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .collect())
}

/// Raises the limit on open descriptors of this process and its children to the hard limit, and
/// returns it.
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

fn set_of(cores: &[usize]) -> io::Result<CpuSet> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    Ok(set)
}

/// Every process of the machine with its parent.
fn parents() -> Vec<(Pid, Pid)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw);
    // A process that ends between the two steps has no parent.
    pids.filter_map(|pid| {
        Some((
            pid,
            Pid::from_raw(stat_fields(pid).ok()?.get(1)?.parse().ok()?),
        ))
    })
    .collect()
}

/// The fields after the name, which may contain spaces and brackets; the state is the first
/// (proc(5)).
fn stat_fields(pid: Pid) -> io::Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(behind_name.split_whitespace().map(str::to_string).collect())
}

fn pid_of(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX))
}

const GRACE: Duration = Duration::from_secs(2);
/// The kernel's unit in /proc, on every architecture.
const TICK_MS: u64 = 10;
