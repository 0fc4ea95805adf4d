//! The run, top to bottom: find the proxies, start the agents and every proxy, measure cell by cell in interleaved
//! rounds, and say what came of it. Everything that was started or made is gone at the end, also after an error.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::agents::Agents;
use crate::arguments::{Options, Pin};
use crate::host::network::{self, Network};
use crate::host::process::{self, Place};
use crate::measure::cell::{self, Cost};
use crate::measure::memory;
use crate::measure::results::Results;
use crate::measure::statistics::short;
use crate::measure::workloads::{Measure, WORKLOADS, Workload};
use crate::peers::catalogue::{self, Peer};
use crate::peers::proxies::{Ground, Proxy};
use crate::report::comparison as report;
use crate::runs::{growth, syscalls};

/// Measures what the options ask for.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    end_in_order()?;
    options.check_files()?;
    let mut not_run = Vec::new();
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

/// The proxies of one network and the agents at both ends of it. They are dropped in this order.
pub(crate) struct Stage {
    pub(crate) proxies: Vec<Option<Proxy>>,
    pub(crate) agents: Agents,
    pub(crate) ground: Ground,
    network: Option<Network>,
}

struct Bench {
    rounds: u32,
    peers: Vec<Peer>,
    workloads: Vec<Workload>,
    not_run: Vec<String>,
    loopback: Stage,
    veth: Option<Stage>,
    results: Results,
    failures: u32,
}

impl Bench {
    fn start(
        options: &Options,
        peers: Vec<Peer>,
        mut not_run: Vec<String>,
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
                    say(
                        &mut not_run,
                        format!("NOT RUN: veth-bulk-down, veth-bulk-up: {error}"),
                    );
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

    /// Every cell once. The first peer is another one each time, and every other round goes backwards: none is always measured
    /// behind the same neighbour, whose closed sockets the kernel may still have in hand.
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
                is_interrupted()?;
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
                    // Said under NOT RUN.
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

impl Stage {
    /// Agents on loopback, with upstream ports for so many proxies. Sealway's egress is another address than theirs.
    pub(crate) fn loopback(options: &Options, scratch: &Path, ports: usize) -> io::Result<Self> {
        let (load, proxies) = cores(options)?;
        let load = Place {
            namespace: None,
            cores: load,
        };
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let agents = Agents::start(&load, &load, address, ports)?;
        let place = Place {
            namespace: None,
            cores: proxies,
        };
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        let ground = Ground {
            place,
            listen: address,
            source,
            scratch: scratch.into(),
        };
        Ok(Self {
            proxies: Vec::new(),
            agents,
            ground,
            network: None,
        })
    }

    /// Agents in network namespaces, the proxies in one between them.
    pub(crate) fn veth(options: &Options, scratch: &Path, ports: usize) -> io::Result<Self> {
        let network = Network::make()?;
        let (load, proxies) = cores(options)?;
        let at = |namespace: &str, cores| Place {
            namespace: Some(namespace.to_string()),
            cores,
        };
        let (client, upstream) = (
            at(&network.client, load.clone()),
            at(&network.upstream, load),
        );
        let agents = Agents::start(&client, &upstream, network::UPSTREAM, ports)?;
        let place = at(&network.proxy, proxies);
        let ground = Ground {
            place,
            listen: network::PROXY,
            source: network::SOURCE,
            scratch: scratch.into(),
        };
        Ok(Self {
            proxies: Vec::new(),
            agents,
            ground,
            network: Some(network),
        })
    }

    /// Starts every peer. One that does not start leaves its place empty, so that each keeps its number on every stage;
    /// one that was named, or that is always there, is an error.
    fn start_proxies(
        &mut self,
        options: &Options,
        peers: &[Peer],
        not_run: &mut Vec<String>,
    ) -> io::Result<()> {
        for (number, peer) in peers.iter().enumerate() {
            let started = match self.start(peer, number, 1) {
                Err(error)
                    if options.names_peer(&peer.name)
                        || matches!(peer.name.as_str(), "sealway" | "bare") =>
                {
                    return Err(io::Error::other(format!("{}: {error}", peer.name)));
                }
                Err(error) => {
                    let place = if self.network.is_some() {
                        "over veth"
                    } else {
                        "on loopback"
                    };
                    say(not_run, format!("NOT RUN: {} {place}: {error}", peer.name));
                    None
                }
                Ok(proxy) => Some(proxy),
            };
            self.proxies.push(started);
        }
        Ok(())
    }

    /// Whether the peer of this number runs here.
    fn has(&self, number: usize) -> bool {
        self.proxies.get(number).is_some_and(Option::is_some)
    }

    /// One proxy with a policy of so many names.
    pub(crate) fn start(&mut self, peer: &Peer, number: usize, names: u64) -> io::Result<Proxy> {
        let upstream = self.agents.upstreams.get(number).copied();
        let upstream = upstream.ok_or_else(|| io::Error::other("no upstream port is left"))?;
        Proxy::start(peer, &self.ground, upstream, &mut self.agents, names)
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

/// The cores of the load and those of the proxies. An empty list is any core.
fn cores(options: &Options) -> io::Result<(Vec<usize>, Vec<usize>)> {
    let mut load = process::cores()?;
    let proxies: Vec<usize> = load.pop().into_iter().collect();
    match options.pin {
        Pin::Apart if load.is_empty() => Err(io::Error::other("--pin apart needs a second core")),
        Pin::Apart => Ok((load, proxies)),
        Pin::Together => Ok((proxies.clone(), proxies)),
        Pin::None => Ok((Vec::new(), Vec::new())),
    }
}

fn scratch() -> io::Result<TempDir> {
    let scratch = tempfile::Builder::new().prefix("tunnel-bench-").tempdir()?;
    // Squid gives up root before it writes to its directory below this one.
    let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(scratch.path(), passable)?;
    Ok(scratch)
}

/// Says at once, and again at the end, what is left out.
pub(crate) fn say(not_run: &mut Vec<String>, line: String) {
    eprintln!("{line}");
    not_run.push(line);
}

/// SIGINT and SIGTERM end the run at the next cell, so that everything is still taken down.
fn end_in_order() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _in_runtime = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// An error once the user wants an end.
pub(crate) fn is_interrupted() -> io::Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        Err(io::ErrorKind::Interrupted.into())
    } else {
        Ok(())
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
