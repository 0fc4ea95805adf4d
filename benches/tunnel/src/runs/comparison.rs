//! The comparison, top to bottom: find the proxies, start the agents and every proxy, measure cell
//! by cell in interleaved rounds, write the report. What it started or made is gone at the end,
//! also after an error.

use std::io;
use std::path::Path;

use tempfile::TempDir;

use crate::arguments::Options;
use crate::interrupt;
use crate::measure::cell::{self, Cost};
use crate::measure::memory;
use crate::measure::results::Results;
use crate::measure::statistics::short;
use crate::measure::workloads::{Measure, WORKLOADS, Workload};
use crate::not_run::NotRun;
use crate::peers::catalogue::{self, Peer};
use crate::report::comparison as report;
use crate::runs::stage::Stage;
use crate::runs::{growth, syscalls};

/// Measures what the options ask for.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    interrupt::catch()?;
    options.check_files()?;
    let mut not_run = NotRun::default();
    let peers = catalogue::find(options, &mut not_run)?;
    let scratch = scratch()?;
    if options.growth {
        return growth::run(options, &peers, scratch.path());
    }
    if options.syscalls {
        return syscalls::run(options, &peers, scratch.path());
    }
    let mut bench = Bench::start(options, peers, not_run, scratch.path())?;
    for round in 0..options.rounds {
        bench.round(round)?;
    }
    let Bench {
        peers,
        workloads,
        results,
        not_run,
        ..
    } = &bench;
    report::Report {
        options,
        peers,
        workloads,
        results,
        not_run,
    }
    .write()?;
    match bench.failures {
        0 => Ok(()),
        failures => Err(io::Error::other(format!(
            "{failures} cells failed, see above"
        ))),
    }
}

struct Bench {
    rounds: u32,
    peers: Vec<Peer>,
    workloads: Vec<Workload>,
    not_run: NotRun,
    loopback: Stage,
    veth: Option<Stage>,
    results: Results,
    failures: u32,
}

impl Bench {
    fn start(
        options: &Options,
        peers: Vec<Peer>,
        mut not_run: NotRun,
        scratch: &Path,
    ) -> io::Result<Self> {
        let (mut workloads, mut veth) = (workloads(options)?, None);
        let mut loopback = Stage::loopback(options, scratch, peers.len())?;
        loopback.start_proxies(options, &peers, &mut not_run)?;
        if workloads.iter().any(|workload| workload.is_veth) {
            match Stage::veth(options, scratch, peers.len()) {
                Ok(mut stage) => {
                    stage.start_proxies(options, &peers, &mut not_run)?;
                    veth = Some(stage);
                }
                Err(error)
                    if workloads
                        .iter()
                        .any(|row| row.is_veth && options.names_workload(row.name)) =>
                {
                    return Err(error);
                }
                Err(error) => {
                    not_run.say(format!("NOT RUN: veth-bulk-down, veth-bulk-up: {error}"));
                    workloads.retain(|workload| !workload.is_veth);
                }
            }
        }
        let rounds = options.rounds;
        Ok(Self {
            rounds,
            peers,
            workloads,
            not_run,
            loopback,
            veth,
            results: Results::default(),
            failures: 0,
        })
    }

    /// Measures every cell once. Each round begins with another peer, and every other round runs
    /// backwards, so no peer always follows the same neighbour, whose closed sockets the kernel may
    /// still hold.
    fn round(&mut self, round: u32) -> io::Result<()> {
        for at in 0..self.workloads.len() {
            let Some(workload) = self.workloads.get(at).copied() else {
                continue;
            };
            let mut line = format!(
                "round {}/{} {:14} {:11}",
                round + 1,
                self.rounds,
                workload.name,
                workload.unit
            );
            for turn in 0..self.peers.len() {
                interrupt::check()?;
                let turn = if round.is_multiple_of(2) {
                    turn
                } else {
                    self.peers.len() - 1 - turn
                };
                let number = (turn + at + round as usize) % self.peers.len();
                let Some(name) = self.peers.get(number).map(|peer| peer.name.clone()) else {
                    continue;
                };
                if !self.stage(&workload).is_some_and(|stage| stage.has(number)) {
                    // The report lists it under NOT RUN.
                    line += &format!("  {name} -");
                    continue;
                }
                match self.cell(number, &workload) {
                    Ok((value, cost)) => {
                        line += &format!("  {name} {}", short(value));
                        self.results.add(workload.name, &name, round, value, cost);
                    }
                    Err(error) => {
                        eprintln!(
                            "FAILED: {name}, {}, round {}: {error}",
                            workload.name,
                            round + 1
                        );
                        self.failures += 1;
                    }
                }
            }
            eprintln!("{line}");
        }
        Ok(())
    }

    fn stage(&self, workload: &Workload) -> Option<&Stage> {
        if workload.is_veth {
            self.veth.as_ref()
        } else {
            Some(&self.loopback)
        }
    }

    fn cell(&mut self, number: usize, workload: &Workload) -> io::Result<(f64, Cost)> {
        let stage = if workload.is_veth {
            self.veth.as_mut()
        } else {
            Some(&mut self.loopback)
        };
        let (Some(stage), Some(peer)) = (stage, self.peers.get(number)) else {
            return Err(io::Error::other("not there"));
        };
        let task = match workload.measure {
            Measure::PerUnit(task) | Measure::PerGigabyte(task) => task,
            Measure::Memory { tunnels } => {
                let fresh = stage.start(peer, number, 1)?;
                let value = memory::per_tunnel_kib(&mut stage.agents, &fresh, tunnels)?;
                return Ok((value, Cost::default()));
            }
        };
        let Some(Some(proxy)) = stage.proxies.get(number) else {
            return Err(io::Error::other("not running"));
        };
        let cost = cell::measure(&mut stage.agents, proxy, task)?;
        Ok((
            workload
                .measure
                .value(cost.used.cpu.as_secs_f64(), &cost.report),
            cost,
        ))
    }
}

fn workloads(options: &Options) -> io::Result<Vec<Workload>> {
    let is_known = |name: &String| WORKLOADS.iter().any(|workload| workload.name == name);
    if let Some(unknown) = options.workloads.iter().find(|name| !is_known(name)) {
        return Err(io::Error::other(format!(
            "--workloads: no workload is known as {unknown}; see --help"
        )));
    }
    let wanted = WORKLOADS
        .iter()
        .filter(|row| options.workloads.is_empty() || options.names_workload(row.name));
    Ok(wanted
        .map(|row| if options.quick { row.quick() } else { *row })
        .collect())
}

fn scratch() -> io::Result<TempDir> {
    let scratch = tempfile::Builder::new().prefix("tunnel-bench-").tempdir()?;
    // Squid gives up root before it writes to its directory below this one.
    let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(scratch.path(), passable)?;
    Ok(scratch)
}
