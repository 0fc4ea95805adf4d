//! The system calls of a unit of work, by name: strace -c is attached to the proxy while a counted
//! number of units goes through. Measures no time, which strace distorts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::arguments::Options;
use crate::host::process::{self, Placement, Process};
use crate::interrupt;
use crate::measure::statistics::short;
use crate::measure::workloads::{CHUNKS, EXCHANGES, SETUP};
use crate::peers::catalogue::{Kind, Peer, installed};
use crate::peers::proxies::Proxy;
use crate::protocol::load::{Kind as Load, Task};
use crate::report::table::Table;
use crate::runs::stage::Stage;

/// Calls by name.
struct Counts(BTreeMap<String, f64>);

/// Prints a table for each kind of work.
pub(crate) fn run(options: &Options, peers: &[Peer], scratch: &Path) -> io::Result<()> {
    let strace = installed("strace")
        .map_err(|missing| io::Error::other(format!("--syscalls: strace: {missing}")))?;
    let wanted = |peer: &&Peer| {
        matches!(peer.kind, Kind::Sealway | Kind::Bare | Kind::Haproxy)
            || options.names_peer(&peer.name)
    };
    let peers: Vec<Peer> = peers.iter().filter(wanted).cloned().collect();
    let mut stage = Stage::loopback(options, scratch, peers.len())?;
    let (mut text, tasks) = (String::new(), tasks());
    let mut counted: Vec<Vec<Counts>> = tasks.iter().map(|_| Vec::new()).collect();
    for (number, peer) in peers.iter().enumerate() {
        let proxy = stage.start(peer, number, 1)?;
        for ((about, task), counted) in tasks.iter().zip(&mut counted) {
            interrupt::check()?;
            let counts = count(&mut stage, &proxy, *task, &strace, scratch);
            counted.push(
                counts.map_err(|error| {
                    io::Error::other(format!("{}, {about}: {error}", peer.name))
                })?,
            );
        }
    }
    for ((about, _), counted) in tasks.iter().zip(&counted) {
        text += &format!("\nSystem calls, {about}:\n\n{}", table(&peers, counted));
    }
    println!("{text}");
    options
        .markdown
        .as_ref()
        .map_or(Ok(()), |file| fs::write(file, &text))
}

/// Enough of each that the daemons' timers do not show.
fn tasks() -> [(&'static str, Task); 3] {
    let patient = |task: Task, units_max: u64| Task {
        lasts_ms: 30_000,
        units_max,
        ..task
    };
    [
        ("each of 200 set-ups", patient(SETUP, 200)),
        (
            "each of 2,000 exchanges of 1 KiB and 4 KiB on 32 tunnels",
            patient(EXCHANGES, 2_000),
        ),
        (
            "each chunk of 200 bytes",
            Task {
                kind: SLOW_CHUNKS,
                ..CHUNKS
            },
        ),
    ]
}

fn count(
    stage: &mut Stage,
    proxy: &Proxy,
    task: Task,
    strace: &Path,
    scratch: &Path,
) -> io::Result<Counts> {
    stage.agents.prepare(&proxy.route, task)?;
    process::used_at_rest(&proxy.family, REST)?;
    let output = scratch.join("calls");
    let tracer = attach(strace, proxy, &output, scratch.join("strace"))?;
    let done = stage.agents.go();
    process::used_at_rest(&proxy.family, REST)?;
    detach(tracer)?;
    let units = done?.units;
    Counts::parse(&fs::read_to_string(&output)?, units as f64)
}

/// Returns once the tracer is attached.
fn attach(strace: &Path, proxy: &Proxy, output: &Path, log: PathBuf) -> io::Result<Process> {
    let mut command = Command::new(strace);
    command
        .arg("-f")
        .arg("-c")
        .arg("-o")
        .arg(output)
        .stdin(Stdio::null());
    for pid in &proxy.family {
        command.arg("-p").arg(pid.to_string());
    }
    let mut tracer = Placement::default().start(command, Some(log))?;
    let started = Instant::now();
    while !tracer.last_words().contains("attached") {
        if let Some(end) = tracer.ended() {
            return Err(io::Error::other(format!("strace: {end}")));
        }
        if started.elapsed() > PATIENCE {
            return Err(io::Error::other(format!(
                "strace is not attached after {PATIENCE:?}"
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(tracer)
}

/// On SIGINT strace detaches from the proxy and writes its table.
fn detach(mut tracer: Process) -> io::Result<()> {
    kill(
        Pid::from_raw(i32::try_from(tracer.child.id()).map_err(io::Error::other)?),
        Signal::SIGINT,
    )?;
    tracer.child.wait()?;
    Ok(())
}

impl Counts {
    /// The rows of `strace -c`: share, seconds, µs, calls, perhaps errors, name.
    fn parse(table: &str, units: f64) -> io::Result<Self> {
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let calls = words.get(3)?.parse::<f64>().ok()?;
            let name = words.last()?.to_string();
            (name != "total").then_some((name, calls / units))
        };
        let counts: BTreeMap<_, _> = table.lines().filter_map(row).collect();
        if counts.is_empty() {
            Err(io::Error::other("strace counted nothing"))
        } else {
            Ok(Self(counts))
        }
    }

    fn total(&self) -> f64 {
        self.0.values().sum()
    }
}

/// The most frequent calls first, without those below one in a hundred units.
fn table(peers: &[Peer], counted: &[Counts]) -> String {
    let mut table = Table::new(
        ["call".to_string()]
            .into_iter()
            .chain(peers.iter().map(|peer| peer.name.clone())),
    );
    let most = |name: &String| {
        counted
            .iter()
            .filter_map(|counts| counts.0.get(name))
            .copied()
            .fold(0.0, f64::max)
    };
    let mut names: Vec<String> = counted
        .iter()
        .flat_map(|counts| counts.0.keys().cloned())
        .collect();
    names.sort_by(|one, other| most(other).total_cmp(&most(one)).then(one.cmp(other)));
    names.dedup();
    for name in names.iter().filter(|name| most(name) >= 0.01) {
        let cells = counted
            .iter()
            .map(|counts| counts.0.get(name).map_or("-".into(), |calls| short(*calls)));
        table.row([name.clone()].into_iter().chain(cells));
    }
    table.row(
        ["all".to_string()]
            .into_iter()
            .chain(counted.iter().map(|counts| short(counts.total()))),
    );
    table.text()
}

/// Slow enough for a traced proxy to take each alone.
const SLOW_CHUNKS: Load = Load::Stream {
    chunk: 200,
    interval_us: 64_000,
};
const REST: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);
