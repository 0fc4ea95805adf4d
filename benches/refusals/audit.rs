//! The records of a flood that remain after `kill -9`, and the service of a good client meanwhile:
//! refusals from a thousand addresses with the longest records, an audit file, and a client that
//! opens tunnels throughout.
//!
//! Two sources say how many refusals there were a second before the kill: the flood, which counts
//! each connection that the daemon has answered and closed, and the daemon's own counters. `count`
//! counts the records.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::attempt::{Attempt, GOOD_PORT, REFUSED_PORT};
use crate::daemon::{Daemon, Setup};
use crate::flood::{Progress, unix_micros};
use crate::{Helper, Options, upstream};

/// Measures each kind of attempt; fails if a good client was refused or a record is missing.
pub(crate) fn measure(options: &Options) -> io::Result<()> {
    upstream::echo(GOOD_PORT)?;
    upstream::closing(REFUSED_PORT)?;
    let kinds = options
        .attempt
        .map_or(Attempt::ALL.to_vec(), |attempt| vec![attempt]);
    println!(
        "attempt | refused a second | CPU for each | good tunnels, not 200, p50, p99, worst | \
         refused at the kill, recorded, refused 1 s before (flood, counters) | lost, or all older than | records a second, bytes"
    );
    let mut failed = false;
    for round in 1..=options.rounds {
        for attempt in &kinds {
            let name = format!("{attempt:?}");
            let outcome = run(options, *attempt)?;
            failed |= !outcome.print(&format!("{round} {name}"));
        }
    }
    if failed {
        return Err(io::Error::other(
            "a good client was refused, or a record is missing",
        ));
    }
    Ok(())
}

/// The observations of the good client.
#[derive(Default)]
struct Good {
    latencies: Vec<Duration>,
    failures: Vec<String>,
}

/// The counters of the daemon: refusals in all, and when they were read.
type Reading = (u64, u64);

struct Outcome {
    good: Good,
    rate: f64,
    cpu: Duration,
    refused: u64,
    /// The flood's count a second before the kill, and at the kill.
    flood: (u64, u64),
    /// The daemon's count a second before the kill.
    counters: u64,
    recorded: u64,
    records: usize,
    bytes: u64,
    /// How long before the kill the number of refusals equalled the number recorded.
    lag: Duration,
    reset: u64,
    seconds: f64,
    proved: bool,
}

fn run(options: &Options, attempt: Attempt) -> io::Result<Outcome> {
    let directory = tempfile::tempdir_in(&options.directory)?;
    let file = directory.path().join("audit.jsonl");
    let setup = Setup {
        // With `--fifo` a worker that never waits would keep the writer, on the same core, from running.
        scheduling: "--rr",
        attempt,
        accept_rate: attempt.accept_rate(),
        audit_file: Some(&file),
    };
    let daemon = Daemon::start(options.sealway(), &setup)?;
    let flood = Helper::flood(daemon.proxy, options.rate, options.addresses, attempt)?;
    let (over, readings, good) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
    let (began, cpu) = (Instant::now(), daemon.cpu()?);
    std::thread::scope(|scope| {
        scope.spawn(|| good_client(&daemon, &over, &good));
        scope.spawn(|| read_counters(&daemon, &over, &readings));
        std::thread::sleep(Duration::from_secs(options.seconds));
        over.store(true, Ordering::Relaxed);
    });
    // The last tunnel and the last reading take a moment, so the kill comes after them; the flood
    // continues until then.
    let (cpu, seconds) = (
        daemon.cpu()?.saturating_sub(cpu),
        began.elapsed().as_secs_f64(),
    );
    let killed = unix_micros();
    daemon.kill()?;
    let progress = flood.progress()?;
    let readings = readings.into_inner().unwrap_or_default();
    let (recorded, records) = recorded(&file)?;
    let before = killed.saturating_sub(SECOND);
    let at_kill = last_at(&progress, killed);
    Ok(Outcome {
        good: good.into_inner().unwrap_or_default(),
        rate: at_kill.answered as f64 / seconds,
        cpu,
        refused: at_kill.answered,
        flood: (last_at(&progress, before).answered, at_kill.answered),
        counters: last_reading(&readings, before),
        recorded,
        records,
        bytes: std::fs::metadata(&file)?.len(),
        lag: lag(&progress, recorded, killed),
        reset: at_kill.reset,
        seconds,
        proved: verify(options.sealway(), &file)?,
    })
}

/// Opens tunnels one after another, from one address of loopback after the other.
fn good_client(daemon: &Daemon, over: &AtomicBool, good: &Mutex<Good>) {
    let mut number = 0u8;
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        number = number % 200 + 1;
        let opened = daemon.open(Some(Ipv4Addr::new(127, 0, 1, number)));
        let Ok(mut good) = good.lock() else { return };
        match opened {
            Ok(_) => good.latencies.push(asked.elapsed()),
            Err(error) => good
                .failures
                .push(format!("{error} after {:?}", asked.elapsed())),
        }
        drop(good);
        std::thread::sleep(PACE.saturating_sub(asked.elapsed()));
    }
}

fn read_counters(daemon: &Daemon, over: &AtomicBool, readings: &Mutex<Vec<Reading>>) {
    while !over.load(Ordering::Relaxed) {
        if let Ok(counts) = daemon.refused()
            && let Ok(mut readings) = readings.lock()
        {
            readings.push((counts.iter().map(|(_, count)| count).sum(), unix_micros()));
        }
        std::thread::sleep(READING);
    }
}

/// The refusals that the records of a file count, and the number of those records.
fn recorded(file: &Path) -> io::Result<(u64, usize)> {
    let text = std::fs::read(file)?;
    let whole = text
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n"));
    let (mut refused, mut records) = (0, 0);
    for line in whole {
        let record: serde_json::Value = serde_json::from_slice(line)?;
        if record.get("outcome").is_some_and(|it| it != "allowed") {
            records += 1;
            refused += record
                .get("count")
                .and_then(serde_json::Value::as_u64)
                .unwrap_or(1);
        }
    }
    Ok((refused, records))
}

fn verify(sealway: &str, file: &Path) -> io::Result<bool> {
    let mut command = Command::new(sealway);
    command.args(["audit", "verify"]).arg(file);
    Ok(command.output()?.status.success())
}

fn last_at(progress: &[Progress], at: u64) -> Progress {
    let until = progress.partition_point(|seen| seen.at <= at);
    let last = progress.get(until.saturating_sub(1));
    last.copied().unwrap_or_default()
}

fn last_reading(readings: &[Reading], at: u64) -> u64 {
    let until = readings.iter().filter(|(_, read)| *read <= at);
    until.map(|(count, _)| *count).max().unwrap_or(0)
}

fn lag(progress: &[Progress], recorded: u64, killed: u64) -> Duration {
    let first_beyond = progress.iter().find(|seen| seen.answered > recorded);
    let since = first_beyond.map_or(killed, |seen| seen.at);
    Duration::from_micros(killed.saturating_sub(since))
}

impl Outcome {
    /// Prints it; false if the promise is broken.
    fn print(&self, name: &str) -> bool {
        let mut sorted = self.good.latencies.clone();
        sorted.sort();
        let at = |part: usize| {
            sorted.get((sorted.len() * part / 100).min(sorted.len().saturating_sub(1)))
        };
        let [p50, p99, worst] = [50, 99, 100].map(|part| at(part).copied().unwrap_or_default());
        println!(
            "{name} | {:.0} | {:.1} us | {}, {}, {p50:.1?}, {p99:.1?}, {worst:.1?} | {}, {}, {}, {} | {}, {:.0?} | {:.0}, {}",
            self.rate,
            self.cpu.as_secs_f64() * 1e6 / self.refused.max(1) as f64,
            sorted.len(),
            self.good.failures.len(),
            self.flood.1,
            self.recorded,
            self.flood.0,
            self.counters,
            self.flood.1.saturating_sub(self.recorded),
            self.lag,
            self.records as f64 / self.seconds,
            self.bytes,
        );
        let mut failures = BTreeMap::new();
        for failure in &self.good.failures {
            let kind = failure.split(" after").next().unwrap_or_default();
            *failures.entry(kind).or_insert(0) += 1;
        }
        if !failures.is_empty() {
            println!(
                "  failed: {failures:?}; the first: {:?}",
                self.good.failures.first()
            );
        }
        if self.reset > 0 {
            println!("  {} connections were reset", self.reset);
        }
        if !self.proved {
            println!("  `audit verify` refutes the file");
        }
        let is_whole = self.recorded >= self.flood.0.max(self.counters);
        is_whole && self.good.failures.is_empty() && !sorted.is_empty() && self.proved
    }
}

/// A second, in microseconds: the loss that `kill -9` may cause.
const SECOND: u64 = 1_000_000;
/// Between two tunnels of the good client.
const PACE: Duration = Duration::from_millis(10);
/// Between two readings of the counters.
const READING: Duration = Duration::from_millis(50);
